"""The sockets of a fleet: bare descriptors in one epoll, what they could not send, what came in part.

A descriptor is all there is of a connection here; the row it serves stands in an array.
"""

import os
import select
import socket
from array import array
from resource import RLIMIT_NOFILE, getrlimit
from typing import Final

Address = tuple[str, int]

WRITABLE: Final = select.EPOLLOUT

_READ: Final = select.EPOLLIN | select.EPOLLRDHUP
_READ_WRITE: Final = _READ | WRITABLE
_READ_BYTES: Final = 4096
"""What one read takes at most; epoll is level-triggered and tells again of what is left."""
_EVENTS: Final = 1024
_BIND_ADDRESS_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT (ip(7)): the port is chosen at connect, where only the pair of addresses
has to be unique. Without it a source address runs out of ports for all destinations together."""


def loopback_source(address: Address, network: int, number: int) -> str | None:
    """127.0.network.number to dial from if `address` is on loopback; else None, the machine's own.

    One source has 28,000 ports for each destination, so a large fleet needs several.
    """
    return f"127.0.{network}.{number}" if address[0].startswith("127.") else None


class Links:
    """fd -> row, and the system calls. All sockets are non-blocking."""

    __slots__ = (
        "_deaf",
        "_epoll",
        "_graves",
        "_limbo",
        "_muted",
        "_rest",
        "_unsent",
        "limbo_overflowed",
        "most_in_limbo",
        "row_of",
    )

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.row_of = array("i", [-1]) * getrlimit(RLIMIT_NOFILE)[0]
        self._unsent: dict[int, bytes] = {}
        self._rest: dict[int, bytes] = {}
        self._graves: list[int] = []
        self._deaf: set[int] = set()
        self._muted: set[int] = set()
        self._limbo: dict[int, None] = {}
        self.most_in_limbo = 2048
        self.limbo_overflowed = 0
        """Connections in limbo that were closed with a FIN after all, to make room."""

    def dial(self, row: int, address: Address, source: str | None, receive_buffer: int = 0) -> int:
        """A connecting descriptor; its first event says how it went. Raises OSError.

        `receive_buffer`: bytes, which the kernel doubles; 0: as it likes. Set before the connect,
        since the window is agreed on there.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # A receipt right behind another must not wait for the acknowledgement of the first.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source is not None:
                sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            try:
                sock.connect(address)
            except BlockingIOError:
                pass  # in progress: writable when it stands
            self._epoll.register(sock.fileno(), _READ_WRITE)
        except BaseException:
            sock.close()
            raise
        fd = sock.detach()
        self.row_of[fd] = row
        return fd

    def watch(self, fd: int) -> None:
        """Let `poll` also tell of a descriptor that is no device's: its row is -1."""
        self._epoll.register(fd, select.EPOLLIN)

    def poll(self, timeout_s: float) -> list[tuple[int, int]]:
        """(fd, mask) of one batch. HUP and ERR mean "read": the read says which it is.

        A descriptor that is closed within the batch has row -1 from then on and is to be skipped;
        it is freed by `bury`, so its number cannot have a new owner before.
        """
        return self._epoll.poll(timeout_s, _EVENTS)

    def established(self, fd: int) -> None:
        """The connect is done: from here on only reads are of interest, until a write falls short."""
        self._epoll.modify(fd, _READ)

    def read(self, fd: int, most: int = _READ_BYTES) -> bytes | None:
        """What is there, behind what `keep` was given; None if nothing is. Empty or OSError: ended."""
        try:
            chunk = os.read(fd, most)
        except BlockingIOError:
            return None
        if self._rest and chunk:
            rest = self._rest.pop(fd, None)
            if rest is not None:
                return rest + chunk
        return chunk

    def keep(self, fd: int, rest: bytes) -> None:
        """The start of a frame whose end is still to come."""
        self._rest[fd] = rest

    def write(self, fd: int, data: bytes) -> bool:
        """Send now what the socket takes and the rest when it is writable. False: it is broken."""
        waiting = self._unsent.get(fd)
        if waiting is not None:
            self._unsent[fd] = waiting + data
            return True
        if self._muted and fd in self._muted:
            return True
        try:
            sent = os.write(fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        if sent < len(data):
            self._unsent[fd] = data[sent:]
            if fd not in self._deaf:
                self._epoll.modify(fd, _READ_WRITE)
        return True

    def flush(self, fd: int) -> bool:
        """The socket is writable: send what waits. False: it is broken."""
        data = self._unsent.pop(fd, None)
        self._epoll.modify(fd, _READ)
        return data is None or self.write(fd, data)

    def pause(self, fd: int, *, hush: bool = False) -> None:
        """Tell nothing of it until `resume`; with `hush` what is written waits, too.

        It leaves the set: with an empty mask the kernel would still tell of a reset, again and again.
        """
        if fd not in self._deaf:
            self._deaf.add(fd)
            self._epoll.unregister(fd)
        if hush:
            self._unsent.setdefault(fd, b"")

    def resume(self, fd: int) -> None:
        if fd in self._deaf:
            self._deaf.remove(fd)
            self._epoll.register(fd, _READ_WRITE if fd in self._unsent else _READ)

    def mute(self, fd: int) -> None:
        """As behind a NAT that has forgotten the connection: nothing passes any more, either way.

        The kernel at this end goes on acknowledging segments, which no program without privileges
        can help; the other side's program hears nothing.
        """
        self.pause(fd)
        self._unsent.pop(fd, None)
        self._muted.add(fd)

    def forget(self, fd: int) -> None:
        """Free a descriptor in limbo, whose other side has ended; any other stays as it is."""
        if fd in self._limbo:
            del self._limbo[fd]
            self.close(fd)

    @property
    def in_limbo(self) -> int:
        return len(self._limbo)

    def close(self, fd: int) -> None:
        """Unregister now, free with the next `bury`. A muted one sends no FIN: it goes to limbo
        until the other side has closed it, or so many newer ones are there.
        """
        self.row_of[fd] = -1
        self._unsent.pop(fd, None)
        self._rest.pop(fd, None)
        self._deaf.discard(fd)
        if fd in self._muted:
            self._muted.remove(fd)
            if len(self._limbo) >= self.most_in_limbo:
                self.limbo_overflowed += 1
                self.forget(next(iter(self._limbo)))
            self._limbo[fd] = None
            # Data may come for as long as it likes; only the end is of interest.
            self._epoll.register(fd, select.EPOLLRDHUP)
            return
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass  # an unconnected socket may have left the set by itself
        self._graves.append(fd)

    def bury(self) -> None:
        """Free the descriptors closed since the last call; call it between two batches."""
        for fd in self._graves:
            os.close(fd)
        self._graves.clear()

    def close_all(self) -> None:
        self._muted.clear()
        for fd in [*self._limbo]:
            self.forget(fd)
        for fd, row in enumerate(self.row_of):
            if row >= 0:
                self.close(fd)
        self.bury()
        self._epoll.close()
