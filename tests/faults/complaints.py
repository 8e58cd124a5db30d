"""What the processes wrote that they should not have: tracebacks, errors, lines that are no log lines.

Pure but for reading the file. What faults bring about is listed in EXPECTED with its reason; everything
else is a complaint.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple


class Expected(NamedTuple):
    """A line that a fault explains. Empty texts fit everything."""

    event: str
    exception: str
    reason: str

    def fits(self, event: str, exception: str) -> bool:
        # A traceback has to be named by what it says: an event alone would excuse any defect.
        if bool(exception) != bool(self.exception):
            return False
        return self.event in event and self.exception in exception


EXPECTED: Final[Sequence[Expected]] = (
    Expected(
        "no room, messages are not taken",
        "",
        "SDK: its disk was made too small on purpose",
    ),
    Expected(
        "the state file cannot be written",
        "",
        "SDK: its disk was made too small on purpose",
    ),
    Expected(
        "the journal cannot be written",
        "",
        "SDK: its disk was made too small on purpose",
    ),
)


def complaints(log: Path) -> Iterator[str]:
    """One for each kind of line, with how often it came."""
    if not log.exists():
        return
    counts: dict[str, int] = {}
    for line in log.read_text(errors="replace").splitlines():
        found = complaint(line)
        if found:
            counts[found] = counts.get(found, 0) + 1
    for found, count in counts.items():
        yield f"{count} x {found}" if count > 1 else found


def complaint(line: str) -> str:
    """What is wrong with a line of a log, empty if nothing is."""
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return line.strip()
    event, exception = str(said.get("event", "")), str(said.get("exception", ""))
    if not exception and said.get("level") in ("debug", "info", "warning"):
        return ""
    if any(expected.fits(event, exception) for expected in EXPECTED):
        return ""
    rest = {k: v for k, v in said.items() if k not in ("timestamp", "exception", "event")}
    return f"{event} {rest} {_last(exception)}".strip()


def _last(exception: str) -> str:
    """Its last line, without the frame that is drawn around the exceptions of a group."""
    lines = [line.strip(" |+-") for line in exception.splitlines()]
    return next((line for line in reversed(lines) if line), "")


def server_complaints(log: Path) -> Iterator[str]:
    """Of the store's server: what it says when it dies of a defect of its own."""
    if log.exists():
        for line in log.read_text(errors="replace").splitlines():
            if any(word in line for word in ("BUG REPORT", "ASSERTION FAILED", "Bad file format")):
                yield line.strip()
