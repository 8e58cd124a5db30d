"""What a scenario works on, and the list of them. A scenario hurts, and heals what it hurt."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.faults.app_server import AppServer
from tests.faults.deployment import Deployment
from tests.faults.plan import Size
from tests.faults.recovery import Recovery
from tests.faults.simulated import Simulated

SAMPLE: Final = 12
"""Devices with which the recovery is measured."""
_ASKED: Final = 80
FLOODED: Final = 2
"""Devices that get more than a slow way takes."""


@dataclass(slots=True, kw_only=True)
class Field:
    deployment: Deployment
    simulated: Simulated
    server: AppServer
    size: Size
    chance: random.Random
    probe: Callable[[Sequence[int]], None]
    """Push to these devices all the time, from now on."""
    flood: Callable[[Sequence[int]], None]
    """The same with more than a slow way takes, and half of it is recalled: it waits in the edges.
    Not for those with which the recovery is measured."""
    recovery: Recovery = field(default_factory=Recovery)

    @property
    def during_s(self) -> float:
        return self.size.during_s

    async def last(self, part: float = 1.0) -> None:
        """Let the fault last, or a part of it."""
        await asyncio.sleep(self.during_s * part)

    def mark(self, devices: Sequence[int]) -> None:
        """The recovery of these is measured from now on."""
        self.recovery.mark(devices[:SAMPLE], time.monotonic())
        self.probe(self.recovery.devices)

    async def devices_at(self, edge: str) -> list[int]:
        """Some steady devices whose connection this edge keeps."""
        number = self.deployment.roles[edge].ready["number"]
        found: list[int] = []
        for device in self.simulated.steady[:_ASKED]:
            if len(found) < SAMPLE and (await self.server.device(device))["edge"] == number:
                found.append(device)
        return found

    def devices_of(self, node: str) -> list[int]:
        """Some steady devices of this node's partitions."""
        return [d for d in self.simulated.steady if self.deployment.node_of(d) == node]


Run = Callable[[Field], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    name: str
    run: Run
    small_disks: tuple[str, ...] = ()
    """Whose disk it fills."""
    bar_s: float | None = None
    """Messages must flow again within so long behind the mark."""
    allowed: Mapping[str, str] = field(default_factory=dict)
    """Count of the verdict that may be above 0 -> why."""
    kills_sdk: bool = True
    """Are the SDK's processes killed beside it?"""


SCENARIOS: Final[dict[str, Scenario]] = {}


def scenario(
    *,
    small_disks: tuple[str, ...] = (),
    bar_s: float | None = None,
    allowed: Mapping[str, str] | None = None,
    kills_sdk: bool = True,
) -> Callable[[Run], Run]:
    """Puts a coroutine on the list, under its name with hyphens."""

    def put(run: Run) -> Run:
        name = run.__name__.replace("_", "-")
        add(
            Scenario(
                name=name,
                run=run,
                small_disks=small_disks,
                bar_s=bar_s,
                allowed=allowed or {},
                kills_sdk=kills_sdk,
            )
        )
        return run

    return put


def add(one: Scenario) -> None:
    assert one.name not in SCENARIOS, one.name
    SCENARIOS[one.name] = one
