"""The partitions in `columba status`: a row for each, and their sums."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

MOST: Final = 16
"""Rows that are shown unless all are asked for: the partitions of a deployment with its defaults."""
_SUMMED: Final = ("devices", "online", "pushes", "bytes", "log_length")
_COLUMNS: Final = {
    "partition": "partition",
    "node": "node",
    "devices": "devices",
    "online": "online",
    "tags": "tags",
    "pushes": "pushes",
    "bytes": "memory",
    "log_length": "log length",
    "snapshot_age_seconds": "snapshot age",
}
"""Key of a row -> heading. The keys behind `node` are metrics, columba_partition_…"""
_STAT: Final = re.compile(r"columba_partition_(\w+)\{partition=(\d+)\}")
_NAMED: Final = 8
"""Partitions without an owner that are named."""

Row = dict[str, int | float]


def rows(status: Mapping[str, Any]) -> list[Row]:
    """One for each partition whose owner answered, by number, from the answer to /v1/status."""
    found: dict[int, Row] = {}
    for node in (status.get("processes") or {}).get("node", ()):
        for stat, value in (node.get("stats") or {}).items():
            match = _STAT.fullmatch(stat)
            if match is not None and match[1] in _COLUMNS:
                p = int(match[2])
                row = found.setdefault(p, {"partition": p, "node": node.get("number", 0)})
                row[match[1]] = value if match[1].endswith("seconds") else int(value)
    return [found[p] for p in sorted(found)]


def total(of: Sequence[Row]) -> Row:
    """Sums, and the oldest snapshot. Not of tags: most of them are in every partition."""
    summed: Row = {name: sum(row.get(name, 0) for row in of) for name in _SUMMED}
    oldest = max((row.get("snapshot_age_seconds", 0) for row in of), default=0)
    return {"partitions": len(of), **summed, "snapshot_age_seconds": oldest}


def lines(status: Mapping[str, Any], most: int | None = MOST) -> Iterator[str]:
    """The table; of more than `most` partitions the largest ones. Nothing if there is no partition."""
    of = rows(status)
    if not of:
        return
    shown = of
    if most is not None and len(of) > most:
        shown = sorted(of, key=lambda row: row.get("bytes", 0), reverse=True)[:most]
    table = [list(_COLUMNS.values()), *map(_cells, shown), ["all", *_cells(total(of))[1:]]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    told = ["  ".join(map(str.rjust, cells, widths)) for cells in table]
    yield from told[:-1]
    if len(of) > len(shown):
        yield f"… and {len(of) - len(shown):,} smaller ones: --partitions shows all"
    yield told[-1]
    away = sorted(
        set(range(int(status.get("partitions") or 0))) - {int(r["partition"]) for r in of}
    )
    if away:
        named = ", ".join(map(str, away[:_NAMED])) + (", …" if len(away) > _NAMED else "")
        yield f"{len(away):,} without an owner that answers: {named}"


def _cells(row: Row) -> list[str]:
    return [_cell(name, row.get(name)) for name in _COLUMNS]


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name in ("partition", "node"):
        return str(value)
    if name == "bytes":
        return _size(value)
    return _age(value) if name == "snapshot_age_seconds" else f"{value:,}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
