"""What this device knows of messages: the fold of its journal's entries, and what follows from it.

Pure: entries are decided here, written elsewhere, and applied when they are on disk. So this
state is never ahead of the disk, and a failed write leaves nothing to undo. (What follows from
the time alone, expiry and forgetting, needs no entry: it follows again after a restart.)
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from client_sdk.entries import (
    Acked,
    Begun,
    Done,
    Entry,
    Recall,
    Receipt,
    ReceiptKey,
    Replacement,
    Stored,
    Told,
    received,
)
from client_sdk.errors import StorageError
from client_sdk.events import Event, Recalled, Replaced
from protocol.codes import MAX_RECALLS
from protocol.schema.device_pb2 import RECEIVED, ReceiptState

GRACE_MS: Final = 24 * 3_600_000
"""An id is remembered for its ttl and this. The service sends nothing of an expired push, but
this device's clock may be set by hours meanwhile (a wrong time zone is up to 14 h), and what the
service sends again after a failover is minutes old."""
LIVE_ONLY_MS: Final = 30_000
"""The least time a stored message stays of use. One with ttl 0 is of use "only now", and the
service calls it expired when it is not receipted 30 s later."""
MAX_STRANGERS: Final = 2 * MAX_RECALLS
"""Recalled ids remembered without a message; the oldest goes. Twice what a WELCOME may name, so
that the same list, told at each connect beside a few others, is written to the disk once."""

_STATES: Final = len(ReceiptState.keys()) - 1


class Arrival(NamedTuple):
    """A message as it came in."""

    push_id: int
    ttl_s: int
    content: bytes
    collapse_key: str = ""


class Times(NamedTuple):
    """A moment as the device knows it."""

    service_ms: int
    """Milliseconds since the Unix epoch, by the service's clock."""
    offset_ms: int
    """That less the device's own clock."""


@dataclass(slots=True)
class Row:
    """What is kept of one message for as long as its id is remembered."""

    stored: Stored
    begun: bool = False
    finished: bool = False
    recalled: bool = False
    replaced_by: int | None = None

    @property
    def void(self) -> bool:
        """Not to be handed out, whatever else."""
        return self.recalled or self.replaced_by is not None

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
    recalled: int = 0
    """Came after their recall: neither stored nor receipted, and the service knows why."""
    replacements: Sequence[Replacement] = ()
    """Write these with `stored`, in one record."""


class Journal:
    """Messages, their marks, and the receipts that are owed."""

    def __init__(self, *, max_ids: int, max_content_bytes: int) -> None:
        self.rows: dict[int, Row] = {}
        self.receipts: dict[ReceiptKey, Receipt] = {}
        """Not acknowledged, in the order in which they came to be owed."""
        self.waiting: dict[int, None] = {}
        """Ids stored and not begun, in the order of arrival."""
        self.untold: dict[int, None] = {}
        """Ids with an event that the app has not taken, in the order of the events."""
        self.strangers: dict[int, None] = {}
        """Recalled, and no message of that id is known; the oldest first."""
        self.content_bytes = 0
        self.expired = 0
        """Messages that were stored and ran out before the app took them."""
        self.recalled = 0
        """Messages that were stored and recalled before the app took them."""
        self.replaced = 0
        """Messages that were stored and replaced before the app took them."""
        self.latest_ms = 0
        """When the latest message arrived, by the service's clock: it is not earlier now."""
        self._max_ids = max_ids
        self._max_content_bytes = max_content_bytes
        self._newest: dict[str, int] = {}
        """Collapse key -> greatest push id among its rows."""
        self._next_look_ms = 0

    # Entries that are on disk.

    def load(self, entries: Iterable[Entry]) -> None:
        """Those of the file that is opened; the counts begin behind them."""
        self.apply(entries)
        self.recalled = self.replaced = 0

    def apply(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            match entry:
                case Stored():
                    self._apply_stored(entry)
                case Begun(push_id):
                    row = self._row(push_id)
                    row.begun = row.begun or not row.void
                    self.waiting.pop(push_id, None)
                case Done(push_id):
                    self._finish(self._row(push_id))
                case Receipt():
                    self.receipts[entry.key] = entry
                    if entry.state != RECEIVED and entry.push_id in self.rows:
                        self._finish(self.rows[entry.push_id])
                case Acked(push_id, state):
                    self.receipts.pop((push_id, state), None)
                case Recall(push_id):
                    self._apply_recall(push_id)
                case Replacement(push_id, by):
                    self._apply_replacement(push_id, by)
                case Told(push_id, recalled):
                    if push_id in self.untold and self.rows[push_id].recalled == recalled:
                        del self.untold[push_id]

    def _apply_stored(self, entry: Stored) -> None:
        if entry.push_id in self.rows or entry.push_id in self.strangers:
            return
        self.rows[entry.push_id] = Row(entry)
        self.waiting[entry.push_id] = None
        self.content_bytes += len(entry.content)
        self.latest_ms = max(self.latest_ms, entry.arrived_ms)
        self._note_key(entry)
        owed = received(entry)
        self.receipts[owed.key] = owed

    def _note_key(self, stored: Stored) -> None:
        key = stored.collapse_key
        if key:
            self._newest[key] = max(self._newest.get(key, 0), stored.push_id)

    def _apply_recall(self, push_id: int) -> None:
        row = self.rows.get(push_id)
        if row is None:
            self.strangers[push_id] = None
            if len(self.strangers) > MAX_STRANGERS:
                del self.strangers[next(iter(self.strangers))]
        elif not row.recalled:
            row.recalled = True
            self.recalled += push_id in self.waiting
            self._finish(row)
            # An event of its replacement is out of date with this one, and this one is the later.
            self.untold.pop(push_id, None)
            self.untold[push_id] = None

    def _apply_replacement(self, push_id: int, by: int) -> None:
        row = self.rows.get(push_id)
        if row is None or row.void:
            return
        row.replaced_by = by
        self.replaced += push_id in self.waiting
        self._finish(row)
        if row.begun:
            self.untold[push_id] = None

    def _row(self, push_id: int) -> Row:
        """A mark without its message is all that a damaged journal may have left; keep the mark."""
        row = self.rows.get(push_id)
        if row is None:
            known = push_id in self.strangers
            self.strangers.pop(push_id, None)
            missing = Stored(push_id, self.latest_ms, 0, b"")
            row = self.rows[push_id] = Row(missing, finished=known, recalled=known)
        return row

    def _finish(self, row: Row) -> None:
        row.finished = True
        self.waiting.pop(row.stored.push_id, None)
        self.content_bytes -= len(row.stored.content)
        row.stored = replace(row.stored, content=b"")

    # Decisions.

    def admit(
        self, arrivals: Sequence[Arrival], now: Times, recalls: Collection[int] = ()
    ) -> Admission:
        """Sorts the messages of one read into new, known, too many and recalled. `recalls` are ids
        whose recall is not on disk yet; it gets there before the new ones, or with them."""
        stored: dict[int, Stored] = {}
        duplicates: list[int] = []
        refused = recalled = size = 0
        for push_id, ttl_s, content, key in arrivals:
            if push_id in self.rows:
                duplicates.append(push_id)
            elif push_id in stored:
                continue  # twice within one read: its one receipt is on the way
            elif push_id in self.strangers or push_id in recalls:
                recalled += 1
            elif self._room(len(stored), size + len(content), now.service_ms):
                stored[push_id] = Stored(
                    push_id, now.service_ms, ttl_s, content, key, now.offset_ms
                )
                size += len(content)
            else:
                refused += 1
        fresh = list(stored.values())
        return Admission(fresh, duplicates, refused, recalled, list(self._replacements(fresh)))

    def _replacements(self, fresh: Iterable[Stored]) -> Iterator[Replacement]:
        """What each new message replaces, or what replaced it before it came."""
        newest: dict[str, int] = {}
        for stored in fresh:
            key, push_id = stored.collapse_key, stored.push_id
            if not key:
                continue
            other = newest.get(key, self._newest.get(key, push_id))
            newest[key] = max(other, push_id)
            if other < push_id:
                yield Replacement(other, push_id)
            elif other > push_id:
                yield Replacement(push_id, other)

    def recall(self, push_ids: Iterable[int]) -> list[Recall]:
        """The entries to write for recalls that came; those that are known already have none."""
        return [
            Recall(push_id)
            for push_id in dict.fromkeys(push_ids)
            if push_id not in self.strangers
            and not (push_id in self.rows and self.rows[push_id].recalled)
        ]

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
        service has said that it knows of the receipt. An event that the app has not taken by then
        goes with it: an app that takes none must not come to a standstill.
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
            self.untold.pop(push_id, None)
        if over:
            self._newest.clear()
            for row in self.rows.values():
                self._note_key(row.stored)
        return len(over) + self._expire(now_ms)

    def _expire(self, now_ms: int) -> int:
        over = [p for p in self.waiting if self.rows[p].expires_ms <= now_ms]
        for push_id in over:
            self._finish(self.rows[push_id])
        self.expired += len(over)
        return len(over)

    def next_waiting(self, now_ms: int, *, certain: bool = True) -> Stored | None:
        """The oldest message to hand out. Those whose ttl is over are dropped on the way: they
        count as received, but would tell the user something that is no longer so. Where the time
        is not `certain` they are only passed over."""
        found = None
        over = []
        for push_id in self.waiting:
            row = self.rows[push_id]
            if row.expires_ms > now_ms:
                found = row.stored
                break
            over.append(row)
        if certain:
            for row in over:
                self._finish(row)
            self.expired += len(over)
        return found

    def may_go(self, push_id: int) -> bool:
        """Is its mark `begun` the app's leave to have it? Not when a recall came first, or after."""
        row = self.rows.get(push_id)
        return row is not None and row.begun and not row.void

    def next_event(self) -> Event | None:
        """The oldest one that the app has not taken."""
        for push_id in self.untold:
            row = self.rows[push_id]
            if row.recalled or row.replaced_by is None:
                return Recalled(push_id, row.begun)
            return Replaced(push_id, row.replaced_by)
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
            if row.void and push_id not in self.untold:
                entries += _marks(push_id, row)
                if row.recalled or row.begun:
                    entries.append(Told(push_id, row.recalled))
        for push_id in self.untold:
            entries += _marks(push_id, self.rows[push_id])
        entries += map(Recall, self.strangers)
        entries += (r for r in self.receipts.values() if not self._is_implied(r))
        return entries

    def _is_implied(self, receipt: Receipt) -> bool:
        return receipt.state == RECEIVED and receipt.push_id in self.rows


def _marks(push_id: int, row: Row) -> Iterator[Entry]:
    if row.replaced_by is not None:
        yield Replacement(push_id, row.replaced_by)
    if row.recalled:
        yield Recall(push_id)
