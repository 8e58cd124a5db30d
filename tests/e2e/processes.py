"""Processes of one run, found also when no ready line and no pid file names them.

They carry a mark in their environment, which every child inherits; and they share the lock of the
data directory, which tells those that write over their environment, such as the store.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway import datadir

MARK: Final = "E2E_RUN"


def of_run(mark: str, data_dir: Path) -> list[int]:
    """Pids of all living processes of this run (zombies do not live)."""
    return [pid for pid in _all() if lives(pid) and (_marked(pid, mark) or _holds(pid, data_dir))]


def _all() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            yield int(entry.name)


def _marked(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # it ended just now, or is not ours


def _holds(pid: int, data_dir: Path) -> bool:
    lock = os.path.realpath(data_dir / datadir.LOCK)
    with contextlib.suppress(OSError):
        for handle in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{handle}") == lock:
                    return True
    return False


def lives(pid: int) -> bool:
    return datadir.process_start(pid) is not None


def send(pid: int, signo: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signo)


def end_all(mark: str, data_dir: Path) -> None:
    """Kill what is left of a run."""
    deadline_s = time.monotonic() + 10
    while pids := of_run(mark, data_dir):
        for pid in pids:
            send(pid, signal.SIGKILL)
        assert time.monotonic() < deadline_s, f"cannot be killed: {pids}"
        time.sleep(0.01)
