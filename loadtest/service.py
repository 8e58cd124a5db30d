"""The service under test: started as a command of its own, or found where it already runs."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from loadtest.links import Address

_READY_S: Final = 30.0
_STOP_S: Final = 20.0
_POLL_S: Final = 0.02
_TAIL_LINES: Final = 20


class ServiceFailed(Exception):
    """The service did not start or did not stay; the text ends with what it said last."""


@dataclass(frozen=True, slots=True)
class Service:
    """Where a running service is, as its ready line says."""

    devices: Address
    api: str
    """http://host:port"""
    app: str
    access_key: str
    api_key: str
    store: str | None = None
    """unix:///path of its store, if it is known."""
    rpc: str | None = None
    """unix:/path of an API process's RPC, if it is known."""
    pids: dict[str, Any] = field(default_factory=dict)
    """By role: a number, or a list of them."""
    pids_file: Path | None = None
    """Where the service keeps them up to date, if that is known."""

    @property
    def edge_pids(self) -> list[int]:
        return list(self.pids.get("edges", ()))


def address(text: str) -> Address:
    """host:port. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{text!r} is not host:port")
    return host.strip("[]"), int(port)


def from_ready(line: dict[str, Any]) -> Service:
    """Raises KeyError or ValueError for what is no ready line."""
    return Service(
        devices=address(line["devices"]),
        api=line["api"],
        app=line["app"],
        access_key=line["access_key"],
        api_key=line["api_key"],
        store=line.get("store"),
        rpc=line.get("rpc"),
        pids=line.get("pids", {}),
    )


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on now. All are asked for before one is given back, so they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def started(edges: int, settings: Iterable[str] = ()) -> Iterator[Service]:
    """A service of its own in a temporary directory, ended and removed behind the block.

    `settings`: as `columba serve --set` takes them. Raises ServiceFailed. To be called from the main thread: the service is asked to end when the
    thread that started it does.
    """
    with tempfile.TemporaryDirectory(prefix="columba-loadtest-") as place:
        device_port, api_port = _free_ports(2)
        command = [
            *(sys.executable, "-m", "gateway.cli", "serve", "--json"),
            *("--data-dir", str(Path(place, "data"))),
            *("--device-listen", f"127.0.0.1:{device_port}"),
            *("--api-listen", f"127.0.0.1:{api_port}"),
            *("--edges", str(edges)),
            *(part for setting in settings for part in ("--set", setting)),
        ]
        with running(command, Path(place)) as service:
            yield replace(service, pids_file=Path(place, "data", "run", "pids.json"))


@contextmanager
def running(command: list[str], place: Path) -> Iterator[Service]:
    """Run `command` until the block ends; it must print the ready line. Raises ServiceFailed.

    What it prints goes to files in `place`: a pipe that nobody reads would stop it one day.
    """
    with Path(place, "out").open("wb") as out, Path(place, "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.launch", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            # Ctrl-C is for this process, which then ends the service in order.
            start_new_session=True,
        )
    try:
        yield _wait_ready(process, place)
    finally:
        _stop(process)


def _wait_ready(process: subprocess.Popen[bytes], place: Path) -> Service:
    deadline = time.monotonic() + _READY_S
    out = Path(place, "out")
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        for line in out.read_bytes().splitlines(keepends=True):
            if line.startswith(b"{") and line.endswith(b"\n"):
                said = json.loads(line)
                if said.get("event") == "ready":
                    return from_ready(said)
        if ended:
            raise ServiceFailed(
                f"the service ended with code {process.returncode} before it was ready{_tail(place)}"
            )
        time.sleep(_POLL_S)
    raise ServiceFailed(f"the service was not ready within {_READY_S:g} s{_tail(place)}")


def _tail(place: Path) -> str:
    lines = Path(place, "err").read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    return ":\n  " + "\n  ".join(lines) if lines else " and said nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL if that does not end it in time."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
