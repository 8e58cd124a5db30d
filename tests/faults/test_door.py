"""The door tells what had left an edge at a moment, however long it takes until it comes through."""

import asyncio
import random
import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codes import Kind
from protocol.frames import PONG, encode
from protocol.schema import device_pb2
from tests.faults import written
from tests.faults.door import Copy, Door, Mark, Watch
from tests.faults.plan import CannotHere
from tests.faults.written import written_by_peer
from tests.waiting import until

DEVICE = 7
WELCOME = encode(Kind.WELCOME, device_pb2.Welcome(device_id=DEVICE).SerializeToString())


def message(push_id: int, size: int = 0) -> bytes:
    content = device_pb2.Content(data={"ballast": "x" * size})
    frame = device_pb2.Message(push_id=push_id, content=content)
    return encode(Kind.MESSAGE, frame.SerializeToString())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=8), st.lists(st.integers(0, 5000), max_size=8))
def test_each_copy_is_noted_where_it_begins(sizes: list[int], cuts: list[int]) -> None:
    data, wanted = WELCOME, {}
    for push_id, size in enumerate(sizes, 1):
        data += PONG
        wanted[push_id, DEVICE] = [Copy(3, len(data))]
        data += message(push_id, size)
    copies: defaultdict[tuple[int, int], list[Copy]] = defaultdict(list)
    watch = Watch(3, copies)
    places = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    for a, b in pairwise(places):
        watch.feed(data[a:b])
    assert copies == wanted


@pytest.mark.parametrize(
    ("copy", "held"),
    [
        (Copy(1, 99), True),
        # The next byte to be written is its first.
        (Copy(1, 100), False),
        # Closed and empty by then, so all of it had left.
        (Copy(2, 10_000), True),
        (Copy(3, 0), False),
    ],
)
def test_a_mark_holds_what_was_begun_before_it(copy: Copy, held: bool) -> None:
    assert Mark(2, {1: 100}).holds(copy) == held


# With real connections.


class Stage(NamedTuple):
    door: Door
    edge: socket.socket
    """The end of the one connection at which an edge would be."""
    device: asyncio.StreamReader
    listener: socket.socket


@asynccontextmanager
async def standing() -> AsyncIterator[Stage]:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with Door(listener.getsockname(), random.Random(1)) as door:
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            edge, _ = await loop.sock_accept(listener)
            await until(lambda: door.standing == 1, "the connection stands")
            with edge:
                yield Stage(door, edge, reader, listener)
            writer.close()


async def test_what_a_full_way_holds_up_had_left_all_the_same() -> None:
    async with standing() as (door, edge, device, _):
        before, after = WELCOME + message(1, 50_000) * 20, message(2)
        with door.stalled():
            edge.sendall(before)
            mark = door.mark()
            edge.sendall(after)
            assert len(door.copies[1, DEVICE]) < 20, "some of it is not even here"
        async with asyncio.timeout(5.0):
            await device.readexactly(len(before + after))
        assert mark == Mark(1, {1: len(before)})
        assert [mark.holds(copy) for copy in door.copies[1, DEVICE]] == [True] * 20
        assert [mark.holds(copy) for copy in door.copies[2, DEVICE]] == [False]


async def test_the_kernel_counts_to_the_byte_what_nobody_has_read() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as one,
        socket.create_connection(listener.getsockname()) as two,
    ):
        ends = [listener.accept()[0] for _ in range(2)]
        port = listener.getsockname()[1]
        total = 0
        ends[0].setblocking(False)
        for size in (1, 1000, 30_000, 10_000_000):
            total += ends[0].send(bytes(size))
            found = {one.getsockname()[1]: total, two.getsockname()[1]: 0}
            assert written_by_peer(port) == found
        assert total < 10_000_000, "the last one did not fit"
        for end in ends:
            end.close()


async def test_what_an_ended_connection_brought_had_left() -> None:
    async with standing() as (door, edge, device, listener):
        edge.sendall(WELCOME + message(1))
        edge.close()
        await device.read()
        mark = door.mark()
        # The next one is not in the mark, whatever its port.
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        other, _ = await asyncio.get_running_loop().sock_accept(listener)
        with other:
            other.sendall(WELCOME + message(1))
            await until(lambda: len(door.copies[1, DEVICE]) == 2, "both have come")
        writer.close()
        assert [mark.holds(copy) for copy in door.copies[1, DEVICE]] == [True, False]


def test_a_kernel_that_does_not_tell_is_no_place_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "_BY_FAMILY", 999)
    with pytest.raises(CannotHere, match="inet_diag"):
        written_by_peer(1)
