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
from gateway.api.connections import HEAD_BYTES, Gathered, HttpConnections
from gateway.api.process import uvicorn_config
from gateway.config import Api
from tests.waiting import until

ASK = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"


class Server:
    """An application that answers with the path; `/wait` once it is let go."""

    def __init__(self, limit: int) -> None:
        self.answered: Counter[tuple[str, str]] = Counter()
        self.connections = HttpConnections(limit, self.count)
        self.heard: list[str] = []
        self.may_go = asyncio.Event()
        self.port = 0

    def count(self, route: str, status: str) -> None:
        self.answered[route, status] += 1

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].encode()
        if path != b"/early":
            while (message := await receive()).get("more_body"):
                pass
            self.heard.append(message["type"])
            if message["type"] == "http.disconnect":
                return
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
        config = uvicorn_config(self.app, self.connections)
        config.timeout_keep_alive = keep_alive_s
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
            await self.closed.wait()  # at once behind it, or when we have closed our side
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


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """All times are over at the next look, and that is soon."""
    monkeypatch.setattr(connections_module, "SWEEP_S", 0.01)
    for name in ("HEAD_S", "BODY_S", "_LINGER_S"):
        monkeypatch.setattr(connections_module, name, 0.0)


async def test_one_too_many_is_answered_and_closed() -> None:
    async with Server(2).running() as server:
        busy = [await server.dial(), await server.dial()]
        for client in busy:
            client.say(ASK % b"wait")
        await until(lambda: len(server.heard) == 2)
        client = await server.dial()
        client.say(ASK % b"never")
        status, error = await client.refusal()
        assert status == 503 and error["errno"] == 50308 and error["retry"]["after_ms"] > 0
        assert server.answered == {("connection", "503"): 1} and len(server.heard) == 2
        server.may_go.set()
        for client in busy:
            assert b"200 OK" in await client.hears()


async def test_where_there_is_no_room_the_oldest_idle_one_makes_it() -> None:
    async with Server(3).running() as server:
        busy, first, second = [await server.dial() for _ in range(3)]
        busy.say(ASK % b"wait")
        await until(lambda: server.heard)
        newest = await server.dial()
        newest.say(ASK % b"new")
        assert b"200 OK" in await newest.hears()
        await until(first.closed.is_set)
        assert not second.closed.is_set() and not busy.closed.is_set()
        assert server.answered == {("connection", "closed"): 1}
        server.may_go.set()


async def test_refused_ones_linger_in_no_large_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "_LINGERING", 1)
    async with Server(1).running() as server:
        busy = await server.dial()
        busy.say(ASK % b"wait")
        await until(lambda: server.heard)
        for _ in range(5):
            assert (await (await server.dial()).refusal())[0] == 503
        await until(lambda: len(server.connections) <= 2)
        server.may_go.set()


async def test_a_head_without_an_end_is_refused() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"GET / HTTP/1.1\r\nx: y")
        await asyncio.sleep(0.01)
        client.say(b"y" * (HEAD_BYTES + 1))
        status, error = await client.refusal()
        assert (status, error["errno"]) == (431, 43101)


async def test_a_large_head_and_a_large_body_are_taken() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"POST /a HTTP/1.1\r\nx: " + b"y" * (HEAD_BYTES // 2))
        await asyncio.sleep(0.01)
        client.say(b"\r\ncontent-length: 99999\r\n\r\n" + b"z" * 50_000)
        await asyncio.sleep(0.01)
        client.say(b"z" * 49_999 + b"GET")  # the body does not count for the head behind it
        assert b"200 OK" in await client.hears()
        client.say(b" /b HTTP/1.1\r\n\r\n")
        assert b"200 OK" in await client.hears()


@pytest.mark.usefixtures("hurried")
async def test_a_slow_head_is_refused() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"GET / HT")
        status, error = await client.refusal()
        assert (status, error["errno"]) == (408, 40802)
        assert server.answered == {("connection", "408"): 1}


@pytest.mark.usefixtures("hurried")
async def test_a_body_that_does_not_come_is_refused() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n")
        status, error = await client.refusal()
        assert (status, error["errno"]) == (408, 40801)
        await until(lambda: server.heard == ["http.disconnect"])
        await until(lambda: not len(server.connections))


@pytest.mark.usefixtures("hurried")
async def test_the_time_of_a_request_is_not_that_of_its_head() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(ASK % b"wait")
        await asyncio.sleep(0.05)
        server.may_go.set()
        assert b"200 OK" in await client.hears()
        client.say(ASK % b"next")
        assert b"200 OK" in await client.hears()


@pytest.mark.parametrize("said", [b"", b"\r\n"], ids=["nothing", "line-ends"])
@pytest.mark.usefixtures("hurried")
async def test_who_asks_nothing_is_closed_in_silence(said: bytes) -> None:
    async with Server(9).running(keep_alive_s=0) as server:
        client = await server.dial()
        client.say(said)
        await until(client.closed.is_set)
        assert client.chunks == [] and not server.answered
        assert len(server.connections) == 0


async def test_line_ends_without_an_end_are_refused() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"\r\n" * HEAD_BYTES)
        assert (await client.refusal())[0] == 431


@pytest.mark.usefixtures("hurried")
async def test_the_rest_of_a_body_that_was_answered_early_has_its_time_too() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"POST /early HTTP/1.1\r\ncontent-length: 1000\r\n\r\nx")
        assert b"200 OK" in await client.hears()
        client.say(b"y")
        await until(client.closed.is_set)
        assert client.chunks == [] and not server.answered


async def test_a_body_that_was_answered_early_is_read_to_its_end() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"POST /early HTTP/1.1\r\ncontent-length: 4\r\n\r\nx")
        assert b"200 OK" in await client.hears()
        client.say(b"yzz" + ASK % b"next")
        assert (await client.hears()).endswith(b"/next")


async def test_trailers_are_passed_over_and_bounded() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        begin = b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
        client.say(begin + b"a: b\r\n\r\n")
        assert (await client.hears()).endswith(b"/a")
        client.say(begin)
        for _ in range(3):
            await asyncio.sleep(0.01)
            client.say(b"c: d\r\n" * (HEAD_BYTES // 12))
        assert (await client.refusal())[0] == 431


async def test_what_is_no_http_is_told_so() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"\x00\x01 what?\r\n\r\n")
        status, error = await client.refusal()
        assert (status, error["errno"]) == (400, 40013)


async def test_a_body_that_is_no_http_ends_its_request() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")
        status, error = await client.refusal()
        assert (status, error["errno"]) == (400, 40013)
        await until(lambda: server.heard == ["http.disconnect"])
        await until(lambda: not len(server.connections))


async def test_an_answer_under_way_comes_before_the_end() -> None:
    """What a push has done is told, whatever comes behind it on the connection."""
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(ASK % b"wait")
        await until(lambda: server.heard)
        client.say(b"nonsense\r\n\r\n")
        client.say(ASK % b"late")
        await asyncio.sleep(0.02)
        assert not client.closed.is_set()
        server.may_go.set()
        assert b"200 OK" in await client.hears()
        await until(client.closed.is_set)
        assert client.chunks == [] and len(server.heard) == 1


async def test_requests_behind_each_other_are_answered_in_order() -> None:
    async with Server(9).running() as server:
        client = await server.dial()
        client.say(ASK % b"wait" + ASK % b"b" + ASK % b"c")
        await until(lambda: server.heard)
        server.may_go.set()
        heard = b""
        while not heard.endswith(b"/c"):
            heard += await client.hears()
        assert heard.index(b"/wait") < heard.index(b"/b") < heard.index(b"/c")


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = self.ended = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed


async def test_writes_of_a_turn_are_one() -> None:
    below = Transport()
    gathered = Gathered(below, asyncio.get_running_loop())
    gathered.write(b"a")
    gathered.write(memoryview(b"bc"))
    assert below.written == []
    await asyncio.sleep(0)
    assert below.written == [b"abc"]
    gathered.write(b"d" * 70_000)
    assert len(below.written) == 2, "too much to wait"
    gathered.write(b"e")
    gathered.write_eof()
    gathered.write(b"f")
    await asyncio.sleep(0)
    assert below.written[2:] == [b"e"] and below.ended
    gathered.close()
    assert below.closed


async def test_what_is_written_is_out_before_it_is_closed() -> None:
    below = Transport()
    gathered = Gathered(below, asyncio.get_running_loop())
    gathered.write(b"a")
    gathered.close()
    assert below.written == [b"a"] and below.closed
    gathered.write(b"b")
    await asyncio.sleep(0)
    assert below.written == [b"a"]
