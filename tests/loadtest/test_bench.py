"""`bench`: all measurements on a fake service, results in files, and two of them side by side."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from loadtest.__main__ import app
from loadtest.bench import record as records
from loadtest.bench.compare import compared
from loadtest.bench.figures import FIGURES, figures_of, wrong_in
from loadtest.bench.machine import Machine, this_machine
from loadtest.bench.record import Record, RecordError, Sizes
from loadtest.bench.run import run_bench, within_descriptors
from loadtest.service import Service
from loadtest.view import View
from tests.loadtest.test_commands import fake

SMALL = Sizes(
    connect=40, fanout=40, rounds=1, idle_s=0.1, singles=10, single_s=0.2, pushes=10,
    broadcast=40, broadcasts=1, priority=20, priority_s=1.0, storm=100, storm_edges=2,
)  # fmt: skip
MACHINE = Machine(
    cores=2, model="abacus", memory_gib=1.0, kernel="6", python="3.11", uvloop="", load=0.0,
    date="2026-01-01T00:00:00Z", revision=None,
)  # fmt: skip
MEASURED: dict[str, dict[str, Any]] = {
    "fanout": {
        "floor_us_per_message": 10.0, "cpu_us_per_message": 13.0, "cpu_ratio_to_floor": 1.3,
        "cpu_us_per_receipt": 30.0, "user_bytes_per_connection": 250.0,
        "edge_private_empty": 7 << 20, "idle_cpu_share": 0.002, "lost_connections": 0,
    },
    "single": {
        "p50_ms_at_1000": 6.0, "hop_p50_ms": 2.0, "p99_ms_at_1000": 30.0, "hop_p99_ms": None,
        "pushes_per_s": 5000.0, "lost": 0, "duplicates": 0, "strays": 0,
    },
    "connect": {"per_s": 4000.0, "token_per_s": 8000.0, "lost": 0, "identity_changes": 0},
    "broadcast": {"messages_per_s": 20_000.0, "lost": 0},
}  # fmt: skip


def result(measured: dict[str, dict[str, Any]], sizes: Sizes = SMALL) -> Record:
    return Record(
        machine=MACHINE, sizes=sizes, seconds=1.0, figures=figures_of(measured), measured=measured,
        wrong=wrong_in(measured),
    )  # fmt: skip


def changed(measurement: str, **fields: Any) -> dict[str, dict[str, Any]]:
    return MEASURED | {measurement: MEASURED[measurement] | fields}


def test_all_is_measured_and_what_fails_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.single._WARM_UP_S", 0.1)
    monkeypatch.setattr("loadtest.priority._WARM_UP_S", 0.1)
    wanted = []

    @contextmanager
    def start(edges: int) -> Iterator[Service]:
        wanted.append(edges)
        place = tmp_path / str(edges)
        place.mkdir(exist_ok=True)
        with fake(place) as service:
            yield service

    with View("bench", as_json=True) as view:
        told = run_bench(SMALL, start, view)
    assert wanted == [1, 2, 2]
    # The fake one has neither a second edge to kill nor a store or an RPC to name.
    assert told.wrong == ["storm: storm kills half of the edges: start it with two or more"]
    assert set(told.measured) == {"fanout", "broadcast", "priority", "connect", "single"}
    missing = {name for name, value in told.figures.items() if value is None}
    assert missing == {
        "hop_p50_ms", "hop_p99_ms", "pushes_per_s", "push_to_floor", "single_p50_to_hop",
        "single_p99_to_hop", "storm_back_s",
    }  # fmt: skip
    broadcast = told.measured["broadcast"]
    assert broadcast["lost"] == 0 < broadcast["last_s"]
    assert broadcast["messages_per_s"] == pytest.approx(40 / broadcast["last_s"], abs=0.1)


def test_figures_are_told_against_what_the_same_run_measured() -> None:
    figures = figures_of(MEASURED)
    assert list(figures) == [figure.name for figure in FIGURES]
    assert figures["receipt_to_floor"] == 3.0 and figures["single_p50_to_hop"] == 3.0
    assert figures["edge_own_mib"] == 7.0 and figures["idle_cpu_percent"] == 0.2
    # 1/4000 s in writes of 10 us, and so on.
    assert figures["registration_to_floor"] == 25.0 and figures["push_to_floor"] == 20.0
    assert figures["broadcast_to_floor"] == 5.0
    assert figures["single_p99_to_hop"] is None, "the hop was not measured"
    assert figures["storm_back_s"] is None, "nor the storm"


def test_what_is_lost_is_wrong_at_any_speed() -> None:
    assert wrong_in(MEASURED) == []
    assert wrong_in(changed("single", lost=2)) == ["single: lost is 2"]


def test_a_change_is_noise_up_to_the_tolerance_and_has_a_direction_beyond() -> None:
    new = changed("connect", per_s=6000.0, token_per_s=6000.0)
    rows = {row.figure.name: row for row in compared(result(MEASURED), result(new), 0.1)}
    assert rows["connect_per_s"].verdict == "better" and rows["token_per_s"].verdict == "worse"
    assert rows["connect_per_s"].change == pytest.approx(0.5)
    assert rows["connect_per_s"].tolerance == pytest.approx(0.2)
    assert rows["registration_to_floor"].verdict == "better", "less time for each"
    assert rows["fanout_to_floor"].verdict == "same"
    assert rows["storm_back_s"].verdict == rows["hop_p99_ms"].verdict == "unknown"
    wide = {row.figure.name: row.verdict for row in compared(result(MEASURED), result(new), 0.3)}
    assert wide["connect_per_s"] == "same" and wide["token_per_s"] == "same"
    portable = [row.figure.portable for row in rows.values()]
    assert portable == sorted(portable, reverse=True) and True in portable


def test_a_file_holds_the_whole_result(tmp_path: Path) -> None:
    path, told = tmp_path / "result.json", result(MEASURED)
    records.write(path, told)
    assert records.read(path) == told


def other(**fields: Any) -> bytes:
    return msgspec.json.encode(result(MEASURED).to_dict() | fields)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "expected the JSON that bench wrote"),
        (b"[]", 'expected a result of bench \\("kind": "columba-bench"\\), as --output writes it'),
        (b'{"devices": 1}', "expected a result of bench"),
        (other(version=2), "its shape is version 2, this one reads version 1"),
        (other(figures={"floor_us": "ten"}), r"`float . null`, got `str`"),
        (other(machine={}), r"missing required field `cores` - at `\$.machine`"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=said) as refused:
        records.read(path)
    assert str(path) in str(refused.value)


def test_results_of_other_sizes_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    records.write(path, result(MEASURED))
    told = CliRunner().invoke(app, ["bench", "--compare", str(path)])
    assert told.exit_code == 2 and told.stdout == ""
    assert "the older result measured something else: connect 40 instead of 5,000" in told.stderr


def test_command_compares_two_files(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    sizes = within_descriptors(SMALL)
    records.write(old, result(MEASURED, sizes))
    records.write(new, result(changed("fanout", cpu_ratio_to_floor=2.6), sizes))
    options = ["bench", "--compare", str(old), "--of", str(new)]
    told = CliRunner().invoke(app, [*options, "--json"])
    assert told.exit_code == 0, told.output
    lines = {line["figure"]: line for line in json.loads(told.stdout)["compared"]["figures"]}
    assert lines["fanout_to_floor"] == {
        "figure": "fanout_to_floor", "portable": True, "old": 1.3, "new": 2.6, "change": 1.0,
        "tolerance": 0.1, "verdict": "worse",
    }  # fmt: skip
    for_people = CliRunner().invoke(app, options).stdout
    assert "0 better, 1 worse" in for_people and "abacus" in for_people
    assert "+100%" in for_people and "WRONG" not in for_people


def test_a_busy_machine_is_told(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    for load, told in ((1.0, False), (1.5, True)):
        machine = msgspec.structs.replace(MACHINE, load=load)
        records.write(path, msgspec.structs.replace(result(MEASURED), machine=machine))
        said = CliRunner().invoke(app, ["bench", "--of", str(path)]).stdout
        assert ("on 2 cores: other work may have gone on" in said) is told


def test_command_says_by_its_code_that_something_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    records.write(path, result(changed("broadcast", lost=1)))
    told = CliRunner().invoke(app, ["bench", "--of", str(path)])
    assert told.exit_code == 1 and "WRONG: broadcast: lost is 1" in told.stdout


def test_bench_takes_no_running_service(tmp_path: Path) -> None:
    with fake(tmp_path):
        told = CliRunner().invoke(app, ["--ready", str(tmp_path / "out"), "bench"])
    assert told.exit_code == 2 and "services of its own" in told.stderr


def test_this_machine_is_known() -> None:
    machine = this_machine()
    assert machine.cores == len(os.sched_getaffinity(0)) and machine.memory_gib > 0
    assert machine.python.startswith("3.") and machine.uvloop and machine.date.endswith("Z")
    assert machine.alike(machine) and not machine.alike(MACHINE)
