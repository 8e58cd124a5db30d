"""`run` from the command line: a real service and all behaviours once, the rest on a fake one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

import pytest
from typer.testing import CliRunner

from loadtest.__main__ import app
from loadtest.engine.command import run
from loadtest.service import Service
from loadtest.view import View
from tests.loadtest.fake_service import FIRST_DEVICE
from tests.loadtest.test_commands import fake

ALL = Path(__file__).with_name("all_behaviours.toml")
QUICK = ("--set", "fleet.devices=50", "--set", "pushes.0.at_s=0")


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Path]:
    with fake(tmp_path) as service:
        yield ready_line(tmp_path, service)


def ready_line(place: Path, service: Service) -> Path:
    path = place / "ready.json"
    path.write_text(json.dumps({**asdict(service), "devices": "{}:{}".format(*service.devices)},
                               default=str))  # fmt: skip
    return path


def started(*arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "loadtest", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_all_behaviours_on_a_real_service_lose_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    process = started("run", ALL, "--json", "--report", report)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["passed"] is True and result["suspects"] == []
    assert all(result["behaviour"][act] > 0 for act in (
        "flaps", "switches", "vanished", "dozes", "nat_drops", "slow_waits"
    )), result["behaviour"]  # fmt: skip
    figures = result["figures"]
    assert figures["pushes"] > 100 and figures["displayed"] > figures["clicked"] > 0
    assert figures["reconnects"] > 100 and figures["edge_rss_peak_mb"] > 10
    text = report.read_text()
    assert text.count("<svg") == 9 and "edge killed" in text and "All 9 checks passed" in text


def test_ctrl_c_ends_with_what_there_is(ready: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    process = started("--ready", ready, "run", "single", "--json", "--report", report, *QUICK)
    try:
        assert process.stderr is not None and process.stdout is not None
        wait_for(process.stderr, "messages_per_s=1")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=90)
    finally:
        process.kill()
    result = json.loads(out.splitlines()[-1])
    assert process.returncode == 130
    assert result["interrupted"] is True and result["passed"] is False
    assert result["figures"]["pushes"] > 0 and result["figures"]["lost"] is None
    assert "Interrupted" in report.read_text()


def wait_for(lines: IO[str], words: str) -> None:
    for line in lines:
        if words in line:
            return
    raise AssertionError(f"it never said {words!r}")


def test_what_a_service_loses_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with fake(tmp_path, "lose") as service, View("run", as_json=True) as view:
        changes = ("fleet.devices=5", "duration_s=0.7", "settle_s=0.3", "pushes.0.at_s=0",
                   "checks.at_most.push_p50_ms=1e4", "checks.at_most.push_p99_ms=1e4")  # fmt: skip
        assert run("single", changes, service, None, view) == 1
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert [check["figure"] for check in result["checks"] if not check["ok"]] == ["lost"]
    assert result["passed"] is False and len(result["suspects"]) == 20
    assert {suspect["device"] for suspect in result["suspects"]} == {str(FIRST_DEVICE)}
    assert "single: lost is " in err


def test_wrong_scenarios_and_settings_end_with_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("duration_s = 1\n[fleet]\ndevizes = 3\n")
    ready = tmp_path / "ready.json"
    ready_line(tmp_path, Service(("127.0.0.1", 1), "http://127.0.0.1:1", "demo", "", ""))
    for arguments, said in (
        (("run", str(wrong)), "wrong.toml: fleet.devizes: expected one of devices, processes"),
        (("run", "single", "--set", "fleet.app=shop"), "fleet.app: expected demo"),
        (("--ready", str(ready), "run", "single", "--set", "fleet.app=shop"), "keys given, demo"),
        (("run", "single", "--report", f"{tmp_path}/no/where.html"), "No such file"),
        (("run", "nothing"), "no ready scenario"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2 and result.stdout == "", result.output
        assert said in result.stderr.splitlines()[-1]


def test_an_edge_of_somebody_else_is_not_killed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('duration_s=1\n[fleet]\ndevices=5\n[[events]]\nat_s=0\ndo="kill_edge"\n')
    with fake(tmp_path) as service, View("run", as_json=True) as view:
        with pytest.raises(ValueError, match="kill_edge: expected a service that the run itself"):
            run(str(mine), (), service, None, view)
        os.kill(service.edge_pids[0], 0)
