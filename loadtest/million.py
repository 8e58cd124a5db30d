"""As many devices as the machine holds, all real connections: connect, rest, a message to all, one to a tenth.

The devices are simulated here too, so half of the sockets and of the work are theirs.
"""

import time
from typing import Any

from loadtest.api_client import ApiClient
from loadtest.many import TENTH, Many, many
from loadtest.process_usage import cpu_ns, kernel_memory, memory
from loadtest.service import Service
from loadtest.view import View


def measure_million(
    service: Service, devices: int, idle_s: float, heartbeat_s: int, view: View
) -> dict[str, Any]:
    """See the fields in `docs/performance.md`. Raises ChildFailed, ApiFailed."""
    edges, kernel = _edge_memory(service), kernel_memory()
    with many(service, devices, heartbeat_s, view) as all_of_them, ApiClient(service) as api:
        result: dict[str, Any] = {"devices": devices, "edges": len(service.edge_pids)}
        result |= all_of_them.connect()
        result["user_bytes_per_connection"] = round((_edge_memory(service) - edges) / devices)
        # Both ends are on this machine, so each connection has two sockets.
        result["kernel_bytes_per_connection"] = round((kernel_memory() - kernel) / devices / 2)
        result |= _rest(all_of_them, service, idle_s, view)
        result |= {
            "broadcast_" + name: n for name, n in all_of_them.push(api, "all", devices).items()
        }
        result |= all_of_them.tag_a_tenth()
        tenth = all_of_them.push(api, TENTH, result["tagged"])
        result |= {"tenth_" + name: n for name, n in tenth.items()}
        counters = all_of_them.counters()
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


def _rest(devices: Many, service: Service, idle_s: float, view: View) -> dict[str, Any]:
    """Nothing but heartbeats."""
    lost, pings = (devices.counters()[name] for name in ("lost", "pings"))
    cpu = sum(map(cpu_ns, service.edge_pids))
    until = time.monotonic() + idle_s
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        view.show("idle", left_s=round(left))
    used_s = (sum(map(cpu_ns, service.edge_pids)) - cpu) / 1e9
    counters = devices.counters()
    return {
        "idle_s": idle_s,
        "heartbeats": counters["pings"] - pings,
        "idle_edges_cpu_percent": round(100 * used_s / max(idle_s, 1e-9), 2),
        "lost_while_idle": counters["lost"] - lost,
    }


def _edge_memory(service: Service) -> int:
    """Bytes that the edges have for themselves."""
    return sum(memory(pid).private for pid in service.edge_pids)
