"""What a partition's log still tells of the past, read beside the reader that folds it.

In slices, so that neither the store nor the process that asks is held up, and within bounds: who asks
is a person with a question, and the service's work goes first.
"""

import asyncio
import time
from typing import Final, NamedTuple

from gateway.store import keys
from gateway.store.client import Store
from gateway.store.log import Entry, position_key

_FIRST: Final = 64
_MOST: Final = 256
"""Entries of a slice."""
_SLICE_BYTES: Final = 512 * 1024
"""About what a slice may hold: one entry may be small, or carry a megabyte of contents."""


class Reach(NamedTuple):
    """How much of a log one reading may take."""

    entries: int
    bytes: int
    seconds: float
    """From the first slice on."""


class History:
    """Entries of one log from a time on, in the order of the log; or backwards from there."""

    def __init__(
        self, store: Store, p: int, ms: int, reach: Reach, *, backwards: bool = False
    ) -> None:
        """`ms`: by the store's clock; what was appended then belongs to the time after it."""
        self._store = store
        self._p = p
        self._backwards = backwards
        self._left = reach
        self._count = _FIRST
        self._deadline = 0.0
        self.position = f"{ms}-0"
        """Read up to here."""
        self._read = 0
        self.trimmed = ""
        """If not empty: entries up to this position may have been trimmed away unread."""
        self.at_end = False
        """The last slice was the last one there was."""
        self.cut_short = False
        """There may be more, beyond the reach."""

    async def next(self) -> list[Entry]:
        """The next slice; empty at the end and beyond the reach. Raises StoreUnavailable."""
        now = time.monotonic()
        if not self._deadline:
            self._deadline = now + self._left.seconds
        if now >= self._deadline or self._left.entries <= 0 or self._left.bytes <= 0:
            self.cut_short = True
            return []
        count = min(self._count, self._left.entries)
        before = self.position
        # In this order on one connection: what was trimmed before we read shows in the answer.
        rows, trimmed = await asyncio.gather(
            self._store.call(*self._command(), "COUNT", count),
            self._store.call("GET", keys.trimmed(self._p)),
        )
        if trimmed and not self._backwards:
            position = trimmed.decode()
            if position_key(position) > position_key(before):
                self.trimmed = position
        entries = [Entry(self._p, raw_id.decode(), fields[1]) for raw_id, fields in rows]
        self._account(entries)
        self.at_end = len(entries) < count
        return entries

    def _command(self) -> tuple[str, str, str, str]:
        log = keys.log(self._p)
        if self._backwards:
            return "XREVRANGE", log, f"({self.position}", "-"
        # The first slice holds what stands at its beginning, each later one goes on behind the last.
        return "XRANGE", log, f"{'(' if self._read else ''}{self.position}", "+"

    def _account(self, entries: list[Entry]) -> None:
        if not entries:
            return
        size = sum(len(entry.record) for entry in entries)
        self.position = entries[-1].position
        self._read += len(entries)
        self._left = Reach(
            self._left.entries - len(entries), self._left.bytes - size, self._left.seconds
        )
        self._count = max(1, min(_MOST, len(entries) * _SLICE_BYTES // (size or 1)))
