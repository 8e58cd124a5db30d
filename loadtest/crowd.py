"""Several fleets of one app as one: devices by their ids, parts of them by shares of every fleet."""

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from loadtest.control import side_by_side
from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from loadtest.links import loopback_source
from loadtest.service import Service

_PER_PROCESS: Final = 10_000
"""Descriptors are 20,000 a process in many places."""
_LEAST: Final = 2
"""Fleets, so that there is one that looks at messages and one that does not."""
_NETWORK: Final = 4
"""Of loopback: other commands dial from others."""
_IN_FLIGHT: Final = 512
"""Of all fleets together."""
SHARES: Final = 20
"""Equal shares of each fleet's rows, that parts are told in."""


class Part(NamedTuple):
    """The shares from `begin` to before `end`, of each fleet."""

    begin: int
    end: int

    def rows(self, devices: int) -> range:
        return range(self.begin * devices // SHARES, self.end * devices // SHARES)


ALL: Final = Part(0, SHARES)


def share(number: int) -> Part:
    """Begins again when all had their turn."""
    return Part(number % SHARES, number % SHARES + 1)


class Crowd:
    """The fleets. Devices of those with an odd number never display what they get."""

    def __init__(self, fleets: Sequence[FleetProcess]) -> None:
        self.devices = sum(fleet.plan.devices for fleet in fleets)
        self._fleets = fleets
        self._ids: list[list[int]] = []

    def dial(self, part: Part) -> None:
        for fleet, rows in self._each(part):
            fleet.dial(rows)

    def disconnect(self, part: Part) -> None:
        for fleet, rows in self._each(part):
            fleet.disconnect(rows)

    def cut(self, part: Part) -> None:
        for fleet, rows in self._each(part):
            fleet.cut(rows)

    def set_tags(self, part: Part, draw: Callable[[], frozenset[str]]) -> int:
        """Each device of the part gets tags of its own from `draw`; how many that changes."""
        changed = 0
        for fleet, rows in self._each(part):
            known: dict[frozenset[str], int] = {}
            which = array("H", (known.setdefault(draw(), len(known)) for _ in rows))
            changed += fleet.set_tags(rows, [*known], which)
        return changed

    def counters(self) -> Counter[str]:
        """Of all fleets together; times mean nothing in it."""
        total: Counter[str] = Counter()
        for fleet in self._fleets:
            counters = fleet.counters()
            total.update({name: n for name, n in counters.items() if isinstance(n, int)})
        return total

    def learn_ids(self) -> None:
        """Once all have registered: before this nothing below can be asked."""
        self._ids = [fleet.device_ids() for fleet in self._fleets]

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(device for ids in self._ids for device in ids)

    def of(self, part: Part) -> frozenset[int]:
        """The devices of a part."""
        pairs = zip(self._each(part), self._ids, strict=True)
        return frozenset(ids[row] for (_, rows), ids in pairs for row in rows)

    def looking(self) -> frozenset[int]:
        """Devices that display what they get."""
        pairs = zip(self._fleets, self._ids, strict=True)
        return frozenset(d for fleet, ids in pairs if fleet.plan.think_s is not None for d in ids)

    def tags(self, part: Part = ALL) -> dict[int, frozenset[str]]:
        """Device -> what it says of itself."""
        said = {}
        for (fleet, rows), ids in zip(self._each(part), self._ids, strict=True):
            tags = fleet.tags()
            said.update({ids[row]: tags[row] for row in rows})
        return said

    def shown(self, pushes: Iterable[int] | None = None) -> dict[int, list[int]]:
        """Push id -> devices it was shown on, of these pushes or of all."""
        wanted = None if pushes is None else list(pushes)
        found: dict[int, list[int]] = {}
        for fleet, ids in zip(self._fleets, self._ids, strict=True):
            for push, rows in fleet.shown(wanted).items():
                found.setdefault(push, []).extend(ids[row] for row in rows)
        return found

    def _each(self, part: Part) -> Iterator[tuple[FleetProcess, range]]:
        for fleet in self._fleets:
            yield fleet, part.rows(fleet.plan.devices)


@contextmanager
def gathered(service: Service, devices: int) -> Iterator[Crowd]:
    """So many devices that no run before has had, not connected yet."""
    fleets = max(_LEAST, -(-devices // _PER_PROCESS))
    sizes = [devices // fleets + (number < devices % fleets) for number in range(fleets)]
    with ExitStack() as stack:
        plans = (_plan(service, number, size, fleets) for number, size in enumerate(sizes))
        yield Crowd(side_by_side((FleetProcess(plan, wait=False) for plan in plans), stack))


def _plan(service: Service, number: int, devices: int, fleets: int) -> Plan:
    return Plan(
        address=service.devices,
        devices=devices,
        app=service.app,
        access_key=service.access_key,
        # Other devices than those of any run before on the same service: it knows their profiles.
        seed=f"audience {time.time_ns()} {number}",
        source=loopback_source(service.devices, _NETWORK, number + 1),
        in_flight=max(1, _IN_FLIGHT // fleets),
        think_s=None if number % 2 else 0.0,
    )
