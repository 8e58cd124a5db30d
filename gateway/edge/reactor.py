"""The reactor: one epoll holds all device sockets; its own descriptor is watched by the loop.

Device sockets are raw descriptors, not transports: a message costs one write(2) and a connection
costs no object. Facts of epoll(7) that the code stands on:

* A descriptor closed within a batch of events may be handed out again by accept before the batch
  is over; a stale event would then hit the new owner. So closing happens after the batch, and
  accepting comes last.
* HUP and ERR are reported whatever the mask; ignored, they fire without end. They mean "read now".
* Level-triggered, one bounded read an event: nobody starves, nothing is forgotten.
"""

import asyncio
import errno
import os
import select
import socket
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

import structlog

_log = structlog.get_logger("columba.edge")

_READ: Final = 16 * 1024
"""Bytes of one read: a device seldom sends more than one small frame."""
_EVENTS: Final = 512
"""Events of one turn: some 5 ms of work, then timers and RPC have their turn."""
_ACCEPTS: Final = 128
_LINGER_S: Final = 2.0
_LINGERING: Final = 1024
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_READ_NOW: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR


class Handler(Protocol):
    """What the reactor tells about connections."""

    def on_accept(self, fd: int) -> None: ...

    def on_bytes(self, fd: int, data: bytes) -> None: ...

    def on_closed(self, fd: int) -> None:
        """The descriptor is still open, and closed right after this."""


class Limits(NamedTuple):
    """Bounds of the reactor."""

    descriptors_high: int
    """A descriptor above it: the listeners close."""
    descriptors_low: int
    """Connections at or below it: they open again."""
    accepts_per_s: int
    output_cap: int
    """Bytes that may wait for one connection."""
    slow_close_s: float
    descriptors: int
    """That the process may open."""


class Reactor:
    """Accepts, reads, writes and closes; knows bytes and descriptors, no frames."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self.limits = limits
        self._epoll = select.epoll()
        self._listeners: dict[int, socket.socket] = {}
        self._addresses: list[tuple[str, int]] = []
        self._queued: dict[int, bytes] = {}
        """Output of this turn, one write each."""
        self._unsent: dict[int, bytearray] = {}
        """What the kernel did not take; first come, first sent."""
        self._moved_at: dict[int, float] = {}
        """When the unsent output of a row last moved."""
        self._closing: list[int] = []
        self._is_open = bytearray(limits.descriptors)
        """1 for the descriptor of a connection that stands; a set would cost 90 bytes a connection."""
        self.open_count = 0
        self._lingering: dict[int, float] = {}
        self._flushing = False
        self._in_turn = False
        self._full = False
        self._tokens = float(limits.accepts_per_s)
        self._tokens_at = self._loop.time()
        self._accept_timer: asyncio.TimerHandle | None = None
        self.accepts_total = 0
        self.refused_full_total = 0
        self.writes_total = 0
        self.bytes_out_total = 0
        self.bytes_in_total = 0
        self._loop.add_reader(self._epoll.fileno(), self._turn)

    # Listening.

    def listen(self, host: str, port: int) -> int:
        """Listen on an address (SO_REUSEPORT); returns the port. OSError if it is taken."""
        listener = _listener(host, port)
        bound = listener.getsockname()[1]
        self._addresses.append((host, bound))
        self._add_listener(listener)
        return int(bound)

    def stop_listening(self, refusal: bytes) -> None:
        """Close the listeners after emptying their queues: those in them get `refusal`.

        Closing a listener with a queue would reset them without a word.
        """
        for fd, listener in self._listeners.items():
            self._epoll.unregister(fd)
            self._refuse_queue(listener, refusal)
            listener.close()
        self._listeners.clear()
        if self._accept_timer is not None:
            self._accept_timer.cancel()
            self._accept_timer = None

    def resume_listening(self) -> None:
        for host, port in self._addresses:
            self._add_listener(_listener(host, port))

    def _add_listener(self, listener: socket.socket) -> None:
        self._listeners[listener.fileno()] = listener
        self._epoll.register(listener.fileno(), _IN)

    def _refuse_queue(self, listener: socket.socket, refusal: bytes) -> None:
        for _ in range(4096):
            try:
                fd, _address = listener._accept()  # type: ignore[attr-defined]
            except OSError:
                return
            try:
                os.set_blocking(fd, False)
                os.write(fd, refusal)
            except OSError:
                pass  # it has gone by itself
            os.close(fd)
            self.refused_full_total += 1

    # Output.

    def send(self, fd: int, data: bytes) -> None:
        """Queue bytes; all that one connection gets in a turn goes out in one write."""
        held = self._queued.get(fd)
        self._queued[fd] = data if held is None else held + data
        if not self._flushing and not self._in_turn:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def offer(self, fd: int, data: bytes) -> bool:
        """As `send`, unless the connection's output is full: then False, and nothing is queued."""
        if self._unsent or self._queued:
            waiting = len(self._unsent.get(fd, b"")) + len(self._queued.get(fd, b""))
            if waiting and waiting + len(data) > self.limits.output_cap:
                return False
        self.send(fd, data)
        return True

    def broadcast(self, fds: Iterable[int], data: bytes) -> list[int]:
        """The same bytes to many connections, at once; returns those whose output is full.

        A message costs one write(2) and little else: no queue in between where nothing waits.
        """
        full: list[int] = []
        write = os.write
        queued, unsent = self._queued, self._unsent
        length = len(data)
        writes = 0
        for fd in fds:
            if fd in queued or fd in unsent:
                if not self.offer(fd, data):
                    full.append(fd)
                continue
            writes += 1
            try:
                sent = write(fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close(fd)
                continue
            if sent != length:
                self._hold(fd, data[sent:])
        self.writes_total += writes
        self.bytes_out_total += writes * length
        return full

    def flush(self) -> None:
        """Write what is queued, then close what is to be closed."""
        self._flushing = False
        queued, self._queued = self._queued, {}
        write = os.write
        unsent = self._unsent
        self.writes_total += len(queued)
        for fd, data in queued.items():
            if fd in unsent:
                unsent[fd] += data
                continue
            try:
                sent = write(fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close(fd)
                continue
            self.bytes_out_total += sent
            if sent < len(data):
                self._hold(fd, data[sent:])
        if self._closing:
            self._close_all()

    def _hold(self, fd: int, rest: bytes) -> None:
        self._unsent[fd] = bytearray(rest)
        self._moved_at[fd] = self._loop.time()
        self._epoll.modify(fd, _IN | _OUT)

    def _on_writable(self, fd: int) -> None:
        waiting = self._unsent.get(fd)
        if waiting is None:
            return
        try:
            sent = os.write(fd, waiting)
        except BlockingIOError:
            return
        except OSError:
            self.close(fd)
            return
        self.bytes_out_total += sent
        self._moved_at[fd] = self._loop.time()
        del waiting[:sent]
        if not waiting:
            del self._unsent[fd], self._moved_at[fd]
            self._epoll.modify(fd, _IN)
            if fd in self._lingering:
                _shutdown_writing(fd)

    def stuck(self, now: float) -> list[int]:
        """Connections whose unsent output has not moved for slow_close_s."""
        limit = now - self.limits.slow_close_s
        return [fd for fd, at in self._moved_at.items() if at < limit]

    @property
    def unsent_bytes(self) -> int:
        return sum(map(len, self._unsent.values()))

    # Input.

    def pause(self, fd: int) -> None:
        """Read no more from this connection until `resume`."""
        self._epoll.modify(fd, _OUT if fd in self._unsent else 0)

    def resume(self, fd: int) -> None:
        if self._is_open[fd]:
            self._epoll.modify(fd, _IN | _OUT if fd in self._unsent else _IN)

    def _turn(self) -> None:
        events = self._epoll.poll(0, _EVENTS)
        listeners = self._listeners
        accepting: list[socket.socket] = []
        self._in_turn = True
        for fd, event in events:
            listener = listeners.get(fd)
            if listener is not None:
                accepting.append(listener)
                continue
            if event & _OUT:
                self._on_writable(fd)
            if event & _READ_NOW:
                self._read(fd)
        self._in_turn = False
        self.flush()
        for listener in accepting:
            if listener.fileno() in listeners:
                self._accept(listener)
        if self._closing:
            self._close_all()

    def _read(self, fd: int) -> None:
        if not self._is_open[fd]:
            return  # closed earlier in this batch
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close(fd)
        elif fd not in self._lingering:
            self.bytes_in_total += len(data)
            self._handler.on_bytes(fd, data)

    def _accept(self, listener: socket.socket) -> None:
        budget = self._take_budget()
        for _ in range(budget):
            try:
                fd, _address = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._full = True
                return  # else: the connection was gone before we took it
            os.set_blocking(fd, False)
            self._is_open[fd] = 1
            self.open_count += 1
            self._epoll.register(fd, _IN)
            self._tokens -= 1
            self.accepts_total += 1
            self._handler.on_accept(fd)
            if fd > self.limits.descriptors_high:
                self._full = True
                return

    @property
    def full(self) -> bool:
        """Descriptors have run short: the owner closes the listeners (and says so to those queued)."""
        return self._full and bool(self._listeners)

    def room_again(self) -> bool:
        """True once, when a full edge has room again and may listen."""
        if self._full and not self._listeners and self.open_count <= self.limits.descriptors_low:
            self._full = False
            return True
        return False

    def _take_budget(self) -> int:
        """Accepts allowed now; at 0 the listeners rest until there is budget again."""
        now = self._loop.time()
        rate = self.limits.accepts_per_s
        self._tokens = min(float(rate), self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        if self._tokens < 1 and self._accept_timer is None:
            for fd in self._listeners:
                self._epoll.modify(fd, 0)
            self._accept_timer = self._loop.call_later(_ACCEPTS / rate, self._budget_again)
        return min(_ACCEPTS, int(self._tokens))

    def _budget_again(self) -> None:
        self._accept_timer = None
        for fd in self._listeners:
            self._epoll.modify(fd, _IN)

    # Closing.

    def close(self, fd: int) -> None:
        """Close at the end of this turn; what is queued is still tried."""
        if self._is_open[fd]:
            self._is_open[fd] = 0
            self.open_count -= 1
            self._closing.append(fd)
            if not self._flushing and not self._in_turn:
                self._flushing = True
                self._loop.call_soon(self.flush)

    def finish(self, fd: int, last: bytes) -> None:
        """Send last bytes, then close; what the peer still sends is read and dropped for a moment.

        Closing with unread input makes the kernel answer RST, which can overtake the last bytes.
        """
        if not self._is_open[fd] or fd in self._lingering:
            return
        self.send(fd, last)
        if len(self._lingering) >= _LINGERING:
            self.close(fd)
            return
        self._lingering[fd] = self._loop.time() + _LINGER_S
        if not self._in_turn:
            self.flush()
        if self._is_open[fd] and fd not in self._unsent and fd not in self._queued:
            _shutdown_writing(fd)

    def sweep_lingering(self, now: float) -> None:
        """Close those that have lingered long enough. To be called now and then."""
        for fd, until in list(self._lingering.items()):
            if fd not in self._unsent and fd not in self._queued:
                _shutdown_writing(fd)
            if until <= now:
                self.close(fd)

    def _close_all(self) -> None:
        closing, self._closing = self._closing, []
        for fd in closing:
            self._handler.on_closed(fd)
            self._queued.pop(fd, None)
            self._unsent.pop(fd, None)
            self._moved_at.pop(fd, None)
            self._lingering.pop(fd, None)
            self._epoll.unregister(fd)
            os.close(fd)

    def stop(self) -> None:
        """Close everything at once."""
        self._loop.remove_reader(self._epoll.fileno())
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        for fd, is_open in enumerate(self._is_open):
            if is_open:
                self.close(fd)
        self._close_all()
        self._epoll.close()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Accepted sockets inherit it on Linux: no setsockopt a connection.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind((host, port))
    listener.listen(4096)
    return listener


def _shutdown_writing(fd: int) -> None:
    borrowed = socket.socket(fileno=os.dup(fd))
    try:
        borrowed.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the peer was quicker
    finally:
        borrowed.close()
