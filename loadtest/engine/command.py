"""`run SCENARIO`: from the command line to the report, and what the process ends with."""

import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from loadtest.engine.conduct import Conductor
from loadtest.engine.dashboard import Dashboard
from loadtest.engine.reading import ScenarioError, find, read
from loadtest.engine.report import html_of
from loadtest.engine.result import to_dict
from loadtest.engine.scenario import Scenario
from loadtest.service import Service, started
from loadtest.view import View

FAILED: Final = 1
INTERRUPTED: Final = 128 + signal.SIGINT
_OWN_APP: Final = "demo"
"""That a service begins with."""


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C within the block; the second is a KeyboardInterrupt as ever."""
    stop = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _service_for(scenario: Scenario, attached: Service | None) -> Iterator[Service]:
    if attached is not None:
        if scenario.fleet.app != attached.app:
            raise ScenarioError(f"fleet.app: expected the app of the keys given, {attached.app}")
        yield attached
        return
    if scenario.fleet.app != _OWN_APP:
        raise ScenarioError(f"fleet.app: expected {_OWN_APP}, which a new service begins with")
    with started(scenario.edges, scenario.service.set) as service:
        yield service


def run(
    wanted: str, settings: Sequence[str], attached: Service | None, report: Path | None, view: View
) -> int:
    """The exit code: 0, 1 for a check that failed, 130 if interrupted.

    Raises ScenarioError, and what a service or a fleet that cannot be gone on with raises.
    """
    path = find(wanted)
    scenario = read(path, settings)
    if report is not None:
        # Now, not in an hour, when all has been measured and cannot be written.
        report.touch()
    with asked_to_stop() as stop:
        board = Dashboard(view, path.stem)
        board.watch("starting the service", 0.0, {})
        with _service_for(scenario, attached) as service:
            conductor = Conductor(
                scenario, path.stem, service, board.watch, stop, own=attached is None
            )
            conductor.run()
        ended = conductor.ended
        if report is not None:
            report.write_text(html_of(ended, described(scenario)))
    result = to_dict(ended)
    view.finish(result if view.as_json else _flat(result))
    for check in result["checks"]:
        if not check["ok"] and not ended.interrupted:
            print(
                f"{path.stem}: {check['figure']} is {check['value']}, "
                f"expected {check['rule']} {check['bar']:g}",
                file=sys.stderr,
                flush=True,
            )
    if ended.interrupted:
        return INTERRUPTED
    return 0 if result["passed"] else FAILED


def described(scenario: Scenario) -> str:
    """The scenario with every default, as it was run."""
    return json.dumps(msgspec.to_builtins(scenario), indent=1)


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    """For a table: what was measured, without what was not."""
    measured = {name: value for name, value in result["figures"].items() if value is not None}
    did = {name: value for name, value in result["behaviour"].items() if value}
    head = {name: result[name] for name in ("scenario", "seconds", "interrupted", "passed")}
    return {**head, **measured, **did}
