"""A real RpcServer and real clients on a loop of their own, and what went wrong on it."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from structlog.testing import capture_logs

from gateway import rpc
from gateway.rpc import Handler, Method, RpcClient, RpcError, RpcServer
from tests.fuzz.rpc_bytes import SMALL_BODY
from tests.waiting import until

SECRET: Final = b"s" * 32
SOON_S: Final = 10.0
"""For what must happen; a test that waits longer has failed."""
_STEP_S: Final = 0.0005


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run it to its end. No exception may have reached the loop, no handler may have failed, and
    no task may be left."""
    unhandled: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, said: unhandled.append(said))
        async with asyncio.timeout(SOON_S * 2):
            await main()
        await until(lambda: len(asyncio.all_tasks()) == 1)

    with (
        capture_logs() as lines,
        patch.object(rpc, "MAX_BODY", SMALL_BODY),
        patch.object(rpc, "_RECONNECT_MIN_S", _STEP_S),
    ):
        asyncio.run(watched())
    assert not unhandled
    assert not [line for line in lines if _is_defect(line)]


def _is_defect(line: MutableMapping[str, Any]) -> bool:
    return line["log_level"] not in ("debug", "info", "warning") or "exc_info" in line


async def echo_later(body: bytes) -> bytes:
    await asyncio.sleep(0)
    return body


def refuse(_: bytes) -> bytes:
    raise RpcError("fenced", "of the test")


HANDLERS: Final[dict[Method, Handler]] = {
    Method.COUNTS: lambda body: body,
    Method.DEVICE: echo_later,
    Method.DELIVER: refuse,
}


@asynccontextmanager
async def serving() -> AsyncIterator[RpcServer]:
    server = RpcServer(HANDLERS, SECRET)
    with tempfile.TemporaryDirectory(prefix="crpc-") as folder:
        await server.start(f"unix:{folder}/r")
        try:
            yield server
        finally:
            await server.stop()
            await until(lambda: not server.connections)


@asynccontextmanager
async def scripted(
    play: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that says what the test wants on each connection, and then closes it."""
    playing = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal playing
        playing += 1
        try:
            await play(reader, writer)
        except (EOFError, ConnectionError):
            pass  # the client was quicker
        finally:
            playing -= 1
            writer.close()

    with tempfile.TemporaryDirectory(prefix="crpc-") as folder:
        path = Path(folder) / "r"
        server = await asyncio.start_unix_server(serve, str(path))
        os.chmod(path, 0o600)
        try:
            yield f"unix:{path}"
        finally:
            server.close()
            await until(lambda: not playing)


@asynccontextmanager
async def client_of(address: str) -> AsyncIterator[RpcClient]:
    client = RpcClient(address, SECRET)
    client.start()
    try:
        yield client
    finally:
        await client.close()
