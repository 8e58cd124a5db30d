"""What this device knows of messages: the fold of its journal's entries, and what follows from it.

Pure: entries are decided here, written elsewhere, and applied when they are on disk. So this
state is never ahead of the disk, and a failed write leaves nothing to undo. (What follows from
the time alone, expiry and forgetting, needs no entry: it follows again after a restart.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from client_sdk.entries import (
    Acked,
    Begun,
    Done,
    Entry,
    Receipt,
    ReceiptKey,
    Stored,
    received,
)
from client_sdk.errors import StorageError
from protocol.schema.device_pb2 import RECEIVED, ReceiptState

GRACE_MS: Final = 24 * 3_600_000
"""An id is remembered for its ttl and this. The service sends nothing of an expired push, but
this device's clock may be set by hours meanwhile (a wrong time zone is up to 14 h), and what the
service sends again after a failover is minutes old."""
LIVE_ONLY_MS: Final = 30_000
"""The least time a stored message stays of use. One with ttl 0 is of use "only now", and the
service calls it expired when it is not receipted 30 s later."""

_STATES: Final = len(ReceiptState.keys()) - 1


class Arrival(NamedTuple):
    """A message as it came in."""

    push_id: int
    ttl_s: int
    content: bytes


@dataclass(slots=True)
class Row:
    """What is kept of one message for as long as its id is remembered."""

    stored: Stored
    begun: bool = False
    finished: bool = False

    @property
    def expires_ms(self) -> int:
        return self.stored.arrived_ms + max(self.stored.ttl_s * 1000, LIVE_ONLY_MS)

    @property
    def forget_ms(self) -> int:
        return self.stored.arrived_ms + self.stored.ttl_s * 1000 + GRACE_MS


class Admission(NamedTuple):
    """What to do with the messages of one read."""

    stored: list[Stored]
    """New ones: write these, and then `received` is owed."""
    duplicates: list[int]
    """Known ids: not handed out again, but `received` is sent again, the last one may be lost."""
    refused: int
    """No room: neither stored nor receipted, so that the service sends them again."""


class Journal:
    """Messages, their marks, and the receipts that are owed."""

    def __init__(self, *, max_ids: int, max_content_bytes: int) -> None:
        self.rows: dict[int, Row] = {}
        self.receipts: dict[ReceiptKey, Receipt] = {}
        """Not acknowledged, in the order in which they came to be owed."""
        self.waiting: dict[int, None] = {}
        """Ids stored and not begun, in the order of arrival."""
        self.content_bytes = 0
        self.expired = 0
        """Messages that were stored and ran out before the app took them."""
        self._max_ids = max_ids
        self._max_content_bytes = max_content_bytes
        self._latest_ms = 0
        self._next_look_ms = 0

    # Entries that are on disk.

    def apply(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            match entry:
                case Stored():
                    self._apply_stored(entry)
                case Begun(push_id):
                    self._row(push_id).begun = True
                    self.waiting.pop(push_id, None)
                case Done(push_id):
                    self._finish(self._row(push_id))
                case Receipt():
                    self.receipts[entry.key] = entry
                    if entry.state != RECEIVED and entry.push_id in self.rows:
                        self._finish(self.rows[entry.push_id])
                case Acked(push_id, state):
                    self.receipts.pop((push_id, state), None)

    def _apply_stored(self, entry: Stored) -> None:
        if entry.push_id in self.rows:
            return
        self.rows[entry.push_id] = Row(entry)
        self.waiting[entry.push_id] = None
        self.content_bytes += len(entry.content)
        self._latest_ms = max(self._latest_ms, entry.arrived_ms)
        owed = received(entry)
        self.receipts[owed.key] = owed

    def _row(self, push_id: int) -> Row:
        """A mark without its message is all that a damaged journal may have left; keep the mark."""
        return self.rows.setdefault(push_id, Row(Stored(push_id, self._latest_ms, 0, b"")))

    def _finish(self, row: Row) -> None:
        row.finished = True
        self.waiting.pop(row.stored.push_id, None)
        self.content_bytes -= len(row.stored.content)
        row.stored = Stored(row.stored.push_id, row.stored.arrived_ms, row.stored.ttl_s, b"")

    # Decisions.

    def admit(self, arrivals: Sequence[Arrival], now_ms: int) -> Admission:
        """Sorts the messages of one read into new, known and too many."""
        stored: dict[int, Stored] = {}
        duplicates: list[int] = []
        refused = 0
        size = 0
        for push_id, ttl_s, content in arrivals:
            if push_id in self.rows:
                duplicates.append(push_id)
            elif push_id in stored:
                continue  # twice within one read: its one receipt is on the way
            elif self._room(len(stored), size + len(content), now_ms):
                stored[push_id] = Stored(push_id, now_ms, ttl_s, content)
                size += len(content)
            else:
                refused += 1
        return Admission(list(stored.values()), duplicates, refused)

    def _room(self, more_ids: int, more_bytes: int, now_ms: int) -> bool:
        for _ in range(2):
            if (
                len(self.rows) + more_ids < self._max_ids
                and self.content_bytes + more_bytes <= self._max_content_bytes
            ):
                return True
            if not self.forget(now_ms):
                break
        return False

    def forget(self, now_ms: int) -> int:
        """Drops what ran out, returns how many rows went or shrank; looks once a minute at most.

        An id goes when nothing can bring its message again: the ttl and a grace are over, and the
        service has said that it knows of the receipt.
        """
        if now_ms < self._next_look_ms:
            return 0
        self._next_look_ms = now_ms + 60_000
        over = [
            push_id
            for push_id, row in self.rows.items()
            if row.forget_ms <= now_ms and (push_id, RECEIVED) not in self.receipts
        ]
        for push_id in over:
            self._finish(self.rows[push_id])
            del self.rows[push_id]
        return len(over) + self._expire(now_ms)

    def _expire(self, now_ms: int) -> int:
        over = [p for p in self.waiting if self.rows[p].expires_ms <= now_ms]
        for push_id in over:
            self._finish(self.rows[push_id])
        self.expired += len(over)
        return len(over)

    def next_waiting(self, now_ms: int) -> Stored | None:
        """The oldest message to hand out. Those whose ttl is over are dropped on the way: they
        count as received, but would tell the user something that is no longer so."""
        while self.waiting:
            row = self.rows[next(iter(self.waiting))]
            if row.expires_ms > now_ms:
                return row.stored
            self._finish(row)
            self.expired += 1
        return None

    def owe(self, receipt: Receipt) -> Receipt | None:
        """The entry to write for a receipt; None if it is owed already. Raises StorageError when
        more receipts wait for an acknowledgement than the ids kept could ever bring."""
        if receipt.key in self.receipts:
            return None
        if len(self.receipts) >= _STATES * self._max_ids:
            raise StorageError("too many receipts wait to be acknowledged")
        return receipt

    def owe_again(self, push_id: int) -> ReceiptKey | None:
        """A known message came again, so the service has lost its `received`: owed once more, in
        memory only, since the message would come yet again. None if it is still owed anyway."""
        owed = received(self.rows[push_id].stored)
        if owed.key in self.receipts:
            return None
        self.receipts[owed.key] = owed
        return owed.key

    def is_finished(self, push_id: int) -> bool:
        row = self.rows.get(push_id)
        return row is None or row.finished

    def unfinished(self) -> list[Stored]:
        """Begun and not finished, oldest first."""
        return [row.stored for row in self.rows.values() if row.begun and not row.finished]

    def snapshot(self) -> list[Entry]:
        """The entries that make this state again, for a new file."""
        entries: list[Entry] = []
        for push_id, row in self.rows.items():
            entries.append(row.stored)
            if row.begun:
                entries.append(Begun(push_id))
            if row.finished:
                entries.append(Done(push_id))
            if (push_id, RECEIVED) not in self.receipts:
                entries.append(Acked(push_id, RECEIVED))
        entries += (r for r in self.receipts.values() if not self._is_implied(r))
        return entries

    def _is_implied(self, receipt: Receipt) -> bool:
        return receipt.state == RECEIVED and receipt.push_id in self.rows
