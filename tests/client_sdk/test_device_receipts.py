"""Receipts and profiles: kept and sent until they are acknowledged."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from client_sdk import (
    DeviceClosed,
)
from protocol.codes import Kind
from protocol.schema import device_pb2
from tests.client_sdk.devices import connected, device_of, take
from tests.client_sdk.edge import Edge
from tests.waiting import PATIENCE_S


class TestReceipts:
    async def test_kept_until_acknowledged_across_restarts(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1)
            (message,) = await take(device)
            assert await peer.receipts(ack=False) == [(1, "RECEIVED")]
            await message.displayed()
            assert await peer.receipts(ack=False) == [(1, "DISPLAYED")]
            with pytest.raises(TimeoutError):
                await device.flush(0)
            peer.reset()
            peer = await edge.welcomed()
            both = [(1, "RECEIVED"), (1, "DISPLAYED")]
            assert await peer.receipts(ack=False) == both
        async with connected(edge, state_dir) as (device, peer):
            assert await peer.receipts() == both
            await device.flush(PATIENCE_S)
        async with connected(edge, state_dir) as (device, _):
            assert device.stats.receipts_pending == 0

    async def test_seq_counts_from_one_on_each_connection(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with connected(edge, state_dir) as (_, peer):
            for _ in range(2):
                for seq in (1, 2):
                    peer.messages(seq)
                    body = device_pb2.Receipts.FromString(await peer.expect(Kind.RECEIPTS))
                    assert body.seq == seq
                    peer.ack(seq)
                peer.close()
                peer = await edge.welcomed()

    async def test_close_waits_for_acknowledgements(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir, close_flush_s=PATIENCE_S) as (device, peer):
            peer.messages(1)
            body = device_pb2.Receipts.FromString(await peer.expect(Kind.RECEIPTS))
            closing = asyncio.create_task(device.close())
            for _ in range(20):
                await asyncio.sleep(0)
            assert not closing.done()
            peer.ack(body.seq)
            await closing
            assert await peer.end() == [Kind.BYE]
            with pytest.raises(StopAsyncIteration):
                await anext(device.messages())
            with pytest.raises(DeviceClosed):
                await device.flush(1)


class TestProfile:
    async def test_replayed_until_acknowledged(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            await device.set_profile(tags=["b", "a"], attributes={"lang": "fi"})
            sent = device_pb2.Profile.FromString(await peer.expect(Kind.PROFILE))
            assert (sent.change, list(sent.tags), dict(sent.attributes)) == (
                1,
                ["a", "b"],
                {"lang": "fi"},
            )
        async with connected(edge, state_dir) as (device, peer):
            again = device_pb2.Profile.FromString(await peer.expect(Kind.PROFILE))
            assert again == sent
            await device.set_profile(tags=["c"])
            newer = device_pb2.Profile.FromString(await peer.expect(Kind.PROFILE))
            assert newer.change == 2
            peer.send(Kind.PROFILE_ACK, device_pb2.ProfileAck(change=1))  # of the older one
            peer.close()
            peer = await edge.welcomed()
            assert device_pb2.Profile.FromString(await peer.expect(Kind.PROFILE)) == newer
            peer.send(Kind.PROFILE_ACK, device_pb2.ProfileAck(change=2))
            peer.messages(1)
            await peer.receipts()  # so the acknowledgement was read
        async with connected(edge, state_dir) as (_, peer):
            peer.messages(2)
            assert await peer.receipts() == [(2, "RECEIVED")]  # and no PROFILE before it

    @pytest.mark.parametrize(
        "profile",
        [
            {"tags": [f"t{i}" for i in range(101)]},
            {"tags": [""]},
            {"tags": ["x" * 129]},
            {"attributes": {"": "x"}},
            {"attributes": {"x": "y" * 257}},
            {"attributes": {f"x{i}": "y" * 256 for i in range(300)}},
        ],
    )
    async def test_what_the_service_would_refuse(
        self, edge: Edge, state_dir: Path, profile: dict[str, Any]
    ) -> None:
        async with device_of(edge, state_dir) as device:
            with pytest.raises(ValueError):
                await device.set_profile(**profile)
