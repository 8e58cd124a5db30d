"""Distinct pushes to single devices as fast as they go: from the internal RPC to the receipt counted."""

import math
import time
from contextlib import ExitStack
from typing import Any, Final

from loadtest.api_client import ApiClient, Metrics
from loadtest.control import ChildFailed
from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from loadtest.process_usage import cpu_ns
from loadtest.rpc_pusher import RpcPusher
from loadtest.service import Service
from loadtest.verdict import judge
from loadtest.view import View

_TIMEOUT_S: Final = 120.0
_WARM_UP: Final = 2_000


def measure_throughput(
    service: Service, pushes: int, devices: int, in_flight: int, view: View
) -> dict[str, Any]:
    """`pushes_per_s` ends when the last receipt is counted: no push is pending any more. Nobody else may push
    meanwhile. Raises ChildFailed, ApiFailed, and ValueError where the internal RPC is not known."""
    if service.rpc is None:
        raise ValueError("the ready line of the service does not name its internal RPC")
    with ExitStack() as stack:
        fleet = stack.enter_context(FleetProcess(_plan(service, devices)))
        pusher = stack.enter_context(RpcPusher(service.rpc))
        api = stack.enter_context(ApiClient(service))
        view.show("connecting", devices=devices)
        fleet.dial(range(devices))
        fleet.wait("open", devices, _TIMEOUT_S)
        counted = Counted(fleet, api)
        ids = fleet.device_ids()
        view.show("warming up")
        warm = pusher.push(service.app, ids, _WARM_UP, in_flight)
        shown = len(warm["accepted"])
        counted.wait(shown)
        before = _cpu(service)
        view.show("pushing", pushes=pushes)
        began = time.time()
        told = pusher.push(service.app, ids, pushes, in_flight)
        accepted = len(told["accepted"])
        # The last answer may be read after the last receipt was counted, where the pusher got no processor.
        seconds = max(counted.wait(shown + accepted) - began, told["seconds"])
        used = {role: ns - before[role] for role, ns in _cpu(service).items()}
        by_push = {push: [ids[row] for row in rows] for push, rows in fleet.shown().items()}
        all_of_them = [*warm["accepted"], *told["accepted"]]
        verdict = judge({int(push): {device} for push, device in all_of_them}, by_push)
    return {
        "pushes": pushes,
        "devices": devices,
        "in_flight": in_flight,
        "pushes_per_s": round(accepted / seconds, 1),
        "accepted_per_s": round(accepted / told["seconds"], 1),
        "refused": sum(told["refused"].values()),
        "lost": verdict.lost,
        "duplicates": verdict.duplicates,
        "strays": verdict.strays,
        **{f"{role}_cpu_us_per_push": round(ns / 1e3 / accepted, 1) for role, ns in used.items()},
    }


class Counted:
    """Until the nodes have the receipts of all pushes: those have nothing pending then but what they had."""

    def __init__(self, fleet: FleetProcess, api: ApiClient) -> None:
        """Raises ChildFailed, ApiFailed."""
        self._fleet = fleet
        self._api = api
        self._before, _ = self._look(math.inf)

    def wait(self, pushes: int) -> float:
        """Until so many are shown, and counted. Unix time of the last receipt, by the store's clock, which
        is ours: who knows the RPC of a service is on its machine. Raises ChildFailed, ApiFailed."""
        self._fleet.wait("shown", pushes, _TIMEOUT_S)
        return self._look(self._before)[1]

    def _look(self, most: float) -> tuple[float, float]:
        """(pending, Unix time of the last receipt), once no more are pending than `most`."""
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            time.sleep(Metrics.AGE_S + 0.1)  # an answer of before says nothing
            metrics = self._api.metrics()
            pending = metrics.of("columba_pending_singles")
            if metrics.whole and pending and sum(pending) <= most:
                return sum(pending), max(metrics.of("columba_last_receipt_timestamp_seconds"))
            if time.monotonic() >= deadline:
                raise ChildFailed(
                    f"{sum(pending):.0f} pushes are pending after {_TIMEOUT_S:g} s, {most:.0f} before"
                )


def _plan(service: Service, devices: int) -> Plan:
    return Plan(
        address=service.devices,
        devices=devices,
        app=service.app,
        access_key=service.access_key,
        seed=f"throughput {time.time_ns()}",
        heartbeat_s=600,
        think_s=None,
        remember=1 << 20,
    )


def _cpu(service: Service) -> dict[str, int]:
    """By role, nanoseconds."""
    found = {}
    for role, pids in service.pids.items():
        if role in ("supervisor", "zygote"):
            continue
        found[role] = sum(cpu_ns(pid) for pid in (pids if isinstance(pids, list) else [pids]))
    return found
