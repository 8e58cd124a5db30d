"""A real RpcServer and a peer that says anything. Whatever comes:

* no exception leaves the connection's code, and no task outlives its connection;
* every whole request in front of the first thing that is none is answered, once, under its own id;
  nothing else is answered;
* the connection ends with the first thing that is no request, or with its input;
* what is held of it is one incomplete frame at most;
* a neighbour is answered all the while.
"""

import asyncio
import struct
from collections import Counter
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rpc import Method, RpcServer
from protocol.frames import split
from tests.fuzz.rpc_bytes import (
    ERROR,
    REQUEST,
    RESPONSE,
    SMALL_BODY,
    cuts,
    damaged,
    pieces,
    request,
    requests,
    whole,
)
from tests.fuzz.rpc_ends import SOON_S, client_of, run, serving
from tests.waiting import until

HEADER = 5


def due(data: bytes) -> tuple[Counter[tuple[int, int, bytes]], bool]:
    """(answers that these bytes are due, whether all of them is of requests).

    An answer is (kind, id, body); of an error the code alone.
    """
    frames, good = whole(data)
    answers: Counter[tuple[int, int, bytes]] = Counter()
    for kind, body in frames:
        if kind != REQUEST or len(body) < HEADER:
            return answers, False
        call, method = struct.unpack_from("<IB", body)
        if method in (Method.COUNTS, Method.DEVICE):
            answers[RESPONSE, call, body[HEADER:]] += 1
        else:
            code = b"fenced" if method == Method.DELIVER else b"unknown_method"
            answers[ERROR, call, code] += 1
    return answers, good


def said(data: bytes) -> Counter[tuple[int, int, bytes]]:
    frames, used = split(data, SMALL_BODY)
    assert used == len(data), "whole frames only"
    answers: Counter[tuple[int, int, bytes]] = Counter()
    for kind, body in frames:
        (call,) = struct.unpack_from("<I", body)
        rest = body[4:] if kind == RESPONSE else body[4:].partition(b":")[0]
        answers[kind, call, rest] += 1
    return answers


def held(server: RpcServer) -> int:
    """Bytes kept of incomplete frames, of all connections."""
    return max((len(c._frames._rest) for c in server.connections), default=0)


@settings(max_examples=120, deadline=None)
@given(requests().flatmap(damaged), cuts)
def test_a_peer_that_says_anything(data: bytes, at: list[int]) -> None:
    async def main() -> None:
        async with serving() as server, client_of(server.address) as neighbour:
            await neighbour.wait_up()
            reader, writer = await asyncio.open_unix_connection(server.address[5:])
            await until(lambda: len(server.connections) == 2)
            reading = asyncio.create_task(reader.read())
            chunks = pieces(data, at)
            for n, chunk in enumerate(chunks):
                writer.write(chunk)
                asked = bytes((n,))
                assert await neighbour.call(Method.DEVICE, asked, SOON_S) == asked
                assert held(server) < SMALL_BODY + HEADER
            wanted, good = due(data)
            if good:
                # Still there: an answer to each, and only then do we end it.
                await until(lambda: answered(server, sum(wanted.values()) + len(chunks)))
                assert len(server.connections) == 2 and not reading.done()
            answers = await read(reading, writer, eof=good)
            # One that is closed on the spot may lose what was on its way, as any connection may.
            assert answers == wanted if good else answers <= wanted
            assert await neighbour.call(Method.COUNTS, b"well", SOON_S) == b"well"

    run(main)


def answered(server: RpcServer, requests: int) -> bool:
    """So many have been looked at, and none is being worked on."""
    busy = any(connection._open for connection in server.connections)
    return server.requests_total >= requests and not busy


async def read(
    reading: "asyncio.Task[bytes]", writer: asyncio.StreamWriter, *, eof: bool
) -> Counter[tuple[int, int, bytes]]:
    """All that was answered, up to the end of the connection."""
    if eof:
        with suppress(OSError):  # the server was quicker
            writer.write_eof()
    try:
        return said(await reading)
    except ConnectionError:
        return Counter()  # closed with something of ours unread
    finally:
        writer.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=5), st.booleans())
def test_without_the_proof_nothing_is_answered(chunks: list[bytes], asks: bool) -> None:
    async def main() -> None:
        server = RpcServer({Method.COUNTS: lambda body: body}, b"the secret" * 4)
        await server.start("tcp:127.0.0.1:0")
        port = int(server.address.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        challenge = await reader.readexactly(18)
        assert challenge[0] == 0x24
        for chunk in [*chunks, request(1, Method.COUNTS, b"x") if asks else b""]:
            writer.write(chunk)
            await asyncio.sleep(0)
        reading = asyncio.create_task(reader.read())
        assert await read(reading, writer, eof=True) == Counter()
        assert server.requests_total == 0
        await server.stop()

    run(main)
