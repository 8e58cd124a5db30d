"""All fleets of a run as one: how many processes, which rows in each, and what they say together."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from resource import RLIMIT_NOFILE, getrlimit
from typing import Any, Final

from loadtest.control import side_by_side
from loadtest.engine.lively_process import LivelyProcess
from loadtest.engine.rows import apportion
from loadtest.engine.scenario import MOST_PER_PROCESS, Group, Scenario
from loadtest.fleet import Plan
from loadtest.histogram import Histogram
from loadtest.service import Service

_LIMBO: Final = 2_048
"""See loadtest.links: descriptors for connections whose device has gone without a word."""
_SPARE: Final = 500
"""Descriptors of a process for everything but devices."""
_ANSWER_S: Final = 120.0


def processes_for(scenario: Scenario, descriptors: int) -> int:
    """How many processes the fleet takes. Raises ValueError if the scenario's are too few or many.

    `descriptors`: what one process may have open.
    """
    fleet = scenario.fleet
    silent = any(g.vanish or g.switch_per_min or g.nat_timeout_s for g in scenario.groups)
    room = min(MOST_PER_PROCESS, descriptors - _SPARE) - _LIMBO * silent
    if room < 1:
        raise ValueError(f"{descriptors} descriptors a process are too few (ulimit -n)")
    needed = -(-fleet.devices // room)
    if fleet.processes > fleet.devices:
        raise ValueError(f"fleet.processes: expected at most one a device ({fleet.devices})")
    if fleet.processes and fleet.processes < needed:
        raise ValueError(
            f"fleet.processes: expected {needed} or more, since one has room for {room} devices"
        )
    return fleet.processes or needed


def muster(devices: int, groups: Sequence[Group], processes: int) -> list[list[int]]:
    """By process: devices of each group. Groups and processes both come out even to one device."""
    mustered = [[0] * len(groups) for _ in range(processes)]
    turn = 0
    for at, size in enumerate(apportion(devices, [group.share for group in groups])):
        for process in mustered:
            process[at] = size // processes
        # Remainders go round, or the first process would get all of them.
        for _ in range(size % processes):
            mustered[turn % processes][at] += 1
            turn += 1
    return mustered


def sources_of(service: Service, network: int, process: int, count: int) -> list[str]:
    """127.network.x.1 and so on; none where devices do not dial to loopback."""
    if not service.devices[0].startswith("127."):
        return []
    second, third = divmod(process, 250)
    return [f"127.{network + second}.{third + 1}.{number + 1}" for number in range(count)]


@dataclass(slots=True)
class Sample:
    """What all fleets said at once."""

    counts: Counter[str]
    """Sums; and close codes as `goaway_4001` and so on."""
    latencies: dict[str, Histogram] = field(default_factory=dict)
    """Since the sample before, nanoseconds: `push`, `late` (of devices that came back), `welcome`."""
    first_dial_at: float = 0.0
    last_welcome_at: float = 0.0
    """Seconds of time.monotonic(); 0 where nothing has happened."""


def summed(answers: Iterable[dict[str, Any]]) -> Sample:
    """Pure: the children's answers to `sample` as one."""
    sample = Sample(Counter())
    dials, welcomes = [], [0.0]
    for answer in answers:
        for name, value in answer.items():
            if type(value) is int and name != "id":
                sample.counts[name] += value
        for code, count in answer["goaways"].items():
            sample.counts[f"goaway_{code}"] += count
        for name, pairs in answer["latencies"].items():
            sample.latencies.setdefault(name, Histogram()).add_pairs(pairs)
        if answer["first_dial_at"]:
            dials.append(answer["first_dial_at"])
        welcomes.append(answer["last_welcome_at"])
    sample.first_dial_at = min(dials, default=0.0)
    sample.last_welcome_at = max(welcomes)
    return sample


class Army:
    def __init__(self, fleets: Sequence[LivelyProcess]) -> None:
        self.fleets = fleets
        self.devices = sum(fleet.plan.devices for fleet in fleets)
        self._ids: list[list[int]] = []

    def arrive(self, scenario: Scenario) -> None:
        """Devices begin to dial, each fleet at its part of the rate."""
        for fleet in self.fleets:
            per_s = scenario.arrival.per_s * fleet.plan.devices / self.devices
            fleet.call("arrive", per_s=per_s, ramp_s=scenario.arrival.ramp_s)

    def begin(self) -> None:
        self._all("begin")

    def calm(self) -> None:
        self._all("calm")

    def cut(self, share: float) -> int:
        return sum(int(answer["cut"]) for answer in self._all("cut_share", share=share))

    def sample(self) -> Sample:
        return summed(self._all("sample"))

    def open_now(self) -> int:
        """Connections, without taking a sample."""
        return sum(int(answer["open"]) for answer in self._all("counters"))

    def learn_ids(self) -> None:
        self._ids = [fleet.device_ids() for fleet in self.fleets]

    def device_ids(self) -> list[int]:
        """As far as `learn_ids` knows them; those that have not registered are left out (0)."""
        return [device for ids in self._ids for device in ids if device]

    def shown_counts(self) -> Counter[int]:
        """Push id -> devices it was shown on."""
        counts: Counter[int] = Counter()
        for fleet in self.fleets:
            counts.update(fleet.shown_counts())
        return counts

    def shown(self, pushes: Iterable[int]) -> dict[int, list[int]]:
        """Push id -> devices, of these pushes."""
        wanted = list(pushes)
        found: dict[int, list[int]] = {}
        for fleet, ids in zip(self.fleets, self._ids, strict=True):
            for push, rows in fleet.shown(wanted).items():
                found.setdefault(push, []).extend(ids[row] for row in rows)
        return found

    def _all(self, do: str, **arguments: Any) -> list[dict[str, Any]]:
        """All are asked before one is waited for: they work side by side. Raises ChildFailed."""
        asked = [(fleet, fleet.send(do, **arguments)) for fleet in self.fleets]
        return [fleet.collect(command, _ANSWER_S) for fleet, command in asked]


@contextmanager
def raised(
    scenario: Scenario, service: Service, on_progress: Callable[[int], None]
) -> Iterator[Army]:
    """The fleets of a scenario, nobody connected yet. Raises ChildFailed, ValueError."""
    with ExitStack() as stack:
        yield Army(side_by_side(_begun(scenario, service, on_progress), stack))


def _begun(
    scenario: Scenario, service: Service, on_progress: Callable[[int], None]
) -> Iterator[LivelyProcess]:
    """Fleets that are coming up."""
    processes = processes_for(scenario, getrlimit(RLIMIT_NOFILE)[0])
    run = time.time_ns()
    for number, sizes in enumerate(muster(scenario.fleet.devices, scenario.groups, processes)):
        on_progress(number)
        plan = Plan(
            address=service.devices,
            devices=sum(sizes),
            app=service.app,
            access_key=service.access_key,
            # Other devices than those of any run before on the same service.
            seed=f"{scenario.seed} {run} {number}",
            in_flight=max(1, scenario.fleet.in_flight // processes),
            think_s=None,
            remember=scenario.pushes_at_most + 1024,
        )
        yield LivelyProcess(
            plan,
            scenario.groups,
            sizes,
            sources_of(service, scenario.fleet.network, number, scenario.fleet.sources),
            f"{scenario.seed} {number}",
        )
