"""Writes that a crash cuts off, and what is on the disk after it."""

import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from client_sdk import disk


class CrashingDisk:
    """Stands under `client_sdk.disk` for the files of one directory.

    A crash is simulated from within: at the chosen write the directory is copied as the crash would
    leave it, and that write and all later ones fail. So the device may go on for a moment, but
    nothing it could promise any more reaches the copy, with which the next life begins.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.full = False
        """All writes fail, and nothing crashes."""
        self._fuse: int | None = None
        self._kept = 0.0
        self._image: dict[str, bytes] | None = None
        self._before_rename: tuple[str, bytes] | None = None
        self._real: tuple[Callable[..., None], ...] = (
            disk.write_all,
            os.replace,
            disk.sync_directory,
        )
        self._patches = (
            patch.object(disk, "write_all", self._write_all),
            patch.object(os, "replace", self._rename),
            patch.object(disk, "sync_directory", self._sync_directory),
            # Nothing here looks at what the kernel has synced; only how far the calls came counts.
            patch.object(os, "fsync", lambda descriptor: None),
        )
        for each in self._patches:
            each.start()

    def stop(self) -> None:
        for each in self._patches:
            each.stop()

    @property
    def crashed(self) -> bool:
        return self._image is not None

    def arm(self, fuse: int | None, kept: float) -> None:
        """Crash at the `fuse`-th write from now, 0 the next one, with that part of it done."""
        self._fuse, self._kept = fuse, kept

    def disarm(self) -> None:
        self._fuse = None

    def crash(self) -> None:
        """Between two writes."""
        if self._image is None:
            self._image = self._copy()

    def reboot(self) -> None:
        """The directory is as the crash has left it, and writes work."""
        assert self._image is not None
        for path in self.directory.iterdir():
            path.unlink()
        for name, data in self._image.items():
            (self.directory / name).write_bytes(data)
        self._image = self._fuse = None
        self.full = False

    def _copy(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.directory.iterdir()}

    def _burns(self) -> bool:
        """Fails if writes do; else: is this the write of the crash?"""
        if self.full or self._image is not None:
            raise OSError(28, "No space left on device")
        if self._fuse is None:
            return False
        self._fuse -= 1
        return self._fuse < 0

    def _die(self, image: dict[str, bytes]) -> None:
        self._image = image
        raise OSError(5, "the machine is gone")

    def _write_all(self, descriptor: int, data: bytes, offset: int) -> None:
        if self._burns():
            os.pwrite(descriptor, data[: round(len(data) * self._kept)], offset)
            self._die(self._copy())
        self._real[0](descriptor, data, offset)

    def _rename(self, old: Path, new: Path) -> None:
        if self._burns():
            self._die(self._copy())
        self._before_rename = new.name, new.read_bytes() if new.exists() else b""
        self._real[1](old, new)

    def _sync_directory(self, directory: Path) -> None:
        if self._burns():
            image = self._copy()
            if self._before_rename is not None and self._kept < 0.5:
                name, data = self._before_rename  # the new name was not on disk yet
                image[name] = data
            self._die(image)
        self._before_rename = None
