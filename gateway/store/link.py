"""`Link`: one connection to one server of the store, pipelined, without hidden retries.

redis-py connects, authenticates and parses; the order of commands, time-outs and reconnecting are
ours, because its client repeats a command whose reply was lost, which would append a record twice,
and because its per-command cost (about 120 us) is three times that of a pipelined one.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import hiredis
import structlog
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from gateway.store.dial import Address, AnyConnection, Dial
from gateway.store.errors import Fenced, LogFull, StoreError, StoreUnavailable

_log = structlog.get_logger("columba.store")

Argument = bytes | str | int
Reply = Any
"""What the store answered: bytes, int, None or a list of them."""
Command = Sequence[Argument]
Again = Callable[[ResponseError], bool]
"""Asked about a refusal; True if it has sent the command elsewhere, whose future then stays open."""

_RECONNECT_MIN_S: Final = 0.05
_RECONNECT_MAX_S: Final = 2.0
_MAX_WAITING: Final = 50_000
"""Commands without a reply on one connection; callers keep far below it by batching."""
_ASKING: Final = hiredis.pack_command(("ASKING",))
_WHO: Final[Command] = ("INFO", "server", "replication", "persistence", "cluster")


class Primary(NamedTuple):
    """One server process in one role without a break: what was read from it and what is written to
    it are of one history. A replica that takes over, and a server that starts again, is another."""

    run_id: str
    replication_id: str


class Link:
    """Reconnects by itself with backoff, always to the same address.

    `send` fails with StoreUnavailable at once while there is no connection, and for commands whose
    reply was lost: their outcome is unknown. Before the first connection stands or has failed,
    commands wait for it. `changed` is called when it is up and when it is lost.
    """

    def __init__(
        self, dial: Dial, address: Address, changed: Callable[[], None] | None = None
    ) -> None:
        self.address = address
        self._dial = dial
        self._changed = changed
        self._connection: AnyConnection | None = dial.connection(address)
        self._takes = True
        """Commands: it is up, or being opened for the first time."""
        self._out: list[bytes] = []
        self._wake = asyncio.Event()
        self._waiting: deque[tuple[asyncio.Future[Reply] | None, float, Again | None]] = deque()
        """Future (None: nobody asks for the reply), loop time, whom to ask about refusals."""
        self._up = asyncio.Event()
        self.settled = asyncio.Event()
        """It has been up, or was refused for its credentials."""
        self.failure: StoreError | None = None
        """Why it is down."""
        self.up_since: float | None = None
        """Loop time since which this connection has stood; None while it is down."""
        self.losses = 0
        """Connections lost so far."""
        self.primary: Primary | None = None
        """Who answers; None while it is down, and for a server that does not say."""
        self.in_cluster = False
        self.client_id = 0
        self._task = asyncio.create_task(self._keep())

    @property
    def timeout_s(self) -> float:
        return self._dial.timeout_s

    @property
    def up(self) -> bool:
        return self._up.is_set()

    @property
    def opening(self) -> bool:
        """For the first time."""
        return self._takes and not self._up.is_set()

    @property
    def idle(self) -> bool:
        return not self._waiting

    async def wait_up(self) -> None:
        await self._up.wait()

    def send(
        self,
        command: Command,
        future: asyncio.Future[Reply] | None = None,
        again: Again | None = None,
        *,
        asking: bool = False,
    ) -> asyncio.Future[Reply]:
        """Send a command at the end of this turn of the loop; the future is its reply.

        `asking`: to a server that is only about to get the slot (another's ASK has named it).
        """
        loop = asyncio.get_running_loop()
        if future is None:
            future = loop.create_future()
        connection = self._connection
        if connection is None or not self._takes:
            future.set_exception(StoreUnavailable(f"no connection to the store at {self.address}"))
            return future
        if len(self._waiting) >= _MAX_WAITING:
            future.set_exception(StoreUnavailable("too many commands wait for the store"))
            return future
        if asking:
            self._out.append(_ASKING)
            self._waiting.append((None, loop.time(), None))
        self._out += packed(command, connection)
        self._waiting.append((future, loop.time(), again))
        self._wake.set()
        return future

    async def identify(self) -> Primary | None:
        """Ask the server who it is, now."""
        connection = self._connection
        said = _fields(await self.send(_WHO))
        if connection is not self._connection:
            raise StoreUnavailable(f"lost the store at {self.address}")
        self.primary = _primary(said)
        return self.primary

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
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
                self.settled.set()
            except* (RedisError, OSError, StoreUnavailable) as failure:
                error = StoreUnavailable(f"lost the store at {self.address}: {_first(failure)}")
            # A defect, ours or the library's, must not end the connection's keeper unheard.
            except* Exception as failure:
                _log.exception("store connection failed")
                error = StoreUnavailable(f"store connection failed: {_first(failure)!r}")
            await self._drop(error)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, _RECONNECT_MAX_S)

    async def _open(self) -> None:
        connection = self._connection or self._dial.connection(self.address)
        self._connection = connection
        await connection.connect()  # type: ignore[no-untyped-call]
        async with asyncio.timeout(self._dial.timeout_s):
            await self._ask_who(connection)
        self._takes = True
        self._up.set()
        self.settled.set()
        self.failure = None
        self.up_since = asyncio.get_running_loop().time()
        if self._changed is not None:
            self._changed()

    async def _ask_who(self, connection: AnyConnection) -> None:
        """Before any other command. Raises StoreUnavailable for one that is not fit to answer."""
        questions = connection.pack_commands([_WHO, ("CLIENT", "ID")])
        await self._put(connection, questions)
        said: dict[str, str] = {}
        try:
            said = _fields(await connection.read_response(disable_decoding=True))
        except NoPermissionError:
            pass  # then nobody can tell one history from the other
        try:
            self.client_id = int(await connection.read_response(disable_decoding=True))
        except NoPermissionError:
            self.client_id = 0
        if said.get("loading") == "1":
            raise StoreUnavailable("it is still loading its data")
        self.in_cluster = said.get("cluster_enabled") == "1"
        if said.get("role") == "slave" and not self.in_cluster:
            raise StoreUnavailable("it is a replica")  # in a cluster it can name its primary
        self.primary = _primary(said)

    async def _write(self) -> None:
        connection = self._connection
        assert connection is not None
        while True:
            await self._wake.wait()
            self._wake.clear()
            chunks, self._out = self._out, []
            await self._put(connection, chunks)

    async def _put(self, connection: AnyConnection, chunks: list[bytes]) -> None:
        """Raises RedisError, OSError, StoreUnavailable."""
        try:
            await connection.send_packed_command(chunks, check_health=False)
        except RuntimeError as error:
            # uvloop has no OSError for a write to a transport that was lost in the same turn.
            if "the handler is closed" not in str(error):
                raise
            raise StoreUnavailable(str(error)) from error

    async def _read(self) -> None:
        connection = self._connection
        assert connection is not None
        while True:
            try:
                reply = await connection.read_response(timeout=math.inf, disable_decoding=True)
            except ResponseError as refusal:
                reply = refusal
            if not self._waiting:
                # As Redis in protected mode does: refused before any command.
                raise StoreUnavailable(f"the store said, unasked: {reply}")
            future, _, again = self._waiting.popleft()
            if future is None:
                continue
            if isinstance(reply, ResponseError):
                self._refuse(future, again, reply)
            elif not future.done():
                future.set_result(reply)

    def _refuse(
        self, future: asyncio.Future[Reply], again: Again | None, refusal: ResponseError
    ) -> None:
        if again is not None and again(refusal):
            return
        if not future.done():
            future.set_exception(_mapped(refusal))
        if isinstance(refusal, ReadOnlyError) or str(refusal).startswith("UNBLOCKED"):
            # No primary any more. If it becomes one again, it is another one.
            raise StoreUnavailable(str(refusal))

    async def _watch(self) -> None:
        """Give the connection up when its oldest command has had no reply for timeout_s."""
        loop = asyncio.get_running_loop()
        timeout_s = self._dial.timeout_s
        while True:
            await asyncio.sleep(timeout_s / 4)
            if self._waiting and loop.time() - self._waiting[0][1] > timeout_s:
                raise StoreUnavailable(f"no reply within {timeout_s:g} s")

    async def _drop(self, error: StoreError) -> None:
        connection, self._connection = self._connection, None
        was_up = self.up_since is not None
        self.losses += was_up
        self._takes = False
        self._up.clear()
        self.up_since = None
        self.primary = None
        self.failure = error
        self._out.clear()
        while self._waiting:
            future, _, _ = self._waiting.popleft()
            if future is not None and not future.done():
                future.set_exception(error)
                # Some callers have gone; an unread exception is no news to anybody.
                future.exception()
        if self._changed is not None:
            self._changed()
        if connection is not None:
            await connection.disconnect(nowait=True)


def packed(command: Command, connection: AnyConnection) -> Sequence[bytes]:
    """A command as the protocol writes it (RESP), by hiredis: redis-py's asyncio connections pack in Python, up to 1 us
    an argument, of which a push has five."""
    try:
        return (hiredis.pack_command(tuple(command)),)  # type: ignore[arg-type]  # its stub says: one
    except TypeError:  # it takes str, bytes and int themselves, but no IntEnum
        return connection.pack_command(*command)


class UnknownScript(StoreError):
    """EVALSHA of a script that this server has not seen; answered within `Store.run`."""


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _fields(info: bytes) -> dict[str, str]:
    """Of an answer to INFO."""
    lines = info.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _primary(said: dict[str, str]) -> Primary | None:
    run_id = said.get("run_id")
    return Primary(run_id, said.get("master_replid", "")) if run_id else None


_MENDED_BY_TIME: Final = (
    AskError,  # MOVED as well: whoever asked for more has been asked
    ReadOnlyError,
    OutOfMemoryError,
    ClusterDownError,  # MASTERDOWN as well
    TryAgainError,
)
_MENDED_BY_TIME_TOO: Final = ("BUSY", "MISCONF", "NOREPLICAS", "LOADING", "UNBLOCKED")


def _mapped(refusal: ResponseError) -> StoreError:
    text = str(refusal)
    if text.startswith("FENCED"):
        return Fenced(text)
    if text.startswith("LOGFULL"):
        return LogFull(text)
    if isinstance(refusal, NoScriptError):
        return UnknownScript(text)
    # Refusals that time or an operator mends; the command was not executed.
    if isinstance(refusal, _MENDED_BY_TIME) or text.startswith(_MENDED_BY_TIME_TOO):
        return StoreUnavailable(text)
    return StoreError(text)
