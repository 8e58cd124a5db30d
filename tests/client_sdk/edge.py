"""A scripted edge: the real wire on a real loopback socket, each answer said by the test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from protocol import frames
from protocol.codes import MAX_BODY_UP, CloseCode, Kind
from protocol.schema import device_pb2
from protocol.schema.device_pb2 import ReceiptState
from protocol.states import Side, State, on_received, on_sent
from tests.waiting import PATIENCE_S

"""For what must happen; a test that waits longer has failed."""
DEVICE_ID = 3 << 32 | 7


def message_frame(push_id: int, *, ttl_s: int = 3600, body: str = "text", key: str = "") -> bytes:
    notification = device_pb2.Notification(title="title", body=body)
    content = device_pb2.Content(notification=notification, data={"k": "v"})
    message = device_pb2.Message(push_id=push_id, ttl_s=ttl_s, content=content, collapse_key=key)
    return frames.encode(Kind.MESSAGE, message.SerializeToString())


def recall_frame(*push_ids: int) -> bytes:
    return frames.encode(Kind.RECALL, device_pb2.Recall(push_id=push_ids).SerializeToString())


class Peer:
    """One accepted connection, HELLO read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = frames.FrameBuffer(MAX_BODY_UP)
        self._frames: list[frames.Frame] = []
        self._state = State.CONNECTED
        self.hello = device_pb2.Hello()

    async def next(self) -> tuple[Kind, bytes]:
        """The next frame; raises EOFError at the end. Checked against the session table."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._frames:
                data = await self._reader.read(65536)
                if not data:
                    raise EOFError
                self._frames += self._buffer.feed(data)
        kind, body = self._frames.pop(0)
        after = on_received(Side.EDGE, self._state, kind)
        assert after is not None
        self._state = after
        return Kind(kind), body

    async def expect(self, kind: Kind) -> bytes:
        """The body of the next frame, which has to be of that kind; PINGs are answered."""
        while True:
            got, body = await self.next()
            if got is not Kind.PING or kind is Kind.PING:
                assert got is kind, f"{got.name} instead of {kind.name}"
                return body
            self.send(Kind.PONG)

    async def receipts(self, *, ack: bool = True) -> list[tuple[int, str]]:
        """(push id, state) of the next RECEIPTS frame."""
        body = device_pb2.Receipts.FromString(await self.expect(Kind.RECEIPTS))
        if ack:
            self.ack(body.seq)
        return [(r.push_id, ReceiptState.Name(r.state)) for r in body.receipts]

    async def receipts_for(self, count: int) -> list[tuple[int, str]]:
        """That many receipts, of as many frames as they take; acknowledged."""
        got: list[tuple[int, str]] = []
        while len(got) < count:
            got += await self.receipts()
        return got

    async def end(self) -> list[Kind]:
        """Kinds of what still comes until the device closes."""
        kinds = []
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                kinds.append((await self.next())[0])
        return kinds

    def send(self, kind: Kind, body: Any = None) -> None:
        self._state = on_sent(Side.EDGE, self._state, kind)
        self._writer.write(frames.encode(kind, body.SerializeToString() if body else b""))

    def welcome(self, **fields: Any) -> None:
        fields.setdefault("device_id", DEVICE_ID)
        if self.hello.HasField("registration"):
            fields.setdefault("token", b"sealed")
        fields.setdefault("version", 1)
        fields.setdefault("heartbeat_s", self.hello.heartbeat_s)
        self.send(Kind.WELCOME, device_pb2.Welcome(**fields))

    def messages(
        self, *push_ids: int, ttl_s: int = 3600, body: str = "text", key: str = ""
    ) -> None:
        """All of them in one write, so that they arrive in one read."""
        self.raw(b"".join(message_frame(p, ttl_s=ttl_s, body=body, key=key) for p in push_ids))

    def recall(self, *push_ids: int) -> None:
        self.send(Kind.RECALL, device_pb2.Recall(push_id=push_ids))

    def ack(self, seq: int) -> None:
        self.send(Kind.RECEIPT_ACK, device_pb2.ReceiptAck(seq=seq))

    def goaway(self, code: int, **fields: Any) -> None:
        self.send(Kind.GOAWAY, device_pb2.GoAway(code=code, **fields))

    def raw(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        self._writer.transport.abort()


class Edge:
    """Accepts devices; the test takes them one by one."""

    def __init__(self) -> None:
        self._accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: asyncio.Server
        self._peers: list[Peer] = []
        self.address = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        self._server.close()
        for peer in self._peers:
            peer.close()
        await self._server.wait_closed()

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = Peer(reader, writer)
        self._peers.append(peer)
        with contextlib.suppress(EOFError, ConnectionError):
            peer.hello = device_pb2.Hello.FromString(await peer.expect(Kind.HELLO))
            self._accepted.put_nowait(peer)

    async def greeted(self) -> Peer:
        """The next connection, which has said HELLO."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._accepted.get()

    async def welcomed(self, **fields: Any) -> Peer:
        peer = await self.greeted()
        peer.welcome(**fields)
        return peer

    async def refused(self, code: CloseCode | int, **fields: Any) -> Peer:
        peer = await self.greeted()
        peer.goaway(code, **fields)
        peer.close()
        return peer


@contextlib.asynccontextmanager
async def running_edge() -> AsyncIterator[Edge]:
    edge = Edge()
    await edge.start()
    try:
        yield edge
    finally:
        await edge.stop()
