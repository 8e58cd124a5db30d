"""Figures into ratios and a table. Pure."""

from typing import Any, Final

Told = dict[str, Any]
"""Name of a server -> what `measure` told of it."""

HEAD: Final = (
    "", "memory a subscriber", "subscriptions a second", "CPU of one",
    "CPU a message", "to the floor", "last of all has it",
    "CPU, 5 at once", "to the floor", "last has all 5",
)  # fmt: skip
_TO_COLUMBA: Final = {
    "bytes_per_subscriber": ("bytes_per_subscriber",),
    "connects_per_s": ("connects_per_s",),
    "connects_per_s_few": ("connects_per_s_few",),
    "connect_cpu_us": ("connect_cpu_us",),
    "one_cpu": ("one", "cpu_us"),
    "one_wall": ("one", "wall_ms"),
    "burst_cpu": ("burst", "cpu_us"),
    "burst_wall": ("burst", "wall_ms"),
}


def to_columba(told: Told) -> dict[str, dict[str, float]]:
    """Server -> figure -> how many times Columba's it is; empty if Columba was not measured.

    More is worse, but for `connects_per_s` and `connects_per_s_few`.
    """
    columba = told.get("columba")
    if columba is None:
        return {}
    return {
        name: {
            figure: round(_at(figures, path) / _at(columba, path), 3)
            for figure, path in _TO_COLUMBA.items()
            # A run of few connections may not grow a process by a page.
            if _at(columba, path)
        }
        for name, figures in told.items()
        if name != "columba"
    }


def _at(figures: dict[str, Any], path: tuple[str, ...]) -> float:
    for name in path:
        figures = figures[name]
    assert isinstance(figures, int | float)
    return float(figures)


def markdown(told: Told, titles: dict[str, str], floor_connects_per_s: float) -> str:
    """One row a server, as README.md has it; below Columba one of its edge alone, last the floor."""
    rows = [HEAD, tuple("---" if at == 0 else "---:" for at in range(len(HEAD)))]
    for name, figures in told.items():
        rows.append(_row(f"{titles[name]} {figures['version']}", figures))
        if name == "columba":
            rows.append(_edge_row(figures))
    if told:
        rows.append(_floor_row(told, floor_connects_per_s))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(title: str, figures: dict[str, Any]) -> tuple[str, ...]:
    one, burst = figures["one"], figures["burst"]
    return (
        title,
        f"{figures['bytes_per_subscriber']:,.0f} B",
        f"{figures['connects_per_s']:,.0f}",
        f"{figures['connect_cpu_us']:.0f} us",
        f"{one['cpu_us']:.1f} us",
        f"{one['cpu_to_floor']:.2f}",
        f"{one['wall_ms']:.0f} ms",
        f"{burst['cpu_us']:.1f} us",
        f"{burst['cpu_to_floor']:.2f}",
        f"{burst['wall_ms']:.0f} ms",
    )


def _edge_row(columba: dict[str, Any]) -> tuple[str, ...]:
    """The processes that hold the connections, without store, dispatch node and API."""
    one, burst = columba["one"], columba["burst"]
    return (
        "of it the edge",
        f"{columba['front_bytes_per_subscriber']:,.0f} B",
        "",
        "",
        f"{one['front_cpu_us']:.1f} us",
        f"{one['front_cpu_to_floor']:.2f}",
        "",
        f"{burst['front_cpu_us']:.1f} us",
        f"{burst['front_cpu_to_floor']:.2f}",
        "",
    )


def _floor_row(told: Told, connects_per_s: float) -> tuple[str, ...]:
    """The range of the floors that stood beside the servers: what the machine did meanwhile."""

    def span(part: str, figure: str, form: str) -> str:
        found = sorted(figures[part][figure] for figures in told.values())
        low, high = format(found[0], form), format(found[-1], form)
        return low if low == high else f"{low} to {high}"

    return (
        "the floor: bare write(2)",
        "",
        f"{connects_per_s:,.0f}",
        "",
        f"{span('one', 'floor_cpu_us', '.1f')} us",
        "1",
        f"{span('one', 'floor_wall_ms', '.0f')} ms",
        f"{span('burst', 'floor_cpu_us', '.1f')} us",
        "1",
        f"{span('burst', 'floor_wall_ms', '.0f')} ms",
    )
