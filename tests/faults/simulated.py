"""The fleet of simulated devices, for tasks: one call at a time, off the event loop."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from loadtest.fleet_process import FleetProcess
from tests.faults.traffic import GROUPS
from tests.faults.verdict import Showing

_CONNECT_S: Final = 40.0
_POLL_S: Final = 0.1
_AWAY_S: Final = (0.2, 1.0)
_STEADY: Final = 5
"""One in so many devices never flaps: the recovery is measured with these."""

T = TypeVar("T")


class Simulated:
    """Rows 0 to devices - 1; the first ones are steady."""

    def __init__(self, fleet: FleetProcess, chance: random.Random) -> None:
        self._fleet = fleet
        self._chance = chance
        self._turn = asyncio.Lock()
        self._stopping = asyncio.Event()
        self.devices = fleet.plan.devices
        self.ids: list[int] = []

    async def _call(self, ask: Callable[..., T], *arguments: Any) -> T:
        # Shielded: an answer that nobody waits for any more must not be taken for the next one's.
        async def locked() -> T:
            async with self._turn:
                return await asyncio.to_thread(ask, *arguments)

        return await asyncio.shield(asyncio.create_task(locked()))

    @property
    def steady(self) -> list[int]:
        return self.ids[: self.devices // _STEADY]

    async def connect(self) -> None:
        """All of them, each with its group as tag."""
        await self.dial()
        deadline = time.monotonic() + _CONNECT_S
        while (await self.counters())["open"] < self.devices:
            assert time.monotonic() < deadline, f"not connected: {await self.counters()}"
            await asyncio.sleep(_POLL_S)
        self.ids = await self._call(self._fleet.device_ids)
        choices = [[f"group:{g}"] for g in range(GROUPS)]
        which = [row % GROUPS for row in range(self.devices)]
        await self._call(self._fleet.set_tags, range(self.devices), choices, which)
        while (await self.counters())["profiles_unacked"]:
            assert time.monotonic() < deadline, "profiles are not acknowledged"
            await asyncio.sleep(_POLL_S)

    async def dial(self, rows: range | None = None) -> None:
        await self._call(self._fleet.dial, range(self.devices) if rows is None else rows)

    async def counters(self) -> dict[str, Any]:
        return await self._call(self._fleet.counters)

    async def shown_counts(self) -> dict[int, int]:
        return await self._call(self._fleet.shown_counts)

    async def flap(self, share: float, away_s: tuple[float, float] = _AWAY_S) -> None:
        """Until `stop_flapping`: so many leave for a moment, with a word or without, over and over."""
        first = self.devices // _STEADY
        part = max(1, int(self.devices * share))
        while not self._stopping.is_set():
            start = self._chance.randrange(first, max(first + 1, self.devices - part))
            rows = range(start, min(start + part, self.devices))
            leave = self._chance.choice((self._fleet.disconnect, self._fleet.cut))
            await self._call(leave, rows)
            await asyncio.sleep(self._chance.uniform(*away_s))
            await self.dial(rows)

    def stop_flapping(self) -> None:
        self._stopping.set()

    async def journals(self) -> dict[int, list[Showing]]:
        """Device id -> what it showed."""
        journals = await self._call(self._fleet.journals)
        return {self.ids[row]: _showings(lines) for row, lines in journals.items()}


def _showings(lines: Iterable[tuple[int, float]]) -> list[Showing]:
    return [Showing(push_id, at) for push_id, at in lines]
