"""Which lines of a log are complaints."""

import json
from pathlib import Path

import pytest

from tests.faults import complaints as module
from tests.faults.complaints import EXPECTED, Expected, complaint, complaints

FINE: dict[str, object] = {"level": "warning", "event": "lease lost, starting again"}
ERROR: dict[str, object] = {"level": "error", "event": "housekeeping failed", "partition": 3}
TRACEBACK: dict[str, object] = {
    "level": "error",
    "event": "it failed",
    "exception": "Traceback …\nKeyError: 'x'",
}
GROUP = "  + Exception Group …\n  +-+--- 1 ---\n    | RuntimeError: closed\n    +-------"


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_what_is_no_error_is_fine(level: str) -> None:
    assert complaint(json.dumps({**FINE, "level": level})) == ""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (json.dumps(ERROR), "housekeeping failed"),
        (json.dumps(TRACEBACK), "KeyError: 'x'"),
        (json.dumps({**TRACEBACK, "level": "warning"}), "KeyError: 'x'"),
        (json.dumps({"event": "no level"}), "no level"),
        (json.dumps({**TRACEBACK, "exception": GROUP}), "} RuntimeError: closed"),
        ("Traceback (most recent call last):", "Traceback"),
        ("[1, 2]", "[1, 2]"),
        ("Fatal Python error: Segmentation fault", "Fatal"),
    ],
)
def test_what_is_one(line: str, says: str) -> None:
    assert says in complaint(line)


def test_an_expected_event_excuses_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXPECTED", (Expected("it failed", "", "a test"),))
    assert complaint(json.dumps({"level": "error", "event": "and so it failed"})) == ""
    assert complaint(json.dumps(TRACEBACK))
    monkeypatch.setattr(module, "EXPECTED", (Expected("it failed", "KeyError", "a test"),))
    assert complaint(json.dumps(TRACEBACK)) == ""
    assert complaint(json.dumps({"level": "error", "event": "it failed"}))


def test_every_expected_line_has_a_reason_and_names_an_event() -> None:
    for expected in EXPECTED:
        assert expected.event and len(expected.reason) > 10


def test_lines_are_counted_by_kind(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [FINE, ERROR, ERROR, TRACEBACK]
    log.write_text("".join(json.dumps({"timestamp": n, **x}) + "\n" for n, x in enumerate(lines)))
    found = list(complaints(log))
    assert len(found) == 2 and found[0].startswith("2 x housekeeping failed")
    assert list(complaints(tmp_path / "no such log")) == []
