"""Files that survive a crash: atomic replacement, setting damaged ones aside, one owner."""

import fcntl
import os
from pathlib import Path

from client_sdk.errors import StateDirectoryError


def sync_directory(directory: Path) -> None:
    """Makes names in `directory` durable: a rename is on disk only after this (fsync(2), NOTES)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """All of `data` at `offset`, synced. Raises OSError; then any part of it may be there."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    os.fsync(descriptor)


def write_new(path: Path, data: bytes) -> int:
    """Puts a new file with `data`, mode 0600, under the name `path`; its open descriptor.

    After an OSError the old file is untouched. The new name is durable after `sync_directory`.
    """
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(descriptor, data, 0)
        os.replace(fresh, path)
    except OSError:
        os.close(descriptor)
        fresh.unlink(missing_ok=True)  # on a full disk it would take the room that comes back
        raise
    return descriptor


def replace(path: Path, data: bytes) -> None:
    """`path` holds `data`; after a crash at any point either the old or the new."""
    os.close(write_new(path, data))
    sync_directory(path.parent)


def set_aside(path: Path) -> Path:
    """Renames a damaged file to the first free `.corrupt-<n>` and returns that name."""
    n = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{n}")).exists():
        n += 1
    os.replace(path, aside)
    sync_directory(path.parent)
    return aside


class DirectoryLock:
    """This process owns a state directory. The kernel lets go of it when the process dies."""

    def __init__(self, directory: Path) -> None:
        """Raises StateDirectoryError if another `Device` has it."""
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise StateDirectoryError(
                f"{directory} is open in another Device; each installation needs its own"
            ) from None

    def release(self) -> None:
        os.close(self._descriptor)
