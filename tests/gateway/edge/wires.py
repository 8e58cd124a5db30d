"""A reactor with real sockets at its other end."""

import asyncio
import contextlib
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from gateway.edge.handling import Limits
from gateway.edge.reactor import Reactor

LIMITS = Limits(
    descriptors_high=10_000,
    descriptors_low=9_000,
    accepts_per_s=100_000,
    output_cap=1 << 20,
    slow_close_s=30.0,
    descriptors=20_000,
)


class CountingReactor(Reactor):
    """Tells how often the loop woke it up."""

    turns = 0

    def _turn(self) -> None:
        self.turns += 1
        super()._turn()


class Handler:
    """Records; a test may hang its own reaction on bytes."""

    def __init__(self) -> None:
        self.accepted: list[int] = []
        self.overflowed: list[int] = []
        self.closed: list[int] = []
        self.bytes: defaultdict[int, bytes] = defaultdict(bytes)
        self.react: Callable[[int, bytes], None] = lambda fd, data: None
        self.may_accept = 1_000

    def room(self) -> int:
        return self.may_accept

    def on_accept(self, fd: int) -> None:
        self.accepted.append(fd)
        self.bytes.pop(fd, None)

    def on_bytes(self, fd: int, data: bytes) -> None:
        self.bytes[fd] += data
        self.react(fd, data)

    def on_overflow(self, fd: int) -> None:
        os.fstat(fd)  # still open
        self.overflowed.append(fd)

    def on_closed(self, fd: int) -> None:
        os.fstat(fd)  # still open
        self.closed.append(fd)


class Wires:
    """A listening reactor and the sockets that connect to it. `connect` only queues: the reactor
    accepts when the loop turns."""

    def __init__(self, **limits: Any) -> None:
        self.handler = Handler()
        self.reactor = CountingReactor(self.handler, LIMITS._replace(**limits))
        self.port = self.reactor.listen("127.0.0.1", 0)
        self.peers: list[socket.socket] = []

    def connect(self, *, receive_buffer: int = 0) -> socket.socket:
        peer = socket.socket()
        if receive_buffer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.peers.append(peer)
        peer.connect(("127.0.0.1", self.port))
        peer.setblocking(False)
        return peer

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.reactor.stop()


@contextlib.contextmanager
def wires(**limits: Any) -> Iterator[Wires]:
    stage = Wires(**limits)
    try:
        yield stage
    finally:
        stage.close()


async def all_of(peer: socket.socket, size: int) -> bytes:
    """That many bytes, or what came until the end."""
    data = b""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        while len(data) < size:
            more = await loop.sock_recv(peer, 1 << 16)
            if not more:
                break
            data += more
    return data


def received(peer: socket.socket) -> bytes | None:
    """What is there now; None at the end."""
    data = b""
    while True:
        try:
            more = peer.recv(1 << 20)
        except BlockingIOError:
            return data
        if not more:
            return data or None
        data += more
