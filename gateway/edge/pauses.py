"""Connections that are not read for a while, since too much of what devices report waits for the store.

What they send stays in the kernel's buffers, which tell them to wait: reports stay with their devices.
"""

from collections.abc import Callable
from typing import Final

from gateway.edge.reactor import Reactor

_AT_ONCE: Final = 64
"""Connections that are read again in one step."""


class Pauses:
    """`told` hears of each pause: from then on `resume` is to be called now and then."""

    def __init__(
        self, reactor: Reactor, full: Callable[[], bool], told: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._full = full
        self._told = told
        self._rows: set[int] = set()

    def __contains__(self, fd: int) -> bool:
        return fd in self._rows

    def add(self, fd: int) -> None:
        self._rows.add(fd)
        self._reactor.pause(fd)
        self._told()

    def discard(self, fd: int) -> None:
        """It is closed."""
        self._rows.discard(fd)

    def resume(self) -> bool:
        """Read some of them again while there is room. False: none is left."""
        for _ in range(_AT_ONCE):
            if not self._rows or self._full():
                break
            self._reactor.resume(self._rows.pop())
        return bool(self._rows)
