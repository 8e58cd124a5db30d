"""Processes of one run, known by a mark in their environment, which every child inherits.

So a process is found also when no ready line and no pid file names it.
"""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

from gateway import datadir

MARK: Final = "E2E_RUN"


def marked(mark: str) -> list[int]:
    """Pids of all living processes of this run (zombies do not live)."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended just now, or is not ours
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return [pid for pid in found if lives(pid)]


def lives(pid: int) -> bool:
    return datadir.process_start(pid) is not None


def send(pid: int, signo: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signo)


def end_all(mark: str) -> list[int]:
    """Kill what is left of a run; returns what there was."""
    left = marked(mark)
    deadline_s = time.monotonic() + 10
    while pids := marked(mark):
        for pid in pids:
            send(pid, signal.SIGKILL)
        assert time.monotonic() < deadline_s, f"cannot be killed: {pids}"
        time.sleep(0.01)
    return left
