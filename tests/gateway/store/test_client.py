"""`Store`: pipelined, in order, never repeating by itself, back by itself."""

import asyncio
from enum import IntEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import Connection, UnixDomainSocketConnection
from structlog.testing import capture_logs

from gateway.store.client import Store
from gateway.store.errors import Fenced, StoreError, StoreUnavailable
from gateway.store.link import Argument, Command, packed
from gateway.store.ownership import take_fence
from gateway.store.scripts import script
from tests.gateway.store.valkey import LossyProxy, Valkey
from tests.waiting import until


async def test_a_command_whose_reply_is_lost_is_not_repeated(
    valkey: Valkey, store: Store, short_path: Path
) -> None:
    proxy = LossyProxy(short_path, valkey)
    await proxy.start()
    client = await Store.connect(proxy.url)
    proxy.lose_replies()
    with pytest.raises(StoreUnavailable):
        await client.call("INCR", "n")
    await until(lambda: client.up)
    assert await client.call("GET", "n") == b"1"
    assert client.losses == 1
    await client.close()
    await proxy.stop()


async def test_replies_find_their_commands_and_an_error_disturbs_none(store: Store) -> None:
    calls = []
    for n in range(500):
        calls.append(store.call("ECHO", n))
        if n % 7 == 0:
            calls.append(store.call("NO-SUCH-COMMAND"))
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert [r for r in replies if not isinstance(r, Exception)] == [b"%d" % n for n in range(500)]
    assert sum(isinstance(r, StoreError) for r in replies) == 72


class Seven(IntEnum):
    SEVEN = 7


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
            st.integers(),
            st.just(Seven.SEVEN),
            st.just(b"x" * 70_000),
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_a_command_is_packed_as_redis_py_packs_it(
    arguments: list[Argument], as_tuple: bool
) -> None:
    command: Command = ["EVALSHA", *arguments]
    connection = Connection()
    chunks = packed(tuple(command) if as_tuple else command, connection)
    assert b"".join(chunks) == b"".join(connection.pack_command(*command))


async def test_a_store_that_does_not_answer_is_given_up_and_found_again(
    own_valkey: Valkey,
) -> None:
    client = await Store.connect(own_valkey.url, timeout_s=0.2)
    with own_valkey.frozen():
        open_calls = [client.call("PING") for _ in range(3)]
        for reply in await asyncio.gather(*open_calls, return_exceptions=True):
            assert isinstance(reply, StoreUnavailable)
    await until(lambda: client.up)
    assert client.losses >= 1
    assert await client.call("ECHO", "back") == b"back"
    await client.close()


async def test_while_the_store_is_down_calls_fail_at_once_and_afterwards_succeed(
    own_valkey: Valkey,
) -> None:
    client = await Store.connect(own_valkey.url)
    sha = script("fence_take").sha
    assert await take_fence(client, 0, 1, 1) == 1
    own_valkey.kill()
    await until(lambda: not client.up)
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(client.call("PING"), 0.1)
    own_valkey.start()
    await until(lambda: client.up)
    assert await client.call("SCRIPT", "EXISTS", sha) == [0], "the restart forgot the script"
    assert await take_fence(client, 0, 1, 1) == 2
    await client.close()


@pytest.mark.parametrize(
    ("says", "logged"),
    [
        # What uvloop says of a write to a connection that was lost in the same turn.
        ("unable to perform operation on <TCPTransport closed=True>; the handler is closed", []),
        ("a defect", ["store connection failed"]),
    ],
)
async def test_a_lost_connection_is_no_defect_and_a_defect_is_told(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, says: str, logged: list[str]
) -> None:
    client = await Store.connect(valkey.url)

    async def lost(*_: object, **__: object) -> None:
        raise RuntimeError(says)

    with capture_logs() as lines:
        with monkeypatch.context() as once:
            once.setattr(UnixDomainSocketConnection, "send_packed_command", lost)
            with pytest.raises(StoreUnavailable):
                await client.call("PING")
        await until(lambda: client.up)
    assert [line["event"] for line in lines] == logged
    assert await client.call("ECHO", "back") == b"back"
    await client.close()


async def test_a_script_that_the_store_has_forgotten_is_loaded_again(store: Store) -> None:
    assert await take_fence(store, 0, 1, 1) == 1
    await store.call("SCRIPT", "FLUSH")
    assert await take_fence(store, 0, 1, 1) == 2, "executed once, not zero times and not twice"
    assert await store.call("SCRIPT", "EXISTS", script("fence_take").sha) == [1]


async def test_refusals_say_whether_to_repeat(store: Store) -> None:
    await store.call("SET", "text", "x")
    with pytest.raises(StoreError) as wrong_type:
        await store.call("LPUSH", "text", "y")
    assert not isinstance(wrong_type.value, StoreUnavailable), "time does not mend this"

    with pytest.raises(Fenced):
        await store.run("snapshot_chunk", ["{0}:chunks", "{0}:owner"], [1, "x#0@1", b""])

    await store.call("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable):
            await store.call("SET", "more", "x")
        with pytest.raises(StoreUnavailable):
            await store.run("append", ["{0}:log", "{0}:producers"], [1, "u", 1, 1, b"r", 0])
    finally:
        await store.call("CONFIG", "SET", "maxmemory", 0)
    # The refused append has left no trace: the same seq is still new.
    assert await store.run("append", ["{0}:log", "{0}:producers"], [1, "u", 1, 1, b"r", 0])


async def test_connecting_to_nobody_says_so(short_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await Store.connect(f"unix://{short_path}/nobody", timeout_s=0.1)


async def test_a_server_that_speaks_unasked_is_a_lost_store_not_a_hanging_one(
    short_path: Path,
) -> None:
    """As Redis in protected mode: it refuses at connect, before any command, and hangs up."""

    refused = 0

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refused
        refused += 1
        writer.write(b"-DENIED Redis is running in protected mode\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(refuse, f"{short_path}/s")
    with pytest.raises(StoreUnavailable, match="protected mode"):
        await Store.connect(f"unix://{short_path}/s", timeout_s=0.5)
    assert refused >= 2, "it goes on trying"
    server.close()


async def test_closing_ends_open_calls(store: Store) -> None:
    other = await store.another()
    open_call = other.call("BLPOP", "never", 0)
    await other.close()
    with pytest.raises(StoreUnavailable):
        await open_call


async def test_too_many_waiting_commands_are_refused_not_kept(store: Store) -> None:
    calls = [store.call("PING") for _ in range(50_001)]
    with pytest.raises(StoreUnavailable, match="too many"):
        await calls.pop()
    assert set(await asyncio.gather(*calls)) == {b"PONG"}
