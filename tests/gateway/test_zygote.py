"""The zygote in a real process, with trivial edges."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from gateway import datadir, handover
from gateway.config import Config, Edge, Service
from gateway.secretfiles import Secrets
from tests.waiting import eventually

SECRETS = Secrets({1: b"k" * 32}, 1, b"r" * 32)
WAIT_S = 20.0


def lives(pid: int) -> bool:
    return datadir.process_start(pid) is not None


class Handle:
    """The supervisor's end of a zygote's pipes."""

    def __init__(self, data_dir: Path, edge: str, drain_s: float = 0.0) -> None:
        with (data_dir / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.edge.zygote", "--edge", f"tests.gateway.{edge}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": os.getcwd()},
            )
        config = Config(
            service=Service(data_dir=str(data_dir)),
            edge=Edge(drain_s=drain_s, listen="127.0.0.1:1234"),
        )
        self._partial = b""
        self._seen: list[dict[str, Any]] = []
        self._write(handover.first_line(config, SECRETS))

    def send(self, **command: object) -> None:
        self._write(json.dumps(command).encode())

    def _write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")

    def next(self, kind: str) -> dict[str, Any]:
        """The next event of a kind; others before it are kept for later calls."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            for event in self._seen:
                if kind in event:
                    self._seen.remove(event)
                    return event
            assert self.process.stdout is not None
            readable, _, _ = select.select([self.process.stdout], [], [], WAIT_S)
            assert readable and time.monotonic() < deadline_s, f"no {kind}"
            data = os.read(self.process.stdout.fileno(), 65_536)
            assert data, "the zygote ended"
            *lines, self._partial = (self._partial + data).split(b"\n")
            self._seen.extend(json.loads(line) for line in lines)

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(WAIT_S)
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Handle]:
    with Handle(tmp_path, "stand_ins:edge") as handle:
        yield handle


def test_forks_and_relays_ready_lines(zygote: Handle) -> None:
    zygote.send(fork=0)
    zygote.send(fork=1)
    events = [zygote.next("forked") for _ in range(2)]
    forked = {event["forked"]: event["pid"] for event in events}
    assert sorted(forked) == [0, 1]
    ready = sorted((zygote.next("ready") for _ in range(2)), key=lambda event: event["ready"])
    for slot, event in enumerate(ready):
        assert event["ready"] == slot and event["pid"] == forked[slot] == event["start"]
        assert event["number"] == slot + 100
        assert event["rpc_secret_bytes"] == 32 and event["listen"] == "127.0.0.1:1234"


def test_an_edge_inherits_nothing_but_standard_error(zygote: Handle, tmp_path: Path) -> None:
    zygote.send(fork=0)
    zygote.next("ready")
    zygote.send(fork=1)  # the second might have the first one's pipe
    opened = zygote.next("ready")["open"]
    assert opened == sorted(["/dev/null", str(tmp_path / "stderr"), str(tmp_path / "stderr")])
    parent = f"/proc/{zygote.process.pid}"
    links = [os.readlink(f"{parent}/fd/{name}") for name in os.listdir(f"{parent}/fd")]
    assert not [link for link in links if link.startswith(("socket:", "anon_inode:"))]
    assert len(os.listdir(f"{parent}/task")) == 1


def test_restarts_an_edge_that_is_killed(zygote: Handle) -> None:
    zygote.send(fork=3)
    first = zygote.next("ready")
    os.kill(first["pid"], signal.SIGKILL)
    exited = zygote.next("exited")
    assert exited == {"exited": 3, "pid": first["pid"], "status": -signal.SIGKILL}
    assert zygote.next("ready")["pid"] != first["pid"]


def test_a_signal_reaches_the_edge_and_its_slot_is_filled_again(zygote: Handle) -> None:
    zygote.send(fork=0)
    first = zygote.next("ready")["pid"]
    zygote.send(signal=[0, signal.SIGTERM])
    assert zygote.next("exited")["status"] == 0
    assert zygote.next("ready")["pid"] != first


def test_stop_ends_edges_gracefully_and_then_itself(zygote: Handle, tmp_path: Path) -> None:
    zygote.send(fork=0)
    pid = zygote.next("ready")["pid"]
    zygote.send(stop=True)
    assert zygote.process.wait(WAIT_S) == 0
    assert (tmp_path / "notes").read_text() == "edge stopped\n" and not lives(pid)


def test_end_of_input_is_a_stop(tmp_path: Path) -> None:
    with Handle(tmp_path, "stand_ins:edge") as handle:
        handle.send(fork=0)
        pid = handle.next("ready")["pid"]
    assert handle.process.returncode == 0 and not lives(pid)
    assert (tmp_path / "notes").exists()


def test_sigterm_is_a_stop(zygote: Handle) -> None:
    zygote.send(fork=0)
    pid = zygote.next("ready")["pid"]
    zygote.process.terminate()
    assert zygote.process.wait(WAIT_S) == 0 and not lives(pid)


def test_edges_do_not_outlive_a_killed_zygote(zygote: Handle, tmp_path: Path) -> None:
    zygote.send(fork=0)
    pid = zygote.next("ready")["pid"]
    zygote.process.kill()
    eventually(lambda: not lives(pid))
    assert (tmp_path / "notes").read_text() == "edge stopped\n"


def test_an_edge_that_does_not_drain_is_killed(tmp_path: Path) -> None:
    with Handle(tmp_path, "stand_ins:deaf_edge") as handle:
        handle.send(fork=0)
        pid = handle.next("ready")["pid"]
        handle.send(stop=True)
        handle.send(stop="now")
        assert handle.next("exited")["status"] == -signal.SIGKILL
        assert not lives(pid)
    assert "edges killed" in (tmp_path / "stderr").read_text()


def test_a_failing_edge_is_started_again_ever_more_slowly(tmp_path: Path) -> None:
    with Handle(tmp_path, "stand_ins:failing_edge") as handle:
        began = time.monotonic()
        handle.send(fork=0)
        for _ in range(4):
            handle.next("forked")
            took = time.monotonic() - began
            assert handle.next("exited")["status"] == 1
        # All together: each alone may be told late, and the next one at once.
        assert took >= 0.1 + 0.2 + 0.4
    assert "an edge that cannot start" in (tmp_path / "stderr").read_text()


def test_configuration_survives_the_pipe() -> None:
    config = Config(edge=Edge(count=3))
    line = json.loads(handover.first_line(config, SECRETS))
    assert msgspec.convert(line["config"], Config) == config
