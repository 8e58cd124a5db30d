"""HTTP connections: how many, how large and how slow their requests may begin, and how an answer is written."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from gateway.api import connections as connections_module
from gateway.api import listen
from gateway.api.connections import HEAD_BYTES, Doors, Gathered
from gateway.config import Api

ASK = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"


class Server:
    """An application that answers with the path; `/wait` once it is let go."""

    def __init__(self, limit: int) -> None:
        self.answered: Counter[tuple[str, str]] = Counter()
        self.doors = Doors(limit, lambda route, status: self.answered.update([(route, status)]))
        self.may_go = asyncio.Event()
        self.port = 0

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        path = scope["path"].encode()
        if path == b"/wait":
            await self.may_go.wait()
        length = str(len(path)).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", length)],
            }
        )
        await send({"type": "http.response.body", "body": path})

    @contextlib.asynccontextmanager
    async def running(self, keep_alive_s: int = 75) -> AsyncIterator["Server"]:
        listener = listen.bind(Api(listen="127.0.0.1:0"))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.app,
            http=cast(Any, self.doors.protocol),
            ws="none",
            interface="asgi3",
            proxy_headers=False,
            lifespan="off",
            log_config=None,
            timeout_keep_alive=keep_alive_s,
            server_header=False,
            date_header=False,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        try:
            yield self
        finally:
            await server.shutdown(sockets=[listener])

    async def dial(self) -> "Client":
        client = Client()
        _, _ = await asyncio.get_running_loop().create_connection(
            lambda: client, "127.0.0.1", self.port
        )
        return client


class Client(asyncio.Protocol):
    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.closed = asyncio.Event()
        self._more = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.chunks.append(data)
        self._more.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def say(self, data: bytes) -> None:
        self.transport.write(data)

    async def hears(self) -> bytes:
        """The next chunk."""
        if not self.chunks:
            self._more.clear()
            async with asyncio.timeout(5):
                await self._more.wait()
        return self.chunks.pop(0)

    async def refusal(self) -> tuple[int, dict[str, Any]]:
        """(status, error) of an answer behind which the connection is closed."""
        async with asyncio.timeout(5):
            await self.closed.wait()
        head, _, body = b"".join(self.chunks).partition(b"\r\n\r\n")
        assert b"connection: close" in head
        assert f"content-length: {len(body)}".encode() in head
        return int(head.split()[1]), json.loads(body)["error"]


async def test_head_and_body_of_an_answer_come_together() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        for path in (b"a", b"bcd"):
            client.say(ASK % path)
            assert (await client.hears()).endswith(b"\r\n\r\n/" + path)
        client.transport.close()


async def test_one_too_many_is_answered_and_closed() -> None:
    async with Server(2).running() as server:
        first, _second = await server.dial(), await server.dial()
        status, error = await (await server.dial()).refusal()
        assert status == 503 and error["errno"] == 50308 and error["retry"]["after_ms"] > 0
        assert server.answered == {("connection", "503"): 1}
        first.say(ASK % b"still")
        assert b"200 OK" in await first.hears()
        first.transport.close()
        async with asyncio.timeout(5):
            while server.doors.open != 1:
                await asyncio.sleep(0)
        again = await server.dial()
        again.say(ASK % b"again")
        assert b"200 OK" in await again.hears()


async def test_a_head_without_an_end_is_refused() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"GET / HTTP/1.1\r\nx: " + b"y" * HEAD_BYTES)
        status, error = await client.refusal()
        assert (status, error["errno"]) == (431, 43101)


async def test_a_large_head_and_a_large_body_are_taken() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"POST /a HTTP/1.1\r\nx: " + b"y" * (HEAD_BYTES // 2))
        await asyncio.sleep(0)
        client.say(b"\r\ncontent-length: 99999\r\n\r\n" + b"z" * 99_999)
        assert b"200 OK" in await client.hears()


async def test_a_slow_head_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "HEAD_S", 0.05)
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"GET / HT")
        status, error = await client.refusal()
        assert (status, error["errno"]) == (408, 40802)
        assert server.answered == {("connection", "408"): 1}


async def test_a_head_in_pieces_has_its_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "HEAD_S", 0.2)
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"GET /wait HTTP/1.1\r\n")
        await asyncio.sleep(0.05)
        client.say(b"host: x\r\n\r\n")
        await asyncio.sleep(0.3)
        server.may_go.set()
        assert b"200 OK" in await client.hears(), "the time of a request is not that of its head"


async def test_who_says_nothing_is_closed_in_silence() -> None:
    async with Server(9).running(keep_alive_s=0) as server:
        client = await server.dial()
        async with asyncio.timeout(5):
            await client.closed.wait()
        assert client.chunks == [] and not server.answered
        assert server.doors.open == 0


async def test_what_is_no_http_is_told_so() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"\x00\x01 what?\r\n\r\n")
        status, error = await client.refusal()
        assert (status, error["errno"]) == (400, 40013)


async def test_an_answer_under_way_comes_before_the_end() -> None:
    """What a push has done is told, whatever comes behind it on the connection."""
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(ASK % b"wait")
        await asyncio.sleep(0.01)
        client.say(b"nonsense\r\n\r\n")
        await asyncio.sleep(0.01)
        assert not client.closed.is_set()
        server.may_go.set()
        assert b"200 OK" in await client.hears()
        async with asyncio.timeout(5):
            await client.closed.wait()
        assert client.chunks == []


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 1


async def test_writes_of_a_turn_are_one() -> None:
    below = Transport()
    gathered = Gathered(below, asyncio.get_running_loop())
    gathered.write(b"a")
    gathered.writelines([b"b", memoryview(b"c")])
    assert below.written == [] and gathered.get_write_buffer_size() == 4
    await asyncio.sleep(0)
    assert below.written == [b"abc"] and gathered.get_write_buffer_size() == 1
    gathered.write(b"d" * 70_000)
    assert len(below.written) == 2, "too much to wait"
    gathered.write(b"e")
    gathered.close()
    assert below.written[2:] == [b"e"] and below.closed
    gathered.write(b"f")
    await asyncio.sleep(0)
    assert len(below.written) == 3
