"""A disk with so many bytes left, as a kernel shows it: the last write is short, the next fails."""

import errno
import os
from collections.abc import Callable

import pytest


class Disk:
    """Everything that `client_sdk.disk` writes takes room here, and nothing gives it back but the
    test, by setting `left`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int = 1 << 40) -> None:
        self.left = left
        self._pwrite: Callable[[int, memoryview, int], int] = os.pwrite
        monkeypatch.setattr(os, "pwrite", self._take)

    def _take(self, descriptor: int, data: memoryview, offset: int) -> int:
        if not self.left and data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._pwrite(descriptor, data[: self.left], offset)
        self.left -= taken
        return taken
