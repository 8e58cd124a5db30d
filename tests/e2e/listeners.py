"""Devices of the SDK that note what the app is handed, and say that they showed it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from client_sdk import Device, DeviceError, Message, Options
from tests.e2e.tenants import Tenant
from tests.waiting import PATIENCE_S, until


class Listener:
    """A device and what its app was handed: push id -> how often."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.handed: Counter[int] = Counter()
        self.titles: list[str] = []
        self.last: Message | None = None

    @property
    def id(self) -> int:
        assert self.device.device_id is not None
        return self.device.device_id

    async def listen(self) -> None:
        async for message in self.device.messages():
            self.handed[message.push_id] += 1
            self.titles.append(message.notification.title if message.notification else "")
            self.last = message
            await message.displayed()

    async def gets(self, *push_ids: int, wait_s: float = PATIENCE_S) -> None:
        """Waits until exactly these have been handed out, each once, and every receipt is safe."""
        wanted = Counter(push_ids)
        await until(
            lambda: self.handed.keys() >= wanted.keys(),
            f"device {self.device.device_id} is handed {len(wanted)} messages, has "
            f"{len(self.handed)}",
            wait_s,
        )
        await self.device.flush(wait_s)
        assert self.handed == wanted


@asynccontextmanager
async def listening(
    tenant: Tenant, address: str | Sequence[str], state_dir: Path, **options: Any
) -> AsyncIterator[Listener]:
    """A connected device until the end of the block."""
    device = Device(
        address,
        app=tenant.app,
        access_key=tenant.access_key,
        state_dir=state_dir,
        options=Options(**{"close_flush_s": 1.0, **options}),
    )
    async with device:
        listener = Listener(device)
        task = asyncio.create_task(listener.listen())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await device.wait_connected()
            yield listener
        finally:
            task.cancel()
            ends = await asyncio.gather(task, return_exceptions=True)
        for end in ends:
            # A device that was told to stop says so in the test, by `device.error`.
            if isinstance(end, Exception) and not isinstance(end, DeviceError):
                raise end


@asynccontextmanager
async def several(
    tenant: Tenant, address: str | Sequence[str], folder: Path, count: int
) -> AsyncIterator[list[Listener]]:
    """So many connected devices, each with a directory of its own in `folder`."""
    async with AsyncExitStack() as stack:
        contexts = [listening(tenant, address, folder / f"d{n}") for n in range(count)]
        yield [await stack.enter_async_context(context) for context in contexts]
