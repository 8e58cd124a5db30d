"""HTTP connections with bounds that uvicorn's have not: how many there are, how large and how slow the head of a
request may be, and how long nothing at all may come. And with one write for an answer.
"""

import asyncio
import resource
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.api.errors import ApiError, Errno

HEAD_BYTES: Final = 32 * 1024
"""Request line and headers; the parser itself takes any number."""
HEAD_S: Final = 10.0
"""From the first byte of a request to the end of its headers."""
_WRITE_BYTES: Final = 64 * 1024
"""Gathered at most: more than that is handed over at once."""
_ROUTE: Final = "connection"
"""As which what is answered here is counted: no route has heard of it."""


class Doors:
    """What the connections of a process share."""

    def __init__(self, limit: int, count: Callable[[str, str], None]) -> None:
        """`count`: (route, status) of each answer that is given here."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.limit = min(limit, descriptors // 2)
        """Half of the descriptors are for the store, for other processes and for files."""
        self.open = 0
        self.count = count

    def protocol(self, **uvicorns: Any) -> "HttpConnection":
        """For `http` of uvicorn.Config."""
        return HttpConnection(self, **uvicorns)


class HttpConnection(HttpToolsProtocol):
    def __init__(self, doors: Doors, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._doors = doors
        self._head_size = 0
        self._in_head = False
        self._slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Gathered(transport, self.loop))
        self._doors.open += 1
        if self._doors.open > self._doors.limit:
            self._refuse(Errno.CONNECTIONS)
            return
        # Until the first request, as between two.
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._doors.open -= 1
        self._end_of_head()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if not self._in_head:
            return
        self._head_size += len(data)
        if self._head_size > HEAD_BYTES:
            self._refuse(Errno.HEAD_TOO_LARGE)
        elif self._slow is None:
            self._slow = self.loop.call_later(HEAD_S, self._refuse, Errno.SLOW_HEAD)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._end_of_head()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Errno.NOT_HTTP)

    def _end_of_head(self) -> None:
        self._in_head = False
        self._head_size = 0
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _refuse(self, errno: Errno) -> None:
        """Answer and close: where this request ends, and the next would begin, is not known."""
        self._end_of_head()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # The request before it is under way, and what it did is to be told.
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        error = ApiError(errno)
        self._doors.count(_ROUTE, str(error.code))
        self.transport.write(_answer(error))
        self.transport.close()


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

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._queued:
            self._loop.call_soon(self._flush)
        self._queued.append(bytes(data))
        self._size += len(data)
        if self._size > _WRITE_BYTES:
            self._flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        for data in list_of_data:
            self.write(data)

    def _flush(self) -> None:
        queued, self._queued, self._size = self._queued, [], 0
        if queued and not self._transport.is_closing():
            self._transport.write(queued[0] if len(queued) == 1 else b"".join(queued))

    def close(self) -> None:
        self._flush()
        self._transport.close()

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

    def get_write_buffer_size(self) -> int:
        return self._size + self._transport.get_write_buffer_size()
