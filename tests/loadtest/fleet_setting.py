"""Fleets that dial a scripted edge, with one clock that is moved by hand."""

import time
from random import Random

from loadtest.fleet import Fleet, Plan
from tests.loadtest.scripted_edge import ScriptedEdge


class Clock:
    """Seconds, moved by hand; begins at the real time since latencies are real."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.step = 0.0
        """It moves by so much at each look."""

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Setting:
    """An edge and fleets that dial it, with one clock."""

    def __init__(self, edge: ScriptedEdge) -> None:
        self.edge = edge
        self.clock = Clock()
        self.fleets: list[Fleet] = []

    def fleet(self, devices: int = 1, **options: object) -> Fleet:
        plan = Plan(
            address=self.edge.address,
            devices=devices,
            app="demo",
            access_key="key",
            **options,  # type: ignore[arg-type]
        )
        fleet = Fleet(plan, self.clock, Random(1))
        fleet.dial(range(devices))
        self.fleets.append(fleet)
        return fleet

    def later(self, fleet: Fleet, seconds: float) -> None:
        self.clock.now += seconds
        fleet.turn(0)
