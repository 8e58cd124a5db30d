"""How many devices a second the service lets in: new ones, then the same with their tokens."""

import time
from contextlib import ExitStack
from typing import Any, Final

from loadtest.control import side_by_side
from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from loadtest.links import loopback_source
from loadtest.process_usage import wait_quiet
from loadtest.service import Service
from loadtest.view import View

_PER_PROCESS: Final = 10_000
_TIMEOUT_S: Final = 120.0


def measure_connect(service: Service, devices: int, in_flight: int, view: View) -> dict[str, Any]:
    """Seconds from the first connect to the last WELCOME, both times. Raises ChildFailed."""
    with ExitStack() as stack:
        shares = [min(_PER_PROCESS, devices - at) for at in range(0, devices, _PER_PROCESS)]
        plans = [
            _plan(service, number, share, in_flight // len(shares) or 1)
            for number, share in enumerate(shares)
        ]
        fleets = side_by_side((FleetProcess(plan, wait=False) for plan in plans), stack)
        seconds = _dial(fleets, view, "registering", devices)
        _leave(service, fleets, view)
        token_seconds = _dial(fleets, view, "coming back with tokens", devices)
        counters = [fleet.counters() for fleet in fleets]
    return {
        "devices": devices,
        "seconds": round(seconds, 3),
        "per_s": round(devices / seconds, 1),
        "token_seconds": round(token_seconds, 3),
        "token_per_s": round(devices / token_seconds, 1),
        "lost": sum(each["lost"] for each in counters),
        "identity_changes": sum(each["identity_changes"] for each in counters),
    }


def _plan(service: Service, number: int, devices: int, in_flight: int) -> Plan:
    return Plan(
        address=service.devices,
        devices=devices,
        app=service.app,
        access_key=service.access_key,
        # Other devices than those of any run before on the same service.
        seed=f"connect {time.time_ns()} {number}",
        source=loopback_source(service.devices, 1, number + 1),
        in_flight=in_flight,
    )


def _dial(fleets: list[FleetProcess], view: View, stage: str, devices: int) -> float:
    """Let all of them in; seconds from the first connect to the last WELCOME."""
    before = [fleet.counters()["welcomed"] for fleet in fleets]
    for fleet in fleets:
        fleet.mark()
    for fleet in fleets:
        fleet.dial(range(fleet.plan.devices))
    done = []
    for fleet, already in zip(fleets, before, strict=True):
        done.append(
            fleet.wait(
                "welcomed",
                already + fleet.plan.devices,
                _TIMEOUT_S,
                lambda now: view.show(stage, devices=devices, connected=now["open"]),
            )
        )
    # CLOCK_MONOTONIC is the same in all processes of a machine.
    return float(
        max(each["last_welcome_at"] for each in done) - min(each["first_dial_at"] for each in done)
    )


def _leave(service: Service, fleets: list[FleetProcess], view: View) -> None:
    view.show("disconnecting")
    for fleet in fleets:
        fleet.disconnect(range(fleet.plan.devices))
    for pid in service.edge_pids:
        wait_quiet(pid)
