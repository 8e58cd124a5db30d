"""The data directory: what lies where, with which rights, and who may use it.

lock            held (flock) by the supervisor and every process it starts
secrets.json    master keys and the RPC secret (gateway.secretfiles)
demo-keys.json  the keys of app `demo`, made on the first start
store/          the embedded server: socket, configuration, log, append-only files
run/            sockets between roles, pids.json, addresses.json; of this run only
"""

import asyncio
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

LOCK: Final = "lock"
STORE: Final = "store"
RUN: Final = "run"
PIDS: Final = "pids.json"
ADDRESSES: Final = "addresses.json"

SOCKET_PATH_MAX: Final = 100
"""Bytes. sockaddr_un holds 107 and a NUL; the rest is for names that the roles add."""
_POLL_S: Final = 0.05


class DataDirError(Exception):
    """The data directory cannot be used; the text is one sentence for the user."""


def prepare(data_dir: Path) -> Path:
    """Make the directory and its `run/` and `store/` (0700) where missing. Returns it absolute."""
    root = data_dir.absolute()
    try:
        for path in (root, root / RUN, root / STORE):
            path.mkdir(mode=0o700, parents=path is root, exist_ok=True)
    except OSError as error:
        raise DataDirError(f"data directory {root}: {error.strerror}") from error
    return root


def write_private(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Replace a file in one step, mode 0600. A reader sees the old content or the new."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable: fsync of a file does not cover its entry."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def socket_place(data_dir: Path, folder: str, longest_name: str) -> Path:
    """Where sockets of `folder` lie: in the data directory, unless their paths are too long there.

    Then in a private directory under XDG_RUNTIME_DIR or the temporary directory, named after the
    data directory so that every process finds the same one.
    """
    home = data_dir.absolute() / folder
    if len(os.fsencode(home / longest_name)) <= SOCKET_PATH_MAX:
        return home
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    digest = hashlib.sha256(os.fsencode(data_dir.absolute())).hexdigest()[:12]
    short = Path(base, f"columba-{os.geteuid()}-{digest}-{folder}")
    if len(os.fsencode(short / longest_name)) > SOCKET_PATH_MAX:
        short = Path("/tmp", short.name)
    return short


def socket_dir(data_dir: Path, folder: str, longest_name: str) -> Path:
    """The same place; a short one is made (0700) if it is not there. Raises DataDirError."""
    place = socket_place(data_dir, folder, longest_name)
    if place.parent != data_dir.absolute():
        place.mkdir(mode=0o700, exist_ok=True)
        # /tmp is everybody's: another user may have made the name before us.
        found = place.lstat()
        private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if not private or stat.S_IMODE(found.st_mode) & 0o077:
            raise DataDirError(f"{place} exists and is not a directory of this user alone")
    return place


def process_start(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None if it is gone. Tells reused pids."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def holder(data_dir: Path) -> int | None:
    """Pid of the living process that took the lock, if any."""
    try:
        entry = json.loads((data_dir / LOCK).read_text())
        pid, started = int(entry["pid"]), int(entry["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if process_start(pid) == started else None


class Lock:
    """The right to run a service on a data directory.

    The descriptor is passed on to the processes started for it: the flock belongs to the open
    file, so it lasts until the last of them has ended, and a start right after a kill never has two
    servers on one append-only file.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle

    @classmethod
    def try_take(cls, data_dir: Path) -> Self | None:
        """None if another process has it. Raises DataDirError if its taker still lives."""
        handle = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            taker = holder(data_dir)
            if taker is not None:
                raise DataDirError(
                    f"data directory {data_dir} is in use by process {taker}"
                ) from None
            return None
        entry = {"pid": os.getpid(), "started": process_start(os.getpid())}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(entry).encode(), 0)
        return cls(handle)

    def release(self) -> None:
        """Give up our descriptor. Children that still have theirs keep the lock. Repeatable."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


async def take_lock(data_dir: Path, *, wait_s: float, on_wait: Callable[[], None]) -> Lock:
    """Take the lock, waiting at most so long for what an earlier run left behind.

    Calls `on_wait()` once when it has to wait. Raises DataDirError.
    """
    deadline_s = time.monotonic() + wait_s
    told = False
    while True:
        lock = Lock.try_take(data_dir)
        if lock is not None:
            return lock
        if not told:
            on_wait()
            told = True
        if time.monotonic() >= deadline_s:
            raise DataDirError(
                f"data directory {data_dir} is still in use by processes of an earlier start "
                f"that have not ended within {wait_s:g} s"
            )
        await asyncio.sleep(_POLL_S)
