"""A device on a bare socket that does exactly what a test tells it to, and nothing by itself."""

import asyncio
import os
import socket
import time
from types import TracebackType
from typing import Self, TypeVar

from google.protobuf.message import Message

from protocol.codes import (
    INSTALLATION_ID_BYTES,
    MAX_BODY_DOWN,
    NONCE_BYTES,
    VERSION_MAX,
    VERSION_MIN,
    Kind,
)
from protocol.credentials import registration_proof
from protocol.frames import Frame, FrameBuffer, encode
from protocol.schema import device_pb2
from tests.waiting import PATIENCE_S

Body = TypeVar("Body", bound=Message)


class Closed(Exception):
    """The connection ended before the frame that was waited for."""


class RawDevice:
    """One connection. `async with` connects and closes without a BYE."""

    def __init__(
        self, address: str, app: str, access_key: str, *, receive_buffer: int | None = None
    ) -> None:
        self._address = address
        self._app = app
        self._access_key = access_key
        self._receive_buffer = receive_buffer
        self._frames = FrameBuffer(MAX_BODY_DOWN)
        self._arrived: list[Frame] = []
        self._seq = 0
        self._socket: socket.socket
        self.device_id = 0
        self.token = b""

    async def __aenter__(self) -> Self:
        host, _, port = self._address.rpartition(":")
        self._socket = socket.socket()
        self._socket.setblocking(False)
        if self._receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(self._socket, (host, int(port)))
        except BaseException:
            self._socket.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Without a word."""
        self._socket.close()

    # Up.

    async def hello(
        self, *, connection: int = 1, token: bytes = b"", installation: bytes = b""
    ) -> None:
        """With the token, or else as a registration of this (or a new) installation."""
        hello = device_pb2.Hello(
            version_min=VERSION_MIN,
            version_max=VERSION_MAX,
            app=self._app,
            connection=connection,
            heartbeat_s=60,
            sdk="e2e",
        )
        if token:
            hello.token = token
        else:
            installation = installation or os.urandom(INSTALLATION_ID_BYTES)
            now_ms, nonce = int(time.time() * 1000), os.urandom(NONCE_BYTES)
            hello.registration.CopyFrom(
                device_pb2.Registration(
                    installation_id=installation,
                    time_ms=now_ms,
                    nonce=nonce,
                    proof=registration_proof(
                        self._access_key, self._app, installation, now_ms, nonce
                    ),
                )
            )
        await self._send(Kind.HELLO, hello)

    async def join(
        self, *, connection: int = 1, token: bytes = b"", installation: bytes = b""
    ) -> device_pb2.Welcome:
        """HELLO, and the WELCOME that must follow."""
        await self.hello(connection=connection, token=token, installation=installation)
        welcome = await self.read(Kind.WELCOME, device_pb2.Welcome)
        self.device_id = welcome.device_id
        self.token = welcome.token or token
        return welcome

    async def receipt(self, push_id: int, state: device_pb2.ReceiptState) -> None:
        """One receipt; returns when the service has it safe."""
        self._seq += 1
        receipt = device_pb2.Receipt(push_id=push_id, state=state, at_ms=int(time.time() * 1000))
        await self._send(Kind.RECEIPTS, device_pb2.Receipts(seq=self._seq, receipts=[receipt]))
        while (await self.read(Kind.RECEIPT_ACK, device_pb2.ReceiptAck)).seq < self._seq:
            pass

    async def _send(self, kind: Kind, body: Message) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, encode(kind, body.SerializeToString()))

    # Down.

    async def message(self) -> device_pb2.Message:
        return await self.read(Kind.MESSAGE, device_pb2.Message)

    async def goaway(self) -> device_pb2.GoAway:
        return await self.read(Kind.GOAWAY, device_pb2.GoAway)

    async def read(self, kind: Kind, body: type[Body]) -> Body:
        """The next frame of this kind; others before it stay for later. Raises Closed."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for at, (found, raw) in enumerate(self._arrived):
                    if found == kind:
                        del self._arrived[at]
                        return body.FromString(raw)
                await self._receive()

    async def ended(self) -> None:
        """Waits until the service has closed the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while True:
                    await self._receive()
            except Closed:
                pass

    async def _receive(self) -> None:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 65_536)
        except ConnectionResetError as error:
            raise Closed("reset") from error
        if not data:
            raise Closed(f"closed; unread frames: {[kind for kind, _ in self._arrived]}")
        self._arrived += self._frames.feed(data)

    def arrived(self, kind: Kind) -> int:
        """Frames of this kind that were read and not taken."""
        return sum(1 for found, _ in self._arrived if found == kind)
