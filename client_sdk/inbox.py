"""Messages between the connection and the app, and the receipts that go back."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from client_sdk.clock import DeviceClock
from client_sdk.entries import Acked, Begun, Done, Entry, Receipt, ReceiptKey, Stored
from client_sdk.errors import StorageError
from client_sdk.journal import Arrival, Journal
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
    handed_out: int = 0
    receipts_acked: int = 0
    receipts_pending: int = 0
    """Not acknowledged by the service now."""


class Inbox:
    """The journal, seen from both of its sides. Lives as long as the `Device`."""

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
        self._begun: tuple[Stored, asyncio.Future[None]] | None = None
        self._said_full = False

    # The connection's side.

    async def take(self, arrivals: Sequence[Arrival]) -> None:
        """Stores the messages of one read with one sync; only then are they receipted."""
        admission = self.journal.admit(arrivals, self._clock.now_ms())
        self.stats.duplicates += len(admission.duplicates)
        again = map(self.journal.owe_again, admission.duplicates)
        self._outbox.extend(key for key in again if key is not None)
        self.stats.refused += admission.refused
        if admission.refused and not self._said_full:
            unfinished = len(self.journal.unfinished())
            _log.error("no room, messages are not taken; %d are not finished", unfinished)
        self._said_full = admission.refused > 0
        if admission.stored:
            try:
                await self._writer.write(admission.stored)
            except StorageError:  # the writer has said so in the log
                self.stats.refused += len(admission.stored)
        self.changed.notify()

    async def wait_room(self) -> None:
        """Returns at once below `max_waiting`; else when half of it is free: then there is no
        start and stop for each message."""
        if len(self.journal.waiting) < self._options.max_waiting:
            return
        while len(self.journal.waiting) > self._options.max_waiting // 2:
            await self.changed.wait()

    def on_connected(self) -> None:
        """Everything that is owed has to be sent on the new connection."""
        self._outbox = deque(self.journal.receipts)
        self.changed.notify()

    @property
    def has_receipts(self) -> bool:
        """Are there receipts that this connection has not sent?"""
        return bool(self._outbox)

    def take_receipts(self, at_most: int) -> list[Receipt]:
        """The next ones to send, which then count as sent on this connection."""
        keys = [self._outbox.popleft() for _ in range(min(at_most, len(self._outbox)))]
        owed = self.journal.receipts
        return [owed[key] for key in keys if key in owed]

    def on_acked(self, keys: Iterable[ReceiptKey]) -> None:
        acked = [Acked(*key) for key in keys if key in self.journal.receipts]
        self._writer.later(acked)
        self.stats.receipts_acked += len(acked)
        self.changed.notify()

    # The app's side.

    async def next(self) -> Stored | None:
        """The next message for the app, `begun` on disk; None when there will be none.

        Safe to cancel: a message whose mark is under way is what the next call returns.
        """
        async with self._handing_out:
            while True:
                if self._begun is None:
                    if self.closed:
                        return None
                    stored = self._next_waiting()
                    if stored is None:
                        if self.ended:
                            return None
                        await self.changed.wait()
                        continue
                    self._begun = stored, self._writer.write([Begun(stored.push_id)])
                stored, written = self._begun
                try:
                    await asyncio.shield(written)
                except StorageError:
                    self._begun = None
                    await asyncio.sleep(self._options.disk_retry_s)
                    continue
                self._begun = None
                self.stats.handed_out += 1
                return stored

    def _next_waiting(self) -> Stored | None:
        expired = self.journal.expired
        stored = self.journal.next_waiting(self._clock.now_ms())
        if self.journal.expired != expired:
            self.changed.notify()  # room
        return stored

    async def report(self, push_id: int, state: int, reason: str = "") -> None:
        """Returns when the receipt is on disk; raises StorageError when it is not."""
        receipt = self.journal.owe(Receipt(push_id, state, self._clock.now_ms(), reason))
        if receipt is not None:
            await self._writer.write([receipt])

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
            if isinstance(entry, Stored):
                self.stats.messages += 1
                self._outbox.append((entry.push_id, RECEIVED))
            elif isinstance(entry, Receipt):
                self._outbox.append(entry.key)
        self.changed.notify()
