"""The reference device SDK of Columba; depends on `protocol` alone.

async with Device("127.0.0.1:7070", app="demo", access_key=key, state_dir="state") as device:
    async for message in device.messages():
        show(message.notification)
        await message.displayed()
"""

from client_sdk.device import Device
from client_sdk.errors import (
    DeviceClosed,
    DeviceError,
    Refused,
    StateDirectoryError,
    StorageError,
)
from client_sdk.events import Event, Recalled, Replaced
from client_sdk.inbox import Stats
from client_sdk.message import Message, Notification
from client_sdk.options import Options
from client_sdk.tags import Tags

__all__ = [
    "Device",
    "DeviceClosed",
    "DeviceError",
    "Event",
    "Message",
    "Notification",
    "Options",
    "Recalled",
    "Refused",
    "Replaced",
    "StateDirectoryError",
    "Stats",
    "StorageError",
    "Tags",
]
