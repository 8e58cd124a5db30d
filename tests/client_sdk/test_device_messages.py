"""Messages from the wire to the app: once each, whatever restarts, disks and apps do."""

import asyncio
import logging
import os
import random
from pathlib import Path

import pytest

from client_sdk import (
    StorageError,
    disk,
)
from protocol.codes import Kind
from protocol.schema import device_pb2
from tests.client_sdk.devices import connected, device_of, nothing_more, take
from tests.client_sdk.edge import Edge
from tests.waiting import PATIENCE_S


class TestMessages:
    async def test_content_and_receipts(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, body="hello")
            (message,) = await take(device)
            assert (message.push_id, message.data) == (1, {"k": "v"})
            assert message.notification and message.notification.body == "hello"
            assert await peer.receipts() == [(1, "RECEIVED")]
            await message.displayed()
            await message.displayed()  # says nothing new
            assert await peer.receipts() == [(1, "DISPLAYED")]
            await message.clicked()
            assert await peer.receipts() == [(1, "CLICKED")]
            await message.dismissed()
            assert await peer.receipts() == [(1, "DISMISSED")]
            await message.failed("é" * 200)
            body = device_pb2.Receipts.FromString(await peer.expect(Kind.RECEIPTS))
            assert body.receipts[0].reason == "é" * 128
            peer.ack(body.seq)
            await device.flush(PATIENCE_S)
            assert device.stats.receipts_pending == 0

    async def test_one_read_costs_one_sync(
        self, edge: Edge, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            syncs: list[bytes] = []
            write_all = disk.write_all

            def noted(fd: int, data: bytes, at: int) -> None:
                syncs.append(data)
                write_all(fd, data, at)

            monkeypatch.setattr(disk, "write_all", noted)
            peer.messages(*range(1, 101))
            assert len(await peer.receipts_for(100)) == 100
            assert len(syncs) == 1
            assert [m.push_id for m in await take(device, 100)] == list(range(1, 101))

    async def test_duplicates_are_receipted_and_not_handed_out(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, 1)
            await take(device)
            assert await peer.receipts() == [(1, "RECEIVED")]
            peer.messages(1)
            assert await peer.receipts() == [(1, "RECEIVED")]
            assert await nothing_more(device)
            assert device.stats.duplicates == 1

    async def test_shown_once_across_restarts(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, 2)
            assert [m.push_id for m in await take(device)] == [1]
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, 2)
            assert [m.push_id for m in await take(device)] == [2]
            assert await nothing_more(device)
            # The resent RECEIVED, at the latest, answers the duplicates.
            assert set(await peer.receipts()) == {(1, "RECEIVED"), (2, "RECEIVED")}

    async def test_unfinished_are_those_of_earlier_runs(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, 2, 3)
            messages = await take(device, 3)
            await messages[1].displayed()
            assert device.unfinished() == []
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(4)
            await take(device)
            first, third = device.unfinished()
            assert (first.push_id, third.push_id) == (1, 3)
            assert first.notification and first.notification.title == "title"
            await first.done()
            await third.clicked()
            assert device.unfinished() == []

    async def test_several_tasks_share_the_messages(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(*range(1, 31))
            batches = await asyncio.gather(*(take(device, 10) for _ in range(3)))
            assert sorted(m.push_id for batch in batches for m in batch) == list(range(1, 31))

    async def test_cancelling_loses_no_message(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(*range(1, 21))
            await peer.receipts_for(20)
            messages = device.messages()
            got: list[int] = []
            rng = random.Random(5)
            async with asyncio.timeout(PATIENCE_S):
                while len(got) < 20:
                    taking = asyncio.ensure_future(anext(messages))
                    for _ in range(rng.randrange(12)):
                        await asyncio.sleep(0)
                    taking.cancel()
                    await asyncio.wait({taking})
                    if not taking.cancelled():
                        got.append(taking.result().push_id)
            assert got == list(range(1, 21))

    async def test_expired_before_begun_is_dropped(self, edge: Edge, state_dir: Path) -> None:
        now = [1_000_000.0]
        async with connected(edge, state_dir, clock=lambda: now[0]) as (_, peer):
            peer.messages(1, ttl_s=100)
            peer.messages(2, ttl_s=1000)
            await peer.receipts_for(2)
        now[0] += 500
        async with connected(edge, state_dir, clock=lambda: now[0]) as (device, peer):
            assert [m.push_id for m in await take(device)] == [2]
            assert device.stats.expired == 1
            peer.messages(1)  # stays known: received was said of it
            assert await peer.receipts() == [(1, "RECEIVED")]
            assert await nothing_more(device)

    async def test_slow_app_stops_the_reading(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir, max_waiting=4) as (device, peer):
            for push_id in range(1, 9):
                peer.messages(push_id)
                if push_id <= 4:
                    await peer.receipts()
            with pytest.raises(TimeoutError):  # far longer than a read, a sync and a receipt take
                async with asyncio.timeout(0.2):
                    await peer.receipts()
            assert device.stats.messages == 4
            assert [m.push_id for m in await take(device, 8)] == list(range(1, 9))

    async def test_no_room_refuses_rather_than_forgets(
        self, edge: Edge, state_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with connected(edge, state_dir, max_ids=3) as (device, peer):
            peer.messages(1, 2, 3, 4, 5)
            assert [i for i, _ in await peer.receipts_for(3)] == [1, 2, 3]
            peer.messages(6, 1)
            assert await peer.receipts() == [(1, "RECEIVED")]
            assert device.stats.refused == 3
            assert sum("no room" in r.message for r in caplog.records) == 1

    async def test_full_disk_takes_no_message_and_keeps_the_connection(
        self,
        edge: Edge,
        state_dir: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async with connected(edge, state_dir, disk_retry_s=0.0) as (device, peer):
            peer.messages(1)
            (message,) = await take(device)
            await peer.receipts()
            whole = disk.write_all

            def full(descriptor: int, data: bytes, offset: int) -> None:
                os.pwrite(descriptor, data[: len(data) // 2], offset)
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(disk, "write_all", full)
            with pytest.raises(StorageError):
                await message.displayed()
            with pytest.raises(StorageError):
                await device.set_profile(tags=["a"])
            peer.messages(2)
            peer.messages(1)  # answered from memory, and a sign that 2 was handled
            assert await peer.receipts() == [(1, "RECEIVED")]
            assert (device.stats.refused, device.connected) == (1, True)
            monkeypatch.setattr(disk, "write_all", whole)
            peer.messages(2)
            assert await peer.receipts() == [(2, "RECEIVED")]
            await message.displayed()
            assert await peer.receipts() == [(1, "DISPLAYED")]
            assert [m.push_id for m in await take(device)] == [2]
            errors = [r for r in caplog.records if "journal cannot be written" in r.message]
            assert len(errors) == 1
        async with connected(edge, state_dir) as (device, peer):
            assert [m.push_id for m in device.unfinished()] == [2]

    async def test_damaged_journal_is_set_aside(
        self, edge: Edge, state_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            for push_id in (1, 2, 3):
                peer.messages(push_id)
                await take(device)
        journal = state_dir / "journal"
        data = bytearray(journal.read_bytes())
        data[len(data) // 2] ^= 0x55
        journal.write_bytes(data)
        async with device_of(edge, state_dir):
            await edge.welcomed()
        aside = state_dir / "journal.corrupt-1"
        assert aside.read_bytes() == data
        (error,) = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert f"moved to {aside}," in error.getMessage()
