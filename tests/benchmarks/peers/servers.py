"""The servers: what runs them, with which settings, until the block ends.

Settings are the server's defaults but for what stands in its function: nothing on disk, no log of
connections, room for the connections, heartbeats out of the way. Everything listens on loopback only.
"""

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from loadtest import service as columba_service
from loadtest.links import Address
from tests.benchmarks.peers.publishers import (
    ColumbaPublisher,
    HttpPublisher,
    MqttPublisher,
    NatsPublisher,
    Publisher,
    RedisPublisher,
)

_READY_S: Final = 15.0
_STOP_S: Final = 5.0
_ROOM: Final = 19_000
"""Connections a server is told to take: more than are made, less than its descriptors."""


IN_FLIGHT: Final = 512
"""Subscriptions without an answer at any time: enough for a server that gathers them to gather."""
FEW_IN_FLIGHT: Final = 64


class ServerFailed(Exception):
    """A server did not come up, or is gone."""


class Running(NamedTuple):
    address: Address
    """Where subscribers connect."""
    pids: list[int]
    """All its processes."""
    front: list[int]
    """Of them: those that hold the connections."""
    options: dict[str, Any]
    """Of its wire."""
    publisher: Callable[[int], Publisher]
    """For so many messages at once."""


class Peer(NamedTuple):
    name: str
    """On the command line."""
    title: str
    wire: str
    settings: str
    installed: Callable[[], bool]
    version: Callable[[], str]
    started: Callable[[Path], AbstractContextManager[Running]]
    """In an empty directory. Raises ServerFailed, and OSError if it cannot be run."""
    in_flight: int = IN_FLIGHT


@contextmanager
def _run(command: list[str], port: int, place: Path, workers: int = 0) -> Iterator[list[int]]:
    """The process ids of a command that listens on `port`, ended behind the block.

    `workers`: so many children do its work.
    """
    with Path(place, "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.launch", *command],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            # Ctrl-C is for this process, which then ends the server.
            start_new_session=True,
        )
    try:
        _wait_listening(process, port, Path(place, "said"))
        yield [process.pid, *_wait_children(process.pid, workers)]
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_listening(process: subprocess.Popen[bytes], port: int, said: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise ServerFailed(f"{process.args!r} is not there: {said.read_text(errors='replace')[-800:]}")


def _wait_children(pid: int, count: int) -> list[int]:
    """Its port is open before a server forks the processes that serve it."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        # proc(5): those of the main thread, which forks in all that are started here.
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if len(children) >= count:
            return list(map(int, children))
        time.sleep(0.02)
    raise ServerFailed(f"process {pid} has no {count} children")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _said(*command: str) -> str:
    """All that a command says, wherever it says it."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return ended.stdout + ended.stderr


def _version(pattern: str, *command: str) -> str:
    found = re.search(pattern, _said(*command))
    return found[1] if found else "unknown"


# Redis


@contextmanager
def _redis(place: Path) -> Iterator[Running]:
    port = _free_port()
    options = {
        "bind": "127.0.0.1",
        "port": port,
        "dir": place,
        "save": "",
        "appendonly": "no",
        "maxclients": _ROOM,
        "tcp-backlog": 4096,
        # It takes no other address of 127.0.0.0/8 than 127.0.0.1 for loopback, and subscribers have one.
        "protected-mode": "no",
    }
    command = [_REDIS]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    # No limit to what waits for a slow subscriber: nobody is to be cut off in a round.
    command += ["--client-output-buffer-limit", "pubsub 0 0 0"]
    with _run(command, port, place) as pids:
        address = ("127.0.0.1", port)
        yield Running(address, pids, pids, {}, lambda _: RedisPublisher(address))


# Mosquitto


@contextmanager
def _mosquitto(place: Path) -> Iterator[Running]:
    port = _free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "persistence false",
        "log_dest stderr",
        "log_type error",
        "set_tcp_nodelay true",
        "max_connections -1",
    ]
    if os.geteuid() == 0:
        # It would become the user mosquitto, whose memory only root can look at; root stays root.
        lines.append("user root")
    config = Path(place, "mosquitto.conf")
    config.write_text("\n".join(lines) + "\n")
    with _run([_MOSQUITTO, "-c", str(config)], port, place) as pids:
        address = ("127.0.0.1", port)
        yield Running(address, pids, pids, {}, lambda _: MqttPublisher(address))


# NATS


@contextmanager
def _nats(place: Path) -> Iterator[Running]:
    port = _free_port()
    config = Path(place, "nats.conf")
    config.write_text(
        f'listen: "127.0.0.1:{port}"\n'
        f"max_connections: {_ROOM}\n"
        'ping_interval: "10m"\n'
        f'log_file: "{place}/log"\n'
    )
    with _run([_NATS, "-c", str(config)], port, place) as pids:
        address = ("127.0.0.1", port)
        yield Running(address, pids, pids, {}, lambda _: NatsPublisher(address))


# nginx with nchan


@contextmanager
def _nchan(place: Path) -> Iterator[Running]:
    port = _free_port()
    config = Path(place, "nginx.conf")
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"{kind}_temp_path {place}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(f"""
load_module {_NCHAN};
{user}
daemon off;
pid {place}/pid;
worker_processes 1;
worker_rlimit_nofile {_ROOM + 500};
error_log {place}/error crit;
events {{ worker_connections {_ROOM}; }}
http {{
  access_log off;
  {temporary}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /sub {{ nchan_subscriber websocket; nchan_channel_id bench; }}
    # Some messages are kept for a moment, as more than one may be on its way.
    location = /pub {{
      nchan_publisher; nchan_channel_id bench;
      nchan_message_buffer_length 20; nchan_message_timeout 30s;
    }}
  }}
}}
""")
    with _run([_NGINX, "-p", str(place), "-c", str(config)], port, place, workers=1) as pids:
        address = ("127.0.0.1", port)
        yield Running(address, pids, pids, {}, lambda n: HttpPublisher(address, "/pub", n))


# Columba


@contextmanager
def _columba(place: Path) -> Iterator[Running]:
    with columba_service.started(1) as service:
        api = urlsplit(service.api)
        address = (api.hostname or "", api.port or 80)
        options = {
            "app": service.app,
            "access_key": service.access_key,
            "seed": f"peers {time.time_ns()}",
        }
        yield Running(
            service.devices,
            _numbers(service.pids.values()),
            service.edge_pids,
            options,
            lambda n: ColumbaPublisher(address, service.app, service.api_key, n),
        )


def _numbers(values: Any) -> list[int]:
    """The ready line has a number, a list of numbers or nothing for each role."""
    if values is None or isinstance(values, int):
        return [] if values is None else [values]
    return [number for value in values for number in _numbers(value)]


def _on_path(program: str) -> str:
    """Debian keeps servers in /usr/sbin, which is not on everybody's PATH."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin"
    return shutil.which(program, path=path) or ""


_REDIS: Final = _on_path("redis-server")
_MOSQUITTO: Final = _on_path("mosquitto")
_NATS: Final = _on_path("nats-server")
_NGINX: Final = _on_path("nginx")
_NCHAN: Final = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


def _nchan_version() -> str:
    nginx = _version(r"nginx/([\d.]+)", _NGINX, "-v")
    package = _said("dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan")
    found = re.match(r"(?:\d+:)?([\d.]+)", package)
    return f"{nginx}, nchan {found[1].rstrip('.') if found else 'unknown'}"


PEERS: Final = (
    Peer(
        "columba",
        "Columba",
        "columba",
        "`columba serve` with its defaults, one edge; embedded store with fsync always",
        lambda: True,
        lambda: f"{installed_version('columba')}, Python {platform.python_version()}",
        _columba,
    ),
    Peer(
        "redis",
        "Redis pub/sub",
        "redis",
        "save '', appendonly no, no output buffer limit for pubsub, tcp-backlog 4096",
        lambda: bool(_REDIS),
        lambda: _version(r"v=([\d.]+)", _REDIS, "--version"),
        _redis,
    ),
    Peer(
        "mosquitto",
        "Mosquitto, QoS 0",
        "mqtt",
        "persistence false, log_type error, set_tcp_nodelay true, keep alive 0",
        lambda: bool(_MOSQUITTO),
        lambda: _version(r"version ([\d.]+)", _MOSQUITTO, "-h"),
        _mosquitto,
        # Its backlog is 100 and cannot be set; each SYN beyond it is dropped and costs a second.
        in_flight=FEW_IN_FLIGHT,
    ),
    Peer(
        "nats",
        "NATS",
        "nats",
        "core NATS, no JetStream, ping_interval 10m",
        lambda: bool(_NATS),
        lambda: _version(r"v([\d.]+)", _NATS, "--version"),
        _nats,
    ),
    Peer(
        "nchan",
        "nginx nchan",
        "nchan",
        "one worker, subscribers over WebSocket, 20 messages kept in memory",
        lambda: bool(_NGINX) and _NCHAN.exists(),
        _nchan_version,
        _nchan,
    ),
)
