"""The live view of a run: what stands on a terminal once a second, and the line elsewhere."""

from collections import deque
from typing import TYPE_CHECKING, Final

from loadtest.engine.series import Value
from loadtest.view import View

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_BARS: Final = "▁▂▃▄▅▆▇█"
_WIDTH: Final = 40
"""Samples that a sparkline shows."""

_ROWS: Final[tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...]] = (
    (
        "devices",
        (
            ("connected", "connected", ""),
            ("connecting", "on their way", ""),
            ("registered", "registered", ""),
        ),
    ),
    ("sessions /s", (("welcomes_per_s", "in", ""), ("losses_per_s", "lost", ""))),
    ("out /s", (("messages_per_s", "messages", ""), ("pushes_per_s", "pushes", ""))),
    ("in /s", (("receipts_per_s", "receipts", ""), ("pings_per_s", "beats", ""))),
    (
        "push",
        (("push_p50_ms", "p50", "ms"), ("push_p90_ms", "p90", "ms"), ("push_p99_ms", "p99", "ms")),
    ),
    ("welcome", (("welcome_p50_ms", "p50", "ms"), ("welcome_p99_ms", "p99", "ms"))),
    ("api", (("api_p50_ms", "p50", "ms"), ("api_p99_ms", "p99", "ms"))),
    ("edges", (("cpu_edges", "cores", ""), ("rss_edges_mb", "", "MiB"))),
    ("fleet", (("cpu_fleet", "cores", ""), ("rss_fleet_mb", "", "MiB"))),
)
"""Row -> (column of the series, its word, its unit). The first has the sparkline."""


def sparkline(values: "list[Value]") -> str:
    """One character a value, from nothing to the greatest; a blank where nothing was measured."""
    top = max((value for value in values if value is not None), default=0.0)
    if top <= 0:
        return "".join(" " if value is None else _BARS[0] for value in values)
    steps = len(_BARS) - 1
    return "".join(" " if v is None else _BARS[round(max(0.0, v) / top * steps)] for v in values)


def spoken(value: Value) -> str:
    """Short enough for a cell, with as many digits as mean something."""
    if value is None:
        return "–"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


class Dashboard:
    """Shows a run in a View. The bound: the last `_WIDTH` samples of each row's first column."""

    def __init__(self, view: View, name: str) -> None:
        self._view = view
        self._name = name
        self._past: dict[str, deque[Value]] = {}
        self._row: dict[str, Value] = {}

    def watch(self, phase: str, part: float, row: dict[str, Value]) -> None:
        """`part`: of the phase, that is over (0..1). An empty row: the last one stands."""
        if row:
            self._row = row
            for _, cells in _ROWS:
                past = self._past.setdefault(cells[0][0], deque(maxlen=_WIDTH))
                past.append(row.get(cells[0][0]))
        self._view.draw(phase, self._line(part), lambda: self._drawn(phase, part))

    def _line(self, part: float) -> str:
        words = [f"{part:.0%}"]
        for name in ("connected", "messages_per_s", "receipts_per_s", "push_p99_ms", "cpu_edges"):
            if self._row.get(name) is not None:
                words.append(f"{name}={spoken(self._row[name])}")
        return " ".join(words)

    def _drawn(self, phase: str, part: float) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        head = Table.grid(padding=(0, 2))
        head.add_row(
            f"[bold]{self._name}[/] {phase}",
            ProgressBar(total=1.0, completed=min(1.0, part), width=_WIDTH),
            f"{part:.0%}",
        )
        return Group(head, self._cells())

    def _cells(self) -> "Table":
        from rich.table import Table

        table = Table(show_header=False, box=None, padding=(0, 2))
        for title, cells in _ROWS:
            if all(self._row.get(name) is None for name, _, _ in cells):
                continue
            said = "   ".join(
                " ".join(part for part in (word, spoken(self._row.get(name)), unit) if part)
                for name, word, unit in cells
            )
            table.add_row(
                f"[bold]{title}[/]", said, f"[dim]{sparkline([*self._past[cells[0][0]]])}[/]"
            )
        return table
