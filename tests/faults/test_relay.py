"""The relays do what they are told, to real sockets; the pure part of those for RPC besides."""

import asyncio
import random
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rpc import Method, RpcClient, RpcServer
from protocol.frames import FrameBuffer, encode
from tests.faults.plan import Address
from tests.faults.relay import Relay
from tests.faults.rpc_relay import HELD_MOST, Replies, RpcRelay
from tests.waiting import until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
SOON_S = 5.0


class Echo:
    """Sends back what comes, and keeps its ends of the connections."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.ended = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        self.ended += 1
        writer.close()


@asynccontextmanager
async def echoing(path: Path | None = None) -> AsyncIterator[tuple[Echo, Address]]:
    echo = Echo()
    if path is None:
        server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
        address: Address = ("127.0.0.1", server.sockets[0].getsockname()[1])
    else:
        server = await asyncio.start_unix_server(echo.serve, str(path))
        address = str(path)
    async with server:
        yield echo, address
        await until(lambda: echo.ended == len(echo.writers), "every connection has ended")


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[Echo, Relay]]:
    async with echoing() as (echo, address), Relay(address, random.Random(1)) as relay:
        yield echo, relay


@asynccontextmanager
async def connected(relay: Relay) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def said_back(streams: Streams, data: bytes, within_s: float = SOON_S) -> bytes:
    reader, writer = streams
    writer.write(data)
    async with asyncio.timeout(within_s):
        return await reader.readexactly(len(data))


async def test_what_is_not_hurt_passes() -> None:
    data = random.Random(2).randbytes(3_000_000)
    async with relayed() as (_, relay), connected(relay) as streams:
        assert await said_back(streams, data) == data
        assert relay.standing == relay.connections == 1


async def test_the_end_of_one_side_is_told_to_the_other() -> None:
    async with relayed() as (echo, relay), connected(relay) as (reader, writer):
        writer.write(b"last")
        writer.write_eof()
        assert await reader.read() == b"last"
        await until(lambda: echo.ended == 1 and relay.standing == 0, "both ends have ended")


async def test_cut_resets_what_stands_and_what_comes_until_it_heals() -> None:
    async with relayed() as (_, relay), connected(relay) as streams:
        await said_back(streams, b"x")
        with relay.cut():
            with pytest.raises(ConnectionResetError):
                await streams[0].readexactly(1)
            with pytest.raises(ConnectionResetError):
                async with connected(relay) as refused:
                    await refused[0].readexactly(1)
        async with connected(relay) as again:
            assert await said_back(again, b"y") == b"y"


async def test_stalled_loses_nothing_and_holds_the_sender_up() -> None:
    async with relayed() as (_, relay), connected(relay) as (reader, writer):
        await said_back((reader, writer), b"x")
        data = bytes(20_000_000)
        with relay.stalled():
            writer.write(data)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reader.readexactly(1)
            assert writer.transport.get_write_buffer_size() > 0, "the sender feels it"
        async with asyncio.timeout(SOON_S * 2):
            assert await reader.readexactly(len(data)) == data


async def test_slowed_passes_what_it_may_and_flows_when_it_is_healed() -> None:
    loop = asyncio.get_running_loop()
    async with relayed() as (_, relay), connected(relay) as streams:
        await said_back(streams, b"x")
        with relay.slowed(1000):
            began = loop.time()
            assert await said_back(streams, bytes(200)) == bytes(200)
            assert loop.time() - began > 0.15
        assert await said_back(streams, bytes(1_000_000)) == bytes(1_000_000)


async def test_slowing_a_share_leaves_the_others_and_newcomers_alone() -> None:
    async with relayed() as (_, relay), connected(relay) as one, connected(relay) as two:
        await said_back(one, b"x")
        await said_back(two, b"x")
        with relay.slowed(1, share=0.0001):
            assert await said_back(one, bytes(1000)) == bytes(1000)
            assert await said_back(two, bytes(1000)) == bytes(1000)
        with relay.slowed(1, share=0.9999):
            with pytest.raises(TimeoutError):
                await said_back(one, bytes(1000), 0.2)
            async with connected(relay) as three:
                assert await said_back(three, bytes(1000)) == bytes(1000)


async def test_breaking_resets_behind_a_part_of_what_was_sent() -> None:
    data = random.Random(3).randbytes(1000)
    async with relayed() as (echo, relay):
        with relay.breaking(200):
            for _ in range(20):
                async with connected(relay) as (reader, writer):
                    writer.write(data)
                    got = b""
                    with pytest.raises(ConnectionResetError):
                        while True:
                            chunk = await reader.read(4096)
                            assert chunk, "a reset, no regular end"
                            got += chunk
                    assert len(got) < len(data) and data.startswith(got)
        assert relay.resets >= 20
        async with connected(relay) as streams:
            assert await said_back(streams, data) == data
        assert len(echo.writers) == 21


async def test_breaking_leaves_no_half_connection_behind() -> None:
    """Also where replies are looked at, and however both directions meet."""
    async with echoing() as (_, address), RpcRelay(address, random.Random(5)) as relay:
        frame = encode(0x21, bytes(50))

        async def talk() -> None:
            with suppress(OSError, EOFError):
                async with connected(relay) as streams:
                    while True:
                        await said_back(streams, frame)

        with relay.breaking(600):
            await asyncio.gather(*(talk() for _ in range(200)))
        await until(lambda: relay.standing == 0, "every connection has ended")


async def test_a_lost_connection_is_told_to_nobody() -> None:
    async with relayed() as (echo, relay), connected(relay) as one:
        await said_back(one, b"x")
        assert relay.lose(0.9999) == 1
        one[1].write(b"into the void")
        echo.writers[0].write(b"nor back")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await one[0].readexactly(1)
        one[1].close()
        async with connected(relay) as two:
            assert await said_back(two, b"y") == b"y"
            assert relay.standing == 2 and echo.ended == 0, "the far end of the first still stands"


async def test_it_takes_the_place_of_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with echoing(path) as (_, address):
        async with Relay(address, random.Random(1)) as relay:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            reader, writer = await asyncio.open_unix_connection(str(path))
            assert await said_back((reader, writer), b"x") == b"x"
            assert relay.standing == 1
            writer.close()
            await until(lambda: relay.standing == 0, "it has ended")
        assert not path.exists()


# Replies of RPC.


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    return FrameBuffer(1 << 20).feed(data)


class Hurting:
    """What `Replies` sees of its relay."""

    def __init__(self, seed: int, disorder: float) -> None:
        self.chance = random.Random(seed)
        self.disorder = disorder
        self.replies_hurt = 0


def passed(relay: Hurting, chunks: list[bytes], flushes: Callable[[], bool]) -> bytes:
    replies = Replies(relay)  # type: ignore[arg-type]
    out = b""
    for chunk in chunks:
        out += replies.feed(chunk)
        if flushes():
            out += replies.flush()
    return out + replies.flush()


bodies = st.lists(st.binary(max_size=200), max_size=40)


@settings(max_examples=100, deadline=None)
@given(bodies, st.lists(st.integers(0, 10_000), max_size=8), st.integers())
def test_no_reply_is_lost_or_torn(bodies: list[bytes], cuts: list[int], seed: int) -> None:
    """Each comes at least once and at most twice; what is no reply keeps its order."""
    frames = [(0x22 + n % 4, n.to_bytes(4, "little") + body) for n, body in enumerate(bodies)]
    data = b"".join(encode(kind, body) for kind, body in frames)
    places = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    chunks = [data[a:b] for a, b in pairwise(places)]
    relay = Hurting(seed, 0.7)
    out = Counter(frames_of(passed(relay, chunks, lambda: relay.chance.random() < 0.3)))
    assert out.keys() == set(frames)
    assert all(count <= 2 for count in out.values())
    assert relay.replies_hurt <= len(frames)
    others = [frame for frame in frames if frame[0] > 0x23]
    assert all(out[frame] == 1 for frame in others)
    # Without disorder everything passes as it is.
    assert passed(Hurting(seed, 0.0), chunks, lambda: False) == data


def test_what_is_held_back_is_bounded() -> None:
    relay = Hurting(1, 1.0)
    replies = Replies(relay)  # type: ignore[arg-type]
    sent = 0
    for n in range(1000):
        out = replies.feed(encode(0x22, n.to_bytes(4, "little")))
        sent += len(frames_of(out))
        assert len(set(range(n + 1))) - sent <= HELD_MOST


async def test_a_client_is_not_confused_by_it(tmp_path: Path) -> None:
    """Many calls at once: each gets the answer to its own question."""

    async def later(body: bytes) -> bytes:
        await asyncio.sleep(0.001 * (body[0] % 3))
        return body

    server = RpcServer({Method.COUNTS: lambda body: body, Method.DEVICE: later}, b"s" * 32)
    path = tmp_path / "r"
    await server.start(f"unix:{path}")
    async with RpcRelay(str(path), random.Random(4)) as relay:
        client = RpcClient(f"unix:{path}", b"s" * 32)
        client.start()
        await client.wait_up()
        with relay.disordered(0.6):
            for _ in range(20):
                asked = [bytes((n,)) for n in range(20)]
                methods = [Method.COUNTS if n % 2 else Method.DEVICE for n in range(20)]
                calls = [client.call(m, b, SOON_S) for m, b in zip(methods, asked, strict=True)]
                assert await asyncio.gather(*calls) == asked
        assert relay.replies_hurt > 100
        await client.close()
    await server.stop()
