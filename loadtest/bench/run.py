"""One after the other: each measurement in its short form, by the functions of the commands.

Three services: with one edge for what an edge costs, with two for registrations and single pushes, with
more for the storm, which kills half of them. The fan-out comes first, as it weighs an edge that nobody
has connected to yet.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from resource import RLIMIT_NOFILE, getrlimit
from statistics import median
from typing import Any, Final

import msgspec

from loadtest.api_client import ApiClient, ApiFailed
from loadtest.bench.figures import figures_of, wrong_in
from loadtest.bench.machine import this_machine
from loadtest.bench.record import Record, Sizes
from loadtest.connect import measure_connect
from loadtest.control import ChildFailed
from loadtest.fanout import measure_fanout
from loadtest.many import many
from loadtest.priority import measure_priority
from loadtest.process_usage import wait_quiet
from loadtest.service import Service, ServiceFailed
from loadtest.single import RATE, measure_both
from loadtest.storm import measure_storm
from loadtest.storm import passed as storm_passed
from loadtest.view import View

_SPARE: Final = 2_000
"""Descriptors of an edge that are left for all else: it stops listening at 95 % of them."""
_IN_FLIGHT: Final = 512
_HIGH_PER_S: Final = 50.0
_HEARTBEAT_S: Final = 600
_FAILURES: Final = (ApiFailed, ChildFailed, OSError, ServiceFailed, ValueError)

Start = Callable[[int], AbstractContextManager[Service]]
"""So many edges -> a service that nobody else uses."""
Measurement = tuple[str, Callable[[Service], dict[str, Any]]]


def run_bench(sizes: Sizes, start: Start, view: View) -> Record:
    """A measurement that fails is told in `wrong`, and the others go on."""
    machine = this_machine()
    began = time.monotonic()
    measured: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    for edges, measurements in _plan(sizes, view):
        view.begin("bench")
        view.show("starting a service", edges=edges)
        try:
            with start(edges) as service:
                for name, measure in measurements:
                    _measure(name, measure, service, view, measured, wrong)
        except ServiceFailed as error:
            wrong.append(f"a service with {edges} edges: {error}")
    storm = measured.get("storm")
    if storm is not None and not storm_passed(storm):
        wrong.append("storm: not every device has received every push")
    return Record(
        machine=machine,
        sizes=sizes,
        seconds=round(time.monotonic() - began, 1),
        figures=figures_of(measured),
        measured=measured,
        wrong=wrong + wrong_in(measured),
    )


def within_descriptors(sizes: Sizes) -> Sizes:
    """As many devices at one edge as this machine lets it have."""
    room = max(1, getrlimit(RLIMIT_NOFILE)[1] - _SPARE)
    fewer = {name: min(getattr(sizes, name), room) for name in ("fanout", "broadcast", "priority")}
    return msgspec.structs.replace(sizes, **fewer)


def _plan(sizes: Sizes, view: View) -> Iterator[tuple[int, list[Measurement]]]:
    """Edges of a service, and what is measured on it."""
    yield (
        1,
        [
            ("fanout", lambda s: measure_fanout(s, sizes.fanout, sizes.rounds, view, sizes.idle_s)),
            ("broadcast", lambda s: measure_broadcast(s, sizes.broadcast, sizes.broadcasts, view)),
            ("priority", lambda s: _priority(s, sizes, view)),
        ],
    )
    yield (
        2,
        [
            ("connect", lambda s: measure_connect(s, sizes.connect, _IN_FLIGHT, view)),
            ("single", lambda s: _single(s, sizes, view)),
        ],
    )
    yield sizes.storm_edges, [("storm", lambda s: measure_storm(s, sizes.storm, view))]


def _measure(
    name: str,
    measure: Callable[[Service], dict[str, Any]],
    service: Service,
    view: View,
    measured: dict[str, dict[str, Any]],
    wrong: list[str],
) -> None:
    view.begin(f"bench, {name}")
    # The sessions of the measurement before may still be ending.
    for pid in service.edge_pids:
        wait_quiet(pid)
    began = time.monotonic()
    try:
        measured[name] = measure(service)
    except _FAILURES as error:
        wrong.append(f"{name}: {str(error) or type(error).__name__}")
        view.show("failed", reason=wrong[-1])
        return
    view.show("done", seconds=round(time.monotonic() - began, 1))


def _single(service: Service, sizes: Sizes, view: View) -> dict[str, Any]:
    return measure_both(service, RATE, sizes.single_s, sizes.singles, sizes.pushes, view)


def _priority(service: Service, sizes: Sizes, view: View) -> dict[str, Any]:
    return measure_priority(service, sizes.priority, _HIGH_PER_S, sizes.priority_s, view)


def measure_broadcast(service: Service, devices: int, pushes: int, view: View) -> dict[str, Any]:
    """`messages_per_s`: the median of so many pushes to all, from the request to the last device; `counted_s`:
    until the service has counted every receipt.

    Raises ChildFailed, ApiFailed.
    """
    with many(service, devices, _HEARTBEAT_S, view) as fleet, ApiClient(service) as api:
        connected = fleet.connect()
        told = [fleet.push(api, "all", devices) for _ in range(pushes)]
    last_s = median(each["last_s"] for each in told)
    return {
        "devices": devices,
        "connect_per_s": connected["connect_per_s"],
        "pushes": pushes,
        "last_s": last_s,
        "counted_s": median(each["s"] for each in told),
        "messages_per_s": round(devices / last_s, 1),
        "lost": sum(each["lost"] for each in told),
    }
