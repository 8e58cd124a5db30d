"""Listening sockets of an edge: the shared device port and one of its own, and the accept budget.

An edge that is full or drains closes its listeners, because one that is left open at the
descriptor limit wakes the loop without end; before that it empties their queues with a word.
"""

import asyncio
import os
import select
import socket
from collections.abc import Callable
from typing import Final

_BATCH: Final = 128
"""Connections taken from one listener in a turn."""
_ROOM_S: Final = 0.02
"""Until it is asked again whether there is room."""
_DRAIN_READ: Final = 16 * 1024
_NOT_SENT: Final = 16 * 1024
"""Bytes that the kernel takes for a connection beyond what is on the network (tcp(7), TCP_NOTSENT_LOWAT).
Left alone it takes megabytes for a peer that does not read: out of reach for recalls and for the lanes,
and far more than an edge means to hold for one connection."""


class Listeners:
    """The sockets, registered in the reactor's epoll while they may accept."""

    def __init__(
        self,
        epoll: select.epoll,
        accepts_per_s: int,
        resting: Callable[[], bool],
        room: Callable[[], int],
    ) -> None:
        self._epoll = epoll
        self._loop = asyncio.get_running_loop()
        self._rate = accepts_per_s
        self._resting = resting
        """True while nothing may be accepted, budget or not."""
        self._room = room
        """How many more may come in before some of those inside are through."""
        self._sockets: dict[int, socket.socket] = {}
        self._closed: list[tuple[str, int]] = []
        """Addresses to listen on again, when there is room."""
        self._tokens = float(accepts_per_s)
        self._tokens_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.refused_total = 0

    def __bool__(self) -> bool:
        return bool(self._sockets)

    def get(self, fd: int) -> socket.socket | None:
        return self._sockets.get(fd)

    def open(self, host: str, port: int) -> int:
        """Listen (SO_REUSEPORT); returns the port. OSError if it is taken."""
        listener = _listener(host, port)
        self._sockets[listener.fileno()] = listener
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        return int(listener.getsockname()[1])

    def close(self, refusal: bytes = b"") -> None:
        """Close all, those in their queues get `refusal`; `reopen` knows the addresses."""
        for fd, listener in self._sockets.items():
            self._epoll.unregister(fd)
            self._closed.append(listener.getsockname()[:2])
            if refusal:
                self._refuse_queue(listener, refusal)
            listener.close()
        self._sockets.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def reopen(self) -> bool:
        """Listen again where we did; False if an address is taken just now, then try again later."""
        waiting, self._closed = self._closed, []
        for host, port in waiting:
            try:
                self.open(host, port)
            except OSError:
                # Our own port is one of those the kernel also gives to outgoing connections.
                self._closed.append((host, port))
        return not self._closed

    def rest(self) -> None:
        """Be silent until `wake`."""
        for fd in self._sockets:
            self._epoll.modify(fd, 0)

    def _wake(self) -> None:
        self._timer = None
        if not self._resting():
            for fd in self._sockets:
                self._epoll.modify(fd, select.EPOLLIN)

    def budget(self) -> int:
        """Accepts allowed in this turn; at 0 the listeners rest until there is budget again."""
        now = self._loop.time()
        self._tokens = min(float(self._rate), self._tokens + (now - self._tokens_at) * self._rate)
        self._tokens_at = now
        allowed = min(int(self._tokens), self._room())
        if allowed < 1 and self._timer is None:
            self.rest()
            wait_s = min(_BATCH, self._rate) / self._rate if self._tokens < 1 else _ROOM_S
            self._timer = self._loop.call_later(wait_s, self._wake)
        return max(0, min(_BATCH, allowed))

    def spend(self) -> None:
        self._tokens -= 1

    def _refuse_queue(self, listener: socket.socket, refusal: bytes) -> None:
        """Closing a listener with a queue would reset those in it without a word."""
        for _ in range(4096):
            try:
                fd, _address = listener._accept()  # type: ignore[attr-defined]
            except OSError:
                return
            try:
                os.set_blocking(fd, False)
                os.write(fd, refusal)
                os.read(fd, _DRAIN_READ)  # closing with unread input would be a reset
            except OSError:
                pass  # it has gone by itself
            os.close(fd)
            self.refused_total += 1


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Accepted sockets inherit these on Linux: no setsockopt a connection.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOT_SENT)
    try:
        listener.bind((host, port))
        listener.listen(4096)
    except OSError:
        listener.close()
        raise
    return listener
