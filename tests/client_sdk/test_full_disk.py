"""A disk that fills up: what was promised stays, nothing more is promised, and it goes on later."""

import asyncio
import logging
from pathlib import Path

import pytest

from client_sdk import Recalled, Replaced, StorageError
from client_sdk.entries import Acked, Begun, Entry, Recall, Replacement, Told
from tests.client_sdk.devices import connected, device_of, events_of, nothing_more, take
from tests.client_sdk.edge import Edge
from tests.client_sdk.full_disk import Disk
from tests.client_sdk.journals import journal, loaded, state, stored
from tests.waiting import until

BATCHES: tuple[list[Entry], ...] = (
    [stored(1, "key", content=b"c" * 40)],
    [Begun(1)],
    [Recall(1), stored(2), Recall(99)],
    [stored(3, "key"), Replacement(1, 3)],
    [Told(1, True), Acked(1, 1)],
)


def test_wherever_it_ends_what_was_taken_is_there_and_the_rest_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    disk = Disk(monkeypatch)
    file, _ = loaded(path)
    seal = path.read_bytes()
    before = disk.left
    for batch in BATCHES:
        file.append(batch)
    needed = before - disk.left
    file.close()
    for left in [*range(0, needed, 3), needed - 1, needed]:
        path.write_bytes(seal)
        file, _ = loaded(path)
        disk.left = left
        taken: list[Entry] = []
        for batch in BATCHES:
            try:
                file.append(batch)
            except OSError:
                assert disk.left == 0
            else:
                taken += batch
        disk.left = 1 << 40
        file.append([Begun(7)])
        file.close()
        file, found = loaded(path)
        file.close()
        assert found == ([*taken, Begun(7)], None)
        assert (taken == [e for b in BATCHES for e in b]) == (left == needed)


def test_a_rewrite_without_room_leaves_the_old_file_and_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    file, _ = loaded(tmp_path / "journal")
    for batch in BATCHES:
        file.append(batch)
    whole = (tmp_path / "journal").read_bytes()
    made = journal([entry for batch in BATCHES for entry in batch])
    for left in range(0, 60, 7):
        disk.left = left
        with pytest.raises(OSError):
            file.replace(made.snapshot())
        assert [path.name for path in tmp_path.iterdir()] == ["journal"]
        assert (tmp_path / "journal").read_bytes() == whole
    disk.left = 1 << 40
    file.replace(made.snapshot())
    file.close()
    _, found = loaded(tmp_path / "journal")
    assert state(journal(found.entries)) == state(made)


@pytest.mark.parametrize("left", [0, 1, 30])
async def test_a_device_goes_on_when_there_is_room_again(
    edge: Edge,
    state_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    left: int,
) -> None:
    async with connected(edge, state_dir, disk_retry_s=0.0) as (device, peer):
        peer.messages(1, 2, 3)
        peer.messages(5, key="key")
        assert len(await peer.receipts_for(4)) == 4
        first, _, _, old = await take(device, 4)
        peer.messages(4)
        await peer.receipts()
        disk = Disk(monkeypatch, left)
        with pytest.raises(StorageError):
            await first.displayed()
        peer.messages(10, key="key")
        peer.messages(11)
        peer.recall(1, 4, 12)
        peer.messages(1)  # answered from memory: all before it was read
        assert await peer.receipts() == [(1, "RECEIVED")]
        assert device.stats.refused == 2
        taking = asyncio.ensure_future(take(device, 2))  # 4 would be next
        await asyncio.sleep(0.02)
        assert not taking.done()
        disk.left = 1 << 40
        peer.messages(10, key="key")
        peer.messages(11, 12, 1)
        assert set(await peer.receipts_for(3)) == {(p, "RECEIVED") for p in (1, 10, 11)}
        assert [m.push_id for m in await taking] == [10, 11]
        assert await nothing_more(device)
        await first.displayed()
        assert await peer.receipts() == [(1, "DISPLAYED")]
        assert set(await events_of(device, 3)) == {
            Recalled(1, handed_out=True),
            Recalled(4, handed_out=False),
            Replaced(old.push_id, by=10),
        }
        errors = [r for r in caplog.records if "journal cannot be written" in r.message]
        assert [r.levelno for r in errors] == [logging.ERROR]
    async with connected(edge, state_dir) as (device, _):
        assert {m.push_id for m in device.unfinished()} == {2, 3, 10, 11}
        assert await nothing_more(device)


async def test_recalls_that_the_disk_does_not_take_are_bounded(
    edge: Edge, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(edge, state_dir) as (device, peer):
        peer.messages(1)
        await peer.receipts()
        disk = Disk(monkeypatch, 0)
        held = device._inbox._recalls
        for first in range(2, 6_002, 1_000):
            peer.recall(*range(first, first + 1_000))
        peer.recall(1)
        await until(lambda: 1 in held)
        assert len(held) == 2_000
        assert {1, 6_001} <= held.keys()
        disk.left = 1 << 40
        peer.messages(7_000)
        assert [m.push_id for m in await take(device)] == [7_000]
        assert not held
    async with device_of(edge, state_dir) as device:
        assert 1 not in device._inbox.journal.waiting
        assert len(device._inbox.journal.strangers) == 1_999
