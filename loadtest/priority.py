"""Does a high push overtake? Its latency beside campaigns at full speed, against its latency without any."""

import threading
import time
from contextlib import ExitStack
from typing import Any, Final

import uvloop

from loadtest.api_client import ApiClient
from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from loadtest.histogram import Histogram, milliseconds
from loadtest.links import loopback_source
from loadtest.push_stream import PushStream
from loadtest.service import Service
from loadtest.view import View

_TIMEOUT_S: Final = 120.0
_FEW: Final = 200
"""Devices that get the high pushes, and no campaign."""
_CROWD: Final = "part:crowd"
_AT_A_TIME: Final = 2
"""Campaigns under way: the next one is pushed when all but so many have been delivered."""
_WARM_UP_S: Final = 1.0
_POLL_S: Final = 0.02


def measure_priority(
    service: Service, devices: int, rate: float, seconds: float, view: View
) -> dict[str, Any]:
    """`devices` get normal campaigns, one behind the other. Raises ChildFailed, ApiFailed."""
    with ExitStack() as stack:
        few = stack.enter_context(FleetProcess(_plan(service, _FEW, 1)))
        crowd = stack.enter_context(FleetProcess(_plan(service, devices, 2)))
        view.show("connecting", devices=devices + _FEW)
        crowd.set_tags(range(devices), [(_CROWD,)], [0] * devices)
        for fleet in (few, crowd):
            fleet.dial(range(fleet.plan.devices))
            fleet.wait("open", fleet.plan.devices, _TIMEOUT_S)
        crowd.wait("profiles_acked", devices, _TIMEOUT_S)
        stream = PushStream(service, few.device_ids(), priority="high")
        uvloop.run(stream.run(rate, _WARM_UP_S))
        view.show("without campaigns")
        idle = _latency(few, stream, rate, seconds)
        campaigns = _Campaigns(service, crowd)
        thread = threading.Thread(target=campaigns.run)
        thread.start()
        try:
            view.show("beside campaigns")
            beside = _latency(few, stream, rate, seconds)
        finally:
            campaigns.stop.set()
            thread.join()
        few.wait("shown", len(stream.accepted), _TIMEOUT_S)
        crowd.wait("shown", campaigns.pushed * devices, _TIMEOUT_S)
    idle_p99, beside_p99 = idle.percentile(0.99), beside.percentile(0.99)
    return {
        "devices": devices,
        "high_per_s": rate,
        "campaigns": campaigns.pushed,
        "campaign_messages_per_s": round(campaigns.messages / seconds),
        "idle_p50_ms": milliseconds(idle.percentile(0.5)),
        "idle_p99_ms": milliseconds(idle_p99),
        "beside_p50_ms": milliseconds(beside.percentile(0.5)),
        "beside_p99_ms": milliseconds(beside_p99),
        "p99_ratio": round(beside_p99 / idle_p99, 2) if idle_p99 and beside_p99 else None,
        "high": idle.count + beside.count,
        "refused": sum(stream.refused.values()) + stream.late,
    }


class _Campaigns:
    """One behind the other in a thread of its own, as fast as the devices get them."""

    def __init__(self, service: Service, crowd: FleetProcess) -> None:
        self._service = service
        self._crowd = crowd
        self.stop = threading.Event()
        self.pushed = 0
        self.messages = 0

    def run(self) -> None:
        devices = self._crowd.plan.devices
        with ApiClient(self._service) as api:
            while not self.stop.is_set():
                self.messages = self._crowd.counters()["shown"]
                if (self.pushed - _AT_A_TIME) * devices < self.messages:
                    api.push(_CROWD)
                    self.pushed += 1
                else:
                    time.sleep(_POLL_S)


def _latency(few: FleetProcess, stream: PushStream, rate: float, seconds: float) -> Histogram:
    few.wait("shown", len(stream.accepted), _TIMEOUT_S)
    few.forget_latency()
    uvloop.run(stream.run(rate, seconds))
    few.wait("shown", len(stream.accepted), _TIMEOUT_S)
    return few.latency()


def _plan(service: Service, devices: int, number: int) -> Plan:
    return Plan(
        address=service.devices,
        devices=devices,
        app=service.app,
        access_key=service.access_key,
        seed=f"priority {time.time_ns()} {number}",
        heartbeat_s=600,
        source=loopback_source(service.devices, 3, number),
        think_s=None,
    )
