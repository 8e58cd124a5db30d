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
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog

from gateway.edge.descriptors import has_unread, shutdown_writing
from gateway.edge.handling import Handler, Limits
from gateway.edge.listeners import Listeners
from gateway.edge.output import CONTROL, Item, Output
from gateway.edge.postponed import Postponed

_log = structlog.get_logger("columba.edge")

_READ: Final = 16 * 1024
"""Bytes of one read: a device seldom sends more than one small frame."""
_EVENTS: Final = 32
"""Events of one turn: about 1 ms of work, then timers and RPC have their turn. A high push waits for two."""
_LINGER_S: Final = 2.0
_LINGERING: Final = 1024
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_READ_NOW: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR


class Reactor:
    """Accepts, reads, writes and closes; knows bytes and descriptors, no frames."""

    def __init__(
        self, handler: Handler, limits: Limits, may_send: Callable[[], bool] = lambda: True
    ) -> None:
        """`may_send`: asked before what waits is written; once it says no, `be_silent` has to end that."""
        self.may_send = may_send
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self.limits = limits
        self._epoll = select.epoll()
        self._listeners = Listeners(
            self._epoll, limits.accepts_per_s, lambda: self._full, handler.room
        )
        self._reopening = False
        """An address could not be listened on again yet."""
        self._queued: dict[int, list[Item]] = {}
        """Output of this turn, one write each."""
        self._unsent: dict[int, Output] = {}
        """What the kernel did not take."""
        self._moved_at: dict[int, float] = {}
        """When the unsent output of a row last moved."""
        self._paused: set[int] = set()
        self._closing: list[int] = []
        self._is_open = bytearray(limits.descriptors)
        """1 for the descriptor of a connection that stands; a set would cost 90 bytes a connection."""
        self.silent = False
        self.open_count = 0
        self.postponed = Postponed(self._loop, self.send)
        self._lingering: dict[int, float] = {}
        self._flushing = False
        self._in_turn = False
        self._full = False
        self.accepts_total = 0
        self.writes_total = 0
        self.bytes_out_total = 0
        self.bytes_in_total = 0
        self._loop.add_reader(self._epoll.fileno(), self._turn)

    # Listening.

    def listen(self, host: str, port: int) -> int:
        """Listen on an address (SO_REUSEPORT); returns the port. OSError if it is taken."""
        return self._listeners.open(host, port)

    def stop_listening(self, refusal: bytes) -> None:
        """Close the listeners after emptying their queues: those in them get `refusal`."""
        self._listeners.close(refusal)

    def resume_listening(self) -> None:
        """Listen again where we did; what cannot be opened now is tried again by the next call."""
        self._reopening = not self._listeners.reopen()

    @property
    def refused_full_total(self) -> int:
        return self._listeners.refused_total

    # Output.

    def send(self, fd: int, data: bytes) -> None:
        """Queue an answer; all that one connection gets in a turn goes out in one write."""
        self.put(fd, Item(CONTROL, 0, data))

    def postpone(self, fd: int, data: bytes) -> None:
        """An answer that can wait for others to this connection, and makes the one postponed before needless."""
        self.postponed.put(fd, data)

    def offer(self, fd: int, message: Item) -> bool:
        """Queue a message; False, and nothing is queued, if the connection's output is full.

        What is no message always finds room, as answers do.
        """
        if (self._unsent or self._queued) and message.priority != CONTROL:
            waiting = self._waiting(fd)
            if waiting and waiting + len(message.data) > self.limits.output_cap:
                return False
        self.put(fd, message)
        return True

    def put(self, fd: int, item: Item) -> None:
        """Queue whatever it is, full or not."""
        held = self._queued.get(fd)
        if held is None:
            self._queued[fd] = [item]
        else:
            held.append(item)
        if not self._flushing and not self._in_turn:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def _waiting(self, fd: int) -> int:
        """Bytes."""
        unsent = self._unsent.get(fd)
        queued = self._queued.get(fd, ())
        return (unsent.size if unsent else 0) + sum(len(item.data) for item in queued)

    def broadcast(self, fds: Sequence[int], messages: Sequence[Item]) -> dict[int, int]:
        """The same messages of one lane to many connections, at once. Returns those whose output is full, and how
        many of the messages they took before.

        It costs one write(2) for each and little else: no queue in between where nothing waits.
        """
        full: dict[int, int] = {}
        queued, unsent = self._queued, self._unsent
        if queued or unsent:
            waiting = [fd for fd in fds if fd in queued or fd in unsent]
            for fd in waiting:
                for taken, message in enumerate(messages):
                    if not self.offer(fd, message):
                        full[fd] = taken
                        break  # nothing overtakes it
            if waiting:
                fds = [fd for fd in fds if fd not in queued and fd not in unsent]
        write = os.write
        data = b"".join([message.data for message in messages])
        length = len(data)
        for fd in fds:
            try:
                sent = write(fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close(fd)
                continue
            if sent != length:
                self._hold(fd, messages, sent)
        self.writes_total += len(fds)
        self.bytes_out_total += len(fds) * length
        return full

    def flush(self) -> None:
        """Write what is queued, then close what is to be closed."""
        self._flushing = False
        queued, self._queued = self._queued, {}
        write = os.write
        unsent = self._unsent
        late_for = self.postponed.take if self.postponed else None
        self.writes_total += len(queued)
        for fd, items in queued.items():
            if late_for is not None and (late := late_for(fd)):
                items.insert(0, Item(CONTROL, 0, late))
            if fd in unsent:
                self._hold_more(fd, items)
                continue
            data = items[0].data if len(items) == 1 else b"".join(item.data for item in items)
            try:
                sent = write(fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close(fd)
                continue
            self.bytes_out_total += sent
            if sent < len(data):
                self._hold(fd, items, sent)
        if self._closing:
            self._close_all()

    def _hold_more(self, fd: int, items: Iterable[Item]) -> None:
        """Messages stop at the cap (`offer`); answers to what the peer sends stop at twice the cap."""
        waiting = self._unsent[fd]
        for item in items:
            waiting.put(item)
        if waiting.size > 2 * self.limits.output_cap:
            self._handler.on_overflow(fd)
            self.close(fd)

    def _hold(self, fd: int, items: Sequence[Item], sent: int) -> None:
        waiting = self._unsent[fd] = Output()
        waiting.put_rest(items, sent)
        self._moved_at[fd] = self._loop.time()
        self._watch(fd)

    def recall(self, push_id: int) -> None:
        """Copies of a message that wait here are dropped, but for those the kernel has some of."""
        for fd, items in self._queued.items():
            self._queued[fd] = [item for item in items if item.push_id != push_id]
        for fd in [fd for fd, items in self._queued.items() if not items]:
            del self._queued[fd]
        for output in self._unsent.values():
            output.recall(push_id)

    def drop_messages(self, fd: int) -> None:
        """What waits for this connection and is no answer goes: GOAWAY is the next frame."""
        items = self._queued.get(fd)
        if items is not None:
            self._queued[fd] = [item for item in items if item.priority == CONTROL]
            if not self._queued[fd]:
                del self._queued[fd]
        if fd in self._unsent:
            self._unsent[fd].drop_messages()

    def _watch(self, fd: int) -> None:
        """Tell epoll what this connection waits for now."""
        reading = 0 if fd in self._paused else _IN
        writing = _OUT if fd in self._unsent and not self.silent else 0
        self._epoll.modify(fd, reading | writing)

    def be_silent(self, silent: bool) -> None:
        """While `silent`, what waits for a connection goes on waiting, and what is queued behind it."""
        self.silent = silent
        for fd in self._unsent:
            self._watch(fd)
            self._moved_at[fd] = self._loop.time()  # it is not the peer that is slow

    def _on_writable(self, fd: int) -> None:
        waiting = self._unsent.get(fd)
        if waiting is None:
            return
        if not self.may_send():
            self.be_silent(True)
            return
        chunk = waiting.chunk()
        try:
            sent = os.write(fd, chunk) if chunk else 0
        except BlockingIOError:
            waiting.advance(0)
            return
        except OSError:
            self.close(fd)
            return
        waiting.advance(sent)
        self.bytes_out_total += sent
        self._moved_at[fd] = self._loop.time()
        if not waiting.size:
            del self._unsent[fd], self._moved_at[fd]
            self._watch(fd)
            if fd in self._lingering:
                shutdown_writing(fd)

    def stuck(self, now: float) -> list[int]:
        """Connections whose unsent output has not moved for slow_close_s."""
        if self.silent:
            return []
        limit = now - self.limits.slow_close_s
        return [fd for fd, at in self._moved_at.items() if at < limit]

    @property
    def unsent_bytes(self) -> int:
        return sum(output.size for output in self._unsent.values())

    # Input.

    def has_unread(self, fd: int) -> bool:
        """It has sent something that had no turn here yet."""
        return has_unread(fd)

    def pause(self, fd: int) -> None:
        """Read no more from this connection until `resume`."""
        self._paused.add(fd)
        self._watch(fd)

    def resume(self, fd: int) -> None:
        self._paused.discard(fd)
        if self._is_open[fd]:
            self._watch(fd)

    def _turn(self) -> None:
        accepting: list[socket.socket] = []
        self._in_turn = True
        events = self._epoll.poll(0, _EVENTS)
        try:
            for fd, event in events:
                listener = self._listeners.get(fd)
                if listener is None:
                    self._on_event(fd, event)
                else:
                    accepting.append(listener)
        finally:
            self._in_turn = False
        self.flush()
        for listener in accepting:
            if listener.fileno() >= 0 and not self._full:
                self._accept(listener)
        if self._closing:
            self._close_all()

    def _on_event(self, fd: int, event: int) -> None:
        try:
            if event & _OUT:
                self._on_writable(fd)
            if event & _READ_NOW:
                self._read(fd)
        # A defect that one peer's bytes bring to light must not hurt the others of this turn.
        except Exception:
            _log.exception("connection closed by a defect")
            self.close(fd)

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
        for _ in range(self._listeners.budget()):
            try:
                fd, _address = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._become_full()
                return  # else: the connection was gone before we took it
            os.set_blocking(fd, False)
            self._is_open[fd] = 1
            self.open_count += 1
            self._epoll.register(fd, _IN)
            self._listeners.spend()
            self.accepts_total += 1
            self._handler.on_accept(fd)
            if fd > self.limits.descriptors_high:
                self._become_full()
                return

    def _become_full(self) -> None:
        """Accept no more; until the owner closes the listeners they must not wake us up either."""
        self._full = True
        self._listeners.rest()

    @property
    def full(self) -> bool:
        """Descriptors have run short: the owner closes the listeners (and says so to those queued)."""
        return self._full and bool(self._listeners)

    def room_again(self) -> bool:
        """A full edge has room again and may listen (True until `resume_listening` has done it)."""
        if self._full and not self._listeners and self.open_count <= self.limits.descriptors_low:
            self._full = False
            return True
        return self._reopening

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
        self.drop_messages(fd)
        self.send(fd, last)
        if len(self._lingering) >= _LINGERING:
            self.close(fd)
            return
        self._lingering[fd] = self._loop.time() + _LINGER_S
        if not self._in_turn:
            self.flush()
        if self._is_open[fd] and fd not in self._unsent and fd not in self._queued:
            shutdown_writing(fd)

    def sweep_lingering(self, now: float) -> None:
        """Close those that have lingered long enough. To be called now and then."""
        for fd, until in list(self._lingering.items()):
            if fd not in self._unsent and fd not in self._queued:
                shutdown_writing(fd)
            if until <= now:
                self.close(fd)

    def _close_all(self) -> None:
        closing, self._closing = self._closing, []
        for fd in closing:
            self._handler.on_closed(fd)
            self._queued.pop(fd, None)
            self.postponed.take(fd)
            self._unsent.pop(fd, None)
            self._moved_at.pop(fd, None)
            self._lingering.pop(fd, None)
            self._paused.discard(fd)
            self._epoll.unregister(fd)
            os.close(fd)

    def stop(self) -> None:
        """Close everything at once."""
        self._loop.remove_reader(self._epoll.fileno())
        self.postponed.stop()
        self._listeners.close()
        for fd, is_open in enumerate(self._is_open):
            if is_open:
                self.close(fd)
        self._close_all()
        self._epoll.close()
