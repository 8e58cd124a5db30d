"""Half of the edges are killed at once, in the middle of a push to everybody."""

import os
import signal
import time
from typing import Any, Final

from loadtest.api_client import ApiClient, law_holds
from loadtest.many import many
from loadtest.service import Service
from loadtest.view import View

_HEARTBEAT_S: Final = 300
_IN_FLIGHT: Final = 20_000
"""A device does not wait for others before it dials: what it is told by the service spreads them."""
_COUNTED_S: Final = 60.0


def measure_storm(service: Service, devices: int, view: View) -> dict[str, Any]:
    """`back_s`: from the kill until every device has its WELCOME again. Raises ChildFailed, ApiFailed, and
    ValueError for a service whose edges are not known."""
    victims = service.edge_pids[::2]
    if len(service.edge_pids) < 2:
        raise ValueError("storm kills half of the edges: start it with two or more")
    with many(service, devices, _HEARTBEAT_S, view) as fleet, ApiClient(service) as api:
        result = {"devices": devices, "edges": len(service.edge_pids), **fleet.connect()}
        fleet.dial_freely(_IN_FLIGHT)
        before = fleet.counters()
        pushes = [api.push("all")]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        pushes.append(api.push("all"))
        fleet.until("the kill is noticed", lambda c: c["lost"] - before["lost"], 1)
        curve = fleet.curve("coming back", devices)
        back_s = time.monotonic() - began
        pushes.append(api.push("all"))
        fleet.until("messages", lambda c: c["shown"] - before["shown"], len(pushes) * devices)
        counts = [_counted(api, push, devices) for push in pushes]
        after = fleet.counters()
    return result | {
        "killed": len(victims),
        "hurt": after["lost"] - before["lost"],
        "back_s": round(back_s, 2),
        "back_per_s": round((after["lost"] - before["lost"]) / back_s),
        "curve_per_s": curve,
        "goaways": {k: n for k, n in (after - before).items() if k.startswith("goaway_")},
        "given_up": after["given_up"] - before["given_up"],
        "failed_dials": after["dial_failures"] - before["dial_failures"],
        "targeted": sum(each["targeted"] for each in counts),
        "received": sum(each["received"] for each in counts),
        "lost": len(pushes) * devices - (after["shown"] - before["shown"]),
        "law_holds": all(map(law_holds, counts)),
        "redelivered": after["redelivered"],
        "identity_changes": after["identity_changes"],
    }


def passed(result: dict[str, Any]) -> bool:
    return (
        result["targeted"] == result["received"] == 3 * result["devices"]
        and not result["lost"]
        and not result["identity_changes"]
        and result["law_holds"]
    )


def _counted(api: ApiClient, push: int, devices: int) -> dict[str, int]:
    """Once every receipt is counted, or after a while."""
    deadline = time.monotonic() + _COUNTED_S
    while (counts := api.counts(push))["received"] < devices and time.monotonic() < deadline:
        time.sleep(0.25)
    return counts
