"""The receipts of a fleet: due, owed, sent, acknowledged. Pure, time is an argument."""

from collections import deque
from collections.abc import Iterator

from loadtest.device_table import OPEN, DeviceTable
from loadtest.wire import DISPLAYED, RECEIVED, receipt, receipts_frame
from protocol.codes import MAX_RECEIPTS


class ReceiptDesk:
    """Gathers what each device has to report into one frame per device and turn.

    A row stands in a dict only while it owes something. What is sent stays here until RECEIPT_ACK
    covers it; when the connection ends first, it is sent again on the next one. A device owes at
    most two receipts for each message it was sent, so its window bounds this table.
    """

    __slots__ = (
        "_cache",
        "_displayed_due",
        "_owed",
        "_parked",
        "_received_due",
        "_table",
        "_unacked",
        "delay_s",
        "held",
        "max_receipts",
        "think_s",
    )

    def __init__(self, table: DeviceTable, delay_s: float, think_s: float | None) -> None:
        self.delay_s = delay_s
        """Between a message and its `received`."""
        self.think_s = think_s
        """Between `received` and `displayed`; None: never displayed."""
        self.held = False
        """While true nothing falls due."""
        self.max_receipts = MAX_RECEIPTS
        """In one frame, as the last WELCOME allowed."""
        self._table = table
        self._received_due: deque[tuple[float, int, int, int]] = deque()
        self._displayed_due: deque[tuple[float, int, int, int]] = deque()
        self._owed: dict[int, list[bytes]] = {}
        self._parked: dict[int, list[bytes]] = {}
        self._unacked: dict[int, list[tuple[int, list[bytes]]]] = {}
        self._cache: dict[tuple[int, bytes], bytes] = {}

    def on_shown(self, row: int, push_id: int, now: float, at_ms: int) -> None:
        """A message was shown for the first time: `received` and, if wanted, `displayed` follow."""
        self._report_received(row, push_id, now, at_ms)
        if self.think_s is not None:
            due = now + self.delay_s + self.think_s
            self._displayed_due.append((due, row, push_id, at_ms + round(self.think_s * 1e3)))

    def on_repeated(self, row: int, push_id: int, now: float, at_ms: int) -> None:
        """The same message came again: it is acknowledged again, and that is all."""
        self._report_received(row, push_id, now, at_ms)

    def _report_received(self, row: int, push_id: int, now: float, at_ms: int) -> None:
        if self.delay_s == 0 and not self.held:
            self.note(row, receipt(push_id, RECEIVED, at_ms))
        else:
            self._received_due.append((now + self.delay_s, row, push_id, at_ms))

    def note(self, row: int, entry: bytes) -> None:
        place = self._owed if self._table.phase[row] == OPEN else self._parked
        entries = place.get(row)
        if entries is None:
            place[row] = [entry]
        else:
            entries.append(entry)

    def release(self, now: float) -> None:
        """Move what has fallen due to what is owed. The delays are fixed, so both queues are in order."""
        if self.held:
            return
        for state, queue in ((RECEIVED, self._received_due), (DISPLAYED, self._displayed_due)):
            while queue and queue[0][0] <= now:
                _, row, push_id, at_ms = queue.popleft()
                self.note(row, receipt(push_id, state, at_ms))

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(row, RECEIPTS) for all that is owed; each counts as sent once it was yielded."""
        if not self._owed:
            return
        self._cache.clear()
        owed, self._owed = self._owed, {}
        for row, entries in owed.items():
            for at in range(0, len(entries), self.max_receipts):
                if self._table.phase[row] != OPEN:  # the frame before found the connection broken
                    self._parked.setdefault(row, []).extend(entries[at:])
                    break
                yield row, self._frame(row, entries[at : at + self.max_receipts])

    def _frame(self, row: int, entries: list[bytes]) -> bytes:
        seq = self._table.seq[row] = self._table.seq[row] + 1
        self._unacked.setdefault(row, []).append((seq, entries))
        joined = entries[0] if len(entries) == 1 else b"".join(entries)
        # The receivers of one broadcast are mostly at the same seq, so their frames are the same.
        key = (seq, joined)
        frame = self._cache.get(key)
        if frame is None:
            frame = self._cache[key] = receipts_frame(seq, joined)
        return frame

    def on_ack(self, row: int, seq: int) -> int:
        """RECEIPT_ACK: how many receipts became durable by it."""
        sent = self._unacked.get(row)
        if sent is None:
            return 0
        if len(sent) == 1 and sent[0][0] <= seq:  # mostly
            del self._unacked[row]
            return len(sent[0][1])
        covered = sum(len(entries) for at, entries in sent if at <= seq)
        left = [pair for pair in sent if pair[0] > seq]
        if left:
            self._unacked[row] = left
        else:
            del self._unacked[row]
        return covered

    def on_open(self, row: int) -> None:
        """A new connection: counting starts anew, and what was not acknowledged goes out again."""
        self._table.seq[row] = 0
        parked = self._parked.pop(row, None)
        if parked:
            self._owed[row] = parked

    def on_closed(self, row: int) -> None:
        again = [entry for _, entries in self._unacked.pop(row, ()) for entry in entries]
        again += self._owed.pop(row, ())
        if again:
            self._parked[row] = again + self._parked.get(row, [])

    def next_at(self) -> float | None:
        """When the next receipt falls due, seconds; None if none will by itself."""
        if self.held:
            return None
        due = [queue[0][0] for queue in (self._received_due, self._displayed_due) if queue]
        return min(due) if due else None

    def outstanding(self) -> int:
        """Receipts due, owed or not acknowledged, of all devices."""
        waiting = len(self._received_due) + len(self._displayed_due)
        kept = sum(map(len, self._owed.values())) + sum(map(len, self._parked.values()))
        return waiting + kept + sum(len(e) for sent in self._unacked.values() for _, e in sent)
