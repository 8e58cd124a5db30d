"""`Store`: one connection to the store, pipelined, without hidden retries.

redis-py connects, authenticates and parses; the order of commands, time-outs and reconnecting are
ours, because its client repeats a command whose reply was lost, which would append a record twice,
and because its per-command cost (about 120 us) is three times that of a pipelined one.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Self

import structlog
from redis.asyncio.connection import Connection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from gateway.config_sources import shown
from gateway.store.errors import Fenced, StoreError, StoreUnavailable
from gateway.store.scripts import script

_log = structlog.get_logger("columba.store")

Argument = bytes | str | int
Reply = Any
"""What the store answered: bytes, int, None or a list of them."""

_RECONNECT_MIN_S: Final = 0.05
_RECONNECT_MAX_S: Final = 2.0
_MAX_WAITING: Final = 50_000
"""Commands without a reply on one connection; callers keep far below it by batching."""


class Store:
    """One pipelined connection; reconnects by itself with backoff.

    `call` and `run` raise StoreUnavailable at once while there is no connection, and for commands
    whose reply was lost: their outcome is unknown, repeat them under their seq.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        self.url = url
        self._shown = shown("store.url", url)
        """Without the password, for errors."""
        self._timeout_s = timeout_s
        self._connection: Connection | UnixDomainSocketConnection | None = None
        self._out: list[bytes] = []
        self._wake = asyncio.Event()
        self._waiting: deque[tuple[asyncio.Future[Reply], float]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._ever_up = asyncio.get_running_loop().create_future()
        self.up_since: float | None = None
        """Loop time since which this connection has stood; None while it is down."""
        self.losses = 0
        """Connections lost so far."""

    @classmethod
    async def connect(cls, url: str, *, timeout_s: float = 5.0) -> Self:
        """Connect once; StoreUnavailable if that fails."""
        store = cls(url, timeout_s=timeout_s)
        store._task = asyncio.create_task(store._keep())
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(store._ever_up)
        except (TimeoutError, StoreError) as error:
            await store.close()
            raise StoreUnavailable(
                f"the store at {store._shown} does not answer: {error}"
            ) from error
        return store

    @classmethod
    async def connect_patiently(cls, url: str, *, timeout_s: float = 5.0) -> Self:
        """As `connect`, again and again: the store may start after us."""
        delay = _RECONNECT_MIN_S
        while True:
            try:
                return await cls.connect(url, timeout_s=timeout_s)
            except StoreUnavailable:
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _RECONNECT_MAX_S)

    async def another(self) -> "Store":
        """A further connection to the same store, such as one for blocking reads (below timeout_s)."""
        return await Store.connect(self.url, timeout_s=self._timeout_s)

    @property
    def up(self) -> bool:
        return self._up.is_set()

    async def wait_up(self) -> None:
        await self._up.wait()

    def call(self, *command: Argument) -> asyncio.Future[Reply]:
        """Send a command at the end of this turn of the loop; the future is its reply."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        connection = self._connection
        if connection is None or not self._up.is_set():
            future.set_exception(StoreUnavailable(f"no connection to the store at {self._shown}"))
            return future
        if len(self._waiting) >= _MAX_WAITING:
            future.set_exception(StoreUnavailable("too many commands wait for the store"))
            return future
        self._out.extend(connection.pack_command(*command))
        self._waiting.append((future, loop.time()))
        self._wake.set()
        return future

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Reply:
        """Call a script of `scripts/`. Raises Fenced, StoreUnavailable or StoreError."""
        function = script(name)
        try:
            return await self.call("EVALSHA", function.sha, len(keys), *keys, *args)
        except UnknownScript:
            pass
        # The store has forgotten it (restart, another primary): EVAL loads it by the way.
        return await self.call("EVAL", function.source, len(keys), *keys, *args)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if not self._ever_up.done():
            self._ever_up.cancel()
        await self._drop(StoreUnavailable("the connection to the store was closed"))

    async def _keep(self) -> None:
        """Connect, serve until the connection is lost, connect again."""
        delay = _RECONNECT_MIN_S
        while True:
            error: StoreError
            try:
                await self._open()
                delay = _RECONNECT_MIN_S
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._write())
                    group.create_task(self._read())
                    group.create_task(self._watch())
                continue
            except* AuthenticationError as failure:
                error = StoreError(f"the store refused our credentials: {failure.exceptions[0]}")
                if not self._ever_up.done():
                    self._ever_up.set_exception(error)
            except* (RedisError, OSError, StoreUnavailable) as failure:
                error = StoreUnavailable(
                    f"lost the store at {self._shown}: {failure.exceptions[0]}"
                )
            # A defect, ours or the library's, must not end the connection's keeper unheard.
            except* Exception as failure:
                _log.exception("store connection failed")
                error = StoreUnavailable(f"store connection failed: {failure.exceptions[0]!r}")
            await self._drop(error)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, _RECONNECT_MAX_S)

    async def _open(self) -> None:
        options: dict[str, Any] = dict(parse_url(self.url))
        kind: Any = options.pop("connection_class", Connection)
        connection = kind(
            **options,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self._timeout_s,
            protocol=2,
            driver_info=None,
        )
        await connection.connect()
        self._connection = connection
        self._up.set()
        self.up_since = asyncio.get_running_loop().time()
        if not self._ever_up.done():
            self._ever_up.set_result(None)

    async def _write(self) -> None:
        connection = self._connection
        assert connection is not None
        while True:
            await self._wake.wait()
            self._wake.clear()
            chunks, self._out = self._out, []
            await connection.send_packed_command(chunks, check_health=False)

    async def _read(self) -> None:
        connection = self._connection
        assert connection is not None
        while True:
            try:
                reply = await connection.read_response(timeout=math.inf, disable_decoding=True)
            except ResponseError as refusal:
                reply = _mapped(refusal)
            if not self._waiting:
                # As Redis in protected mode does: refused at connect, before any command.
                raise StoreUnavailable(f"the store said, unasked: {reply}")
            future, _ = self._waiting.popleft()
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    async def _watch(self) -> None:
        """Give the connection up when its oldest command has had no reply for timeout_s."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._timeout_s / 4)
            if self._waiting and loop.time() - self._waiting[0][1] > self._timeout_s:
                raise StoreUnavailable(f"no reply within {self._timeout_s:g} s")

    async def _drop(self, error: StoreError) -> None:
        connection, self._connection = self._connection, None
        if self.up_since is not None:
            self.losses += 1
        self._up.clear()
        self.up_since = None
        self._out.clear()
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)
                # Some callers have gone; an unread exception is no news to anybody.
                future.exception()
        if connection is not None:
            await connection.disconnect(nowait=True)


class UnknownScript(StoreError):
    """EVALSHA of a script that this server has not seen; answered within `run`."""


_MENDED_BY_TIME: Final = (ReadOnlyError, OutOfMemoryError, ClusterDownError, TryAgainError)


def _mapped(refusal: ResponseError) -> StoreError:
    text = str(refusal)
    if text.startswith("FENCED"):
        return Fenced(text)
    if isinstance(refusal, NoScriptError):
        return UnknownScript(text)
    # Refusals that time or an operator mends; the command was not executed.
    if isinstance(refusal, _MENDED_BY_TIME) or text.startswith(("BUSY", "MISCONF")):
        return StoreUnavailable(text)
    return StoreError(text)
