"""As many devices as the machine holds, all real connections: connect, rest, a message to all, one to a tenth.

The devices are simulated here too, so half of the sockets and of the work are theirs.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

from loadtest.api_client import ApiClient, law_holds
from loadtest.control import ChildFailed
from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from loadtest.links import loopback_source
from loadtest.process_usage import cpu_ns, kernel_memory, memory
from loadtest.service import Service
from loadtest.view import View

PER_EDGE: Final = 16_500
"""Connections are spread by a hash of the addresses, so edges differ by some hundreds; a process here may
have 20,000 descriptors, of which an edge keeps some free."""
_PER_PROCESS: Final = 18_000
_NETWORK: Final = 8
"""Of loopback: other commands dial from others."""
_IN_FLIGHT: Final = 1_500
"""Of all fleets together."""
_STEP_S: Final = 0.5
_STUCK_S: Final = 60.0
"""Without any progress for so long, something is wrong."""
TENTH: Final = "part:tenth"


def measure_million(
    service: Service, devices: int, idle_s: float, heartbeat_s: int, view: View
) -> dict[str, Any]:
    """See the fields in `docs/performance.md`. Raises ChildFailed, ApiFailed."""
    edges, kernel = _edge_memory(service), kernel_memory()
    with ExitStack() as stack:
        fleets = [
            stack.enter_context(FleetProcess(plan))
            for plan in _plans(service, devices, heartbeat_s, view)
        ]
        api = stack.enter_context(ApiClient(service))
        many = _Many(fleets, devices, view)
        result: dict[str, Any] = {"devices": devices, "edges": len(service.edge_pids)}
        result |= many.connect()
        result["user_bytes_per_connection"] = round((_edge_memory(service) - edges) / devices)
        # Both ends are on this machine, so each connection has two sockets.
        result["kernel_bytes_per_connection"] = round((kernel_memory() - kernel) / devices / 2)
        result |= many.rest(service, idle_s)
        result |= {"broadcast_" + name: n for name, n in many.push(api, "all", devices).items()}
        result |= many.tag_a_tenth()
        tenth = many.push(api, TENTH, result["tagged"])
        result |= {"tenth_" + name: n for name, n in tenth.items()}
        counters = many.counters()
    result["targeted"] = result["broadcast_targeted"]
    result["received"] = result["broadcast_received"]
    result["lost"] = sum(result[f"{name}_lost"] for name in ("broadcast", "tenth"))
    result["redelivered"] = counters["redelivered"]
    result["protocol_errors"] = counters["protocol_errors"]
    result["identity_changes"] = counters["identity_changes"]
    return result


def passed(result: dict[str, Any]) -> bool:
    """Everybody was there, stayed, and got what was for it."""
    return (
        result["connected"] == result["registered"] == result["devices"]
        and result["targeted"] == result["received"] == result["devices"]
        and result["tenth_targeted"] == result["tenth_received"] == result["tagged"]
        and not result["lost"]
        and not result["lost_while_idle"]
        and not result["protocol_errors"]
        and not result["identity_changes"]
    )


class _Many:
    """All fleets as one."""

    def __init__(self, fleets: Sequence[FleetProcess], devices: int, view: View) -> None:
        self._fleets = fleets
        self._devices = devices
        self._view = view

    def counters(self) -> Counter[str]:
        """Summed up; times mean nothing in it."""
        total: Counter[str] = Counter()
        for fleet in self._fleets:
            total.update({k: v for k, v in fleet.counters().items() if isinstance(v, int)})
        return total

    def connect(self) -> dict[str, Any]:
        for fleet in self._fleets:
            fleet.dial(range(fleet.plan.devices))
        self._until("connecting", lambda counters: counters["open"], self._devices)
        ends = [fleet.counters() for fleet in self._fleets]
        # CLOCK_MONOTONIC is the same in all processes of a machine.
        seconds = max(e["last_welcome_at"] for e in ends) - min(e["first_dial_at"] for e in ends)
        return {
            "connected": sum(each["open"] for each in ends),
            "registered": sum(each["registered"] for each in ends),
            "connect_s": round(seconds, 2),
            "connect_per_s": round(self._devices / seconds),
            "lost_while_connecting": sum(each["lost"] for each in ends),
        }

    def rest(self, service: Service, idle_s: float) -> dict[str, Any]:
        """Nothing but heartbeats."""
        lost, pings = (self.counters()[name] for name in ("lost", "pings"))
        cpu = sum(map(cpu_ns, service.edge_pids))
        until = time.monotonic() + idle_s
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            self._view.show("idle", left_s=round(left))
        used_s = (sum(map(cpu_ns, service.edge_pids)) - cpu) / 1e9
        counters = self.counters()
        return {
            "idle_s": idle_s,
            "heartbeats": counters["pings"] - pings,
            "idle_edges_cpu_percent": round(100 * used_s / max(idle_s, 1e-9), 2),
            "lost_while_idle": counters["lost"] - lost,
        }

    def push(self, api: ApiClient, audience: str, expected: int) -> dict[str, Any]:
        """Until every receipt is counted by the service."""
        shown = self.counters()["shown"]
        began = time.monotonic()
        push = api.push(audience)
        self._until(f"push to {audience}", lambda c: c["shown"] - shown, expected)
        delivered_s = time.monotonic() - began
        deadline = time.monotonic() + _STUCK_S
        while (counts := api.counts(push))["received"] < expected:
            self._view.show("receipts", received=counts["received"])
            if time.monotonic() >= deadline:
                break
            time.sleep(_STEP_S)
        return {
            "s": round(time.monotonic() - began, 2),
            "delivered_s": round(delivered_s, 2),
            "targeted": counts["targeted"],
            "received": counts["received"],
            "lost": expected - counts["received"],
            "law_holds": law_holds(counts),
        }

    def tag_a_tenth(self) -> dict[str, Any]:
        """By the devices themselves."""
        began = time.monotonic()
        tagged = 0
        for fleet in self._fleets:
            rows = range(fleet.plan.devices // 10)
            tagged += fleet.set_tags(rows, [(TENTH,)], [0] * len(rows))
        self._until("tags", lambda counters: tagged - counters["profiles_unacked"], tagged)
        return {"tagged": tagged, "tag_s": round(time.monotonic() - began, 2)}

    def _until(self, stage: str, done: Callable[[Counter[str]], int], wanted: int) -> None:
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
            time.sleep(_STEP_S)


def _plans(service: Service, devices: int, heartbeat_s: int, view: View) -> list[Plan]:
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
            seed=f"million {run} {number}",
            heartbeat_s=heartbeat_s,
            source=loopback_source(service.devices, _NETWORK, number + 1),
            in_flight=max(1, _IN_FLIGHT // processes),
        )
        for number, size in enumerate(sizes)
    ]


def _edge_memory(service: Service) -> int:
    """Bytes that the edges have for themselves."""
    return sum(memory(pid).private for pid in service.edge_pids)
