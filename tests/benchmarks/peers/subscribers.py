"""Many subscribers of one server in a process of its own, and the parent's handle of it.

`python -m tests.benchmarks.peers.subscribers FD` is the child. The same loop serves every wire: connect,
greet, count. What a broadcast brings is byte for byte the same on all connections, so it is parsed once
and then looked up: the reader costs a server as little of the machine as it can, and each the same.
"""

import select
import socket
import time
from collections import deque
from contextlib import suppress
from os import read, write
from typing import Any, Final

from loadtest.control import Child, ChildFailed, Commands, inherited_commands
from loadtest.links import Address
from tests.benchmarks.peers import wires
from tests.benchmarks.peers.wires import Heard, Wire, WireError

MAX_CONNECTIONS: Final = 18_000
"""Of 20,000 descriptors that a process may have here, at both ends of them."""
_BIND_ADDRESS_NO_PORT: Final = 24
"""ip(7), see loadtest.links."""
_READ_BYTES: Final = 4096
_EVENTS: Final = 1024
_PARSES: Final = 4096
_TURN_S: Final = 0.25


class SubscribersFailed(Exception):
    """A connection was refused, was lost, or said what it should not."""


class Subscribers:
    """The child's side. All times are time.monotonic(), which is the machine's."""

    def __init__(self, wire: Wire, address: Address, source: str) -> None:
        self._wire = wire
        self._address = address
        self._source = source
        self._in_flight = 0
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._row: dict[int, int] = {}
        self._connecting: set[int] = set()
        self._rest: dict[int, bytes] = {}
        self._parsed: dict[bytes, Heard] = {}
        self._owed: dict[int, list[int]] = {}
        self._reports: dict[int, int] = {}
        self._to_dial: deque[int] = deque()
        self._flying = 0
        self.ready = 0
        self.messages = 0
        self.acked = 0
        """Reports."""
        self.first_dial_at = 0.0
        self.last_ready_at = 0.0
        self.last_message_at = 0.0

    def dial(self, rows: range, in_flight: int) -> None:
        """Subscribe these, at most `in_flight` of them without an answer at any time."""
        self.first_dial_at = 0.0
        self._in_flight = in_flight
        self._to_dial.extend(rows)

    def drop(self) -> None:
        """All leave without a word."""
        for each in self._sockets.values():
            each.close()
        for kept in (self._sockets, self._row, self._rest, self._owed, self._reports):
            kept.clear()
        self._connecting.clear()
        self._flying = self.ready = 0

    def watch(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN)

    def turn(self, timeout_s: float) -> bool:
        """One batch of events; whether a descriptor that is no subscriber's can be read.

        Raises SubscribersFailed.
        """
        while self._to_dial and self._flying < self._in_flight:
            row = self._to_dial.popleft()
            try:
                self._dial_one(row)
            except OSError as error:
                raise SubscribersFailed(f"subscriber {row} could not connect: {error}") from error
        messages, others = self.messages, False
        for fd, mask in self._epoll.poll(timeout_s, _EVENTS):
            if fd not in self._row:
                others = True
            elif fd in self._connecting:
                self._on_connected(fd, mask)
            else:
                self._on_readable(fd)
        if self.messages != messages:
            self.last_message_at = time.monotonic()
        return others

    def report(self) -> int:
        """Send the receipts that are owed, one report a subscriber; how many reports."""
        owed, self._owed = self._owed, {}
        for fd, pushes in owed.items():
            count = self._reports[fd] = self._reports.get(fd, 0) + 1
            _write_whole(fd, self._wire.report(count, pushes))
        return len(owed)

    def _dial_one(self, row: int) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        fd = sock.fileno()
        self._sockets[fd] = sock
        self._row[fd] = row
        self._connecting.add(fd)
        self._flying += 1
        self.first_dial_at = self.first_dial_at or time.monotonic()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self._source, 0))
        with suppress(BlockingIOError):  # in progress: writable when it stands
            sock.connect(self._address)
        self._epoll.register(fd, select.EPOLLOUT)

    def _on_connected(self, fd: int, mask: int) -> None:
        if mask & (select.EPOLLERR | select.EPOLLHUP):
            error = self._sockets[fd].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            raise SubscribersFailed(f"subscriber {self._row[fd]} could not connect: errno {error}")
        self._connecting.discard(fd)
        self._epoll.modify(fd, select.EPOLLIN)
        hello = self._wire.hello(self._row[fd])
        if hello:
            _write_whole(fd, hello)
        else:
            self._on_ready()

    def _on_ready(self) -> None:
        self.ready += 1
        self._flying -= 1
        self.last_ready_at = time.monotonic()

    def _on_readable(self, fd: int) -> None:
        try:
            chunk = read(fd, _READ_BYTES)
        except OSError as error:
            raise SubscribersFailed(f"subscriber {self._row[fd]}: {error}") from error
        if not chunk:
            raise SubscribersFailed(f"the server closed the connection of {self._row[fd]}")
        rest = self._rest.pop(fd, b"") if self._rest else b""
        heard = None if rest else self._parsed.get(chunk)
        if heard is None:
            heard = self._parse(fd, rest + chunk)
        if heard.ready:
            self._on_ready()
        self.messages += heard.messages
        self.acked += heard.acked
        if heard.pushes:
            self._owed.setdefault(fd, []).extend(heard.pushes)
        if heard.reply:
            _write_whole(fd, heard.reply)

    def _parse(self, fd: int, buffer: bytes) -> Heard:
        try:
            heard = self._wire.hear(buffer)
        except (WireError, ValueError) as error:
            raise SubscribersFailed(f"subscriber {self._row[fd]}: {error}") from error
        if heard.used < len(buffer):
            self._rest[fd] = buffer[heard.used :]
        else:
            if len(self._parsed) >= _PARSES:
                self._parsed.clear()
            self._parsed[buffer] = heard
        return heard

    def told(self) -> dict[str, Any]:
        names = ("ready", "messages", "acked", "first_dial_at", "last_ready_at", "last_message_at")
        return {name: getattr(self, name) for name in names}


def _write_whole(fd: int, data: bytes) -> None:
    """These are some hundred bytes on an empty socket: what does not fit is a failure."""
    try:
        written = write(fd, data)
    except OSError as error:
        raise SubscribersFailed(f"writing: {error}") from error
    if written < len(data):
        raise SubscribersFailed("the server does not read what subscribers send")


class Crowd(Child):
    """The parent's handle. Commands raise ChildFailed, also for what befell a subscriber before."""

    def __init__(self, wire: str, address: Address, source: str, **options: Any) -> None:
        super().__init__(
            "tests.benchmarks.peers.subscribers",
            wire=wire,
            address=address,
            source=source,
            options=options,
        )

    def dial(self, rows: range, in_flight: int) -> None:
        self.call("dial", rows=[rows.start, rows.stop], in_flight=in_flight)

    def drop(self) -> None:
        self.call("drop")

    def report(self) -> int:
        return int(self.call("report", timeout_s=60)["reports"])

    def told(self) -> dict[str, Any]:
        return self.call("told")

    def wait(self, counter: str, at_least: int, timeout_s: float) -> dict[str, Any]:
        """Until a counter has come so far; then what the child tells. Raises ChildFailed."""
        answer = self.call(
            "wait", timeout_s + 5, counter=counter, at_least=at_least, patience_s=timeout_s
        )
        if answer[counter] < at_least:
            raise ChildFailed(f"{counter}: {answer[counter]} of {at_least} after {timeout_s:g} s")
        return answer


class _Runner:
    """Turns of the subscribers, commands between them. What fails is told to the next command."""

    def __init__(self, subscribers: Subscribers, commands: Commands) -> None:
        self._subscribers = subscribers
        self._commands = commands
        self._waiting: list[tuple[float, dict[str, Any]]] = []
        self._failure = ""
        subscribers.watch(commands.fd)

    def run(self) -> None:
        """Until the parent is gone (EOFError)."""
        while True:
            try:
                others = self._subscribers.turn(_TURN_S)
            except SubscribersFailed as error:
                # It goes on: the first failure is what the parent should hear of, and it will.
                self._failure = self._failure or str(error)
                others = True
            if others:
                for command in self._commands.read(wait=False):
                    self._on_command(command)
            if self._waiting:
                self._answer_waiting()

    def _on_command(self, command: dict[str, Any]) -> None:
        if command["do"] == "wait":
            self._waiting.append((time.monotonic() + command["patience_s"], command))
            return
        result: dict[str, Any] = {}
        try:
            result = self._obey(command)
        except SubscribersFailed as error:
            self._failure = self._failure or str(error)
        self._answer(command, result)

    def _answer(self, command: dict[str, Any], result: dict[str, Any]) -> None:
        failure = {"error": self._failure} if self._failure else {}
        self._commands.answer(command, **(failure or result))

    def _answer_waiting(self) -> None:
        now, still = time.monotonic(), []
        for deadline, command in self._waiting:
            reached = getattr(self._subscribers, command["counter"]) >= command["at_least"]
            if reached or self._failure or now >= deadline:
                self._answer(command, self._subscribers.told())
            else:
                still.append((deadline, command))
        self._waiting = still

    def _obey(self, command: dict[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "dial":
                self._subscribers.dial(range(*command["rows"]), command["in_flight"])
            case "drop":
                self._subscribers.drop()
            case "report":
                return {"reports": self._subscribers.report()}
            case "told":
                return self._subscribers.told()
            case other:
                return {"error": f"unknown command {other!r}"}
        return {}


def main() -> None:
    commands = inherited_commands()
    try:
        start = commands.read(wait=True)[0]
        subscribers = Subscribers(
            wires.make(start["wire"], **start["options"]),
            (start["address"][0], start["address"][1]),
            start["source"],
        )
        commands.answer(start)
        _Runner(subscribers, commands).run()
    except EOFError:
        pass  # the parent closed the socket or is gone: this is how it ends


if __name__ == "__main__":
    main()
