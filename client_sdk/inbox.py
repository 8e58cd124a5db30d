"""Messages between the connection and the app, and the receipts that go back."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from client_sdk.clock import DeviceClock
from client_sdk.entries import (
    Acked,
    Begun,
    Done,
    Entry,
    Recall,
    Receipt,
    ReceiptKey,
    Stored,
    Told,
)
from client_sdk.errors import StorageError
from client_sdk.events import Event, Recalled
from client_sdk.journal import MAX_STRANGERS, Arrival, Journal, Times
from client_sdk.journal_file import JournalFile
from client_sdk.journal_writer import JournalWriter
from client_sdk.options import Options
from client_sdk.wakeup import Wakeup
from protocol.schema.device_pb2 import RECEIVED

_log = logging.getLogger("columba.sdk")


@dataclass(slots=True)
class Stats:
    """Counts since the `Device` was opened."""

    connects: int = 0
    """WELCOMEs."""
    messages: int = 0
    """Stored: each id once."""
    duplicates: int = 0
    """Came again and were not handed out again."""
    refused: int = 0
    """Not taken for want of room or of a working disk; the service sends them again."""
    expired: int = 0
    """Stored, and dropped because their ttl ran out before the app took them."""
    recalled: int = 0
    """Dropped because they were recalled: stored before that, or come after it."""
    replaced: int = 0
    """Stored, and dropped because a newer message of the same collapse key came."""
    handed_out: int = 0
    receipts_acked: int = 0
    receipts_pending: int = 0
    """Not acknowledged by the service now."""


class Inbox:
    """The journal, seen from both of its sides. Lives as long as the `Device`.

    Made in hold: nothing is handed out before the first attempt to connect has come to an end.
    """

    def __init__(
        self, journal: Journal, file: JournalFile, clock: DeviceClock, options: Options
    ) -> None:
        self.journal = journal
        self.stats = Stats()
        self.changed = Wakeup()
        """Notified of everything that somebody may wait for: room, messages, receipts, an end."""
        self.ended = False
        """No more messages will come: hand out what is here, then nothing."""
        self.closed = False
        """Hand out nothing any more."""
        self._writer = JournalWriter(journal, file, self._on_applied)
        self._clock = clock
        self._options = options
        self._outbox: deque[ReceiptKey] = deque()
        self._handing_out = asyncio.Lock()
        self._held = True
        self._begun: tuple[Stored, asyncio.Future[None]] | None = None
        self._recalls: dict[int, Recall] = {}
        """Heard of and not on disk: part of every write until one succeeds."""
        self._reported: set[ReceiptKey] = set()
        """Receipts of the app in this run, which the clock of this run was read for."""
        self._said_full = False

    # The connection's side.

    def hold(self) -> None:
        """A connection is there that will tell of recalls: hand out nothing before it has."""
        self._held = True

    def release(self) -> None:
        """It has, or it is over: what is stored may go."""
        self._held = False
        self.changed.notify()

    async def on_connected(self, recalled: Sequence[int]) -> None:
        """WELCOME came, with these recalls. Everything that is owed has to be sent on the new
        connection; the clock is right now."""
        self._outbox = deque(self.journal.receipts)
        self.journal.forget(self._clock.now_ms())
        self._hear(recalled)
        try:
            # Behind all writes that an earlier connection may have left under way, too: what is
            # decided on this one is decided about what they made.
            await self._write([])
        except StorageError:
            pass  # with the next write, and nothing is handed out without one
        self.release()

    async def take(self, arrivals: Sequence[Arrival], recalled: Sequence[int] = ()) -> None:
        """Stores the messages and recalls of one read with one sync; only then are messages
        receipted. A message and its recall in one read are as if the recall had come first."""
        self._hear(recalled)
        now = Times(self._clock.now_ms(), self._clock.offset_ms)
        admission = self.journal.admit(arrivals, now, self._recalls)
        self.stats.duplicates += len(admission.duplicates)
        self.stats.recalled += admission.recalled
        again = map(self.journal.owe_again, admission.duplicates)
        self._outbox.extend(key for key in again if key is not None)
        self.stats.refused += admission.refused
        if admission.refused and not self._said_full:
            unfinished = len(self.journal.unfinished())
            _log.error("no room, messages are not taken; %d are not finished", unfinished)
        self._said_full = admission.refused > 0
        if admission.stored or self._recalls:
            try:
                await self._write([*admission.stored, *admission.replacements])
            except StorageError:  # the writer has said so in the log
                self.stats.refused += len(admission.stored)
        self.changed.notify()

    def _hear(self, recalled: Sequence[int]) -> None:
        for entry in self.journal.recall(recalled):
            self._recalls[entry.push_id] = entry
        if (spare := len(self._recalls) - MAX_STRANGERS) > 0:
            # As bounded as on disk; what stands for a message here is never dropped.
            strangers = [push_id for push_id in self._recalls if push_id not in self.journal.rows]
            for push_id in strangers[:spare]:
                del self._recalls[push_id]

    def _write(self, batch: Iterable[Entry]) -> asyncio.Future[None]:
        return self._writer.write([*self._recalls.values(), *batch])

    async def wait_room(self) -> None:
        """Returns at once below `max_waiting`; else when half of it is free: then there is no
        start and stop for each message."""
        if len(self.journal.waiting) < self._options.max_waiting:
            return
        while len(self.journal.waiting) > self._options.max_waiting // 2:
            await self.changed.wait()

    @property
    def has_receipts(self) -> bool:
        """Are there receipts that this connection has not sent?"""
        return bool(self._outbox)

    def take_receipts(self, at_most: int) -> list[Receipt]:
        """The next ones to send, which then count as sent on this connection."""
        keys = [self._outbox.popleft() for _ in range(min(at_most, len(self._outbox)))]
        owed = self.journal.receipts
        return [self._dated(owed[key]) for key in keys if key in owed]

    def _dated(self, receipt: Receipt) -> Receipt:
        """What happened in this run, offline, happened by the clock that WELCOME has now set right."""
        if receipt.key not in self._reported:
            return receipt
        return replace(receipt, clock_offset_ms=self._clock.offset_ms)

    def on_acked(self, keys: Iterable[ReceiptKey]) -> None:
        acked = [Acked(*key) for key in keys if key in self.journal.receipts]
        self._writer.later(acked)
        self._reported.difference_update((entry.push_id, entry.state) for entry in acked)
        self.stats.receipts_acked += len(acked)
        self.changed.notify()

    # The app's side.

    async def next(self) -> Stored | None:
        """The next message for the app, `begun` on disk; None when there will be none.

        Safe to cancel: a message whose mark is under way is what the next call returns, unless it
        is recalled or replaced before that.
        """
        async with self._handing_out:
            while True:
                if self.closed and (self._begun is None or self._held):
                    return None
                if self._begun is None:
                    stored = None if self._held else self._next_waiting()
                    if stored is None:
                        if self.ended and not self._held:
                            return None
                        await self.changed.wait()
                        continue
                    self._begun = stored, self._write([Begun(stored.push_id)])
                stored, written = self._begun
                try:
                    await asyncio.shield(written)
                except StorageError:
                    self._begun = None
                    await asyncio.sleep(self._options.disk_retry_s)
                    continue
                if self._held:
                    if not self.closed:
                        await self.changed.wait()
                    continue
                self._begun = None
                if stored.push_id in self._recalls or not self.journal.may_go(stored.push_id):
                    continue
                self.stats.handed_out += 1
                return stored

    def _next_waiting(self) -> Stored | None:
        expired = self.journal.expired
        now_ms, certain = self._clock.now_ms(), self._clock.confirmed
        stored = self.journal.next_waiting(now_ms, certain=certain)
        if self.journal.expired != expired:
            self.changed.notify()  # room
        return stored

    async def next_event(self, taken: Event | None) -> Event | None:
        """The oldest event after `taken`, with which the app is through; None when there will be
        none."""
        if taken is not None:
            # Should this get lost, the event is told once more.
            self._writer.later([Told(taken.push_id, isinstance(taken, Recalled))])
        while not self.closed:
            event = self.journal.next_event()
            if event is not None or self.ended:
                return event
            await self.changed.wait()
        return None

    async def report(self, push_id: int, state: int, reason: str = "") -> None:
        """Returns when the receipt is on disk; raises StorageError when it is not."""
        own_ms, offset_ms = self._clock.own_ms(), self._clock.offset_ms
        receipt = self.journal.owe(Receipt(push_id, state, own_ms, reason, offset_ms))
        if receipt is not None:
            await self._writer.write([receipt])
            self._reported.add(receipt.key)

    async def finish(self, push_id: int) -> None:
        """The app is through with the message and has nothing to report."""
        if not self.journal.is_finished(push_id):
            await self._writer.write([Done(push_id)])

    async def close(self) -> None:
        self.closed = True
        self.changed.notify()
        await self._writer.close()

    def _on_applied(self, entries: list[Entry]) -> None:
        for entry in entries:
            match entry:
                case Stored():
                    self.stats.messages += 1
                    self._outbox.append((entry.push_id, RECEIVED))
                case Receipt():
                    self._outbox.append(entry.key)
                case Recall(push_id):
                    self._recalls.pop(push_id, None)
        self.changed.notify()
