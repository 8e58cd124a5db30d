"""Stand-ins for the roles, run in real processes by the tests of the zygote and the supervisor.

They say they are ready, wait for SIGTERM and note what happened in `notes` of the data directory.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from gateway.config import Config
from gateway.secretfiles import Secrets
from gateway.supervisor.roles import Ready


def note(config: Config, text: str) -> None:
    """Appended in one write: processes note at the same time."""
    handle = os.open(
        Path(config.service.data_dir, "notes"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
    )
    os.write(handle, f"{text}\n".encode())
    os.close(handle)


def say(ready_fd: int, **said: object) -> None:
    os.write(ready_fd, json.dumps(said).encode() + b"\n")
    os.close(ready_fd)


def edge(config: Config, secrets: Secrets, slot: int, ready_fd: int) -> int:
    """Ready with everything it has open; ends on SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    inherited = {int(name) for name in os.listdir("/proc/self/fd")}
    targets = sorted(
        os.readlink(f"/proc/self/fd/{handle}")
        for handle in inherited
        if handle != ready_fd and os.path.exists(f"/proc/self/fd/{handle}")
    )
    say(
        ready_fd,
        number=slot + 100,
        start=os.getpid(),
        open=targets,
        rpc_secret_bytes=len(secrets.rpc_secret),
        listen=config.edge.listen,
        structlog="structlog" in sys.modules,
    )
    print("a stray print must not reach the supervisor")
    signal.sigwait([signal.SIGTERM])
    note(config, "edge stopped")
    return 0


def deaf_edge(_config: Config, _secrets: Secrets, _slot: int, ready_fd: int) -> int:
    """Does not end on SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(ready_fd)
    while True:
        signal.pause()


def failing_edge(_config: Config, _secrets: Secrets, _slot: int, _ready_fd: int) -> int:
    raise ValueError("an edge that cannot start")


async def _role(name: str, config: Config, store_url: str, ready: Ready) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    ready({"number": 7, "start": os.getpid(), "store": store_url})
    await stopped.wait()
    note(config, f"{name} stopped")


async def dispatch(config: Config, _secrets: Secrets, store_url: str, ready: Ready) -> None:
    await _role("dispatch", config, store_url, ready)


async def api(config: Config, _secrets: Secrets, store_url: str, ready: Ready) -> None:
    await _role("api", config, store_url, ready)


async def taken_port(_config: Config, _secrets: Secrets, _store_url: str, _ready: Ready) -> None:
    raise OSError(98, "Address already in use")


async def defect(_config: Config, _secrets: Secrets, _store_url: str, _ready: Ready) -> None:
    raise ValueError("a defect")
