"""Events about messages: each at least once, until the app comes back for the next."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from client_sdk import Recalled, Refused, Replaced
from protocol.codes import CloseCode
from tests.client_sdk.devices import connected, events_of, no_event, take
from tests.client_sdk.edge import Edge
from tests.waiting import PATIENCE_S, until


async def test_not_taken_they_come_again(edge: Edge, state_dir: Path) -> None:
    async with connected(edge, state_dir) as (device, peer):
        peer.messages(1, 2, 3)
        await take(device, 3)
        peer.recall(2, 1)
        events = device.events()
        assert await anext(events) == Recalled(2, handed_out=True)
        # The app dies over it, or leaves the loop.
    expected = [Recalled(2, handed_out=True), Recalled(1, handed_out=True)]
    async with connected(edge, state_dir) as (device, peer):
        assert await events_of(device, 2) == expected
        assert await no_event(device)
    async with connected(edge, state_dir) as (device, peer):
        assert await no_event(device)


async def test_a_loop_takes_each_once(edge: Edge, state_dir: Path) -> None:
    async with connected(edge, state_dir) as (device, peer):
        told = []

        async def listen() -> None:
            async for event in device.events():
                told.append(event)

        listening = asyncio.create_task(listen())
        peer.messages(1, 2, key="k")
        await take(device)
        peer.messages(7, key="k")
        await until(lambda: len(told) == 1)
        peer.recall(2)
        await until(lambda: len(told) == 2)
        await device.close()
        async with asyncio.timeout(PATIENCE_S):
            await listening  # the loop ends with the device
        assert told == [Replaced(2, by=7), Recalled(2, handed_out=True)]


async def test_a_recall_overtakes_a_replacement_that_nobody_took(
    edge: Edge, state_dir: Path
) -> None:
    async with connected(edge, state_dir) as (device, peer):
        peer.messages(1, key="k")
        await take(device)
        peer.messages(2, key="k")
        await take(device)
        events = device.events()
        assert await anext(events) == Replaced(1, by=2)
        peer.recall(1)
        await until(lambda: device._inbox.journal.rows[1].recalled)
        # The answer to the replacement does not count for the recall.
        assert await anext(events) == Recalled(1, handed_out=True)


async def test_an_app_that_takes_none_is_not_held_up(edge: Edge, state_dir: Path) -> None:
    day_s = 86_400
    now = [1_000_000.0]
    times: dict[str, Any] = {"clock": lambda: now[0], "max_ids": 2}
    async with connected(edge, state_dir, **times) as (device, peer):
        peer.messages(1, 2, ttl_s=60)
        await take(device, 2)
        await peer.receipts_for(2)
        peer.recall(1, 2)
        await until(lambda: len(device._inbox.journal.untold) == 2)
    now[0] += day_s + 120
    async with connected(edge, state_dir, **times) as (device, peer):
        peer.messages(3)
        assert await peer.receipts() == [(3, "RECEIVED")]
        assert await no_event(device)


async def test_they_end_with_the_reason_of_a_refusal(edge: Edge, state_dir: Path) -> None:
    async with connected(edge, state_dir) as (device, peer):
        peer.messages(1)
        await take(device)
        peer.recall(1)
        peer.goaway(CloseCode.UNKNOWN_APP)
        events = device.events()
        async with asyncio.timeout(PATIENCE_S):
            assert await anext(events) == Recalled(1, handed_out=True)
            with pytest.raises(Refused):
                await anext(events)
