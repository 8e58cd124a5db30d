"""Request and response between our own processes, over a unix socket or TCP.

Frames are those of `protocol.rpc_frames`. Many calls share one connection, each with a deadline; what
waits is bounded; a client reconnects by itself. A unix socket is guarded by its mode (0600); TCP by a
mutual HMAC challenge on the deployment's secret.
"""

import asyncio
import hmac
import os
import random
import secrets
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import structlog

from protocol.codes import CloseCode
from protocol.errors import RemoteProtocolError
from protocol.frames import Frame, FrameBuffer, encode
from protocol.rpc_frames import (
    ANSWER_HEAD,
    CHALLENGE,
    ERROR,
    MAX_BODY,
    PROOF,
    REQUEST,
    REQUEST_HEAD,
    RESPONSE,
    Method,
)

__all__ = ["MAX_BODY", "Handler", "Method", "RpcClient", "RpcError", "RpcServer", "RpcUnavailable"]

_log = structlog.get_logger("columba.rpc")

_NONCE: Final = 16
_STRANGERS_BODY: Final = 64
"""Of a frame from a peer that has not proved itself: a nonce and a proof fit, and nobody makes us gather more."""
_MAX_OPEN: Final = 10_000
_MAX_BUFFERED: Final = 32 * 1024 * 1024
_RECONNECT_MIN_S: Final = 0.05
_RECONNECT_MAX_S: Final = 1.0
_AUTH_S: Final = 5.0


class RpcError(Exception):
    """The peer answered with an error. `code` is a word that callers may compare."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class RpcUnavailable(Exception):
    """No answer: no connection, lost before the answer, late, or too much is waiting."""


Handler = Callable[[bytes], "bytes | asyncio.Future[bytes] | Coroutine[Any, Any, bytes]"]
"""Body to body. A plain function is answered in order, on the spot; a future when it is done, without a task
for each call; a coroutine runs as a task."""


class RpcServer:
    """Serves methods on one address (`unix:/path` or `tcp:host:port`)."""

    def __init__(self, handlers: Mapping[Method, Handler], secret: bytes) -> None:
        self.handlers = handlers
        self.secret = secret
        self.connections: set[_ServerConnection] = set()
        self.requests_total = 0
        self.refused_total = 0
        self._server: asyncio.Server | None = None
        self._path: str | None = None
        self.address = ""

    async def start(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        kind, _, rest = address.partition(":")
        if kind == "unix":
            with suppress(FileNotFoundError):
                os.unlink(rest)
            # The mode must hold from the first moment: no window between bind and chmod.
            mask = os.umask(0o177)
            try:
                self._server = await loop.create_unix_server(
                    lambda: _ServerConnection(self, authenticated=True), rest
                )
            finally:
                os.umask(mask)
            self._path = rest
            self.address = address
        else:
            host, _, port = rest.rpartition(":")
            self._server = await loop.create_server(
                lambda: _ServerConnection(self, authenticated=False), host, int(port)
            )
            bound = self._server.sockets[0].getsockname()
            self.address = f"tcp:{host}:{bound[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close()
        if self._path is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._path)


class _Connection(asyncio.Protocol):
    """Bytes to frames and back, for both ends."""

    def __init__(self, *, authenticated: bool) -> None:
        self._authenticated = authenticated
        self._frames = FrameBuffer(MAX_BODY if authenticated else _STRANGERS_BODY)
        self._queued: list[bytes] = []
        """Frames of this turn."""
        self._queued_bytes = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, only alike.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self.on_frame(frame)
        except RemoteProtocolError as error:
            _log.warning("rpc connection closed", reason=str(error))
            self.close()

    def on_frame(self, frame: Frame) -> None:
        raise NotImplementedError

    def _trust(self) -> None:
        self._authenticated = True
        self._frames.limit = MAX_BODY

    def send(self, kind: int, body: bytes) -> None:
        """All that a turn of the loop sends goes out in one write: uvloop's transports make each write a system
        call, which wakes the peer up for one frame."""
        if self.transport is None or self.transport.is_closing():
            return
        if not self._queued:
            asyncio.get_running_loop().call_soon(self._flush)
        frame = encode(kind, body)
        self._queued.append(frame)
        self._queued_bytes += len(frame)

    def _flush(self) -> None:
        queued, self._queued, self._queued_bytes = self._queued, [], 0
        if queued and self.transport is not None and not self.transport.is_closing():
            self.transport.write(queued[0] if len(queued) == 1 else b"".join(queued))

    def buffered(self) -> int:
        """Bytes that the kernel has not taken."""
        if self.transport is None:
            return 0
        return self._queued_bytes + self.transport.get_write_buffer_size()

    def close(self) -> None:
        if self.transport is not None:
            self._flush()
            self.transport.close()


class _ServerConnection(_Connection):
    def __init__(self, server: RpcServer, *, authenticated: bool) -> None:
        super().__init__(authenticated=authenticated)
        self._server = server
        self._nonce = secrets.token_bytes(_NONCE)
        self._open: set[asyncio.Future[bytes]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections.add(self)
        if not self._authenticated:
            self.send(CHALLENGE, self._nonce)
            asyncio.get_running_loop().call_later(_AUTH_S, self._close_unless_authenticated)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        for future in list(self._open):
            future.cancel()

    def _close_unless_authenticated(self) -> None:
        if not self._authenticated:
            self._server.refused_total += 1
            self.close()

    def on_frame(self, frame: Frame) -> None:
        kind, body = frame
        if not self._authenticated:
            self._authenticate(kind, body)
            return
        if kind != REQUEST or len(body) < REQUEST_HEAD.size:
            raise RemoteProtocolError(f"rpc frame kind {kind}", CloseCode.PROTOCOL_ERROR)
        call, method = REQUEST_HEAD.unpack_from(body)
        handler = self._server.handlers.get(method)
        self._server.requests_total += 1
        if handler is None:
            self._fail(call, RpcError("unknown_method", f"this process does not serve {method}"))
            return
        if len(self._open) >= _MAX_OPEN:
            self._fail(call, RpcError("busy", "too many calls are open"))
            return
        try:
            result = handler(body[REQUEST_HEAD.size :])
        except RpcError as error:
            self._fail(call, error)
        except Exception as error:  # a defect in one handler must not end the others' connection
            self._fail_for_defect(call, method, error)
        else:
            if isinstance(result, bytes):
                self.send(RESPONSE, ANSWER_HEAD.pack(call) + result)
                return
            if not asyncio.isfuture(result):
                result = asyncio.get_running_loop().create_task(result)
            self._open.add(result)
            result.add_done_callback(partial(self._finish, call, method))

    def _finish(self, call: int, method: int, future: "asyncio.Future[bytes]") -> None:
        self._open.discard(future)
        if future.cancelled():
            return  # with the connection
        error = future.exception()
        if error is None:
            self.send(RESPONSE, ANSWER_HEAD.pack(call) + future.result())
        elif isinstance(error, RpcError):
            self._fail(call, error)
        else:
            self._fail_for_defect(call, method, error)

    def _fail_for_defect(self, call: int, method: int, error: BaseException) -> None:
        _log.error("rpc handler failed", method=method, exc_info=error)
        self._fail(call, RpcError("internal", type(error).__name__))

    def _fail(self, call: int, error: RpcError) -> None:
        self.send(ERROR, ANSWER_HEAD.pack(call) + f"{error.code}:{error.text}".encode())

    def _authenticate(self, kind: int, body: bytes) -> None:
        theirs, proof = body[:_NONCE], body[_NONCE:]
        expected = _proof(self._server.secret, b"client", self._nonce, theirs)
        if kind != PROOF or not hmac.compare_digest(proof, expected):
            self._server.refused_total += 1
            raise RemoteProtocolError("rpc peer without the secret", CloseCode.PROTOCOL_ERROR)
        self._trust()
        self.send(PROOF, _proof(self._server.secret, b"server", theirs, self._nonce))


class RpcClient:
    """Calls the methods of one address; connects by itself, again and again."""

    def __init__(
        self,
        address: str,
        secret: bytes,
        *,
        on_up: Callable[[], None] | None = None,
        on_down: Callable[[], None] | None = None,
    ) -> None:
        self.address = address
        self.secret = secret
        self._on_up = on_up
        self._on_down = on_down
        self._connection: _ClientConnection | None = None
        self._open: dict[int, asyncio.Future[bytes]] = {}
        self._next = 0
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._connection is not None:
            self._connection.close()
            self.lost(self._connection)

    @property
    def up(self) -> bool:
        return self._up.is_set()

    async def call(self, method: Method, body: bytes, deadline_s: float) -> bytes:
        """Raises RpcError (the peer said so) or RpcUnavailable (outcome unknown)."""
        try:
            async with asyncio.timeout(deadline_s):
                return await self.call_nowait(method, body)
        except TimeoutError:
            raise RpcUnavailable(f"{self.address} did not answer in {deadline_s:g} s") from None

    def call_nowait(self, method: Method, body: bytes) -> "asyncio.Future[bytes]":
        """Send now; without a deadline of its own, the future ends with the connection at the latest."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        connection = self._connection
        if connection is None or not self._up.is_set():
            future.set_exception(RpcUnavailable(f"no connection to {self.address}"))
            return future
        if len(self._open) >= _MAX_OPEN or connection.buffered() > _MAX_BUFFERED:
            future.set_exception(RpcUnavailable(f"too much waits for {self.address}"))
            return future
        self._next = (self._next + 1) & 0xFFFF_FFFF
        call = self._next
        self._open[call] = future
        future.add_done_callback(lambda _: self._open.pop(call, None))
        connection.send(REQUEST, REQUEST_HEAD.pack(call, method) + body)
        return future

    async def wait_up(self) -> None:
        await self._up.wait()

    # What the connection tells us.

    def established(self) -> None:
        self._up.set()
        if self._on_up is not None:
            self._on_up()

    def answered(self, call: int, result: bytes | RpcError) -> None:
        future = self._open.get(call)
        if future is None or future.done():
            return  # came after its deadline
        if isinstance(result, RpcError):
            future.set_exception(result)
        else:
            future.set_result(result)

    def lost(self, connection: "_ClientConnection") -> None:
        if connection is not self._connection:
            return
        self._connection = None
        was_up = self._up.is_set()
        self._up.clear()
        for future in list(self._open.values()):
            if not future.done():
                future.set_exception(RpcUnavailable(f"lost the connection to {self.address}"))
                future.exception()  # a caller may have left
        if was_up and self._on_down is not None:
            self._on_down()

    async def _keep(self) -> None:
        delay = _RECONNECT_MIN_S
        while True:
            ended = asyncio.Event()
            try:
                await self._connect(ended)
            except OSError:
                pass  # not there yet, or no more: try again
            else:
                await ended.wait()
                delay = _RECONNECT_MIN_S
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, _RECONNECT_MAX_S)

    async def _connect(self, ended: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        kind, _, rest = self.address.partition(":")
        connection = _ClientConnection(self, ended, authenticated=kind == "unix")
        self._connection = connection
        try:
            if kind == "unix":
                await loop.create_unix_connection(lambda: connection, rest)
            else:
                host, _, port = rest.rpartition(":")
                await loop.create_connection(lambda: connection, host, int(port))
        except OSError:
            self._connection = None
            raise


class _ClientConnection(_Connection):
    def __init__(self, client: RpcClient, ended: asyncio.Event, *, authenticated: bool) -> None:
        super().__init__(authenticated=authenticated)
        self._client = client
        self._ended = ended
        self._nonce = secrets.token_bytes(_NONCE)
        self._theirs = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._authenticated:
            self._client.established()
        else:
            asyncio.get_running_loop().call_later(_AUTH_S, self._close_unless_authenticated)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(self)
        self._ended.set()

    def _close_unless_authenticated(self) -> None:
        if not self._authenticated:
            self.close()

    def on_frame(self, frame: Frame) -> None:
        kind, body = frame
        if not self._authenticated:
            self._authenticate(kind, body)
        elif kind == RESPONSE and len(body) >= ANSWER_HEAD.size:
            self._client.answered(ANSWER_HEAD.unpack_from(body)[0], body[ANSWER_HEAD.size :])
        elif kind == ERROR and len(body) >= ANSWER_HEAD.size:
            code, _, text = body[ANSWER_HEAD.size :].decode(errors="replace").partition(":")
            self._client.answered(ANSWER_HEAD.unpack_from(body)[0], RpcError(code, text))
        else:
            raise RemoteProtocolError(f"rpc frame kind {kind}", CloseCode.PROTOCOL_ERROR)

    def _authenticate(self, kind: int, body: bytes) -> None:
        secret = self._client.secret
        if kind == CHALLENGE and not self._theirs:
            if len(body) != _NONCE:
                # Anything longer would let the server choose more of what we sign.
                raise RemoteProtocolError(
                    "rpc challenge of a wrong length", CloseCode.PROTOCOL_ERROR
                )
            self._theirs = body
            self.send(PROOF, self._nonce + _proof(secret, b"client", body, self._nonce))
            return
        expected = _proof(secret, b"server", self._nonce, self._theirs)
        if kind != PROOF or not hmac.compare_digest(body, expected):
            raise RemoteProtocolError("rpc server without the secret", CloseCode.PROTOCOL_ERROR)
        self._trust()
        self._client.established()


def _proof(secret: bytes, side: bytes, first: bytes, second: bytes) -> bytes:
    return hmac.digest(secret, b"columba rpc v1 " + side + first + second, "sha256")
