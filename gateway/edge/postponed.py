"""Acknowledgements that wait for company: they go with the next answer to their connection, or message to a few
devices, or by themselves a little later. A broadcast does not ask for them: it has no queue.

A receipt is safe without its acknowledgement, and an acknowledgement by itself is a write(2) here and a read
there. It stands for all before it, so one a second is enough for a device that has many. An edge that has few to
send sends them at once, though: an app that closes its device waits for them. TCP delays its own for the same
reason, by less than 0.5 s (RFC 1122, 4.2.3.2).
"""

from collections.abc import Callable
from typing import Final, Protocol

LATEST_S: Final = 1.0
"""A device keeps its receipts for so much longer, and sends them again if it loses its connection meanwhile."""
_TICK_S: Final = 0.05
_AT_ONCE: Final = 10
"""Of each tick: 200 a second are half a percent of a core."""
_IN_ONE_TURN: Final = 32
"""Writes of a turn of the loop: some tenths of a millisecond."""


class _Timer(Protocol):
    def cancel(self) -> object: ...


class Timers(Protocol):
    """An event loop, as far as this goes."""

    def time(self) -> float: ...

    def call_soon(self, callback: Callable[[], None]) -> _Timer: ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> _Timer: ...


class Postponed:
    """At most one frame for each connection."""

    def __init__(self, loop: Timers, send: Callable[[int, bytes], None]) -> None:
        self._loop = loop
        self._send = send
        self._first: dict[int, bytes] = {}
        """Those that go as soon as this turn of the loop is over."""
        self._of: dict[int, tuple[float, bytes]] = {}
        """descriptor -> (due, frame), in the order of what is due: all wait equally long"""
        self._at_once = _AT_ONCE
        self._timer: _Timer | None = None

    def put(self, fd: int, frame: bytes) -> None:
        """A frame that makes the one before it, if that is still here, needless."""
        waiting = self._of.get(fd)
        if waiting is not None:
            self._of[fd] = waiting[0], frame
            return
        if fd in self._first:
            self._first[fd] = frame
        elif self._at_once:
            self._at_once -= 1
            if not self._first:
                self._loop.call_soon(self._send_first)
            self._first[fd] = frame
        else:
            self._of[fd] = self._loop.time() + LATEST_S, frame
        if self._timer is None:
            self._timer = self._loop.call_later(_TICK_S, self._tick)

    def take(self, fd: int) -> bytes:
        """The frame, to be written now; empty if there is none. Also for a connection that ends."""
        waiting = self._of.pop(fd, None)
        return waiting[1] if waiting is not None else self._first.pop(fd, b"")

    def __len__(self) -> int:
        return len(self._of) + len(self._first)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _send_first(self) -> None:
        for fd in [*self._first]:
            self._send(fd, self.take(fd))

    def _tick(self) -> None:
        now = self._loop.time()
        due: list[int] = []
        for fd, (at, _) in self._of.items():
            if at > now or len(due) == _IN_ONE_TURN:
                break
            due.append(fd)
        for fd in due:
            self._send(fd, self.take(fd))
        if len(due) == _IN_ONE_TURN:
            self._timer = self._loop.call_soon(self._tick)
            return
        self._at_once = _AT_ONCE
        self._timer = self._loop.call_later(_TICK_S, self._tick) if self._of else None
