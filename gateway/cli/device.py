"""A device in the terminal: the reference SDK, and nothing else of the service."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from client_sdk import Device, DeviceError, Event, Message, Recalled
from gateway import demokeys
from gateway.cli.settings import UsageProblem, addresses
from gateway.config import Config

KEY_VARIABLE: Final = "COLUMBA_ACCESS_KEY"

Show = Callable[[dict[str, object]], None]


class DeviceSettings(NamedTuple):
    address: str
    app: str
    access_key: str


def settings_of(
    config: Config, address: str | None, app: str | None, access_key: str | None
) -> DeviceSettings:
    """From flags, else the environment, else the data directory. Raises UsageProblem."""
    kept = demokeys.read(Path(config.service.data_dir))
    app = app or os.environ.get("COLUMBA_APP") or ("demo" if kept is None else kept.app)
    key = access_key or os.environ.get(KEY_VARIABLE)
    if not key and kept is not None and kept.app == app:
        key = kept.access_key
    if not key:
        raise UsageProblem(f"no access key of app {app}: give --access-key or {KEY_VARIABLE}")
    return DeviceSettings(address or addresses(config).devices, app, key)


def run(settings: DeviceSettings, state_dir: Path, show: Show) -> int:
    """Until SIGINT or SIGTERM. Raises UsageProblem when the service refuses the device."""
    try:
        return asyncio.run(_run(settings, state_dir, show))
    except (DeviceError, ValueError) as error:
        raise UsageProblem(str(error)) from error


async def _run(settings: DeviceSettings, state_dir: Path, show: Show) -> int:
    device = Device(
        settings.address,
        app=settings.app,
        access_key=settings.access_key,
        state_dir=state_dir,
    )
    async with device:
        listening = asyncio.create_task(_listen(device, show))
        loop = asyncio.get_running_loop()
        for signo in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signo, listening.cancel)
        await asyncio.wait([listening])
        if not listening.cancelled():
            listening.result()
    return 0


async def _listen(device: Device, show: Show) -> None:
    await device.wait_connected()
    show({"event": "registered", "device_id": str(device.device_id)})
    hearing = asyncio.create_task(_hear(device, show))
    try:
        async for message in device.messages():
            show(_event_of(message))
            await message.displayed()
    finally:
        hearing.cancel()


async def _hear(device: Device, show: Show) -> None:
    try:
        async for event in device.events():
            show(_change_of(event))
    except DeviceError:
        pass  # the messages end with the same one


def _change_of(event: Event) -> dict[str, object]:
    if isinstance(event, Recalled):
        shown: dict[str, object] = {"event": "recalled", "push_id": str(event.push_id)}
        return shown | {"handed_out": event.handed_out}
    return {"event": "replaced", "push_id": str(event.push_id), "by": str(event.by)}


def _event_of(message: Message) -> dict[str, object]:
    shown = message.notification
    return {
        "event": "message",
        "push_id": str(message.push_id),
        "title": None if shown is None else shown.title,
        "body": None if shown is None else shown.body,
        "data": dict(message.data),
    }
