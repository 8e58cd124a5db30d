"""Disks that can be filled: a small tmpfs of our own, or else a bound on the size of files.

A full tmpfs says ENOSPC as a full disk does. It needs the right to mount in a namespace of its own, which
a container mostly does not have; the bound (RLIMIT_FSIZE) needs none and says EFBIG, behind a short
write in both cases. Neither the store nor the SDK looks at which of the two it is.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_TMPFS_BYTES: Final = 96 * 1024 * 1024
_PAGE: Final = 4096
_NAMESPACE: Final = """
import os, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sys.argv[2]},mode=0700", "faults", sys.argv[1]], check=True)
print("mounted", flush=True)
sys.stdin.read()
"""
"""Keeps the namespace, and with it what is on the disk, while servers come and go."""
_BOUNDED: Final = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Disk:
    """A folder on a disk that nobody fills."""

    said = ""
    """What a write to it says when it is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Behind the end of all that used it."""

    def before(self) -> list[str]:
        """What stands in front of a command line that is to use the folder."""
        return []

    def fill(self, pids: Iterable[int]) -> None:
        """From now on nothing more can be written, by these processes that use it or by later ones."""
        raise NotImplementedError

    def free(self, pids: Iterable[int]) -> None:
        """There is room again."""
        raise NotImplementedError


class BoundedDisk(Disk):
    """The size of files is bounded: while it is full, at what the files that grow have now."""

    said = "EFBIG"

    def __init__(self, folder: Path, growing: str) -> None:
        """`growing`: what the files are called that are appended to, as a pattern."""
        super().__init__(folder)
        self._growing = growing
        self._bound = resource.RLIM_INFINITY

    def before(self) -> list[str]:
        return [sys.executable, "-c", _BOUNDED, str(self._bound)]

    def fill(self, pids: Iterable[int]) -> None:
        sizes = [path.stat().st_size for path in self.folder.rglob(self._growing)]
        self._bound = max(_PAGE, min(sizes, default=0))
        for pid in pids:
            bound_files(pid, self._bound)

    def free(self, pids: Iterable[int]) -> None:
        self._bound = resource.RLIM_INFINITY
        for pid in pids:
            bound_files(pid, None)


def bound_files(pid: int, size: int | None) -> None:
    """For a process of ours; only the soft limit, so that it can be raised again.

    The process must ignore SIGXFSZ, which kills before the error can be seen; Python always does.
    """
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    soft = hard if size is None else size
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


class SmallDisk(Disk):
    """A tmpfs in a mount namespace that only we and the processes started `before` it see."""

    said = "ENOSPC"

    def __init__(self, folder: Path) -> None:
        """Raises OSError where that is not allowed."""
        super().__init__(folder)
        self._keeper = subprocess.Popen(
            [
                "unshare",
                "--mount",
                sys.executable,
                "-c",
                _NAMESPACE,
                str(folder),
                str(_TMPFS_BYTES),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != b"mounted\n":
            self.close()
            raise OSError("no tmpfs in a namespace of its own here")

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._keeper.communicate(timeout=10)

    def before(self) -> list[str]:
        return ["nsenter", "--mount", f"--target={self._keeper.pid}", "--"]

    @property
    def _ballast(self) -> Path:
        return Path(f"/proc/{self._keeper.pid}/root{self.folder}/ballast")

    def fill(self, pids: Iterable[int]) -> None:
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            with suppress(OSError):  # until it is full
                while True:
                    os.write(descriptor, bytes(_PAGE * 16))
        finally:
            os.close(descriptor)

    def free(self, pids: Iterable[int]) -> None:
        self._ballast.unlink()


def fillable(folder: Path, growing: str) -> Disk:
    """The best that this machine allows."""
    try:
        return SmallDisk(folder)
    except OSError:
        return BoundedDisk(folder, growing)
