"""The supervisor with real processes: stand-ins for the roles, the real embedded store."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from gateway import datadir, secretfiles, supervisor
from gateway.config import Config, Edge, Service, Store
from gateway.config_sources import ConfigError
from gateway.demokeys import DemoKeys
from gateway.edge.zygote import KILL_AFTER_S
from gateway.network import split_address
from gateway.secretfiles import Secrets
from gateway.supervisor import Programs, Supervisor, free_address
from gateway.supervisor.storeside import StoreSide
from tests.waiting import until

SECRETS = Secrets({1: b"k" * 32}, 1, b"r" * 32)


class Side:
    """Notes whose leases are released."""

    def __init__(self) -> None:
        self.released: list[tuple[str, object]] = []

    async def demo_keys(self, _data_dir: Path) -> DemoKeys:
        return DemoKeys("demo", "an access key", "an API key")

    async def release(self, role: str, said: Mapping[str, object]) -> None:
        self.released.append((role, said.get("number")))

    async def close(self) -> None:
        pass


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not tmp_path: its name, made of the test's, can be too long for a socket.
    path = Path(tempfile.mkdtemp(prefix="columba-test-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())


def configuration(data_dir: Path) -> Config:
    return Config(
        service=Service(data_dir=str(data_dir)),
        store=Store(lease_s=1.0),
        edge=Edge(listen="127.0.0.1:0", count=2, drain_s=0.1),
        api=Config().api.__class__(listen="127.0.0.1:0"),
    )


def programs(side: Side, **other: str) -> Programs:
    async def open_side(_config: Config) -> Side:
        return side

    runs = {name: f"tests.gateway.stand_ins:{name}" for name in ("dispatch", "api", "edge")}
    return Programs(open_side=open_side, **{**runs, **other})


@asynccontextmanager
async def running(data_dir: Path, side: Side) -> AsyncIterator[tuple[Supervisor, dict[str, Any]]]:
    started = Supervisor(configuration(data_dir), SECRETS, programs(side))
    try:
        yield started, await started.start()
    finally:
        await started.stop()


def lives(pid: int) -> bool:
    return datadir.process_start(pid) is not None


def edges_of(started: Supervisor) -> list[int]:
    return cast(list[int], started.pids()["edges"])


def all_pids(pids: Mapping[str, Any]) -> list[int]:
    ours = [*pids["dispatch"], *pids["api"], *pids["edges"], pids["zygote"], pids["store"]]
    assert all(isinstance(pid, int) for pid in ours)
    return ours


async def test_starts_everything_and_stops_in_order(data_dir: Path) -> None:
    side = Side()
    async with running(data_dir, side) as (_, ready):
        assert ready["event"] == "ready" and ready["app"] == "demo"
        assert ready["access_key"] == "an access key" and ready["api_key"] == "an API key"
        assert str(ready["store"]).startswith("unix:///")
        assert str(ready["api"]).startswith("http://127.0.0.1:")
        assert not str(ready["devices"]).endswith(":0")
        pids = ready["pids"]
        assert pids["supervisor"] == os.getpid()
        assert len(pids["edges"]) == 2 and len(pids["dispatch"]) == len(pids["api"]) == 1
        assert all(lives(pid) for pid in all_pids(pids))
        run = data_dir / "run"
        assert json.loads((run / "pids.json").read_text()) == pids
        assert json.loads((run / "addresses.json").read_text())["devices"] == ready["devices"]
        assert stat.S_IMODE(run.stat().st_mode) == 0o700
    notes = (data_dir / "notes").read_text().splitlines()
    assert notes == ["edge stopped", "edge stopped", "api stopped", "dispatch stopped"]
    assert not any(lives(pid) for pid in all_pids(pids))
    assert not list(run.glob("*.json"))
    lock = datadir.Lock.try_take(data_dir)
    assert lock is not None
    lock.release()


async def test_secrets_stand_in_no_argument_and_no_environment(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = secretfiles.to_builtins(SECRETS)["rpc_secret"]
    monkeypatch.setenv("COLUMBA_RPC_SECRET", str(key))
    async with running(data_dir, Side()) as (_, ready):
        for pid in all_pids(ready["pids"]):
            seen = Path(f"/proc/{pid}/cmdline").read_bytes()
            seen += Path(f"/proc/{pid}/environ").read_bytes()
            assert str(key).encode() not in seen and (pid == 0 or b"COLUMBA_" not in seen)


@pytest.mark.parametrize("role", ["dispatch", "api"])
async def test_a_dead_role_is_started_again_and_its_lease_released(
    data_dir: Path, role: str
) -> None:
    side = Side()
    async with running(data_dir, side) as (started, ready):
        first = ready["pids"][role][0]
        os.kill(first, signal.SIGKILL)
        await until(lambda: side.released)
        assert side.released == [("node" if role == "dispatch" else "api", 7)]
        await until(lambda: started.pids()[role] not in ([], [first]))
        kept = json.loads((data_dir / "run" / "pids.json").read_text())
        assert kept[role] == started.pids()[role]


async def test_a_dead_edge_is_started_again_and_its_lease_released(data_dir: Path) -> None:
    side = Side()
    async with running(data_dir, side) as (started, ready):
        first = ready["pids"]["edges"][1]
        os.kill(first, signal.SIGKILL)
        await until(lambda: side.released == [("edge", 101)])
        await until(lambda: len(edges_of(started)) == 2)
        assert first not in edges_of(started)
        assert started.pids()["zygote"] == ready["pids"]["zygote"]


async def test_a_dead_zygote_is_started_again_with_its_edges(data_dir: Path) -> None:
    side = Side()
    async with running(data_dir, side) as (started, ready):
        os.kill(ready["pids"]["zygote"], signal.SIGKILL)
        await until(lambda: sorted(side.released) == [("edge", 100), ("edge", 101)])
        assert not any(lives(pid) for pid in ready["pids"]["edges"])
        await until(lambda: len(edges_of(started)) == 2)
        assert started.pids()["zygote"] not in (None, ready["pids"]["zygote"])


async def test_a_second_signal_hastens(data_dir: Path) -> None:
    runs = programs(Side(), edge="tests.gateway.stand_ins:deaf_edge")
    started = Supervisor(configuration(data_dir), SECRETS, runs)
    try:
        ready: dict[str, Any] = await started.start()
        started.on_signal()
        started.on_signal()
        begin = time.monotonic()
    finally:
        await started.stop()
    assert time.monotonic() - begin < KILL_AFTER_S  # what an edge would get otherwise
    assert not any(lives(pid) for pid in all_pids(ready["pids"]))


async def test_a_dead_store_is_started_again(data_dir: Path) -> None:
    async with running(data_dir, Side()) as (started, ready):
        os.kill(ready["pids"]["store"], signal.SIGKILL)
        await until(lambda: started.pids()["store"] not in (None, ready["pids"]["store"]))


@pytest.mark.parametrize(
    ("role", "program", "ends"),
    [
        ("dispatch", "taken_port", (2, "columba: dispatch: [Errno 98] Address already in use")),
        ("api", "defect", (1, "columba: api ended with status 1 before it was ready")),
        ("edge", "failing_edge", (1, "columba: edge ended with status 1 before it was ready")),
    ],
)
async def test_a_role_that_cannot_start_ends_the_start(
    data_dir: Path,
    capfd: pytest.CaptureFixture[str],
    role: str,
    program: str,
    ends: tuple[int, str],
) -> None:
    code, text = ends
    runs = programs(Side(), **{role: f"tests.gateway.stand_ins:{program}"})
    ready: list[object] = []
    assert await supervisor.serve(configuration(data_dir), SECRETS, ready.append, runs) == code
    assert not ready
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("columba: ")]
    assert told == [text]
    lock = datadir.Lock.try_take(data_dir)  # every process has ended: all of them shared it
    assert lock is not None
    lock.release()


async def test_a_data_directory_in_use_is_one_line(
    data_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lock = datadir.Lock.try_take(data_dir)
    assert lock is not None
    try:
        runs = programs(Side())
        assert await supervisor.serve(configuration(data_dir), SECRETS, print, runs) == 2
    finally:
        lock.release()
    told = capfd.readouterr().err.splitlines()
    assert told[0] == f"columba: data directory {data_dir} is in use by process {os.getpid()}"


@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_taken_port_is_seen(reuse_port: bool) -> None:
    with socket.socket() as listener:
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"edge.listen: 127.0.0.1:{port} is in use"):
            free_address(f"127.0.0.1:{port}", "edge.listen")
    assert free_address(f"127.0.0.1:{port}", "edge.listen") == f"127.0.0.1:{port}"


def test_time_wait_of_the_last_run_is_no_listener() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first is left in TIME_WAIT
    assert split_address(free_address(f"127.0.0.1:{port}", "edge.listen"))[1] == port


SERVE = """
import sys, uvloop
from pathlib import Path
from tests.gateway.test_supervisor import SECRETS, Side, configuration, programs
from gateway import logs, supervisor
logs.configure("info", role="supervisor")
def announce(ready):
    import json
    print(json.dumps(ready), flush=True)
sys.exit(uvloop.run(supervisor.serve(configuration(Path(sys.argv[1])), SECRETS, announce, programs(Side()))))
"""


class Served:
    """A supervisor in a process of its own, on uvloop, to be signalled and killed."""

    def __init__(self, data_dir: Path) -> None:
        with (data_dir / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(data_dir)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout is not None
        self.ready: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.process.stdout.close()


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it_gracefully(data_dir: Path, signo: int) -> None:
    served = Served(data_dir)
    served.process.send_signal(signo)
    assert served.process.wait(20) == 0
    notes = (data_dir / "notes").read_text().splitlines()
    assert notes == ["edge stopped", "edge stopped", "api stopped", "dispatch stopped"]
    assert not any(lives(pid) for pid in all_pids(served.ready["pids"]))


async def test_nothing_outlives_a_killed_supervisor(data_dir: Path) -> None:
    served = Served(data_dir)
    served.process.kill()
    served.process.wait()
    # A start right after it waits until the last process of the old run has ended.
    async with running(data_dir, Side()):
        assert not any(lives(pid) for pid in all_pids(served.ready["pids"]))


async def test_the_real_store_knows_demo_and_the_dead(data_dir: Path) -> None:
    from gateway.store.clock import StoreClock
    from gateway.store.embedded import EmbeddedServer
    from gateway.store.leases import Lease, Roster

    server = EmbeddedServer(data_dir)
    await server.start()
    try:
        config = Config(store=Store(url=server.url))
        side = await StoreSide.open(config)
        keys = await side.demo_keys(data_dir)
        assert keys.access_key and keys.api_key
        assert keys.api_key not in repr(keys)
        assert stat.S_IMODE((data_dir / "demo-keys.json").stat().st_mode) == 0o600
        assert await side.demo_keys(data_dir) == keys
        (data_dir / "demo-keys.json").unlink()
        assert await side.demo_keys(data_dir) == DemoKeys("demo", keys.access_key, None)

        store = side._store
        clock = StoreClock()
        lease = await Lease.take(store, clock, "node", 5.0, {})
        roster = Roster(store, clock, 5.0)
        await roster.poll()
        assert [holder.identity for holder in roster.holders] == [lease.identity]
        await side.release("node", {"number": lease.identity.number, "start": lease.identity.start})
        await roster.poll()
        assert roster.holders == []
        await side.release("node", {})  # a process that never was ready: nothing to do
        await side.close()
    finally:
        await server.stop()
