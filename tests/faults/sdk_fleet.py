"""SDK devices in child processes that are killed and started again at random moments."""

import asyncio
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from gateway.store.apps import NewApp
from tests.faults.disks import Disk
from tests.faults.roles import Role
from tests.faults.sdk_child import SHOWN, Config, Line, read_lines
from tests.faults.verdict import Showing

_WRONG_CLOCKS_S: Final = (0.0, 0.0, -400.0, 400.0)
"""More than a registration may be off: such a device has to learn the time first."""
_LIFE_S: Final = (1.0, 5.0)
_DEATH_S: Final = (0.0, 0.6)


class SdkChild(Role):
    """One process with devices in it."""

    def __init__(self, name: str, config: Config, disk: Disk, log: Path) -> None:
        self.config = config
        self.disk = disk
        text = msgspec.json.encode(config).decode()
        super().__init__(name, [sys.executable, "-m", "tests.faults.sdk_child", text], log)
        self.ids: list[int] = []
        self.identity_changes = 0

    async def begin(self) -> None:
        """Raises RoleFailed."""
        await self.start(before=self.disk.before())
        if self.ids and self.ready["ids"] != self.ids:
            self.identity_changes += 1
        self.ids = self.ready["ids"]

    def lines(self) -> Iterator[tuple[int, list[Line]]]:
        """(device id, its lines)"""
        for device, folder in zip(self.ids, self.config.folders, strict=True):
            yield device, read_lines(Path(folder))


class SdkFleet:
    """All children. `stop_killing` lets the one under way come to its end."""

    def __init__(self, children: list[SdkChild], chance: random.Random) -> None:
        self.children = children
        self._chance = chance
        self._stopping = asyncio.Event()
        self.kills = 0

    @property
    def ids(self) -> list[int]:
        return [device for child in self.children for device in child.ids]

    @property
    def identity_changes(self) -> int:
        return sum(child.identity_changes for child in self.children)

    async def kill_at_random(self) -> None:
        """Until `stop_killing`; then every child lives."""
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(self._chance.uniform(*_LIFE_S)):
                    await self._stopping.wait()
            except TimeoutError:
                child = self._chance.choice(self.children)
                child.kill()
                self.kills += 1
                await asyncio.sleep(self._chance.uniform(*_DEATH_S))
                await child.begin()

    def stop_killing(self) -> None:
        self._stopping.set()

    def journals(self) -> dict[int, list[Showing]]:
        """Device id -> what it showed. See `showings`."""
        return {
            device: showings(lines) for child in self.children for device, lines in child.lines()
        }


def showings(lines: list[Line]) -> list[Showing]:
    """A message that is found unfinished was begun, whether its line was written or not. Handed out
    again behind that it is shown twice."""
    found: list[Showing] = []
    had: set[int] = set()
    for line in lines:
        if line.kind == SHOWN or line.push_id not in had:
            found.append(Showing(line.push_id, line.at))
        had.add(line.push_id)
    return found


def config_of(
    name: str,
    tags: list[list[str]],
    app: NewApp,
    door: str,
    folders: tuple[Path, Path],
    chance: random.Random,
) -> Config:
    """`tags`: of each device. `folders`: for lines, and for the state of the devices."""
    devices = range(len(tags))
    lines, states = folders
    return Config(
        address=door,
        app=app.app_id,
        access_key=app.access_key,
        folders=[str(lines / f"{name}-{n}") for n in devices],
        state_folders=[str(states / f"{name}-{n}") for n in devices],
        tags=tags,
        clocks_s=[chance.choice(_WRONG_CLOCKS_S) for _ in devices],
    )
