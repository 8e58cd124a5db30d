"""The commands against a fake service: a process of its own, the real wire and HTTP."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest import audience
from loadtest.__main__ import app
from loadtest.api_client import ApiClient, ApiFailed
from loadtest.connect import measure_connect
from loadtest.demo import passed, run_demo
from loadtest.fanout import measure_fanout
from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from loadtest.service import Service, ServiceFailed, from_ready, running
from loadtest.single import measure_single
from loadtest.view import View


def fake(place: Path, fault: str = "") -> AbstractContextManager[Service]:
    return running([sys.executable, "-m", "tests.loadtest.fake_service", fault], place)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a real service needs and this one does not."""
    monkeypatch.setattr("loadtest.single._WARM_UP_S", 0.1)
    monkeypatch.setattr("loadtest.single._SETTLE_S", 1.0)
    monkeypatch.setattr("loadtest.fanout._IDLE_S", 0.1)
    monkeypatch.setattr("loadtest.audience._STEP_S", 0.01)
    monkeypatch.setattr("loadtest.audience_checks._AGREE_S", 0.1)
    monkeypatch.setattr("loadtest.api_client._AWAY_S", 0.01)


@pytest.fixture
def view() -> Iterator[View]:
    with View("test", as_json=True) as view:
        yield view


def test_connect_counts_both_ways_in(tmp_path: Path, view: View) -> None:
    with fake(tmp_path) as service:
        result = measure_connect(service, 200, 64, view)
    assert result["devices"] == 200 and result["identity_changes"] == result["lost"] == 0
    assert result["per_s"] > 0 and result["token_per_s"] > 0


def test_fanout_tells_message_and_receipt_apart(tmp_path: Path, view: View) -> None:
    with fake(tmp_path) as service:
        result = measure_fanout(service, 100, 1, view)
    assert result["cpu_us_per_message"] > 0 and result["floor_us_per_message"] > 0
    assert result["cpu_us_per_receipt"] > 0 and result["edge_rss_full"] > 0
    assert result["cpu_ratio_to_floor"] == pytest.approx(
        result["cpu_us_per_message"] / result["floor_us_per_message"], rel=0.02
    )


def test_fanout_wants_one_edge(tmp_path: Path, view: View) -> None:
    service = Service(("127.0.0.1", 1), "http://127.0.0.1:1", "demo", "", "")
    with pytest.raises(ValueError, match="one edge"):
        measure_fanout(service, 10, 1, view)


def test_single_without_a_known_store_has_no_hop(tmp_path: Path, view: View) -> None:
    with fake(tmp_path) as service:
        result = measure_single(service, 100.0, 0.3, 10, view)
    assert result["pushes"] == 30 and result["push_p50_ms"] > 0
    assert result["lost"] == result["duplicates"] == result["refused"] == 0
    assert result["hop_p50_ms"] is None and result["above_hop_p50_ms"] is None


def test_single_tells_throughput_beside_latency_where_the_rpc_is_known(tmp_path: Path) -> None:
    with fake(tmp_path):
        options = ["--ready", str(tmp_path / "out"), "single", "--seconds", "0.2", "--json"]
        result = CliRunner().invoke(app, [*options, "--devices", "10"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["rate"] == 1000 and told["lost"] == 0
    assert told["p50_ms_at_1000"] == told["push_p50_ms"] > 0
    assert told["p99_ms_at_1000"] == told["push_p99_ms"] > 0
    assert told["pushes_per_s"] is None, "a service that does not name its RPC"


def test_single_at_another_rate_says_nothing_of_1000(tmp_path: Path, view: View) -> None:
    with fake(tmp_path) as service:
        result = measure_single(service, 100.0, 0.1, 10, view)
    assert result["p50_ms_at_1000"] is result["p99_ms_at_1000"] is None
    assert result["push_p50_ms"] > 0


def test_single_finds_a_request_that_was_delivered_twice(tmp_path: Path, view: View) -> None:
    with fake(tmp_path, "repeat") as service:
        result = measure_single(service, 100.0, 0.1, 10, view)
    assert result["duplicates"] > 0


def test_single_counts_what_was_refused(tmp_path: Path, view: View) -> None:
    with fake(tmp_path, "busy") as service:
        result = measure_single(service, 100.0, 0.1, 10, view)
    assert result["refused"] == 10 and result["lost"] == 0


def test_api_client_waits_when_told_to_and_not_otherwise(tmp_path: Path) -> None:
    with fake(tmp_path, "busy") as service:
        with ApiClient(service) as api:
            pushes = [api.push("all"), api.push([1 << 32])]
            assert api.counts(pushes[1])["targeted"] == 1
        with (
            ApiClient(replace(service, api_key="wrong")) as api,
            pytest.raises(ApiFailed, match="401") as refused,
        ):
            api.push("all")
        assert refused.value.status == 401
    with ApiClient(service) as api, pytest.raises(ApiFailed) as gone:
        api.push("all")
    assert gone.value.status == 0


def test_api_client_sends_changes_of_tags_again_where_that_helps(tmp_path: Path) -> None:
    with fake(tmp_path, "busy") as service, ApiClient(service) as api:
        with FleetProcess(Plan(address=service.devices, devices=5)) as fleet:
            fleet.dial(range(5))
            fleet.wait("open", 5, 5)
            api.tag(fleet.device_ids(), "vip", "beta", bind=True)
            assert api.count("vip & beta") == 5
            api.tag(fleet.device_ids()[:2], "vip", bind=False)
            assert api.count({"tag": "vip"}) == 3 and api.count("beta") == 5
        with pytest.raises(ApiFailed, match=r"tags:bind: 1 of 1 failed, .*unknown_device"):
            api.tag([77], "vip", bind=True)


def test_demo_passes(tmp_path: Path, view: View) -> None:
    with fake(tmp_path) as service:
        result = asyncio.run(run_demo(service, 100, view, kill_edge=False))
    assert passed(result), result
    assert result["devices"] == 103 and result["reconnected"] == 10
    assert result["received"] == result["displayed"] == result["targeted"]


def test_demo_finds_what_was_lost(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.demo._STAGE_S", 0.1)
    with fake(tmp_path, "lose") as service:
        result = asyncio.run(run_demo(service, 100, view, kill_edge=False))
    assert result["lost"] > 0 and not passed(result)


def test_audience_passes(tmp_path: Path, view: View) -> None:
    with fake(tmp_path) as service:
        result = audience.run_audience(service, 200, 1, view)
        assert audience.passed(result), result
        assert result["devices"] == 200 and result["pushes"] > 40 and result["wrong"] == []
        assert result["received"] == result["targeted"] > result["displayed"] > 0
        assert result["undecided"] > 0 and result["tag_changes"] > 200
        assert result["counts_compared"] > 60 and result["stats_compared"] > 500
        with pytest.raises(ValueError, match="has 200 devices already"):
            audience.run_audience(service, 200, 1, view)


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        ("stale", "strays"),
        ("moving", "lost"),
        ("lose", "late"),
        ("repeat", "duplicates"),
        ("blind", "stats_equal"),
    ],
)
def test_audience_finds_what_a_service_does_wrong(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch, fault: str, broken: str
) -> None:
    # What is lost is waited for; a slow machine must still get through a stage.
    monkeypatch.setattr("loadtest.audience._STAGE_S", 4.0)
    with fake(tmp_path, fault) as service:
        result = audience.run_audience(service, 200, 1, view)
    assert not audience.passed(result)
    assert bool(result[broken]) != broken.endswith("_equal"), result


def test_audience_command_says_by_its_code_that_something_is_wrong(tmp_path: Path) -> None:
    with fake(tmp_path, "miscounting"):
        options = ["--ready", str(tmp_path / "out"), "audience", "--devices", "100", "--json"]
        result = CliRunner().invoke(app, options)
    assert result.exit_code == 1, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert not told["counts_equal"] and told["stats_equal"] and told["lost"] == 0
    assert "count of all: the service says 101, the devices 100" in told["wrong"]


def test_command_attaches_and_ends_with_one_object(tmp_path: Path) -> None:
    with fake(tmp_path):
        options = ["--ready", str(tmp_path / "out"), "connect", "--devices", "20", "--json"]
        result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["devices"] == 20


def test_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServiceFailed, match=r"(?s)code 3 .*no licence"), fake(tmp_path, "silent"):
        pass


def test_ready_line_is_read_in_full() -> None:
    service = from_ready(
        {
            "event": "ready",
            "devices": "127.0.0.1:7070",
            "api": "http://127.0.0.1:7080",
            "app": "demo",
            "access_key": "a",
            "api_key": "b",
            "store": "unix:///s",
            "pids": {"edges": [5, 6]},
        }
    )
    assert service.devices == ("127.0.0.1", 7070) and service.edge_pids == [5, 6]
