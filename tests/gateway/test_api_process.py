"""Starting, stopping, and a store that comes and goes."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.api import appending, listen
from gateway.api import intake as intake_module
from gateway.api import process as process_module
from gateway.api import seat as seat_module
from gateway.api.errors import Errno
from gateway.config import Api
from gateway.network import ListenError
from gateway.store import keys
from gateway.store.apps import Apps
from gateway.store.deployment import DeploymentError
from protocol.ids import device_id
from tests.gateway.api_stage import (
    Stage,
    StoreServer,
    add_devices,
    all_pushes,
    bearer,
    config,
    request,
)
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def no_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat_module, "QUIET_S", 0.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    server = StoreServer(tmp_path).start()
    yield server
    server.kill()


def open_app(stage: Stage) -> str:
    """App `shop` with device 0 in partitions 0 and 1; its API key."""
    backend = stage.service.backend
    assert backend is not None

    async def make() -> str:
        new = await Apps(backend.store).create("shop")
        await backend.apps.refresh()
        await add_devices(backend.store, new.number, {0: [0], 1: [0]})
        return new.api_key

    return stage.do(make())


def push(stage: Stage, key: str, **changed: Any) -> tuple[int, dict[str, str], Any]:
    body = {"audience": {"devices": [0]}, "data": {"a": "b"}, **changed}
    return stage.request("POST", "/v1/apps/shop/pushes", body, bearer(key))


def test_without_a_store_it_serves_and_is_not_ready(tmp_path: Path) -> None:
    server = StoreServer(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = config(tmp_path, listen=f"127.0.0.1:{port}")
    stage = Stage(settings, server.url).start(wait=False)
    stage.said = {"http": f"http://127.0.0.1:{port}"}
    eventually(lambda: answers(stage, "/healthz") == 200)
    assert answers(stage, "/readyz") == 503
    for path in ("/v1/status", "/v1/apps/shop/pushes/5"):
        assert stage.get(path)[2]["error"]["errno"] == Errno.STARTING
    assert push(stage, "key")[2]["error"]["errno"] == Errno.STARTING
    assert 'columba_process_answered{process="api:0"} 1.0' in stage.get("/metrics")[2]
    assert stage.service.parts() == dict.fromkeys(("store", "lease", "dispatch"), False) | {
        "not_draining": True
    }
    server.start()
    eventually(lambda: answers(stage, "/readyz") == 200)
    stage.stop()
    server.kill()


def answers(stage: Stage, path: str) -> int:
    try:
        return stage.get(path)[0]
    except OSError:
        return 0


def test_what_it_says_when_ready_and_what_its_lease_says(
    tmp_path: Path, server: StoreServer
) -> None:
    stage = Stage(config(tmp_path), server.url).start()
    assert stage.said["role"] == "api" and stage.said["pid"] == os.getpid()
    assert stage.said["http"].startswith("http://127.0.0.1:")
    raw = stage.with_store(lambda store: _info(store, stage.said["number"]))
    info = json.loads(raw)
    assert info["start"] == stage.said["start"] and info["http"] == stage.said["http"]
    assert info["rpc"].startswith("unix:") and os.path.exists(info["rpc"][5:])
    assert os.stat(info["rpc"][5:]).st_mode & 0o777 == 0o600
    stage.stop()
    assert not os.path.exists(info["rpc"][5:])
    assert b"0" in server.ask(f"ZCARD {keys.LEASES}".encode())
    assert stage.failure is None


async def _info(store: Any, number: int) -> bytes:
    info: bytes = await store.call("HGET", keys.LEASE_INFO, f"api:{number}")
    return info


def test_stopping_fails_readiness_first_and_finishes_what_was_begun(
    tmp_path: Path, server: StoreServer
) -> None:
    stage = Stage(config(tmp_path), server.url).start()
    key = open_app(stage)
    stage.begin_stop()
    eventually(lambda: stage.service.draining)
    status, _, answer = stage.get("/readyz?verbose")
    assert status == 503 and answer["status"] == "draining"
    assert answer["parts"]["not_draining"] is False
    assert push(stage, key)[0] == 202, "whoever still comes is still served"
    with server.frozen():
        late: list[int] = []
        caller = threading.Thread(target=lambda: late.append(push(stage, key)[0]))
        caller.start()
        intake = stage.service.backend.intake  # type: ignore[union-attr]
        eventually(lambda: intake.waiting.used > 0)
        eventually(lambda: answers(stage, "/healthz") == 0)  # the listener is closed
    caller.join(10)
    assert late == [202]
    stage.stop()
    assert stage.failure is None
    assert [len(p) for p in asyncio.run(logs_of(server)).values()] == [2, 0, 0, 0]


async def logs_of(server: StoreServer) -> dict[int, list[Any]]:
    from gateway.store.client import Store

    store = await Store.connect(server.url)
    try:
        return await all_pushes(store)
    finally:
        await store.close()


def test_a_store_that_is_killed_and_comes_back(
    tmp_path: Path, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "APPEND_S", 0.3)
    monkeypatch.setattr(intake_module, "ACCEPT_S", 0.3)
    stage = Stage(config(tmp_path, lease_s=1.0), server.url).start()
    key = open_app(stage)
    answers: list[tuple[int, dict[str, str], Any]] = []
    over = threading.Event()

    def keep_pushing(devices: list[int]) -> None:
        while not over.is_set():
            answers.append(push(stage, key, audience={"devices": devices}))

    callers = [
        threading.Thread(target=keep_pushing, args=(devices,))
        for devices in ([device_id(0, 0)], [device_id(1, 0)], [device_id(0, 0), device_id(1, 0)])
    ]
    for caller in callers:
        caller.start()
    eventually(lambda: len(answers) > 20)
    server.kill()
    eventually(lambda: any(status == 503 for status, _, _ in answers))
    assert stage.get("/readyz")[0] == 503 and stage.get("/healthz")[0] == 200
    server.start()
    seen = len(answers)
    eventually(lambda: any(status == 202 for status, _, _ in answers[seen:]))
    eventually(lambda: stage.get("/readyz")[0] == 200)
    over.set()
    for caller in callers:
        caller.join(10)
    stage.stop()

    for status, headers, body in answers:
        if status != 202:
            assert status == 503 and int(headers["retry-after"]) >= 1
            assert body["error"]["errno"] == Errno.STORE_AWAY
    accepted = [int(body["push_id"]) for status, _, body in answers if status == 202]
    found = asyncio.run(logs_of(server))
    for p in (0, 1):
        here = [entry.push_id for entry in found[p]]
        assert len(here) == len(set(here)), "a push stands twice in a log"
    everywhere = {entry.push_id for entries in found.values() for entry in entries}
    assert set(accepted) <= everywhere | asyncio.run(open_fanouts(server))


async def open_fanouts(server: StoreServer) -> set[int]:
    """Accepted pushes that a dispatch node would now spread."""
    from gateway.store.client import Store
    from gateway.store.pushes import overdue_fanouts

    store = await Store.connect(server.url)
    try:
        return {n for p in range(4) for _, n in await overdue_fanouts(store, p, 2**50)}
    finally:
        await store.close()


# Where it may listen.


def test_beyond_loopback_only_if_asked_for() -> None:
    with pytest.raises(ListenError, match=r"api\.allow_plaintext"):
        listen.bind(Api(listen="0.0.0.0:0"))
    listen.bind(Api(listen="0.0.0.0:0", allow_plaintext=True)).close()


def test_a_taken_port_is_one_clear_error(tmp_path: Path, server: StoreServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        stage = Stage(config(tmp_path, listen=address), server.url).start(wait=False)
        eventually(lambda: stage.failure is not None)
    assert isinstance(stage.failure, ListenError)
    assert f"api.listen {address}: another program listens there" in str(stage.failure)


def test_addresses() -> None:
    with pytest.raises(ListenError, match=r"no such address"):
        listen.bind(Api(listen="192.0.2.1:80", allow_plaintext=True))
    listener = listen.bind(Api(listen="[::1]:0"))
    assert listen.url(listener).startswith("http://[::1]:")
    listener.close()


def test_a_store_of_another_deployment_ends_it(tmp_path: Path, server: StoreServer) -> None:
    Stage(config(tmp_path), server.url).start().stop()
    stage = Stage(config(tmp_path, partitions=8), server.url).start(wait=False)
    eventually(lambda: stage.failure is not None)
    assert isinstance(stage.failure, DeploymentError)
    assert "partitions = 4" in str(stage.failure)


# As the supervisor runs it.

PROGRAM = """
import json, sys, uvloop, msgspec
from gateway.api.process import run
from gateway.config import Config
from gateway.secretfiles import Secrets
config = msgspec.json.decode(sys.argv[1], type=Config)
def ready(said): print(json.dumps(said), flush=True)
uvloop.run(run(config, Secrets({1: b"m" * 32}, 1, b"r" * 32), sys.argv[2], ready))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_gracefully(
    tmp_path: Path, server: StoreServer, number: signal.Signals
) -> None:
    import msgspec

    settings = msgspec.json.encode(config(tmp_path)).decode()
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, settings, server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and select.select([child.stdout], [], [], 20)[0]
    said = json.loads(child.stdout.readline())
    assert request(said["http"], "GET", "/healthz")[0] == 200
    child.send_signal(number)
    _, errors = child.communicate(timeout=20)
    assert (child.returncode, errors) == (0, "")


def test_the_lead_leaves_time_to_notice() -> None:
    total = (
        process_module._READINESS_LEAD_S
        + process_module._REQUESTS_S
        + 2 * process_module._APPENDS_S
    )
    assert total < 10, "the supervisor kills after 10 s"
