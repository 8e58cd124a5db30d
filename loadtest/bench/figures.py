"""The figures of a result: what each is made of, which way is better, and how much of it is noise. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

Measured = Mapping[str, Mapping[str, Any]]
"""Measurement -> what it told; one that failed is not in it."""


class Figure(NamedTuple):
    name: str
    title: str
    unit: str
    more_is_better: bool
    portable: bool
    """A ratio to what the same run measured of the machine, or a size: means something on another one."""
    of: Callable[[Measured], float | None]
    noise: float = 1.0
    """Times the tolerance: percentiles near the end, and what waits at random, scatter more."""


def _told(measurement: str, field: str, times: float = 1.0) -> Callable[[Measured], float | None]:
    def of(measured: Measured) -> float | None:
        value = measured.get(measurement, {}).get(field)
        return None if value is None else value * times

    return of


def _ratio(
    a: Callable[[Measured], float | None], b: Callable[[Measured], float | None]
) -> Callable[[Measured], float | None]:
    def of(measured: Measured) -> float | None:
        above, below = a(measured), b(measured)
        return None if above is None or not below else above / below

    return of


def _us_each(measurement: str, rate: str) -> Callable[[Measured], float | None]:
    def of(measured: Measured) -> float | None:
        per_s = _told(measurement, rate)(measured)
        return 1e6 / per_s if per_s else None

    return of


_FLOOR: Final = _told("fanout", "floor_us_per_message")

FIGURES: Final = (
    Figure("fanout_to_floor", "fan-out, CPU of a message to the floor", "x", False, True,
           _told("fanout", "cpu_ratio_to_floor")),
    Figure("receipt_to_floor", "CPU of a receipt at the edge to the floor", "x", False, True,
           _ratio(_told("fanout", "cpu_us_per_receipt"), _FLOOR)),
    Figure("bytes_per_connection", "edge memory of an idle connection", "B", False, True,
           _told("fanout", "user_bytes_per_connection")),
    Figure("edge_own_mib", "edge memory of its own, private", "MiB", False, True,
           _told("fanout", "edge_private_empty", 1 / 2**20)),
    Figure("single_p50_to_hop", "single push at 1,000/s, median to the hop", "x", False, True,
           _ratio(_told("single", "p50_ms_at_1000"), _told("single", "hop_p50_ms")), 3.0),
    Figure("single_p99_to_hop", "the same, p99 to the hop's p99", "x", False, True,
           _ratio(_told("single", "p99_ms_at_1000"), _told("single", "hop_p99_ms")), 5.0),
    Figure("priority_p99_ratio", "high push beside campaigns, p99 to without", "x", False, True,
           _told("priority", "p99_ratio"), 5.0),
    Figure("registration_to_floor", "time of a registration to the floor", "x", False, True,
           _ratio(_us_each("connect", "per_s"), _FLOOR), 2.0),
    Figure("push_to_floor", "time of a single push, all counted, to the floor", "x", False, True,
           _ratio(_us_each("single", "pushes_per_s"), _FLOOR), 2.0),
    Figure("broadcast_to_floor", "time of a message of a broadcast to the floor", "x", False, True,
           _ratio(_us_each("broadcast", "messages_per_s"), _FLOOR), 3.0),
    Figure("floor_us", "the floor: one write(2) to a connection, CPU", "us", False, False, _FLOOR),
    Figure("fanout_us", "fan-out, CPU of a message at the edge", "us", False, False,
           _told("fanout", "cpu_us_per_message")),
    Figure("receipt_us", "CPU of a receipt at the edge", "us", False, False,
           _told("fanout", "cpu_us_per_receipt")),
    Figure("idle_cpu_percent", "CPU of an edge that rests, of a core", "%", False, False,
           _told("fanout", "idle_cpu_share", 100), 5.0),
    Figure("connect_per_s", "devices registered", "/s", True, False,
           _told("connect", "per_s"), 2.0),
    Figure("token_per_s", "devices back with a token", "/s", True, False,
           _told("connect", "token_per_s"), 2.0),
    Figure("hop_p50_ms", "the bare hop at 1,000/s, median", "ms", False, False,
           _told("single", "hop_p50_ms"), 2.0),
    Figure("hop_p99_ms", "the bare hop at 1,000/s, p99", "ms", False, False,
           _told("single", "hop_p99_ms"), 5.0),
    Figure("single_p50_ms", "single push at 1,000/s, median", "ms", False, False,
           _told("single", "p50_ms_at_1000"), 3.0),
    Figure("single_p99_ms", "single push at 1,000/s, p99", "ms", False, False,
           _told("single", "p99_ms_at_1000"), 5.0),
    Figure("pushes_per_s", "single pushes, receipts counted", "/s", True, False,
           _told("single", "pushes_per_s"), 2.0),
    Figure("broadcast_per_s", "messages of a broadcast", "/s", True, False,
           _told("broadcast", "messages_per_s"), 3.0),
    Figure("broadcast_counted_s", "a broadcast, until every receipt is counted", "s", False, False,
           _told("broadcast", "counted_s"), 3.0),
    Figure("priority_idle_p99_ms", "high push without campaigns, p99", "ms", False, False,
           _told("priority", "idle_p99_ms"), 5.0),
    Figure("priority_beside_p99_ms", "high push beside campaigns, p99", "ms", False, False,
           _told("priority", "beside_p99_ms"), 5.0),
    Figure("storm_back_s", "half of the edges killed: everybody is back", "s", False, False,
           _told("storm", "back_s"), 3.0),
)  # fmt: skip


def figures_of(measured: Measured) -> dict[str, float | None]:
    """Every name of FIGURES; None where that was not measured."""
    found = {figure.name: figure.of(measured) for figure in FIGURES}
    return {name: None if value is None else round(value, 3) for name, value in found.items()}


_MUST_BE_ZERO: Final = {
    "connect": ("lost", "identity_changes"),
    "fanout": ("lost_connections",),
    "single": ("lost", "duplicates", "strays"),
    "broadcast": ("lost",),
    "storm": ("lost", "identity_changes"),
}


def wrong_in(measured: Measured) -> list[str]:
    """What no speed makes good: one line each."""
    return [
        f"{measurement}: {field} is {value}"
        for measurement, fields in _MUST_BE_ZERO.items()
        for field in fields
        if (value := measured.get(measurement, {}).get(field))
    ]
