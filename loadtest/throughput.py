"""Distinct pushes to single devices as fast as they go: from the internal RPC to the receipt counted."""

import time
from contextlib import ExitStack
from typing import Any, Final

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
    """`pushes_per_s` ends when the last receipt is acknowledged to its device, which is when it stands in the
    log. Raises ChildFailed, and ValueError where the internal RPC is not known."""
    if service.rpc is None:
        raise ValueError("the ready line of the service does not name its internal RPC")
    with ExitStack() as stack:
        fleet = stack.enter_context(FleetProcess(_plan(service, devices)))
        pusher = stack.enter_context(RpcPusher(service.rpc))
        view.show("connecting", devices=devices)
        fleet.dial(range(devices))
        fleet.wait("open", devices, _TIMEOUT_S)
        ids = fleet.device_ids()
        view.show("warming up")
        warm = pusher.push(service.app, ids, _WARM_UP, in_flight)
        fleet.wait("receipts_acked", len(warm["accepted"]), _TIMEOUT_S)
        before = _cpu(service)
        acked = fleet.counters()["receipts_acked"]
        view.show("pushing", pushes=pushes)
        began = time.monotonic()
        told = pusher.push(service.app, ids, pushes, in_flight)
        accepted = len(told["accepted"])
        fleet.wait("receipts_acked", acked + accepted, _TIMEOUT_S)
        seconds = time.monotonic() - began
        used = {role: ns - before[role] for role, ns in _cpu(service).items()}
        shown = {push: [ids[row] for row in rows] for push, rows in fleet.shown().items()}
        all_of_them = [*warm["accepted"], *told["accepted"]]
        verdict = judge({int(push): {device} for push, device in all_of_them}, shown)
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
