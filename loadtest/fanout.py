"""What one message to all costs an edge, against the floor, and what an idle connection weighs.

Rounds alternate: the floor writes one message to each of its connections, then a push to all goes
out through the service. Both have the same number of connections, read by the same kind of fleet,
and messages of the same size. Receipts are held back until every device has the message, so that
their cost is told apart.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, Final, NamedTuple

from loadtest.api_client import ApiClient, stamped
from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from loadtest.floor import Floor, frame_of_size
from loadtest.links import loopback_source
from loadtest.process_usage import Memory, cpu_ns, memory, wait_quiet
from loadtest.service import Service
from loadtest.view import View

_TIMEOUT_S: Final = 120.0
_IDLE_S: Final = 1.0
_HEARTBEAT_S: Final = 600
"""So long that a round of some 100 ms has next to no heartbeats in it."""


class Round(NamedTuple):
    """Microseconds of the edge's CPU (user and system)."""

    cpu_us_per_message: float
    cpu_us_per_receipt: float
    seconds: float
    """From the request to the last device."""


class FloorBench:
    """The floor and its readers."""

    def __init__(self, connections: int, floor: Floor, fleet: FleetProcess) -> None:
        self._connections = connections
        self._floor = floor
        self._fleet = fleet
        self._pushes = 0
        self._messages = 0

    def round(self, frame_bytes: int) -> float:
        """CPU per message, microseconds."""
        self._pushes += 1
        self._messages += self._connections
        cost = self._floor.write(frame_of_size(frame_bytes, self._pushes, stamped()))
        self._fleet.wait("messages", self._messages, _TIMEOUT_S)
        return cost


class EdgeBench:
    """One edge, all of whose devices are in one fleet."""

    def __init__(self, edge_pid: int, fleet: FleetProcess, api: ApiClient) -> None:
        self._pid = edge_pid
        self._fleet = fleet
        self._api = api
        self._devices = fleet.plan.devices
        self._pushes = 0

    def round(self) -> Round:
        self._fleet.hold_receipts(True)
        self._pushes += 1
        expected = self._pushes * self._devices
        acked = self._fleet.counters()["receipts_acked"]
        before = wait_quiet(self._pid)
        began = time.monotonic()
        self._api.push("all")
        self._fleet.wait("shown", expected, _TIMEOUT_S)
        seconds = time.monotonic() - began
        delivered = wait_quiet(self._pid)
        self._fleet.hold_receipts(False)
        self._fleet.wait("receipts_acked", acked + self._devices, _TIMEOUT_S)
        done = wait_quiet(self._pid)
        return Round(
            cpu_us_per_message=(delivered - before) / 1e3 / self._devices,
            cpu_us_per_receipt=(done - delivered) / 1e3 / self._devices,
            seconds=seconds,
        )

    def frame_bytes(self) -> int:
        """Size of a MESSAGE on the wire, as the devices got it."""
        return int(self._fleet.counters()["frame_bytes"])

    def idle_cpu_share(self, seconds: float) -> float:
        """CPU seconds a second with nobody talking."""
        before = cpu_ns(self._pid)
        time.sleep(seconds)
        return (cpu_ns(self._pid) - before) / 1e9 / seconds


def measure_fanout(
    service: Service, connections: int, rounds: int, view: View, idle_s: float | None = None
) -> dict[str, Any]:
    """`idle_s`: how long the edge rests for its idle cost. Raises ChildFailed, ApiFailed, and ValueError for a service with more than one edge."""
    if len(service.edge_pids) != 1:
        raise ValueError("fanout measures one edge whose process id is known; start with one edge")
    [pid] = service.edge_pids
    with ExitStack() as stack:
        fleet = stack.enter_context(FleetProcess(_plan(service, connections)))
        view.show("connecting", connections=connections)
        weights = _connect_and_weigh(pid, fleet, view)
        edge = EdgeBench(pid, fleet, stack.enter_context(ApiClient(service)))
        view.show("warming up")
        edge.round()
        idle = edge.idle_cpu_share(idle_s or _IDLE_S)
        floor = stack.enter_context(_floor_bench(connections))
        floor.round(edge.frame_bytes())
        costs, floors = [], []
        for number in range(1, rounds + 1):
            floors.append(floor.round(edge.frame_bytes()))
            costs.append(edge.round())
            view.show(
                f"round {number} of {rounds}",
                floor_us=round(floors[-1], 2),
                edge_us=round(costs[-1].cpu_us_per_message, 2),
            )
        lost = fleet.counters()["lost"]
        size = edge.frame_bytes()
    return {
        "connections": connections,
        "rounds": rounds,
        **_costs(costs, floors),
        **_weights(weights, connections),
        "frame_bytes": size,
        "idle_cpu_share": round(idle, 4),
        "lost_connections": lost,
    }


def _plan(service: Service, connections: int) -> Plan:
    return Plan(
        address=service.devices,
        devices=connections,
        app=service.app,
        access_key=service.access_key,
        seed=f"fanout {time.time_ns()}",
        heartbeat_s=_HEARTBEAT_S,
        source=loopback_source(service.devices, 2, 1),
        think_s=None,
    )


def _connect_and_weigh(pid: int, fleet: FleetProcess, view: View) -> tuple[Memory, Memory, Memory]:
    """The edge's memory without connections, with half of them and with all."""
    devices = fleet.plan.devices
    weights = []
    for wanted, rows in (
        (0, range(0)),
        (devices // 2, range(devices // 2)),
        (devices, range(devices // 2, devices)),
    ):
        fleet.dial(rows)
        fleet.wait(
            "open",
            wanted,
            _TIMEOUT_S,
            lambda now: view.show("connecting", connected=now["open"]),
        )
        wait_quiet(pid)
        weights.append(memory(pid))
    empty, half, full = weights
    return empty, half, full


@contextmanager
def _floor_bench(connections: int) -> Iterator[FloorBench]:
    with Floor() as floor:
        plan = Plan(
            address=floor.address, devices=connections, source="127.0.2.2", bare=True, think_s=None
        )
        with FleetProcess(plan) as fleet:
            fleet.dial(range(connections))
            floor.accept(connections, _TIMEOUT_S)
            fleet.wait("open", connections, _TIMEOUT_S)
            yield FloorBench(connections, floor, fleet)


def _costs(costs: list[Round], floors: list[float]) -> dict[str, Any]:
    message = median(each.cpu_us_per_message for each in costs)
    floor = median(floors)
    return {
        "cpu_us_per_message": round(message, 3),
        "floor_us_per_message": round(floor, 3),
        "cpu_ratio_to_floor": round(message / floor, 3),
        "cpu_us_per_receipt": round(median(each.cpu_us_per_receipt for each in costs), 3),
        "seconds_to_all": round(median(each.seconds for each in costs), 3),
        "each_cpu_us_per_message": [round(each.cpu_us_per_message, 3) for each in costs],
        "each_floor_us_per_message": [round(each, 3) for each in floors],
    }


def _weights(weights: tuple[Memory, Memory, Memory], connections: int) -> dict[str, Any]:
    empty, half, full = weights
    second_half = connections - connections // 2
    return {
        "user_bytes_per_connection": round((full.rss - empty.rss) / connections, 1),
        "private_bytes_per_connection": round((full.private - empty.private) / connections, 1),
        "pss_bytes_per_connection": round((full.pss - empty.pss) / connections, 1),
        # Without what the first connections of a process make it load.
        "marginal_bytes_per_connection": round((full.rss - half.rss) / second_half, 1),
        "edge_rss_empty": empty.rss,
        "edge_private_empty": empty.private,
        "edge_rss_full": full.rss,
    }
