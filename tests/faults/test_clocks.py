"""Clocks that are minutes off. See also the scenarios wrong-clock and wrong-monotonic-clock."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store import clock
from gateway.store.clock import StoreClock

ROOT = Path(__file__).parents[2]
STORE_MS = 1_800_000_000_000
READINGS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}


class Machine:
    """What `time` says on a machine whose clocks are off."""

    def __init__(self, wall_off_s: float, booted_s: float) -> None:
        self._wall_off_s = wall_off_s
        self._booted_s = booted_s
        self.true_s = STORE_MS / 1000

    def time(self) -> float:
        return self.true_s + self._wall_off_s

    def monotonic(self) -> float:
        return self.true_s - self._booted_s


@given(
    st.sampled_from((-300.0, -1.0, 0.0, 1.0, 300.0, 1e6)),
    st.floats(0, 1e8),
    st.floats(0, 10),
    st.floats(0, 1),
    st.floats(0, 3600),
)
def test_the_stores_time_holds_from_its_first_answer_on(
    wall_off_s: float, booted_s: float, took_s: float, part: float, later_s: float
) -> None:
    """However wrong the wall clock is, whenever the machine was started, and also if the wall clock is
    set meanwhile: right to half of the time that the question took."""
    machine = Machine(wall_off_s, booted_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "time", machine)
        store_clock = StoreClock()
        assert abs(store_clock.now_ms() - machine.time() * 1000) <= 2
        sent = machine.monotonic()
        machine.true_s += took_s * part
        told_ms = machine.true_s * 1000
        machine.true_s += took_s * (1 - part)
        store_clock.correct(told_ms, sent, machine.monotonic())
        machine.true_s += later_s
        machine._wall_off_s += 300
        wrong_ms = abs(store_clock.now_ms() - machine.true_s * 1000)
    assert wrong_ms <= took_s * 500 + 2


def readings(source: str) -> Iterator[str]:
    """The wall clock is read here, in this function."""
    tree = ast.parse(source)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    called = f"{ast.unparse(node.func.value)}.{node.func.attr}"
                    if called.removeprefix("datetime.") in READINGS or called in READINGS:
                        yield f"{function.name} {called}"


def test_the_service_reads_the_wall_clock_where_it_does_no_harm_and_nowhere_else() -> None:
    found = {
        f"{path.relative_to(ROOT)} {reading}"
        for path in sorted((ROOT / "gateway").rglob("*.py"))
        for reading in readings(path.read_text())
    }
    assert found == {
        # Until the store has said what time it is: `Lease.take` asks before anything else is done.
        "gateway/store/clock.py __init__ time.time",
        # Where the round of home partitions begins; any number does.
        "gateway/api/intake.py __init__ time.time_ns",
    }


def test_such_readings_are_seen() -> None:
    source = "def f():\n    def g():\n        return time.time()\n    return datetime.now(UTC)"
    assert set(readings(source)) == {"f time.time", "g time.time", "f datetime.now"}
    assert list(readings("def f():\n    return datetime.datetime.now()")) == [
        "f datetime.datetime.now"
    ]
