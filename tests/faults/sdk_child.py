"""Devices of the SDK in a process that may be killed at any moment: `python -m tests.faults.sdk_child CONFIG`.

The app of each device writes one line for each message it is handed, before it reports it as displayed.
A line is one write at the end of the file (O_APPEND), so that a kill leaves whole lines. At each start the
app first writes down what an earlier run left unfinished: those were begun, too.

    s <push id> <monotonic seconds>     shown: the SDK has handed it out
    u <push id> <monotonic seconds>     unfinished: found at a start
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from client_sdk import Device, DeviceError, Message, Options, StorageError
from loadtest.launch import end_with_parent

SHOWN, UNFINISHED = "s", "u"
LINES = "lines"
_AGAIN_S = 0.2


class Config(msgspec.Struct, frozen=True):
    """What a child is told on its command line, as JSON."""

    address: str
    app: str
    access_key: str
    folders: list[str]
    """Of the lines, one for each device."""
    state_folders: list[str]
    tags: list[list[str]]
    clocks_s: list[float]
    """How wrong the clock of each device is."""


class Line(NamedTuple):
    kind: str
    push_id: int
    at: float


def read_lines(folder: Path) -> list[Line]:
    """All lines of one device so far."""
    try:
        text = (folder / LINES).read_text()
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    return [Line(k, int(p), float(at)) for k, p, at in map(str.split, whole.splitlines())]


class App:
    """What an app does with one device."""

    def __init__(self, config: Config, number: int) -> None:
        folder = Path(config.folders[number])
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._lines = os.open(folder / LINES, flags, 0o600)
        self._tags = config.tags[number]
        wrong_s = config.clocks_s[number]
        self.device = Device(
            config.address,
            app=config.app,
            access_key=config.access_key,
            state_dir=config.state_folders[number],
            options=Options(
                heartbeat_s=2,
                disk_retry_s=0.5,
                close_flush_s=0.5,
                clock=lambda: time.time() + wrong_s,
            ),
        )

    async def run(self) -> None:
        """Until killed. Raises DeviceError when the service will not have it."""
        for message in self.device.unfinished():
            self._write(UNFINISHED, message)
            await _insist(message.failed, "interrupted")
        if tuple(self.device.tags) != tuple(self._tags):
            await self.device.tags.set(self._tags)
        async for message in self.device.messages():
            self._write(SHOWN, message)
            await _insist(message.displayed)

    def _write(self, kind: str, message: Message) -> None:
        line = f"{kind} {message.push_id} {time.monotonic():.6f}\n".encode()
        assert os.write(self._lines, line) == len(line)


async def _insist(report: object, *said: str) -> None:
    """A full disk takes no report: the app waits, as one would that wants its receipts right."""
    assert callable(report)
    while True:
        try:
            return await report(*said)  # type: ignore[no-any-return]
        except StorageError:
            await asyncio.sleep(_AGAIN_S)


class _Lines(logging.Handler):
    """Log lines as those of the service."""

    def emit(self, record: logging.LogRecord) -> None:
        said = {"level": record.levelname.lower(), "event": record.getMessage()}
        if record.exc_info is not None:
            said["exception"] = logging.Formatter().formatException(record.exc_info)
        print(json.dumps(said), file=sys.stderr, flush=True)


async def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=Config)
    apps = [App(config, number) for number in range(len(config.folders))]
    async with asyncio.TaskGroup() as group:
        for app in apps:
            await app.device.open()
            group.create_task(_running(app))
        while any(app.device.device_id is None for app in apps):
            await asyncio.sleep(0.01)
        print(json.dumps({"ids": [app.device.device_id for app in apps]}), flush=True)


async def _running(app: App) -> None:
    try:
        await app.run()
    except DeviceError:
        logging.getLogger("columba.sdk").exception("the device has stopped")
        raise


if __name__ == "__main__":
    end_with_parent(signal.SIGKILL)
    logging.basicConfig(level=logging.WARNING, handlers=[_Lines()])
    asyncio.run(main())
