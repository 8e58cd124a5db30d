"""HTTP connections with bounds that uvicorn's have not: how many there are, how large the head of a request may be, and
how long a head, a body or a next request may take. And with one write for an answer.
"""

import asyncio
import math
import resource
from collections.abc import Callable
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.api.errors import ApiError, Errno

HEAD_BYTES: Final = 32 * 1024
"""Request line and headers, or whatever else comes that is no body; the parser itself takes any number."""
HEAD_S: Final = 10.0
"""From the first byte of a request to the end of its headers."""
BODY_S: Final = 30.0
"""From there to the end of its body: until then it takes room from others'. Also of one that nobody waits for."""
_UNDER_WAY_S: Final = 60.0
"""For the answers that are owed when no more is read from a connection."""
_LINGER_S: Final = 1.0
"""Between our end and closing: what the peer still sends would turn the close into a reset, and the answer with it."""
_LINGERING: Final = 64
SWEEP_S: Final = 1.0
"""Between two looks at all connections: a timer for each request would cost more than the rest of this."""
_WRITE_BYTES: Final = 64 * 1024
"""Gathered at most: more than that is handed over at once."""
_ROUTE: Final = "connection"
"""Stands for the route where an answer is given before there is one."""


class Stage(Enum):
    IDLE = auto()
    """All that came is answered, and nothing of a next request is here."""
    HEAD = auto()
    BODY = auto()
    """Its request may be answered already."""
    ANSWER = auto()
    """The request is here, the answer is not yet."""
    END = auto()
    """No more is read."""


class HttpConnections:
    """Those of a process, and the bound that they share."""

    def __init__(self, limit: int, count: Callable[[str, str], None]) -> None:
        """`count`: (route, status) of each answer that is given here."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.limit = min(limit, descriptors // 2)
        """The other half is for the store, for other processes and for files."""
        self.count = count
        self._open: dict[HttpConnection, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self, **uvicorns: Any) -> "HttpConnection":
        """For `http` of uvicorn.Config."""
        return HttpConnection(self, **uvicorns)

    def add(self, connection: "HttpConnection") -> bool:
        """False if there is no room: all others are busy. Else the oldest idle one has made it."""
        self._open[connection] = None
        if self._timer is None:
            self._timer = connection.loop.call_later(SWEEP_S, self._sweep)
        if len(self._open) <= self.limit:
            return True
        others = (each for each in self._open if each is not connection)
        idle = next((each for each in others if each.stage is Stage.IDLE), None)
        if idle is None:
            return False
        idle.give_up()
        self.count(_ROUTE, "closed")
        return True

    @property
    def may_linger(self) -> bool:
        """Those that are refused for want of room take some themselves for a moment, but not any number."""
        return len(self._open) <= self.limit + _LINGERING

    def discard(self, connection: "HttpConnection") -> None:
        del self._open[connection]
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(SWEEP_S, self._sweep)
        now = loop.time()
        for connection in [each for each in self._open if each.due < now]:
            connection.overdue()


class HttpConnection(HttpToolsProtocol):
    def __init__(self, connections: HttpConnections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._all = connections
        self.stage = Stage.IDLE
        self.due = math.inf
        """Loop time by which the stage is to be over."""
        self._steps = 0
        """Of the parser: a head begun, a head or a body complete, a piece of a body."""
        self._idling_bytes = 0
        """Since the last step."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Gathered(transport, self.loop))
        self._reach(Stage.IDLE, self.timeout_keep_alive)
        if not self._all.add(self):
            self._refuse(Errno.CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def give_up(self) -> None:
        """Close; nobody is to be told anything."""
        self.stage = Stage.END
        self.transport.close()

    def overdue(self) -> None:
        match self.stage:
            case Stage.HEAD:
                self._refuse(Errno.SLOW_HEAD)
            case Stage.BODY if not self.cycle.response_complete:
                self._refuse(Errno.SLOW_BODY)
            case Stage.END:
                self.transport.abort()
            case _:
                self.give_up()

    # What uvicorn and its parser call.

    def data_received(self, data: bytes) -> None:
        if self.stage is Stage.END or self.transport.is_closing():
            return
        steps = self._steps
        super().data_received(data)
        if self._steps != steps:
            self._idling_bytes = 0
            return
        self._idling_bytes += len(data)
        if self._idling_bytes > HEAD_BYTES:
            self._refuse(Errno.HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        self._reach(Stage.HEAD, HEAD_S)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.stage is Stage.HEAD:  # and not behind a body: nobody here reads trailers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._reach(Stage.BODY, BODY_S)

    def on_body(self, body: bytes) -> None:
        self._steps += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle.response_complete:
            self._reach(Stage.IDLE, self.timeout_keep_alive)
        else:
            self._reach(Stage.ANSWER, math.inf)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.stage is Stage.ANSWER and self.cycle.response_complete:
            self._reach(Stage.IDLE, self.timeout_keep_alive)

    def send_400_response(self, msg: str) -> None:
        self._refuse(Errno.NOT_HTTP)

    def _reach(self, stage: Stage, seconds: float) -> None:
        self.stage = stage
        self.due = self.loop.time() + seconds
        self._steps += 1

    def _refuse(self, errno: Errno) -> None:
        """Answer and close, as soon as what came before is answered: where this request ends, and the next would begin,
        is not known."""
        if self.stage is Stage.END or self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self.pipeline or self.stage is not Stage.BODY:
                cycle.keep_alive = False
                self._reach(Stage.END, _UNDER_WAY_S)
                return
            if cycle.response_started:
                self.give_up()
                return
            # Whoever reads its body waits for more in vain.
            cycle.disconnected = True
            cycle.message_event.set()
        error = ApiError(errno)
        self._all.count(_ROUTE, str(error.code))
        self.transport.write(_answer(error))
        if self._all.may_linger:
            self.transport.write_eof()
            self._reach(Stage.END, _LINGER_S)
        else:
            self.give_up()


def _answer(error: ApiError) -> bytes:
    body = error.body()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **error.headers(),
    }
    lines = [f"HTTP/1.1 {error.code} {HTTPStatus(error.code).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Gathered(asyncio.Transport):
    """What is written in one turn of the loop goes out in one system call: uvicorn writes the head of an answer and
    its body apart, and each of the two would wake the client up."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._queued: list[bytes] = []
        self._size = 0
        self._ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ended:
            return  # an application that has not heard of our end yet
        if not self._queued:
            self._loop.call_soon(self._flush)
        self._queued.append(bytes(data))
        self._size += len(data)
        if self._size > _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        queued, self._queued, self._size = self._queued, [], 0
        if queued and not self._transport.is_closing():
            self._transport.write(queued[0] if len(queued) == 1 else b"".join(queued))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def write_eof(self) -> None:
        self._flush()
        self._ended = True
        self._transport.write_eof()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
