"""The journal on disk: torn, damaged, full, rewritten; and its writer."""

import asyncio
import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from client_sdk import disk, journal_file
from client_sdk.entries import Acked, Begun, Done, Entry, Recall, Receipt, Scan, record, scan
from client_sdk.errors import StorageError
from client_sdk.journal_writer import JournalWriter
from protocol.schema.device_pb2 import DISPLAYED, FAILED, RECEIVED
from tests.client_sdk.journals import T, journal, loaded, state, stored


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
                Scan([*before, Begun(9)], path.stat().st_size, False, seal)
            )

    def test_what_is_read_is_on_disk_before_it_is_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that was killed between its write and its sync, or between the rename of a new
        file and the sync of the name, leaves what a loss of power would still take away."""
        path = tmp_path / "journal"
        file, _ = loaded(path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: None)
            file.append([stored(1)])
        file.close()
        synced: list[int] = []
        fsync = os.fsync

        def noted(fd: int) -> None:
            synced.append(os.fstat(fd).st_ino)
            fsync(fd)

        monkeypatch.setattr(os, "fsync", noted)
        file, found = loaded(path)
        file.close()
        assert found.entries == [stored(1)]
        assert synced == [path.stat().st_ino, tmp_path.stat().st_ino]

    @pytest.mark.parametrize("data", [b"", b"something else", b"CLJ1", bytes(100)])
    def test_a_foreign_file_is_set_aside(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "journal"
        path.write_bytes(data)
        for n in (1, 2):
            file, found = loaded(path)
            file.close()
            aside = tmp_path / f"journal.corrupt-{n}"
            assert found == ([], aside)
            assert aside.read_bytes() == data
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
    async def test_calls_share_a_sync_and_keep_their_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, _ = loaded(tmp_path / "journal")
        appended: list[list[Entry]] = []
        append = file.append

        def noted(batch: Iterable[Entry]) -> None:
            appended.append(list(batch))
            append(batch)

        monkeypatch.setattr(file, "append", noted)
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
        assert state(journal(found.entries)) == state(j)

    async def test_a_journal_that_is_opened_often_is_written_anew_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journal_file, "COMPACT_BYTES", 300)
        sizes = []
        for _ in range(30):
            file, found = loaded(tmp_path / "journal")
            writer = JournalWriter(journal(found.entries), file, lambda _: None)
            for n in range(5):
                await writer.write([Recall(n), Begun(n)])
            await writer.close()
            sizes.append((tmp_path / "journal").stat().st_size)
        assert max(sizes) < 3_000

    async def test_nothing_to_write_says_nothing_of_the_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        file, _ = loaded(tmp_path / "journal")
        writer = JournalWriter(journal(), file, lambda _: None)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "write_all", _failing_after(0))
            first = writer.write([stored(1)])
            second = writer.write([])  # answered in its turn
            with pytest.raises(StorageError):
                await first
            await asyncio.wait({second})
            await writer.write([])
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        await writer.write([stored(1)])
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
        await writer.close()

    async def test_a_defect_reaches_the_caller(self, tmp_path: Path) -> None:
        file, _ = loaded(tmp_path / "journal")
        writer = JournalWriter(journal(), file, lambda _: None)
        with pytest.raises(Exception, match=r"argument out of range|format requires"):
            await writer.write([Begun(-1)])
        await writer.write([Begun(1)])
        await writer.close()
