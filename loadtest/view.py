"""What a command shows: while it runs on stderr, at its end on stdout.

On a terminal that is a live table and a closing one; elsewhere one line a second. With `as_json`
the last line of stdout is one object.
"""

import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

_LINE_EVERY_S: Final = 1.0
_PIPE_COLUMNS: Final = 120


class View:
    def __init__(self, title: str, *, as_json: bool) -> None:
        self._title = title
        self.as_json = as_json
        self._fields: dict[str, Any] = {}
        self._live: Live | None = None
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_live()

    def begin(self, title: str) -> None:
        """What is shown from here on belongs to something new; what stood before goes."""
        self._title = title
        self._fields = {}

    def show(self, stage: str, **fields: Any) -> None:
        """What is being done now, and numbers; those of earlier calls stand until they change."""
        new_stage = self._fields.get("stage") != stage
        self._fields |= {"stage": stage, **fields}
        if self._live is not None:
            self._live.update(_table(self._title, self._fields))
            return
        now = time.monotonic()
        if new_stage or now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            numbers = " ".join(f"{name}={value}" for name, value in fields.items())
            print(f"{self._title}: {stage} {numbers}".rstrip(), file=sys.stderr, flush=True)

    def draw(self, stage: str, line: str, drawn: "Callable[[], RenderableType]") -> None:
        """`drawn` on a terminal; elsewhere `line`, at each new stage and once a second."""
        new_stage = self._fields.get("stage") != stage
        self._fields["stage"] = stage
        if self._live is not None:
            self._live.update(drawn())
            return
        now = time.monotonic()
        if new_stage or now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            print(f"{self._title}: {stage} {line}".rstrip(), file=sys.stderr, flush=True)

    def finish(self, result: dict[str, Any]) -> None:
        """The result, on stdout."""
        if self.as_json:
            self._end_live()
            print(json.dumps(result), flush=True)
            return
        plain = {name: value for name, value in result.items() if not isinstance(value, list)}
        self.finish_with(_table(self._title, plain))

    def finish_with(self, *drawn: "RenderableType") -> None:
        """The result as tables and lines of its own, on stdout."""
        from rich.console import Console

        self._end_live()
        # In a file or a pipe, as wide as the widest table.
        console = Console() if sys.stdout.isatty() else Console(width=_PIPE_COLUMNS)
        for each in drawn:
            # A line is for whoever reads or greps it, however wide the terminal.
            console.print(each, markup=False, highlight=False, soft_wrap=isinstance(each, str))

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _table(title: str, fields: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(title=title, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in fields.items():
        table.add_row(name.replace("_", " "), _text(value))
    return table


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if type(value) is int else str(value)
