"""What a service wrote to standard error: one JSON object a line, unless something went wrong."""

import json
from pathlib import Path
from typing import Any


class LogLines:
    """The lines of one run. `expected` are parts of events that tests caused on purpose."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checked = 0
        self.expected: set[str] = set()

    def expect(self, *parts_of_events: str) -> None:
        """Lines at level error whose event contains one of these are no complaint."""
        self.expected.update(parts_of_events)

    def events(self, part: str, **fields: object) -> list[dict[str, Any]]:
        """All lines so far whose event contains `part` and that have these fields."""
        return [
            line
            for line in map(_parsed, self._lines(0))
            if part in str(line.get("event", ""))
            and all(line.get(name) == value for name, value in fields.items())
        ]

    def plain(self) -> list[str]:
        """Lines that are not the log's own."""
        return [line for line in self._lines(0) if not _parsed(line)]

    def new_complaints(self) -> list[str]:
        """Tracebacks and errors nobody expected, since this was last asked."""
        lines = self._lines(self._checked)
        self._checked += len(lines)
        return [line for line in lines if self._complains(_parsed(line))]

    def _lines(self, first: int) -> list[str]:
        text = self._path.read_text(errors="replace")
        # A line still being written belongs to the next look.
        whole = text[: text.rfind("\n") + 1]
        return whole.splitlines()[first:]

    def _complains(self, line: dict[str, Any]) -> bool:
        if not line:
            return True
        if "exception" in line or line.get("level") not in ("error", "debug", "info", "warning"):
            return True
        event = str(line.get("event"))
        return line["level"] == "error" and not any(part in event for part in self.expected)


def _parsed(line: str) -> dict[str, Any]:
    """Empty for a line that is no JSON object."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
