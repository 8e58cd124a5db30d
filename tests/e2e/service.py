"""`columba serve` in processes of its own: started, asked, hurt, stopped."""

import json
import os
import selectors
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.store import keys
from tests.e2e.http import Answer, request
from tests.e2e.log_lines import LogLines
from tests.e2e.processes import MARK, end_all, of_run, send
from tests.waiting import until

ROOT: Final = Path(__file__).parents[2]
PARTITIONS: Final = 4
START_S: Final = 40.0
STOP_S: Final = 30.0

DEFAULTS: Final[Mapping[str, object]] = {
    "service.partitions": PARTITIONS,
    # Short times, so that failover and expiry can be waited for.
    "store.lease_s": 1.5,
    "edge.drain_s": 0.1,
    "edge.spread_ms": 200,
    "edge.backoff_base_ms": 100,
    "edge.backoff_max_ms": 500,
    "edge.output_cap_bytes": 512 * 1024,
    "edge.slow_close_s": 1,
    "dispatch.resend_s": 3,
    "dispatch.not_there_s": 0.2,
    "dispatch.live_only_s": 1,
    "dispatch.fanout_overdue_s": 0.5,
}

OFTEN: Final[Mapping[str, object]] = {
    # Snapshots all the time, and a store that is soon taken for gone.
    "dispatch.snapshot_records": 10,
    "dispatch.snapshot_s": 0.5,
    "store.timeout_s": 1.0,
}


class Edge(NamedTuple):
    """One live edge, as its lease tells."""

    number: int
    start: int
    pid: int
    own: str
    """host:port that no other edge listens on."""


class Service:
    """One run of `columba serve`. Made by `serving`."""

    def __init__(self, data_dir: Path, process: "subprocess.Popen[bytes]", mark: str) -> None:
        self.data_dir = data_dir
        self.process = process
        self.mark = mark
        self.log = LogLines(data_dir.with_suffix(f".{mark}.log"))
        self.ready: dict[str, Any] = {}
        self.spare: list[tuple[str, str, str, str]] = []
        """Apps that no test has used yet; see tenants.py."""

    @property
    def devices(self) -> str:
        """host:port that all edges share."""
        return str(self.ready["devices"])

    @property
    def api(self) -> str:
        return str(self.ready["api"])

    async def get(self, path: str) -> Answer:
        """Of what needs no key."""
        return await request(self.api, "GET", path)

    # Processes.

    def pids(self) -> dict[str, Any]:
        """As they are now: role -> pid or list of pids."""
        kept: dict[str, Any] = json.loads((self.data_dir / "run" / "pids.json").read_text())
        return kept

    def pid_of(self, role: str) -> int:
        """Of the store, the dispatch node or the API; 0 while it does not run."""
        found = self.pids()[role]
        if isinstance(found, list):
            found = found[0] if found else None
        return found or 0

    async def restarted(self, role: str, before: int) -> int:
        """The pid after `before`."""

        def other() -> int:
            pid = self.pid_of(role)
            return pid if pid != before else 0

        pid: int = await until(other, f"{role} is started again")
        return pid

    @contextmanager
    def frozen(self, pid: int) -> Iterator[None]:
        """The process stands still meanwhile."""
        send(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            send(pid, signal.SIGCONT)

    def processes(self) -> list[int]:
        """Every living process of this run, the supervisor included."""
        return of_run(self.mark, self.data_dir)

    # The store, behind the service's back.

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Any]:
        """A connection with redis-py's own calls."""
        client: Any
        if "," in self.ready["store"]:
            servers = urlsplit(self.ready["store"]).netloc.split(",")
            nodes = [ClusterNode(*server.split(":")) for server in servers]
            client = redis.asyncio.RedisCluster(startup_nodes=nodes)
        else:
            client = redis.asyncio.Redis.from_url(
                self.ready["store"], retry=Retry(NoBackoff(), 0), socket_timeout=5
            )
        try:
            yield client
        finally:
            await client.aclose()

    async def edges(self) -> dict[int, Edge]:
        """Live edges by number."""
        async with self.store() as store:
            raw = await store.hgetall(keys.LEASE_INFO)
        found = {}
        for member, text in raw.items():
            role, _, number = member.decode().partition(":")
            info = json.loads(text)
            if role == "edge" and not info.get("down"):
                edge = Edge(int(number), info["start"], info["pid"], info["own"])
                found[edge.number] = edge
        return found

    async def session_entries(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(partition, index) -> (edge number, start) of every device that has a session."""
        found = {}
        async with self.store() as store:
            for p in range(PARTITIONS):
                for index, entry in (await store.hgetall(keys.sessions(p))).items():
                    _, edge, start, *_ = entry.split()
                    found[p, int(index)] = int(edge), int(start)
        return found

    # The end.

    def stop(self, wait_s: float = STOP_S) -> int:
        """SIGTERM to the supervisor; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(wait_s)


def command(data_dir: Path, settings: Mapping[str, object], *flags: str) -> list[str]:
    """The command line of a service on free ports, unless `flags` say otherwise."""
    sets = [f"--set={key}={value}" for key, value in {**DEFAULTS, **settings}.items()]
    listen = ["--device-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--edges", "2"]
    serve = [sys.executable, "-m", "gateway.cli", "serve", "--json", "--data-dir", str(data_dir)]
    return [*serve, *listen, *sets, *flags]


def environment(mark: str) -> dict[str, str]:
    """Ours, without settings of a service that its user may have around."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COLUMBA_")}
    return {**plain, MARK: mark, "PYTHONPATH": str(ROOT)}


@contextmanager
def serving(
    data_dir: Path, settings: Mapping[str, object] | None = None, *flags: str
) -> Iterator[Service]:
    """A service until the end of the block; stopped gracefully, killed if that fails.

    Afterwards nothing of it is left, and its log holds no complaint that nobody expected.
    """
    mark = uuid.uuid4().hex[:8]
    with data_dir.with_suffix(f".{mark}.log").open("wb") as log:
        process = subprocess.Popen(
            command(data_dir, settings or {}, *flags),
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(mark),
            cwd=data_dir.parent,
        )
    service = Service(data_dir, process, mark)
    try:
        service.ready = json.loads(_first_line(process, service.log))
        yield service
        if process.poll() is None:
            assert service.stop() == 0
        left = service.processes()
        assert not left, f"left over: {[(pid, _command_of(pid)) for pid in left]}"
    finally:
        end_all(mark, data_dir)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    complaints = service.log.new_complaints()
    assert not complaints, "\n".join(complaints)


def _first_line(process: "subprocess.Popen[bytes]", log: LogLines) -> bytes:
    """The ready line. Fails with what the service said instead."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(START_S) else b""
    assert line, f"no ready line; exit code {process.poll()}: {log.plain()} {log.events('')[-5:]}"
    return line


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return "gone"
