"""A real cluster for the tests: three primaries with a replica each, on loopback, in a folder."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.store.embedded import find_server
from gateway.store.slots import SLOTS, slot_of

NODE_TIMEOUT_MS: Final = 2000
"""A primary that has not answered for this long counts as gone; machines that run tests are busy."""
PATIENCE_S: Final = 30.0


class Server:
    """One server of it. Its data stay when it is killed."""

    def __init__(self, folder: Path, port: int, bus: int) -> None:
        self._folder = folder
        self.port = port
        self.bus = bus
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(
            port=port, socket_timeout=5, retry=Retry(NoBackoff(), 0), decode_responses=True
        )

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "cluster-port": self.bus,
            "dir": self._folder,
            "logfile": self._folder / "log",
            "cluster-enabled": "yes",
            "cluster-node-timeout": NODE_TIMEOUT_MS,
            "cluster-allow-replica-migration": "no",
            "appendonly": "yes",
            # A server that is killed has written what it answered; only a machine would lose it.
            "appendfsync": "everysec",
            "save": "",
            "repl-diskless-sync-delay": 0,
        }
        flags = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([str(find_server()), *flags])
        wait(self._answers, f"the server on port {self.port} answers")

    @property
    def runs(self) -> bool:
        return self._process is not None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.client.close()
        self.kill()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Connections stand, nothing is answered."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def ask(self, command: str, *arguments: Any) -> Any:
        """The answer as it comes: the client would parse that of a command in one word."""
        # Given its type here: the client leaves it without one.
        execute: Callable[..., Any] = self.client.execute_command
        return execute(*command.split(), *arguments)

    def node_id(self) -> str:
        return str(self.ask("CLUSTER MYID"))

    def replication(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.info("replication")
        return found

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "it has ended"
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class ValkeyCluster:
    """Six servers. `heal` puts everything right that a test has broken."""

    def __init__(self, folder: Path) -> None:
        ports = _free_ports(12)
        self.servers = [Server(folder / str(n), ports[n], ports[n + 6]) for n in range(6)]

    @property
    def url(self) -> str:
        """It names three; the others are found."""
        return "redis://" + ",".join(f"127.0.0.1:{s.port}" for s in self.servers[::2])

    def start(self) -> None:
        for server in self.servers:
            server.start()
        primaries, replicas = self.servers[:3], self.servers[3:]
        for n, server in enumerate(primaries):
            first, end = SLOTS * n // 3, SLOTS * (n + 1) // 3
            server.ask("CLUSTER ADDSLOTSRANGE", first, end - 1)
        for n, server in enumerate(self.servers):
            server.ask("CLUSTER SET-CONFIG-EPOCH", n + 1)
            for other in self.servers[:n]:
                server.ask("CLUSTER MEET", "127.0.0.1", other.port, other.bus)
        for primary, replica in zip(primaries, replicas, strict=True):
            wait(partial(_replicate, replica, primary), "a replica knows its primary")
        self.heal()

    def stop(self) -> None:
        for server in self.servers:
            server.close()

    def heal(self) -> None:
        """Everyone runs, all slots are served, each primary has a replica that keeps up."""
        for server in self.servers:
            if not server.runs:
                server.start()
        wait(self._is_well, "the cluster is well")

    def flush(self) -> None:
        for server in self.primaries():
            server.ask("FLUSHALL")

    def primaries(self) -> list[Server]:
        return [s for s in self.servers if s.runs and s.replication()["role"] == "master"]

    def primary_of(self, key: str) -> Server:
        """As the others see it."""
        slot = slot_of(key)
        for server in self.servers:
            if server.runs:
                for first, last, (_, port, *_), *_ in server.ask("CLUSTER SLOTS"):
                    if first <= slot <= last:
                        return next(s for s in self.servers if s.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    def replica_of(self, primary: Server) -> Server:
        for server in self.servers:
            if server.runs and server is not primary:
                said = server.replication()
                if said["role"] == "slave" and said["master_port"] == primary.port:
                    return server
        raise AssertionError("it has no replica")

    def another_primary(self, than: Server) -> Server:
        return next(server for server in self.primaries() if server is not than)

    def fail_over(self, key: str) -> tuple[Server, Server]:
        """Kill the primary of a key and wait until its replica has taken over. (dead, heir)"""
        dead = self.primary_of(key)
        heir = self.replica_of(dead)
        dead.kill()
        wait(lambda: heir.replication()["role"] == "master", "the replica takes over")
        return dead, heir

    def cut_off(self, primary: Server) -> None:
        """Its replica gets nothing from it any more, and may still take over. For good: it has to
        be killed, too. Connections that stand are not affected.
        """
        primary.client.connection_pool.reset()
        primary.ask("CONFIG SET", "requirepass", "nobody-knows")
        primary.ask("CLIENT KILL", "TYPE", "replica")

    def begin_move(self, key: str) -> tuple[Server, Server]:
        """Let a slot begin to move to another primary: the first of its keys is there. (from, to)"""
        slot, source = slot_of(key), self.primary_of(key)
        target = self.another_primary(source)
        target.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.node_id())
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", target.node_id())
        self._move_keys(source, target, [key])
        return source, target

    def end_move(self, key: str, source: Server, target: Server) -> None:
        slot = slot_of(key)
        while left := source.ask("CLUSTER GETKEYSINSLOT", slot, 100):
            self._move_keys(source, target, left)
        for server in (target, source):
            server.ask("CLUSTER SETSLOT", slot, "NODE", target.node_id())

    @staticmethod
    def _move_keys(source: Server, target: Server, names: list[str]) -> None:
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names)

    def _is_well(self) -> bool:
        try:
            return all(map(_serves, self.servers)) and len(self.primaries()) == 3
        except redis.RedisError:
            return False


def _replicate(replica: Server, primary: Server) -> bool:
    try:
        return bool(replica.ask("CLUSTER REPLICATE", primary.node_id()))
    except redis.ResponseError:
        return False  # it has not heard of it yet


def _serves(server: Server) -> bool:
    if "cluster_state:ok" not in server.ask("CLUSTER INFO"):
        return False
    said = server.replication()
    if said["role"] == "slave":
        return bool(said["master_link_status"] == "up")
    return any(
        isinstance(replica, dict) and replica["state"] == "online"
        for name, replica in said.items()
        if name.startswith("slave")
    )


def wait(look: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.02)


def _free_ports(count: int) -> list[int]:
    """Below those that connections get by themselves, and not those of a test process beside us."""
    first = 10_000 + os.getpid() % 400 * 50
    found = [port for port in range(first, first + 50) if _is_free(port)]
    assert len(found) >= count, f"hardly a port is free from {first} on"
    return found[:count]


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
