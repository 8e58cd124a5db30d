"""Pushes to single devices: how long until the device has each at a steady rate, above the bare hop; and
how many go through in a second."""

import time
from contextlib import ExitStack
from typing import Any, Final

import uvloop

from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from loadtest.histogram import Histogram, milliseconds
from loadtest.hop import HopProcess
from loadtest.push_stream import PushStream
from loadtest.service import Service
from loadtest.throughput import measure_throughput
from loadtest.verdict import judge
from loadtest.view import View

_TIMEOUT_S: Final = 60.0
_SETTLE_S: Final = 10.0
_WARM_UP_S: Final = 1.0
RATE: Final = 1000.0
"""Pushes a second that the latencies of `p50_ms_at_1000` and `p99_ms_at_1000` belong to."""
_DEVICES: Final = 5_000
_IN_FLIGHT: Final = 1_000
"""Of the throughput: as `throughput` has them by itself."""


def measure_both(
    service: Service, rate: float, seconds: float, devices: int, pushes: int, view: View
) -> dict[str, Any]:
    """The latency of `measure_single`, then `pushes_per_s` of so many distinct pushes, one after the other.

    `lost`, `duplicates` and `strays` are those of both. Without a known internal RPC, or with no
    `pushes`, `pushes_per_s` is null. Raises ChildFailed.
    """
    latency = measure_single(service, rate, seconds, devices, view)
    if service.rpc is None or not pushes:
        return latency | {"pushes_per_s": None, "accepted_per_s": None}
    through = measure_throughput(service, pushes, _DEVICES, _IN_FLIGHT, view)
    wrong = {name: latency[name] + through[name] for name in ("lost", "duplicates", "strays")}
    kept = ("pushes_per_s", "accepted_per_s")
    return (
        latency
        | {name: through[name] for name in kept}
        | wrong
        | {
            "throughput_pushes": pushes,
            "throughput_devices": _DEVICES,
            "throughput_refused": through["refused"],
        }
    )


def measure_single(
    service: Service, rate: float, seconds: float, devices: int, view: View
) -> dict[str, Any]:
    """Raises ChildFailed. Without a known store there is no hop: its fields are null."""
    with ExitStack() as stack:
        fleet = stack.enter_context(FleetProcess(_plan(service, devices)))
        hop = stack.enter_context(HopProcess(service.store)) if service.store else None
        view.show("connecting", devices=devices)
        fleet.dial(range(devices))
        fleet.wait("open", devices, _TIMEOUT_S)
        stream = PushStream(service, fleet.device_ids())
        uvloop.run(_warm_up(stream, rate))
        warm = len(stream.accepted)
        fleet.wait("shown", warm, _SETTLE_S)
        fleet.forget_latency()
        run = hop.begin(rate, seconds) if hop else 0
        view.show("pushing", rate=rate)
        uvloop.run(stream.run(rate, seconds, lambda sent: view.show("pushing", pushed=sent)))
        hops = hop.end(run, seconds + _TIMEOUT_S) if hop else Histogram()
        view.show("settling", accepted=len(stream.accepted))
        _settle(fleet, len(stream.accepted))
        result = _result(fleet, stream, fleet.latency(), hops)
        at_1000 = rate == RATE
        return result | {
            "p50_ms_at_1000": result["push_p50_ms"] if at_1000 else None,
            "p99_ms_at_1000": result["push_p99_ms"] if at_1000 else None,
            "rate": rate,
            "seconds": seconds,
            "devices": devices,
            "pushes": len(stream.accepted) - warm,
        }


def _plan(service: Service, devices: int) -> Plan:
    return Plan(
        address=service.devices,
        devices=devices,
        app=service.app,
        access_key=service.access_key,
        seed=f"single {time.time_ns()}",
        think_s=None,
    )


async def _warm_up(stream: PushStream, rate: float) -> None:
    """What is loaded or made at first use is not part of the latencies."""
    await stream.run(rate, _WARM_UP_S)


def _settle(fleet: FleetProcess, pushes: int) -> None:
    """Wait a bounded time for the last; what has not come then counts as lost."""
    deadline = time.monotonic() + _SETTLE_S
    while fleet.counters()["shown"] < pushes and time.monotonic() < deadline:
        time.sleep(0.05)


def _result(
    fleet: FleetProcess, stream: PushStream, pushes: Histogram, hops: Histogram
) -> dict[str, Any]:
    ids = fleet.device_ids()
    shown = {push: [ids[row] for row in rows] for push, rows in fleet.shown().items()}
    verdict = judge({push: {device} for push, device in stream.accepted.items()}, shown)
    p50, p99 = pushes.percentile(0.5), pushes.percentile(0.99)
    hop50, hop99 = hops.percentile(0.5), hops.percentile(0.99)
    return {
        "push_p50_ms": milliseconds(p50),
        "push_p99_ms": milliseconds(p99),
        "hop_p50_ms": milliseconds(hop50),
        "hop_p99_ms": milliseconds(hop99),
        "above_hop_p50_ms": _above(p50, hop50),
        "above_hop_p99_ms": _above(p99, hop99),
        "lost": verdict.lost,
        "duplicates": verdict.duplicates,
        "strays": verdict.strays,
        "redelivered": fleet.counters()["redelivered"],
        "refused": sum(stream.refused.values()) + stream.late,
        "refused_by_status": {str(status): n for status, n in stream.refused.items()},
        "hops": hops.count,
    }


def _above(push: int | None, hop: int | None) -> float | None:
    return None if push is None or hop is None else milliseconds(push - hop)
