"""The command line: help, settings, the client of the API, and one run in a real process."""

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from gateway.cli import partitions
from gateway.cli.client import ApiClient, ApiProblem, status_lines
from gateway.cli.commands import app, run


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("COLUMBA_"):
            monkeypatch.delenv(name)
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    # Commands set up the logs of their process; here it is the process of all tests.
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


class FakeApi(BaseHTTPRequestHandler):
    """Notes requests; answers from a table."""

    asked: list[tuple[str, str, Any, dict[str, str]]]
    answers: dict[str, list[tuple[int, object]]]

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        self.asked.append((self.command, self.path, body, dict(self.headers)))
        told = self.answers.get(self.path, [(404, {"error": {"message": "no such thing"}})])
        status, answer = told.pop(0) if len(told) > 1 else told[0]
        raw = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeApi]]:
    Handler = type("Handler", (FakeApi,), {"asked": [], "answers": {}})
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("COLUMBA_API", f"http://127.0.0.1:{server.server_port}")
        yield Handler
        server.shutdown()
        thread.join()


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in [
        "serve",
        "edge",
        "dispatch",
        "api",
        "push",
        "pause",
        "resume",
        "stop",
        "recall",
        "explain",
        "audience",
        "device",
        "status",
        "config",
        "demo",
    ]:
        assert f"\n  {command} " in result.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gateway.cli.commands import run; run(['--help']);"
        "print(*{'uvloop', 'redis', 'structlog', 'asyncio', 'cryptography'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "" and done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "No such command 'nonsense'."),
        (["serve", "--nonsense"], "No such option"),
        (["config", "--set", "edge.count"], "write section.field=value"),
        (["config", "--config", "none.toml"], "none.toml cannot be read"),
        (["serve", "--device-listen", "0.0.0.0:1"], "edge.allow_plaintext"),
        (["serve", "--edges", "-1"], "edge.count (flag --edges)"),
        (["dispatch"], "name the store with --store"),
        (["push"], "name the audience"),
        (["push", "--all"], "say something"),
        (["push", "--all", "--device", "1", "--title", "x"], "name the audience"),
        (["push", "--all", "--to", "vip", "--title", "x"], "name the audience"),
        (["audience", "count"], "Missing argument 'EXPR'"),
        (["stop"], "Missing argument 'PUSH_ID'"),
        (["recall"], "Missing argument 'PUSH_ID'"),
        (["explain", "1"], "Missing argument 'DEVICE_ID'"),
        (["pause", "1", "--api", "http://127.0.0.1:1"], "no answer from"),
        (["push", "--all", "--title", "x", "--speed", "fast"], "Invalid value for '--speed'"),
        (["push", "--all", "--data", "x"], "--data takes key=value"),
        (["push", "--all", "--title", "x", "--api", "http://127.0.0.1:1"], "no answer from"),
        (["push", "--all", "--title", "x", "--api", "nowhere"], "is not the address of an API"),
        (["device"], "no access key of app demo"),
    ],
)
def test_errors_of_users_are_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and told in err and err.count("\n") == 1 and err.startswith("columba: ")


def test_config_as_json_and_as_toml_like_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMBA_EDGE_COUNT", "3")
    assert run(["config", "--json", "--data-dir", "d"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["edge.count"] == {
        "value": 3,
        "source": "environment COLUMBA_EDGE_COUNT",
        "reason": "Edge processes on this machine; 0 = one a core.",
    }
    assert told["service.data_dir"]["source"] == "flag --data-dir"
    assert run(["config"]) == 0
    assert "edge.count = 3  (environment COLUMBA_EDGE_COUNT)" in capsys.readouterr().out


def test_push_sends_what_was_asked_for(
    fake: type[FakeApi], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMBA_API_KEY", "secret")
    path = "/v1/apps/shop/pushes"
    invalid = [{"target": "9", "code": "unknown_device"}]
    fake.answers[path] = [(202, {"push_id": "12", "accepted": 1, "invalid": invalid})]
    line = ["push", "--app", "shop", "--device", "1", "--device", "9", "--title", "t"]
    line += ["--data", "a=b=c", "--ttl", "0", "--idempotency-key", "k"]
    assert run(line) == 0
    method, asked, body, headers = fake.asked[0]
    assert (method, asked) == ("POST", path)
    assert body == {
        "audience": {"devices": ["1", "9"]},
        "notification": {"title": "t", "body": ""},
        "data": {"a": "b=c"},
        "ttl": 0,
    }
    assert headers["Authorization"] == "Bearer secret"
    assert {name.lower(): value for name, value in headers.items()}["idempotency-key"] == "k"
    assert capsys.readouterr().out == "push 12 accepted\nleft out: 9 (unknown_device)\n"


def test_push_to_an_expression(fake: type[FakeApi], capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["/v1/apps/demo/pushes"] = [(202, {"push_id": "12", "notes": ["so and so"]})]
    assert run(["push", "--to", "city:gz & !vip", "--title", "t"]) == 0
    assert fake.asked[0][2]["audience"] == "city:gz & !vip"
    assert capsys.readouterr().out == "push 12 accepted\nnote: so and so\n"


def test_the_commands_of_the_page_are_good(fake: type[FakeApi]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()
    lines = re.findall(r"`columba ((?:push|pause|resume|stop|recall) [^`]+)`", page)
    for verb in ("pause", "resume", "stop", "recall"):
        decided = {"push_id": "12", "state": "so or so", "counts": {}}
        fake.answers[f"/v1/apps/demo/pushes/PUSH_ID:{verb}"] = [(200, decided)]
    fake.answers["/v1/apps/demo/pushes"] = [(202, {"push_id": "12"})]
    for line in lines:
        assert run(shlex.split(line)) == 0, line
    said = [asked[2] for asked in fake.asked if asked[2]]
    assert {"priority", "collapse_key", "speed", "holdout"} <= set().union(*said)
    assert any(asked[1].endswith(":recall") for asked in fake.asked)


def test_push_at_a_speed_and_with_a_holdout(fake: type[FakeApi]) -> None:
    fake.answers["/v1/apps/demo/pushes"] = [(202, {"push_id": "12"})]
    assert run(["push", "--all", "--title", "t", "--speed", "500", "--holdout", "0.1"]) == 0
    assert run(["push", "--all", "--title", "t"]) == 0
    shaped, plain = (asked[2] for asked in fake.asked)
    assert shaped == {**plain, "speed": 500, "holdout": 0.1}
    assert plain.keys() == {"audience", "notification"}


def test_push_with_a_priority_and_a_collapse_key(fake: type[FakeApi]) -> None:
    fake.answers["/v1/apps/demo/pushes"] = [(202, {"push_id": "12"})]
    line = ["push", "--all", "--title", "t", "--priority", "high", "--collapse-key", "match-7"]
    assert run(line) == 0
    assert run([*line, "--collapse-key", ""]) == 0
    first, other = (asked[2] for asked in fake.asked)
    assert (first["priority"], first["collapse_key"]) == ("high", "match-7")
    assert other == {**first, "collapse_key": ""}


@pytest.mark.parametrize("verb", ["pause", "resume", "stop", "recall"])
def test_decisions_about_a_push(
    fake: type[FakeApi], capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    path = f"/v1/apps/shop/pushes/12:{verb}"
    decided = {"push_id": "12", "state": "so or so", "counts": {"targeted": 2, "pending": 0}}
    fake.answers[path] = [(200, decided)]
    assert run([verb, "12", "--app", "shop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == decided
    assert fake.asked[0][:3] == ("POST", path, None)
    assert run([verb, "12", "--app", "shop"]) == 0
    assert capsys.readouterr().out == "push 12 is so or so\ntargeted 2\n"


def test_an_id_that_is_none_is_the_api_s_to_refuse(
    fake: type[FakeApi], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["stop", "1 /x"]) == 2
    assert fake.asked[0][1] == "/v1/apps/demo/pushes/1%20%2Fx:stop"
    assert capsys.readouterr().err == "columba: the API answered 404: no such thing\n"


LEDGER = {
    "push_id": "12",
    "device_id": "7",
    "state": "pending",
    "why": "sent 2 times, last 12 s ago, no receipt yet",
    "online": True,
    "edge": 3,
    "terms": [{"term": "city:gz", "matches": True}, {"term": "!vip", "matches": False}],
    "steps": [
        {"at": "2026-11-22T07:16:40.500+00:00", "event": "accepted"},
        {"at": None, "event": "targeted"},
        {"at": "2026-11-22T07:16:41.500+00:00", "event": "edge_down", "edge": 2},
        {"at": "2026-11-22T07:16:42.500+00:00", "event": "sent", "edge": 3, "attempt": 2},
    ],
    "notes": ["so and so"],
}


def test_explain(fake: type[FakeApi], capsys: pytest.CaptureFixture[str]) -> None:
    path = "/v1/apps/shop/pushes/12:explain?device=7%26"
    bare = {"state": "held_out", "why": "on purpose", "device_id": "7", "online": False, "edge": 0}
    fake.answers[path] = [(200, LEDGER), (200, LEDGER), (200, {**bare, "steps": [], "terms": []})]
    assert run(["explain", "12", "7&", "--app", "shop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == LEDGER
    assert fake.asked[0][:3] == ("GET", path, None)
    assert run(["explain", "12", "7&", "--app", "shop"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "pending: sent 2 times, last 12 s ago, no receipt yet",
        "device 7 is online at edge 3",
        "  2026-11-22T07:16:40.500+00:00  accepted",
        "  no longer known when           targeted",
        "  2026-11-22T07:16:41.500+00:00  edge down (edge 2)",
        "  2026-11-22T07:16:42.500+00:00  sent (edge 3, attempt 2)",
        "the audience, as it stands now:",
        "  yes  city:gz",
        "  no   !vip",
        "note: so and so",
    ]
    assert run(["explain", "12", "7&", "--app", "shop"]) == 0
    assert capsys.readouterr().out == "held_out: on purpose\ndevice 7 is offline\n"


EXPLAINED = {
    "count": 5,
    "ms": 1.25,
    "notes": ["so and so"],
    "invalid": [{"target": "vips", "code": "unknown_segment"}],
    "terms": [{"term": "city:gz", "devices": 7, "ms": 0.5}],
    "partitions": [{"partition": 0, "devices": 5, "ms": 0.6}],
    "sample": ["1", "2"],
}


@pytest.mark.parametrize("verb", ["count", "explain"])
def test_audience(fake: type[FakeApi], capsys: pytest.CaptureFixture[str], verb: str) -> None:
    path = f"/v1/apps/shop/audience:{verb}"
    fake.answers[path] = [(200, EXPLAINED)]
    assert run(["audience", verb, "city:gz & !vip", "--app", "shop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == EXPLAINED
    assert fake.asked[0][:3] == ("POST", path, {"audience": "city:gz & !vip"})
    assert run(["audience", verb, "vip", "--app", "shop"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "5 devices, 1.25 ms",
        "note: so and so",
        "left out: vips (unknown_segment)",
        "           7       0.5 ms  city:gz",
        "such as 1, 2",
    ]


def test_an_audience_that_is_wrong_is_told_with_its_place(
    fake: type[FakeApi], capsys: pytest.CaptureFixture[str]
) -> None:
    said = "audience at position 4: expected a tag, got the end"
    fake.answers["/v1/apps/demo/audience:count"] = [(400, {"error": {"message": said}})]
    assert run(["audience", "count", "a & "]) == 2
    assert capsys.readouterr().err == f"columba: the API answered 400: {said}\n"


def test_push_waits_until_nothing_is_pending(
    fake: type[FakeApi], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.client._POLL_S", 0.001)
    done = {"targeted": 2, "received": 2, "pending": 0}
    fake.answers["/v1/apps/demo/pushes"] = [(202, {"push_id": "12"})]
    fake.answers["/v1/apps/demo/pushes/12"] = [
        (503, {"error": {"message": "an owner is on the move"}}),
        (200, {"counts": {"targeted": 0, "received": 0, "pending": 0}}),
        (200, {"counts": {"targeted": 2, "received": 1, "pending": 1}}),
        (200, {"counts": done}),
    ]
    assert run(["push", "--all", "--body", "x", "--wait", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"push_id": "12", "counts": done}
    assert fake.asked[0][2]["audience"] == "all"


def test_a_refusal_is_told_in_its_own_words(
    fake: type[FakeApi], capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["/v1/apps/demo/pushes"] = [(401, {"error": {"message": "wrong API key"}})]
    assert run(["push", "--all", "--title", "x", "--api-key", "secret"]) == 2
    err = capsys.readouterr().err
    assert err == "columba: the API answered 401: wrong API key\n"


def test_keys_and_address_come_from_the_data_directory(
    fake: type[FakeApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = os.environ["COLUMBA_API"]
    monkeypatch.delenv("COLUMBA_API")
    Path("d/run").mkdir(parents=True)
    Path("d/demo-keys.json").write_text(
        json.dumps({"app": "demo", "access_key": "a", "api_key": "of the demo"})
    )
    Path("d/run/addresses.json").write_text(json.dumps({"devices": "127.0.0.1:1", "api": url}))
    fake.answers["/v1/apps/demo/pushes"] = [(202, {"push_id": "1"})]
    assert run(["push", "--data-dir", "d", "--all", "--title", "x"]) == 0
    assert fake.asked[0][3]["Authorization"] == "Bearer of the demo"
    fake.answers["/v1/apps/other/pushes"] = [(202, {"push_id": "1"})]
    assert run(["push", "--data-dir", "d", "--app", "other", "--all", "--title", "x"]) == 0
    assert "Authorization" not in fake.asked[1][3]  # another app's key is not sent


def test_status(fake: type[FakeApi], capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["/readyz?verbose"] = [(200, {"ready": True})]
    fake.answers["/v1/status"] = [(200, {"edges": [{"number": 1, "connections": 5}]})]
    assert run(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "event": "status",
        "ready": True,
        "readyz": {"ready": True},
        "status": {"edges": [{"number": 1, "connections": 5}]},
        "pids": None,
        "partitions": [],
        "total": partitions.total([]),
    }
    fake.answers["/readyz?verbose"] = [(503, {"error": {"message": "draining"}})]
    assert run(["status"]) == 1
    assert "not ready: the API answered 503: draining" in capsys.readouterr().out


def test_status_shows_a_line_for_each_process() -> None:
    processes = {
        "edge": [{"number": 1, "answered": True, "stats": {"columba_connections": 5.0}}],
        "node": [
            {"number": 2, "answered": False},
            {"number": 3, "answered": True, "stats": {}},
            {"number": 4, "answered": True, "stats": {"columba_loop_stall_seconds": 0.0123}},
        ],
    }
    assert status_lines({"partitions": 16, "processes": processes}, {"store": 7}) == [
        "partitions  16",
        "edge 1      5 connections",
        "node 2      does not answer",
        "node 3      answers",
        "node 4      longest stall 12 ms",
        "store       pid 7",
    ]


def test_status_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--api", "http://127.0.0.1:1"]) == 1
    assert capsys.readouterr().out.startswith("not ready: no answer from http://127.0.0.1:1")


def test_the_client_does_not_follow_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    with pytest.raises(ApiProblem, match="Connection refused"):
        ApiClient("http://127.0.0.1:1", "demo", "").push({}, None)


def test_demo_passes_its_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(os, "execv", lambda program, line: called.append((program, line)))
    run(["demo", "--devices", "5", "--json", "--help"])
    assert called == [
        (
            sys.executable,
            [sys.executable, "-m", "loadtest", "demo", "--devices", "5", "--json", "--help"],
        )
    ]


def test_a_real_process_tells_a_locked_data_directory(tmp_path: Path) -> None:
    from gateway import datadir

    lock = datadir.Lock.try_take(datadir.prepare(tmp_path / "d"))
    assert lock is not None
    command = [sys.executable, "-m", "gateway.cli", "serve", "--data-dir", "d", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    finally:
        lock.release()
    assert done.returncode == 2 and done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert re.fullmatch(
        rf"columba: data directory \S+/d is in use by process {os.getpid()}", lines[0]
    )


def test_help_is_quick() -> None:
    best = float("inf")
    for _ in range(3):  # the best of three: other tests run beside this one
        begin = time.monotonic()
        subprocess.run([sys.executable, "-m", "gateway.cli", "--help"], stdout=-3, check=True)
        best = min(best, time.monotonic() - begin)
    assert best < 1.0
