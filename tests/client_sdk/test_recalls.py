"""Recalls: what a device does with a message that was taken back, wherever the message is."""

import asyncio
from pathlib import Path

import pytest

from client_sdk import Recalled, disk
from protocol.codes import Kind
from tests.client_sdk.devices import connected, device_of, events_of, no_event, nothing_more, take
from tests.client_sdk.edge import Edge, message_frame, recall_frame
from tests.waiting import PATIENCE_S, until

GONE = "127.0.0.1:1"
"""Nobody listens there: a device without a network."""


class TestInOneSession:
    async def test_before_it_is_handed_out(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, 2)
            assert await peer.receipts() == [(1, "RECEIVED"), (2, "RECEIVED")]
            peer.recall(1)
            assert await events_of(device) == [Recalled(1, handed_out=False)]
            assert [m.push_id for m in await take(device)] == [2]
            assert await nothing_more(device)
            assert device.stats.recalled == 1
        async with connected(edge, state_dir) as (device, peer):
            assert device.stats.recalled == 0  # it counts since it was opened

    async def test_after_it_was_handed_out(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1)
            (message,) = await take(device)
            assert await peer.receipts() == [(1, "RECEIVED")]
            peer.recall(1)
            assert await events_of(device) == [Recalled(1, handed_out=True)]
            await message.displayed()  # it was, and the service may know
            assert await peer.receipts() == [(1, "DISPLAYED")]
            assert device.unfinished() == []
            assert device.stats.recalled == 0

    async def test_before_it_comes(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.recall(1, 3)
            peer.messages(1, 2)
            # Not a word of 1: it is not stored, and nothing failed.
            assert await peer.receipts() == [(2, "RECEIVED")]
            assert [m.push_id for m in await take(device)] == [2]
            assert await no_event(device)  # there is nothing that the app could do
            assert (device.stats.recalled, device.stats.messages) == (1, 1)
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, 3, 4)
            assert await peer.receipts_for(1) == [(4, "RECEIVED")]
            assert [m.push_id for m in await take(device)] == [4]

    @pytest.mark.parametrize("recall_first", [True, False])
    async def test_in_one_read_with_it(
        self, edge: Edge, state_dir: Path, recall_first: bool
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            both = [recall_frame(1), message_frame(1)]
            peer.raw(b"".join(both if recall_first else both[::-1]) + message_frame(2))
            assert await peer.receipts() == [(2, "RECEIVED")]
            assert [m.push_id for m in await take(device)] == [2]

    async def test_repeated_it_says_nothing_new(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1)
            await take(device)
            peer.recall(1)
            assert await events_of(device) == [Recalled(1, handed_out=True)]
            size = (state_dir / "journal").stat().st_size
            peer.recall(1, 1)
            peer.messages(1)
            assert await peer.receipts_for(1) == [(1, "RECEIVED")]
            assert await no_event(device)
            assert (state_dir / "journal").stat().st_size <= size + 40  # the event taken, no more
            assert await nothing_more(device)

    async def test_stored_and_recalled_it_is_receipted_when_it_comes_again(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1)
            await peer.receipts()
            peer.recall(1)
            await events_of(device)
            peer.messages(1)
            assert await peer.receipts() == [(1, "RECEIVED")]
            assert await nothing_more(device)


class TestAtConnect:
    async def test_told_by_welcome_nothing_recalled_is_handed_out(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with connected(edge, state_dir) as (_, peer):
            peer.messages(1, 2, 3)
            await peer.receipts_for(3)
        async with device_of(edge, state_dir) as device:
            taking = asyncio.ensure_future(take(device))
            peer = await edge.greeted()
            await asyncio.sleep(0.05)
            assert not taking.done()
            peer.welcome(recalled=[1, 3])
            assert [m.push_id for m in await taking] == [2]
            assert await nothing_more(device)

    async def test_a_mark_under_way_when_the_connection_comes_waits_for_welcome(
        self, edge: Edge, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, 2)
            await peer.receipts_for(2)
            gate = SlowDisk(monkeypatch)
            taking = asyncio.ensure_future(take(device))
            await gate.reached()
            peer.close()
            gate.closed = False  # for the files of the next connection, not for the mark
            again = await edge.greeted()
            gate.let_go()
            await asyncio.sleep(0.05)
            assert not taking.done()
            again.welcome(recalled=[1])
            assert [m.push_id for m in await taking] == [2]
            # Its mark is on disk, so nobody can know: the app is told as if it had been given it.
            assert await events_of(device) == [Recalled(1, handed_out=True)]

    async def test_a_cancelled_iteration_does_not_bring_it_back(
        self, edge: Edge, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1)
            await peer.receipts()
            gate = SlowDisk(monkeypatch)
            taking = asyncio.ensure_future(take(device))
            await gate.reached()
            taking.cancel()
            gate.closed = False
            gate.let_go()
            peer.recall(1)
            assert await events_of(device) == [Recalled(1, handed_out=True)]
            assert await nothing_more(device)

    async def test_a_mark_on_disk_does_not_go_past_a_recall_that_is_not(
        self, edge: Edge, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with connected(edge, state_dir, disk_retry_s=0.0) as (device, peer):
            peer.messages(1, 2)
            await peer.receipts_for(2)
            gate = SlowDisk(monkeypatch)
            taking = asyncio.ensure_future(take(device))
            await gate.reached()
            taking.cancel()
            gate.closed = False
            gate.let_go()
            await until(lambda: device._inbox.journal.rows[1].begun)
            gate.fails = True
            peer.recall(1)
            await until(lambda: 1 in device._inbox._recalls)
            taking = asyncio.ensure_future(take(device))
            await asyncio.sleep(0.02)
            assert not taking.done()
            gate.fails = False
            assert [m.push_id for m in await taking] == [2]

    async def test_without_a_network_what_is_stored_is_handed_out(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with connected(edge, state_dir) as (_, peer):
            peer.messages(1, 2)
            await peer.receipts_for(2)
            peer.recall(1)
            peer.messages(3)
            await peer.receipts()
        offline = Edge()
        offline.address = GONE
        async with device_of(offline, state_dir) as device:
            assert [m.push_id for m in await take(device, 2)] == [2, 3]
            assert await nothing_more(device)

    async def test_after_a_start_the_first_attempt_is_waited_for(
        self, edge: Edge, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with connected(edge, state_dir) as (_, peer):
            peer.messages(1)
            await peer.receipts()
        dialled = asyncio.Event()

        async def dial(*address: object, ssl: object) -> None:
            await dialled.wait()
            raise OSError("no route")

        monkeypatch.setattr(asyncio, "open_connection", dial)
        async with device_of(edge, state_dir) as device:
            taking = asyncio.ensure_future(take(device))
            await asyncio.sleep(0.05)
            assert not taking.done()
            dialled.set()
            assert [m.push_id for m in await taking] == [1]

    async def test_an_edge_that_does_not_answer_holds_up_only_so_long(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with connected(edge, state_dir) as (_, peer):
            peer.messages(1)
            await peer.receipts()
        async with device_of(edge, state_dir, welcome_timeout_s=0.05) as device:
            assert [m.push_id for m in await take(device)] == [1]

    async def test_most_of_a_list_is_of_no_concern_and_is_written_once(
        self, edge: Edge, state_dir: Path
    ) -> None:
        recalled = list(range(1000, 2000))
        async with device_of(edge, state_dir) as device:
            (await edge.welcomed(recalled=recalled)).messages(1)
            assert [m.push_id for m in await take(device)] == [1]
            assert await no_event(device)
        size = (state_dir / "journal").stat().st_size
        async with device_of(edge, state_dir) as device:
            (await edge.welcomed(recalled=recalled)).messages(1001, 1)
            await device.wait_connected()
            assert await nothing_more(device)
        assert (state_dir / "journal").stat().st_size < size + 500


class TestCrashes:
    async def test_the_recall_is_on_disk_before_anything_is_handed_out(
        self, edge: Edge, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with connected(edge, state_dir) as (_, peer):
            peer.messages(1, 2)
            await peer.receipts_for(2)
        async with device_of(edge, state_dir, disk_retry_s=0.0) as device:
            peer = await edge.greeted()
            gate = SlowDisk(monkeypatch)
            gate.closed = False
            gate.fails = True
            peer.welcome(recalled=[1])
            await device.wait_connected()
            taking = asyncio.ensure_future(take(device))
            peer.messages(3)
            peer.messages(1)
            assert await peer.receipts_for(1)  # the connection stays
            assert device.stats.handed_out == 0
            gate.fails = False
            assert [m.push_id for m in await taking] == [2]
            assert await events_of(device) == [Recalled(1, handed_out=False)]
            assert await nothing_more(device)
        offline = Edge()
        offline.address = GONE
        async with device_of(offline, state_dir) as device:
            assert await nothing_more(device)


class SlowDisk:
    """Writes of the journal wait at a gate, or fail; the state file's are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.closed = True
        self.fails = False
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self._open = asyncio.Event()
        self._append = disk.write_all
        monkeypatch.setattr(disk, "write_all", self._write_all)

    def _write_all(self, descriptor: int, data: bytes, offset: int) -> None:
        if self.fails and data.startswith(b"CLJ1"):
            raise OSError(28, "No space left on device")
        if self.closed and data.startswith(b"CLJ1"):
            self._loop.call_soon_threadsafe(self._reached.set)
            asyncio.run_coroutine_threadsafe(self._open.wait(), self._loop).result(PATIENCE_S)
        self._append(descriptor, data, offset)

    async def reached(self) -> None:
        """The mark of the next message is about to be written."""
        async with asyncio.timeout(PATIENCE_S):
            await self._reached.wait()

    def let_go(self) -> None:
        self._open.set()


async def test_a_recall_after_bye_is_nobodys_fault(edge: Edge, state_dir: Path) -> None:
    async with connected(edge, state_dir) as (device, peer):
        closing = asyncio.create_task(device.close())
        assert await peer.expect(Kind.BYE) == b""
        peer.raw(recall_frame(1))
        await closing
