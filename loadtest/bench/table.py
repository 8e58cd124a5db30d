"""Results as people read them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.table import Table

from loadtest.bench.compare import Compared
from loadtest.bench.figures import FIGURES
from loadtest.bench.machine import Machine
from loadtest.bench.record import Record

_KINDS: Final = (
    (True, "To the floor or the hop of the same run, and sizes"),
    (False, "Of this machine"),
)
_COLOURS: Final = {"better": "green", "worse": "red", "same": "", "unknown": "dim"}


def figures_tables(record: Record) -> Iterator[Table]:
    for portable, title in _KINDS:
        table = Table(title=title, title_justify="left")
        table.add_column("what")
        table.add_column("measured", justify="right")
        for figure in FIGURES:
            if figure.portable is portable:
                table.add_row(figure.title, number(record.figures.get(figure.name), figure.unit))
        yield table


def compared_tables(rows: Sequence[Compared]) -> Iterator[Table]:
    for portable, title in _KINDS:
        table = Table(title=title, title_justify="left")
        table.add_column("what")
        for name in ("old", "new", "change", "noise within"):
            table.add_column(name, justify="right")
        table.add_column("verdict")
        for row in rows:
            if row.figure.portable is portable:
                table.add_row(*_cells(row), style=_COLOURS[row.verdict])
        yield table


def machine_line(machine: Machine) -> str:
    revision = f", revision {machine.revision}" if machine.revision else ""
    uvloop = f", uvloop {machine.uvloop}" if machine.uvloop else ""
    return (
        f"{machine.date}: {machine.cores} cores ({machine.model or 'unknown'}), "
        f"{machine.memory_gib:g} GiB, Linux {machine.kernel}, Python {machine.python}{uvloop}"
        f"{revision}; load {machine.load:g} before"
    )


def summary(rows: Iterable[Compared]) -> str:
    verdicts = [row.verdict for row in rows]
    return ", ".join(f"{verdicts.count(each)} {each}" for each in _COLOURS)


def number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f} {unit}"


def _cells(row: Compared) -> list[str]:
    unit = row.figure.unit
    change = "–" if row.change is None else f"{row.change:+.0%}"
    old, new = number(row.old, unit), number(row.new, unit)
    return [row.figure.title, old, new, change, f"{row.tolerance:.0%}", row.verdict]
