"""Transmissions of two partitions of a node, which share the room at the edges."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from pyroaring import BitMap

from gateway.dispatch.campaign import Push
from gateway.dispatch.sends import Send
from gateway.dispatch.transmission import Transmission, Ways
from gateway.dispatch.unanswered import Unanswered
from gateway.lanes import NORMAL, WEIGHTS
from protocol.schema import rpc_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.desk import Desk, online

OF_ONE = 4


class Node:
    """Delivers that edges have not answered, and contents that are not at hand."""

    def __init__(self) -> None:
        self.unanswered = {priority: Unanswered(OF_ONE, 1000) for priority in WEIGHTS}
        self.room = self.unanswered[NORMAL]
        self.delivered: list[tuple[int, int]] = []
        """(partition, edge)"""
        self.answers: list[Any] = []
        self.fails = False

    def owner(self, partition: int, *, cold: bool = False) -> "Owner":
        return Owner(self, partition, cold)


class Owner:
    def __init__(self, node: Node, partition: int, cold: bool) -> None:
        self.desk: Desk = online(0, 2)
        self.desk.log.fold(records.push(1, [0, 2]))
        self.desk.partition.number = partition
        self._node = node

        async def load(p: int, pushes: Sequence[Push]) -> dict[int, bytes]:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        def deliver(edge: int, request: rpc_pb2.Deliver, answered: Any) -> None:
            if node.fails:
                raise RuntimeError("what nobody expects")
            node.delivered.append((partition, edge))
            node.answers.append(answered)

        links: Any = SimpleNamespace(deliver=deliver)
        contents: Any = SimpleNamespace(get_nowait=lambda i: None if cold else b"x", load=load)
        ways = Ways(links, node.unanswered, contents, lambda: 1, lambda: True, lambda: None)
        self.transmission = Transmission(self.desk.partition, self.desk.sending, 1, ways)
        self.transmission.start()

    async def send(self, *edges: int) -> None:
        push = self.desk.partition.pushes[1]
        self.transmission.queue([Send(edge, push, BitMap([0])) for edge in edges])
        await turn()


async def turn() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def two(*, cold: bool = False) -> AsyncIterator[tuple[Node, Owner, Owner]]:
    """Edges 1 and 2 are full. The contents of the first one's pushes are not at hand, if it is `cold`."""
    node = Node()
    first, second = node.owner(1, cold=cold), node.owner(2)
    for edge in (1, 2):
        node.room.add(edge, OF_ONE)
    yield node, first, second
    first.transmission.stop()
    second.transmission.stop()


async def test_who_waits_for_contents_keeps_no_room_from_others() -> None:
    async with two(cold=True) as (node, first, second):
        await first.send(1)
        await second.send(1)
        node.room.answered(1, OF_ONE)
        await turn()
        assert node.delivered == [(2, 1)]


async def test_nor_does_he_take_their_turn_at_another_edge() -> None:
    async with two(cold=True) as (node, first, second):
        await first.send(1, 2)
        await second.send(2)
        for edge in (1, 2):
            node.room.answered(edge, OF_ONE)
            await turn()
        assert node.delivered == [(2, 2)]


async def test_room_is_handed_on_when_a_partition_goes() -> None:
    async with two() as (node, first, second):
        await first.send(1)
        await second.send(1)
        node.room.answered(1, OF_ONE)
        first.transmission.stop()
        await turn()
        assert node.delivered == [(2, 1)]


async def test_room_is_handed_on_by_who_has_sent() -> None:
    async with two() as (node, first, second):
        await first.send(1)
        await second.send(1)
        node.room.answered(1, OF_ONE)
        await turn()
        assert node.delivered == [(1, 1), (2, 1)]


async def test_an_edge_that_stands_still_keeps_only_its_own_messages_waiting() -> None:
    async with two() as (node, first, second):
        await first.send(1)
        await second.send(3)
        await first.send(3)
        assert node.delivered == [(2, 3), (1, 3)]


async def test_room_comes_back_whatever_becomes_of_a_deliver() -> None:
    async with two() as (node, first, second):
        node.fails = True
        await first.send(3)
        assert node.room.total == 2 * OF_ONE, "it was not sent"
        node.fails = False
        for answer in (None, rpc_pb2.Delivered(), rpc_pb2.Delivered(refused=[{"delivery": 7}])):
            await second.send(3)
            taken = node.room.total
            try:
                node.answers.pop()(answer, False)
            except LookupError:
                pass  # it named a delivery that there is not
            assert node.room.total == 2 * OF_ONE < taken
        first.transmission.stop()
        await second.send(3)
        second.transmission.stop()
        node.answers.pop()(rpc_pb2.Delivered(), False)
        assert node.room.total == 2 * OF_ONE, "its partition has gone meanwhile"
