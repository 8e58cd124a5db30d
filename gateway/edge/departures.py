"""Sessions that are to go to other edges, a few at a time: an edge that stops, one that is drained, and
edges of which one has more than the others.

A device that is sent away dials the address that its GOAWAY names, with its token: what it has not
receipted is sent again by its partition's owner, and its SDK shows nothing twice.
"""

import asyncio
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from gateway.edge.sessions import Sessions
from gateway.edge.table import Table
from protocol.states import State

_STEP_S: Final = 0.02


class Target(NamedTuple):
    """Another edge, by its own port."""

    address: str
    sessions: int
    """How many it is to get, or its share of them."""


class Departures:
    """Of one edge; one at a time."""

    def __init__(self, table: Table, sessions: Sessions) -> None:
        self._table = table
        self._sessions = sessions
        self._task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        return self._task is not None and not self._task.done()

    def drain(self, targets: Sequence[Target], over_s: float) -> int:
        """Send all sessions away, and whoever registers from now on; how many there are. Replaces what is
        under way."""
        self.cancel()
        sessions = self._sessions
        sessions.draining = True
        sessions.elsewhere = lambda: _any_of(targets)
        rows = self._open_rows()
        return self._begin(rows, (sessions.elsewhere() for _ in rows), over_s)

    def undo(self) -> None:
        """Sessions may stay again."""
        self.cancel()
        self._sessions.draining = False
        self._sessions.elsewhere = lambda: ""

    def move(self, targets: Sequence[Target], over_s: float) -> int:
        """Send to each target as many sessions as it is to get, as far as there are so many."""
        addresses = [target.address for target in targets for _ in range(target.sessions)]
        random.shuffle(addresses)
        rows = self._open_rows()[: len(addresses)]
        return self._begin(rows, iter(addresses), over_s)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def finished(self) -> None:
        """Until all that are to go have been told."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def _open_rows(self) -> list[tuple[int, int]]:
        """(descriptor, generation), shuffled."""
        table = self._table
        fds = [fd for fd, state in enumerate(table.state) if state == State.OPEN]
        random.shuffle(fds)
        return [(fd, table.generation[fd]) for fd in fds]

    def _begin(
        self, rows: Sequence[tuple[int, int]], addresses: Iterator[str], over_s: float
    ) -> int:
        self._task = asyncio.create_task(self._send(rows, addresses, over_s))
        return len(rows)

    async def _send(
        self, rows: Sequence[tuple[int, int]], addresses: Iterator[str], over_s: float
    ) -> None:
        steps = max(1, int(over_s / _STEP_S))
        size = max(1, -(-len(rows) // steps))
        pairs = zip(rows, addresses, strict=False)
        while some := list(itertools.islice(pairs, size)):
            for (fd, generation), address in some:
                if self._table.is_row(fd, generation):
                    self._sessions.depart(fd, address)
            await asyncio.sleep(over_s * len(some) / len(rows))


def _any_of(targets: Sequence[Target]) -> str:
    """At random, by their shares."""
    weights = [target.sessions for target in targets]
    if not any(weights):
        weights = [1] * len(targets)
    return random.choices(targets, weights)[0].address if targets else ""
