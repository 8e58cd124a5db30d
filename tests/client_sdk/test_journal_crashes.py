"""Random lives of a journal with crashes in them, against a simple model."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from client_sdk.entries import Acked, Begun, Entry, Receipt, record, scan
from client_sdk.journal import Arrival
from protocol.schema.device_pb2 import CLICKED, DISPLAYED, FAILED, RECEIVED
from tests.client_sdk.journals import T, at, journal, loaded


class CrashingDevice(RuleBasedStateMachine):
    """Random lives of a device, with crashes that leave any part of the write under way.

    What the service may do: send any message again whose `received` it has not acknowledged, or
    which is not expired.
    """

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "journal"
        self.now_ms = T
        self.sent: dict[int, int] = {}  # push id -> end of its ttl
        self.received: set[int] = set()  # on disk, so that `received` may have been sent
        self.begun: list[int] = []
        self.finished: set[int] = set()
        self.owed: set[tuple[int, int]] = set()
        self.acked: set[tuple[int, int]] = set()
        self.reload()

    def teardown(self) -> None:
        if hasattr(self, "file"):
            self.file.close()
            self.directory.cleanup()

    def reload(self) -> None:
        self.file, found = loaded(self.path)
        assert found.aside is None
        self.journal = journal(found.entries, ids=8, content=60)
        self.journal.forget(self.now_ms)

    def write(self, batch: list[Entry]) -> None:
        self.file.append(batch)
        self.journal.apply(batch)

    def crash_with(self, batch: list[Entry], kept: float) -> bool:
        """Is the batch on disk after the crash?"""
        self.file.close()
        data = record(batch)
        left = data[: round(len(data) * kept)]
        whole = self.path.read_bytes()
        self.path.write_bytes(whole[: scan(whole).end] + left)
        self.reload()
        return len(left) == len(data)

    def arrivals(self, fresh: int, again: bool) -> list[Arrival]:
        ids = [len(self.sent) + n for n in range(fresh)]
        self.sent |= {push_id: self.now_ms + 60_000 for push_id in ids}
        if again:
            ids += [
                p
                for p, end in self.sent.items()
                if self.now_ms < end or (p in self.received and (p, RECEIVED) not in self.acked)
            ]
        return [Arrival(p, 60, b"content") for p in ids]

    @rule(fresh=st.integers(0, 3), again=st.booleans(), kept=st.none() | st.floats(0, 1))
    def messages_come(self, fresh: int, again: bool, kept: float | None) -> None:
        admission = self.journal.admit(self.arrivals(fresh, again), at(self.now_ms))
        for push_id in admission.duplicates:
            self.journal.owe_again(push_id)
        assert not self.received & {s.push_id for s in admission.stored}, "forgot an id"
        on_disk = True
        if kept is None:
            self.write(list(admission.stored))
        else:
            on_disk = self.crash_with(list(admission.stored), kept)
        if on_disk:
            self.received |= {s.push_id for s in admission.stored}
            self.owed |= {(s.push_id, RECEIVED) for s in admission.stored}

    @rule(kept=st.none() | st.floats(0, 1))
    def hand_out(self, kept: float | None) -> None:
        message = self.journal.next_waiting(self.now_ms)
        if message is None:
            return
        assert message.push_id not in self.begun, "handed out twice"
        assert message.content == b"content"
        if kept is None:
            self.write([Begun(message.push_id)])
            self.begun.append(message.push_id)
        elif self.crash_with([Begun(message.push_id)], kept):
            self.begun.append(message.push_id)

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), state=st.sampled_from([DISPLAYED, CLICKED, FAILED]))
    def report(self, data: st.DataObject, state: int) -> None:
        push_id = data.draw(st.sampled_from(self.begun))
        receipt = self.journal.owe(Receipt(push_id, state, self.now_ms))
        if receipt and (push_id, state) not in self.acked:
            self.write([receipt])
            self.owed.add((push_id, state))
            self.finished.add(push_id)

    @rule(data=st.data(), durable=st.booleans())
    def acknowledge(self, data: st.DataObject, durable: bool) -> None:
        keys = data.draw(st.sets(st.sampled_from([*self.journal.receipts, (10**6, 1)])))
        acked: list[Entry] = [Acked(*key) for key in keys]
        if durable:
            self.write(acked)
        else:
            self.journal.apply(acked)
        self.acked |= keys

    @rule(minutes=st.sampled_from([1, 2, 30 * 60]))
    def time_passes(self, minutes: int) -> None:
        self.now_ms += minutes * 60_000

    @rule()
    def crash(self) -> None:
        self.crash_with([], 0)

    @rule(kept=st.floats(0, 0.99))
    def crash_while_compacting(self, kept: float) -> None:
        data = record(self.journal.snapshot())
        self.path.with_name("journal.new").write_bytes(data[: round(len(data) * kept)])
        self.crash_with([], 0)

    @rule()
    def compact(self) -> None:
        self.file.replace(self.journal.snapshot())

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        if not hasattr(self, "journal"):
            return
        for push_id in self.received - set(self.begun):
            if self.now_ms < self.sent[push_id]:
                assert push_id in self.journal.waiting

    @invariant()
    def receipts_are_owed_until_acknowledged(self) -> None:
        if not hasattr(self, "journal"):
            return
        assert self.owed - self.acked <= set(self.journal.receipts) <= self.owed

    @invariant()
    def unfinished_are_listed(self) -> None:
        if not hasattr(self, "journal"):
            return
        listed = [s.push_id for s in self.journal.unfinished()]
        assert not self.finished & set(listed)
        for push_id in set(self.begun) - self.finished:
            assert push_id in listed or self.now_ms > self.sent[push_id]


CrashingDevice.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestCrashingDevice = CrashingDevice.TestCase
