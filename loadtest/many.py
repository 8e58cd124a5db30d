"""Fleets in many processes as one: devices by the hundred thousand, told apart by nothing."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from loadtest.api_client import ApiClient, law_holds
from loadtest.control import ChildFailed, side_by_side
from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from loadtest.links import loopback_source
from loadtest.service import Service
from loadtest.view import View

_PER_PROCESS: Final = 12_000
"""From one source address connect(2) searches ever longer for a free port: from some 14,000 connections on a
fleet dialled at a tenth of its pace."""
_NETWORK: Final = 8
"""Of loopback: other commands dial from others."""
_IN_FLIGHT: Final = 10_000
"""Of all fleets together: devices that do not know of each other, and enough for the edges to gather them."""
_CROWDED: Final = 16
"""Fleets for each processor; more of them stand back behind the service."""
_STEP_S: Final = 0.5
"""Between two looks at all the fleets of a million devices; with fewer, as much sooner."""
_STEP_MIN_S: Final = 0.02
_STUCK_S: Final = 60.0
"""Without any progress for so long, something is wrong."""
TENTH: Final = "part:tenth"


@contextmanager
def many(
    service: Service, devices: int, heartbeat_s: int, view: View, in_flight: int = _IN_FLIGHT
) -> Iterator["Many"]:
    """So many devices that no run before has had, not connected yet. Raises ChildFailed."""
    with ExitStack() as stack:
        plans = _plans(service, devices, heartbeat_s, in_flight, view)
        fleets = side_by_side((FleetProcess(plan, wait=False) for plan in plans), stack)
        if len(fleets) > _CROWDED * (os.cpu_count() or 1):
            # Devices have processors of their own. The service shares these with a hundred processes, most
            # of them fleets, and its few central ones would get a hundredth each.
            for fleet in fleets:
                fleet.stand_back()
        try:
            yield Many(fleets, devices, view)
        finally:
            for fleet in fleets:
                fleet.hang_up()


class Many:
    """All fleets as one."""

    def __init__(self, fleets: Sequence[FleetProcess], devices: int, view: View) -> None:
        self._fleets = fleets
        self._devices = devices
        self._step_s = max(_STEP_MIN_S, _STEP_S * min(1.0, devices / 1e6))
        self._view = view

    def counters(self) -> Counter[str]:
        """Summed up; times mean nothing in it. GOAWAYs by code as `goaway_4001` and so on."""
        total: Counter[str] = Counter()
        for counters in self._of_each():
            total.update({k: v for k, v in counters.items() if isinstance(v, int)})
            total.update({f"goaway_{code}": n for code, n in counters["goaways"].items()})
        return total

    def _of_each(self) -> list[dict[str, Any]]:
        """Asked all at once: on a busy machine each takes a while to answer."""
        asked = [fleet.send("counters") for fleet in self._fleets]
        return [fleet.collect(ask) for fleet, ask in zip(self._fleets, asked, strict=True)]

    def connect(self) -> dict[str, Any]:
        for fleet in self._fleets:
            fleet.dial(range(fleet.plan.devices))
        self.until("connecting", lambda counters: counters["open"], self._devices)
        ends = self._of_each()
        # CLOCK_MONOTONIC is the same in all processes of a machine.
        seconds = max(e["last_welcome_at"] for e in ends) - min(e["first_dial_at"] for e in ends)
        return {
            "connected": sum(each["open"] for each in ends),
            "registered": sum(each["registered"] for each in ends),
            "connect_s": round(seconds, 2),
            "connect_per_s": round(self._devices / seconds),
            "lost_while_connecting": sum(each["lost"] for each in ends),
        }

    def dial_freely(self, in_flight: int) -> None:
        """From now on so many may be on their way at a time."""
        for fleet in self._fleets:
            fleet.set_in_flight(max(1, in_flight // len(self._fleets)))

    def curve(self, stage: str, wanted: int) -> list[int]:
        """Welcomes in each second until all are open; as `until`."""
        welcomed: list[int] = []
        last, second = self.counters()["welcomed"], time.monotonic()

        def note(counters: Counter[str]) -> int:
            nonlocal last, second
            if time.monotonic() - second >= 1.0 or counters["open"] >= wanted:
                welcomed.append(counters["welcomed"] - last)
                last, second = counters["welcomed"], time.monotonic()
            return counters["open"]

        self.until(stage, note, wanted)
        return welcomed

    def push(self, api: ApiClient, audience: str, expected: int) -> dict[str, Any]:
        """Until every receipt is counted by the service. `last_s`: from the request to the last device, exactly,
        where `delivered_s` is told to the look at the counters.
        """
        for fleet in self._fleets:
            fleet.forget_latency()
        shown = self.counters()["shown"]
        began = time.monotonic()
        push = api.push(audience)
        self.until(f"push to {audience}", lambda c: c["shown"] - shown, expected)
        delivered_s = time.monotonic() - began
        deadline = time.monotonic() + _STUCK_S
        while (counts := api.counts(push))["received"] < expected:
            self._view.show("receipts", received=counts["received"])
            if time.monotonic() >= deadline:
                break
            time.sleep(self._step_s)
        return {
            "s": round(time.monotonic() - began, 2),
            "delivered_s": round(delivered_s, 2),
            "last_s": round(self._slowest_ns() / 1e9, 3),
            "targeted": counts["targeted"],
            "received": counts["received"],
            "lost": expected - counts["received"],
            "law_holds": law_holds(counts),
        }

    def _slowest_ns(self) -> int:
        """Of all messages since the latencies were forgotten, to devices that were connected all that time."""
        return max(fleet.latency().percentile(1.0) or 0 for fleet in self._fleets)

    def tag_a_tenth(self) -> dict[str, Any]:
        """By the devices themselves."""
        began = time.monotonic()
        tagged = 0
        for fleet in self._fleets:
            rows = range(fleet.plan.devices // 10)
            tagged += fleet.set_tags(rows, [(TENTH,)], [0] * len(rows))
        self.until("tags", lambda counters: tagged - counters["profiles_unacked"], tagged)
        return {"tagged": tagged, "tag_s": round(time.monotonic() - began, 2)}

    def until(self, stage: str, done: Callable[[Counter[str]], int], wanted: int) -> None:
        """Raises ChildFailed when nothing has moved for a minute."""
        best, moved_at, began = -1, time.monotonic(), time.monotonic()
        while True:
            counters = self.counters()
            now, count = time.monotonic(), done(counters)
            if count >= wanted:
                return
            if count > best:
                best, moved_at = count, now
            elif now - moved_at > _STUCK_S:
                raise ChildFailed(
                    f"{stage}: {count} of {wanted}, and nothing has moved for {_STUCK_S:g} s "
                    f"(lost {counters['lost']}, failed dials {counters['dial_failures']})"
                )
            rate = round(count / max(now - began, 1e-9))
            self._view.show(stage, done=count, of=wanted, per_s=rate, open=counters["open"])
            time.sleep(self._step_s)


def _plans(
    service: Service, devices: int, heartbeat_s: int, in_flight: int, view: View
) -> list[Plan]:
    processes = -(-devices // _PER_PROCESS)
    view.show("starting the fleets", processes=processes)
    sizes = [devices // processes + (n < devices % processes) for n in range(processes)]
    run = time.time_ns()
    return [
        Plan(
            address=service.devices,
            devices=size,
            app=service.app,
            access_key=service.access_key,
            # Other devices than those of any run before on the same service.
            seed=f"many {run} {number}",
            heartbeat_s=heartbeat_s,
            source=loopback_source(service.devices, _NETWORK, number + 1),
            in_flight=max(1, in_flight // processes),
        )
        for number, size in enumerate(sizes)
    ]
