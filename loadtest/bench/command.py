"""`bench`: from the command line to the tables, and what the process ends with."""

from pathlib import Path
from typing import Any, Final

from loadtest.bench import record as records
from loadtest.bench.compare import Compared, check_sizes, compared
from loadtest.bench.record import Record, Sizes
from loadtest.bench.run import run_bench, within_descriptors
from loadtest.bench.table import compared_tables, figures_tables, machine_line, summary
from loadtest.service import started
from loadtest.view import View

FAILED: Final = 1


def bench(
    view: View,
    output: Path | None,
    compare: Path | None,
    of: Path | None,
    tolerance: float,
    sizes: Sizes | None = None,
) -> int:
    """The exit code: 0, or 1 if a measurement failed or anything was lost.

    `compare`: an older result; `of`: one that is there already, in place of measuring. `tolerance`:
    share. Raises RecordError, OSError.
    """
    sizes = within_descriptors(sizes or Sizes())
    # All of it now, not in three minutes, when all has been measured and cannot be compared or written.
    old = None if compare is None else records.read(compare)
    if old is not None and of is None:
        check_sizes(old, sizes)
    if output is not None:
        output.touch()
    new = run_bench(sizes, started, view) if of is None else records.read(of)
    if output is not None:
        records.write(output, new)
    rows = None if old is None else compared(old, new, tolerance)
    if view.as_json:
        view.finish(new.to_dict() | _compared(old, rows))
    else:
        view.finish_with(*_told(old, new, rows))
    return FAILED if new.wrong else 0


def _compared(old: Record | None, rows: list[Compared] | None) -> dict[str, Any]:
    if old is None or rows is None:
        return {}
    return {"compared": {
        "machine": old.to_dict()["machine"],
        "figures": [row.to_dict() for row in rows],
    }}  # fmt: skip


def _told(old: Record | None, new: Record, rows: list[Compared] | None) -> list[Any]:
    lines: list[Any] = []
    if old is None or rows is None:
        lines += [*figures_tables(new), machine_line(new.machine)]
    else:
        lines += [*compared_tables(rows), summary(rows)]
        lines += [f"old: {machine_line(old.machine)}", f"new: {machine_line(new.machine)}"]
        if not old.machine.alike(new.machine):
            lines.append("Two machines: what stands under “Of this machine” compares these.")
    lines += [
        f"Load {each.machine.load:g} before, on {each.machine.cores} cores: other work may have gone on, "
        "and then times and rates say little; CPU and memory hold."
        for each in (old, new)
        if each is not None and each.machine.busy
    ]
    lines.append(f"Measured in {new.seconds:g} s.")
    return lines + [f"WRONG: {each}" for each in new.wrong]
