"""The journal: its fold, its bytes, and what is left of it after a crash at any point."""

import asyncio
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from client_sdk import disk, journal_file
from client_sdk.entries import Acked, Begun, Done, Entry, Receipt, Scan, Stored, record, scan
from client_sdk.errors import StorageError
from client_sdk.journal import GRACE_MS, LIVE_ONLY_MS, Arrival, Journal
from client_sdk.journal_file import JournalFile
from client_sdk.journal_writer import JournalWriter
from protocol.schema.device_pb2 import CLICKED, DISPLAYED, FAILED, RECEIVED

T = 1_700_000_000_000
IDS = st.integers(0, 5)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Stored, IDS, st.integers(0, 1 << 45), st.integers(0, 1 << 20), st.binary(max_size=9)),
    st.builds(Begun, IDS),
    st.builds(Done, IDS),
    st.builds(Receipt, IDS, st.integers(2, 5), st.integers(0, 1 << 45), st.text(max_size=5)),
    st.builds(Acked, IDS, st.integers(1, 5)),
)
BATCHES = st.lists(st.lists(ENTRIES, max_size=4), max_size=6)


def journal(entries: list[Entry] | None = None, *, ids: int = 100, content: int = 1000) -> Journal:
    made = Journal(max_ids=ids, max_content_bytes=content)
    made.apply(entries or [])
    return made


def same(a: Journal, b: Journal) -> bool:
    return (a.rows, a.receipts, list(a.waiting), a.content_bytes) == (
        b.rows,
        b.receipts,
        list(b.waiting),
        b.content_bytes,
    )


def stored(push_id: int, *, ttl_s: int = 60, content: bytes = b"x", at_ms: int = T) -> Stored:
    return Stored(push_id, at_ms, ttl_s, content)


def loaded(path: Path) -> tuple[JournalFile, journal_file.Loaded]:
    file = JournalFile(path)
    return file, file.load()


class TestFold:
    def test_life_of_a_message(self) -> None:
        j = journal([stored(1)])
        assert list(j.receipts) == [(1, RECEIVED)]
        assert j.next_waiting(T) == stored(1)
        j.apply([Begun(1)])
        assert j.next_waiting(T) is None
        assert j.unfinished() == [stored(1)]
        j.apply([Receipt(1, DISPLAYED, T)])
        assert j.unfinished() == []
        assert (j.content_bytes, list(j.receipts)) == (0, [(1, RECEIVED), (1, DISPLAYED)])
        j.apply([Acked(1, RECEIVED), Acked(1, DISPLAYED)])
        assert not j.receipts and 1 in j.rows

    def test_order_of_arrival(self) -> None:
        j = journal([stored(3), stored(1), stored(2), Begun(1)])
        assert list(j.waiting) == [3, 2]

    def test_admission(self) -> None:
        j = journal([stored(1)], ids=3, content=10)
        arrivals = [
            Arrival(1, 60, b""),
            Arrival(2, 60, b"12345678"),
            Arrival(2, 60, b"12345678"),
            Arrival(3, 60, b"12"),  # too many bytes
            Arrival(4, 60, b"1"),
            Arrival(5, 60, b""),  # too many ids
        ]
        admission = j.admit(arrivals, T)
        assert [s.push_id for s in admission.stored] == [2, 4]
        assert admission.duplicates == [1]
        assert admission.refused == 2
        assert 2 not in j.rows  # nothing counts before it is on disk

    def test_expiry_is_by_ttl_and_a_moment_for_those_without(self) -> None:
        j = journal([stored(1, ttl_s=0), stored(2, ttl_s=100)])
        assert j.next_waiting(T + LIVE_ONLY_MS - 1) == stored(1, ttl_s=0)
        assert j.next_waiting(T + LIVE_ONLY_MS) == stored(2, ttl_s=100)
        assert j.next_waiting(T + 100_000) is None
        assert j.expired == 2
        assert j.admit([Arrival(1, 9, b"")], T).duplicates == [1]

    def test_ids_go_when_nothing_can_bring_them_again(self) -> None:
        over = T + 60_000 + GRACE_MS
        j = journal([stored(1), Acked(1, RECEIVED), stored(2), stored(3, ttl_s=61)])
        j.apply([Acked(3, RECEIVED)])
        assert j.forget(over - 1) == 3  # expired, but remembered
        assert j.forget(over) == 0  # not so often
        assert set(j.rows) == {1, 2, 3}
        assert j.forget(over + 70_000) == 2
        assert set(j.rows) == {2}  # its receipt is not acknowledged
        j.apply([Acked(2, RECEIVED)])
        j.forget(over + 140_000)
        assert not j.rows and not j.content_bytes

    def test_room_comes_back(self) -> None:
        j = journal([stored(1), Acked(1, RECEIVED)], ids=1)
        assert j.admit([Arrival(2, 0, b"")], T).refused == 1
        assert len(j.admit([Arrival(2, 0, b"")], T + 60_000 + GRACE_MS).stored) == 1

    def test_receipts_for_what_is_forgotten_are_kept_within_bounds(self) -> None:
        j = journal(ids=2)
        for n in range(10):
            owed = j.owe(Receipt(n, CLICKED, T))
            assert owed
            j.apply([owed])
        assert j.owe(Receipt(0, CLICKED, T)) is None
        with pytest.raises(StorageError):
            j.owe(Receipt(99, CLICKED, T))

    def test_a_mark_without_its_message_still_counts(self) -> None:
        j = journal([stored(1), Begun(2)])
        assert j.admit([Arrival(2, 60, b"")], T).duplicates == [2]
        assert j.owe_again(2) == (2, RECEIVED)
        assert j.owe_again(2) is None

    @given(BATCHES)
    def test_a_snapshot_makes_the_same_state(self, batches: list[list[Entry]]) -> None:
        first: list[Entry] = [stored(push_id) for push_id in range(6)]
        j = journal(first + [entry for batch in batches for entry in batch])
        again = journal(j.snapshot())
        assert (again.rows, list(again.waiting), again.content_bytes) == (
            j.rows,
            list(j.waiting),
            j.content_bytes,
        )
        assert again.receipts == j.receipts


class TestBytes:
    @settings(max_examples=40)
    @given(BATCHES)
    def test_every_truncation_gives_the_records_before_it(self, batches: list[list[Entry]]) -> None:
        records = [record(batch) for batch in batches]
        data = b"".join(records)
        ends = [sum(map(len, records[:n])) for n in range(len(records) + 1)]
        for cut in range(len(data) + 1):
            whole = sum(end <= cut for end in ends) - 1
            found = scan(data[:cut])
            assert found.entries == [e for batch in batches[:whole] for e in batch]
            assert (found.end, found.damaged) == (ends[whole], False)

    @given(BATCHES.filter(len), st.data())
    def test_damage_costs_the_record_it_hits(
        self, batches: list[list[Entry]], data: st.DataObject
    ) -> None:
        records = [record(batch) for batch in batches]
        hit = data.draw(st.integers(0, len(records) - 1))
        at = data.draw(st.integers(0, len(records[hit]) - 1))
        bad = bytearray(records[hit])
        bad[at] ^= data.draw(st.integers(1, 255))
        found = scan(b"".join([*records[:hit], bytes(bad), *records[hit + 1 :]]))
        assert found.entries == [e for n, batch in enumerate(batches) if n != hit for e in batch]
        assert found.damaged == (hit < len(records) - 1)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        assert scan(data).end <= len(data)

    def test_entries_of_another_build(self) -> None:
        known = record([Begun(1)])
        unknown = record([Begun(1)]).replace(b"\x01", b"\x77", 1)
        assert scan(known + unknown + known).entries == [Begun(1), Begun(1)]


class TestFile:
    BATCHES: tuple[list[Entry], ...] = (
        [stored(1), stored(2)],
        [Begun(1)],
        [Receipt(1, FAILED, T, "why")],
        [stored(3), Acked(1, RECEIVED)],
        [Begun(2), Done(2)],
    )

    def test_truncated_everywhere_and_written_on(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        file, _ = loaded(path)
        seal = path.stat().st_size
        ends = [seal]
        for batch in self.BATCHES:
            file.append(batch)
            ends.append(path.stat().st_size)
        file.close()
        data = path.read_bytes()
        for cut in range(seal, len(data) + 1):
            path.write_bytes(data[:cut])
            file, found = loaded(path)
            whole = sum(end <= cut for end in ends) - 1
            before = [e for batch in self.BATCHES[:whole] for e in batch]
            assert found == (before, None)
            file.append([Begun(9)])
            file.close()
            assert scan(path.read_bytes()) == (
                Scan([*before, Begun(9)], path.stat().st_size, False)
            )

    @pytest.mark.parametrize("data", [b"", b"something else", b"CLJ1", bytes(100)])
    def test_a_foreign_file_is_set_aside(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "journal"
        path.write_bytes(data)
        for n in (1, 2):
            file, found = loaded(path)
            file.close()
            assert found == ([], tmp_path / f"journal.corrupt-{n}")
            assert found.aside and found.aside.read_bytes() == data
            path.write_bytes(data)

    def test_each_damaged_byte_of_a_rewritten_file_is_noticed(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        file, _ = loaded(path)
        file.replace([stored(1), Begun(1)])
        file.close()
        data = path.read_bytes()
        for at in range(len(data) - len(record(()))):
            bad = bytearray(data)
            bad[at] ^= 0xFF
            path.write_bytes(bad)
            file, found = loaded(path)
            file.close()
            assert found.aside

    def test_a_write_that_fails_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "journal"
        file, _ = loaded(path)
        file.append([Begun(1)])
        long = [stored(n, content=b"y" * 50) for n in range(5)]
        for taken in (0, 1, 40, len(record(long))):
            with monkeypatch.context() as patch:
                patch.setattr(disk, "write_all", _failing_after(taken))
                with pytest.raises(OSError):
                    file.append(long)
            file.append([Begun(2)])
            assert scan(path.read_bytes()).entries[-1] == Begun(2)
            assert not scan(path.read_bytes()).damaged
        file.close()
        _, found = loaded(path)
        assert found == ([Begun(1)] + [Begun(2)] * 4, None)

    @pytest.mark.parametrize("step", ["write_all", "os.replace", "sync_directory"])
    def test_a_rewrite_that_fails_loses_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        path = tmp_path / "journal"
        file, _ = loaded(path)
        file.append([Begun(1)])
        with monkeypatch.context() as patch:
            patch.setattr(f"client_sdk.disk.{step}", _failing_after(0))
            with pytest.raises(OSError):
                file.replace([Begun(1)])
            if step == "sync_directory":
                # The old file may come back with the next crash: nothing may be promised.
                with pytest.raises(OSError):
                    file.append([Begun(2)])
        file.append([Begun(2)])
        file.close()
        _, found = loaded(path)
        assert found == ([Begun(1), Begun(2)], None)
        assert [p.name for p in tmp_path.iterdir()] == ["journal"]


def _failing_after(taken: int) -> Callable[..., None]:
    def fail(*args: object) -> None:
        if taken:
            descriptor, data, offset = args
            assert isinstance(descriptor, int) and isinstance(data, bytes)
            assert isinstance(offset, int)
            os.pwrite(descriptor, data[:taken], offset)
        raise OSError(28, "No space left on device")

    return fail


class TestWriter:
    async def test_calls_share_a_sync_and_keep_their_order(self, tmp_path: Path) -> None:
        file, _ = loaded(tmp_path / "journal")
        appended: list[list[Entry]] = []
        append = file.append
        file.append = lambda batch: (appended.append(list(batch)), append(batch))[1]  # type: ignore[method-assign]
        told: list[Entry] = []
        j = journal()
        writer = JournalWriter(j, file, told.extend)
        first = writer.write([stored(1)])
        await asyncio.sleep(0)
        rest = [writer.write([stored(n)]) for n in (2, 3)]
        writer.later([Acked(1, RECEIVED)])
        assert not j.rows
        await asyncio.gather(first, *rest)
        assert list(j.rows) == [1, 2, 3]
        assert [len(batch) for batch in appended] == [1, 3]
        assert told == [stored(1), stored(2), stored(3)]
        await writer.close()

    async def test_compaction_keeps_the_state(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journal_file, "COMPACT_BYTES", 300)
        file, _ = loaded(tmp_path / "journal")
        j = journal()
        writer = JournalWriter(j, file, lambda _: None)
        sizes = []
        for n in range(60):
            await writer.write([stored(n, content=b"z" * 20), Begun(n)])
            await writer.write([Receipt(n, DISPLAYED, T)])
            writer.later([Acked(n, RECEIVED), Acked(n, DISPLAYED)])
            sizes.append((tmp_path / "journal").stat().st_size)
        assert any(b < a for a, b in itertools.pairwise(sizes))
        await writer.close()
        _, found = loaded(tmp_path / "journal")
        assert same(journal(found.entries), j)

    async def test_a_defect_reaches_the_caller(self, tmp_path: Path) -> None:
        file, _ = loaded(tmp_path / "journal")
        writer = JournalWriter(journal(), file, lambda _: None)
        with pytest.raises(Exception, match=r"argument out of range|format requires"):
            await writer.write([Begun(-1)])
        await writer.write([Begun(1)])
        await writer.close()


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
        admission = self.journal.admit(self.arrivals(fresh, again), self.now_ms)
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
