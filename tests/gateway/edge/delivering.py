"""Delivery on a table of rows and a recorder for its output: what its tests share."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import pytest
from pyroaring import BitMap

from gateway.edge.delivery import Delivery
from gateway.edge.output import CONTROL, Item
from gateway.edge.recalls import Recalls
from gateway.edge.table import Table
from gateway.edge.writing import Writing
from gateway.lanes import NORMAL
from protocol.schema import rpc_pb2
from tests.gateway.edge.stage import ReactorRecorder, Stage, deliver, message

A, B = message(1), message(2)
Refused = tuple[int, list[int], list[int]]
"""(delivery, gone, slow)"""


class Output(ReactorRecorder):
    """Knows both ways in which the reactor takes messages."""

    def offer(self, fd: int, message: Item) -> bool:
        if message.priority == CONTROL:
            self.put(fd, message)
            return True
        return super().offer(fd, message)

    broadcasts = 0

    def broadcast(self, fds: Iterable[int], messages: Sequence[Item]) -> dict[int, int]:
        self.broadcasts += 1
        full: dict[int, int] = {}
        for fd in fds:
            for taken, each in enumerate(messages):
                if not self.offer(fd, each):
                    full[fd] = taken
                    break
        return full


class Rig:
    """Sessions on a recorder, and beside them the delivery, whose slices end when `clock` says so: never, unless a
    test puts another there."""

    def __init__(self, **edge: int) -> None:
        self.clock: Callable[[], float] = lambda: 0.0
        self.stage = Stage(size=512, **edge)
        self.output = Output()
        self.stage.reactor = self.stage.sessions.reactor = self.output  # type: ignore[assignment]
        self.delivery = self._delivery()

    def _delivery(self) -> Delivery:
        sessions = self.stage.sessions
        hold, recalls = sessions.early.hold, sessions.recalls
        self.writing = Writing(self.stage.table, self.output, hold, recalls)
        return Delivery(self.writing, self.output, lambda: self.clock())

    async def run(
        self, p: int, *deliveries: tuple[bytes, Iterable[int] | bytes], fence: int = 1
    ) -> list[Refused]:
        """Those of the reply, to sessions that have had their beginning."""
        self.stage.table.fresh.clear()
        reply = await self.answer(deliver(p, *deliveries, fence=fence, restart=False))
        return [
            (r.delivery, list(r.gone), list(r.slow))
            for r in rpc_pb2.Delivered.FromString(reply).refused
        ]

    async def answer(self, body: bytes) -> bytes:
        return await answer(self.delivery, body)

    def queued(self, body: bytes) -> "asyncio.Future[bytes]":
        return queued(self.delivery, body)


async def answer(delivery: Delivery, body: bytes) -> bytes:
    """At once or not."""
    done = delivery.deliver(body)
    return done if isinstance(done, bytes) else await done


def queued(delivery: Delivery, body: bytes) -> "asyncio.Future[bytes]":
    """One that comes when the time of this turn is used up."""
    delivery._left_s = 0.0
    waits = delivery.deliver(body)
    assert not isinstance(waits, bytes)
    return waits


def bitmap(*indexes: int) -> bytes:
    return bytes(BitMap(indexes).serialize())


def as_list(*indexes: int) -> list[int]:
    return list(indexes)


To = Callable[..., list[int] | bytes]
"""Indexes -> whom a deliver names, in one of the two ways."""
both = pytest.mark.parametrize("to", [as_list, bitmap])


class SlowOutput(Output):
    """Each message takes 0.1 ms of a clock that only moves here."""

    now = 0.0

    def offer(self, fd: int, message: Item) -> bool:
        self.now += 0.0001
        return super().offer(fd, message)


def many_rows(rows: int, recalls: Recalls | None = None) -> tuple[Delivery, SlowOutput, Table]:
    """Sessions of devices 0 to rows - 1, on descriptors of the same numbers."""
    table, output = Table(2 * rows), SlowOutput()
    for fd in range(rows):
        table.add(fd)
        table.open(fd, fd, fd + 1)
    recalls = Recalls() if recalls is None else recalls
    writing = Writing(table, output, lambda fd, message: False, recalls)
    return Delivery(writing, output, lambda: output.now), output, table


def request(p: int, *deliveries: rpc_pb2.Delivery, priority: int = NORMAL) -> bytes:
    return rpc_pb2.Deliver(
        partition=p, fence=1, deliveries=deliveries, priority=priority
    ).SerializeToString()


def one(frame: bytes, *indexes: int, restart: bool = False, push_id: int = 0) -> rpc_pb2.Delivery:
    return rpc_pb2.Delivery(frame=frame, index=indexes, restart=restart, push_id=push_id)


async def refusals(rig: Rig, body: bytes) -> list[tuple[int, list[int], list[int]]]:
    """(delivery, who was gone, who was slow): sets of devices, here sorted."""
    reply = rpc_pb2.Delivered.FromString(await rig.answer(body))
    return [(r.delivery, sorted(r.gone), sorted(r.slow)) for r in reply.refused]
