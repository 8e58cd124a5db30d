"""A lively fleet in a process of its own, and the parent's handle: see loadtest.fleet_process."""

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from loadtest.control import Commands
from loadtest.engine.arrivals import Arrivals
from loadtest.engine.lively_fleet import LivelyFleet
from loadtest.engine.scenario import Arrival, Group
from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess, Runner, run_child


class LivelyProcess(FleetProcess):
    """`sizes[i]` devices of `groups[i]`, which dial from `sources`. `draws` seeds what they do.

    It comes up while the caller goes on: see loadtest.control.side_by_side.
    """

    module = "loadtest.engine.lively_process"

    def __init__(
        self,
        plan: Plan,
        groups: Sequence[Group],
        sizes: Sequence[int],
        sources: Sequence[str],
        draws: str,
    ) -> None:
        super().__init__(
            plan,
            wait=False,
            groups=msgspec.to_builtins(groups),
            sizes=list(sizes),
            sources=list(sources),
            draws=draws,
        )

    def arrive(self, arrival: Arrival) -> None:
        self.call("arrive", per_s=arrival.per_s, ramp_s=arrival.ramp_s)


class LivelyRunner(Runner):
    def __init__(self, fleet: LivelyFleet, commands: Commands) -> None:
        super().__init__(fleet, commands)
        self._lively = fleet

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        fleet = self._lively
        match command["do"]:
            case "arrive":
                fleet.arrive(Arrivals(command["per_s"], command["ramp_s"]))
            case "begin":
                fleet.begin()
            case "calm":
                fleet.calm()
            case "cut_share":
                return {"cut": fleet.cut_share(command["share"])}
            case "sample":
                return self._sample()
            case _:
                return super().obey(command)
        return {}

    def _sample(self) -> dict[str, Any]:
        """Counts up to now, latencies since the last sample."""
        fleet = self._lively
        taken = {name: each.to_pairs() for name, each in fleet.take_latencies().items()}
        return {
            **self.counters(),
            **fleet.lively.to_dict(),
            "connecting": fleet.connecting,
            "in_limbo": fleet.links.in_limbo,
            "limbo_overflowed": fleet.links.limbo_overflowed,
            "reactions_waiting": fleet.reactions.waiting,
            "reactions_dropped": fleet.reactions.dropped,
            "latencies": taken,
        }


def _make(config: dict[str, Any], commands: Commands) -> LivelyRunner:
    groups = msgspec.convert(config.pop("groups"), tuple[Group, ...])
    sizes, sources = config.pop("sizes"), config.pop("sources")
    random = Random(config.pop("draws"))
    fleet = LivelyFleet(Plan(**config), groups, sizes, sources, random=random)
    return LivelyRunner(fleet, commands)


if __name__ == "__main__":
    run_child(_make)
