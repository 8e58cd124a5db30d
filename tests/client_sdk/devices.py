"""Devices for tests, without jitter and gathering, so that nothing waits for a clock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from client_sdk import Device, Event, Message, Options
from tests.client_sdk.edge import Edge
from tests.waiting import PATIENCE_S

KEY = "access key"


def device_of(edge: Edge, state_dir: Path, **options: Any) -> Device:
    defaults: dict[str, Any] = {"rng": lambda: 0.0, "gather_s": 0.0, "close_flush_s": 0.0}
    return Device(
        edge.address,
        app="demo",
        access_key=KEY,
        state_dir=state_dir,
        options=Options(**{**defaults, **options}),
    )


@asynccontextmanager
async def connected(
    edge: Edge, state_dir: Path, **options: Any
) -> AsyncIterator[tuple[Device, Any]]:
    async with device_of(edge, state_dir, **options) as device:
        peer = await edge.welcomed()
        await device.wait_connected()
        yield device, peer


async def take(device: Device, count: int = 1) -> list[Message]:
    messages = device.messages()
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(messages) for _ in range(count)]


async def nothing_more(device: Device) -> bool:
    """Is there no message ready? All that is under way is let happen first."""
    before = device.stats.handed_out
    await _let_happen(anext(device.messages()))
    return device.stats.handed_out == before and device._inbox._begun is None


async def events_of(device: Device, count: int = 1) -> list[Event]:
    """The next events, taken: the question after them is asked."""
    events = device.events()
    async with asyncio.timeout(PATIENCE_S):
        told = [await anext(events) for _ in range(count)]
    await _let_happen(anext(events))
    return told


async def no_event(device: Device) -> bool:
    return not await _let_happen(anext(device.events()))


async def _let_happen(asked: Awaitable[object]) -> bool:
    """Was it answered before nothing went on any more? A cancelled question takes nothing."""
    asking = asyncio.ensure_future(asked)
    for _ in range(50):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    return not asking.cancelled()
