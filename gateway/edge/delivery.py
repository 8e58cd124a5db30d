"""Down: `deliver` of a dispatch node turned into writes, in slices of at most 2 ms.

One encode (done by the node), then one write for each connection. The reply names the devices that
were not there, or whose output is full; they stay pending at the node.
"""

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from pyroaring import BitMap

from gateway.edge.reactor import Reactor
from gateway.edge.table import Table
from gateway.rpc import RpcError
from protocol.schema import rpc_pb2

_SLICE_S: Final = 0.002
"""A deliver to 20,000 rows in one go would hold heartbeats and other pushes up for 150 ms."""
_STRIDE: Final = 64
"""Rows between two looks at the clock."""
Hold = Callable[[int, bytes], bool]
"""(descriptor, frame) of a row before its WELCOME: keep it; False if it keeps too much already"""


class Delivery:
    """Works off delivers in the order in which they came."""

    JOBS: Final = 4096
    BYTES: Final = 64 * 1024 * 1024
    """Delivers that may wait, and their size; beyond it the node is told to come again."""

    def __init__(self, table: Table, reactor: Reactor, hold: Hold) -> None:
        self._table = table
        self._reactor = reactor
        self._hold = hold
        self._jobs: deque[tuple[Iterator[None], asyncio.Future[bytes]]] = deque()
        self._fences: dict[int, int] = {}
        self._bytes = 0
        self._scheduled = False
        self.messages_total = 0
        self.gone_total = 0
        self.slow_total = 0

    def deliver(self, body: bytes) -> "asyncio.Future[bytes]":
        """RPC handler: columba.rpc.Deliver -> Delivered. RpcError 'fenced' for a deposed owner."""
        request = rpc_pb2.Deliver.FromString(body)
        p = request.partition
        if request.fence < self._fences.get(p, 0):
            raise RpcError("fenced", f"a newer owner of partition {p} has spoken")
        if len(self._jobs) >= self.JOBS or self._bytes + len(body) > self.BYTES:
            raise RpcError("busy", "too many delivers wait at this edge")
        self._fences[p] = request.fence
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        reply = rpc_pb2.Delivered()
        self._jobs.append((self._work(request, reply, future), future))
        self._bytes += len(body)
        future.add_done_callback(lambda _: self._forget(len(body)))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._turn)
        return future

    def _forget(self, size: int) -> None:
        self._bytes -= size

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def _turn(self) -> None:
        end = time.perf_counter() + _SLICE_S
        jobs = self._jobs
        while jobs and time.perf_counter() < end:
            work, future = jobs[0]
            try:
                for _ in work:
                    if time.perf_counter() >= end:
                        break
                else:
                    jobs.popleft()
            except Exception as error:  # one malformed deliver must not stop those behind it
                jobs.popleft()
                if not future.done():
                    future.set_exception(error)
        self._reactor.flush()
        if jobs:
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._scheduled = False

    def _work(
        self, request: rpc_pb2.Deliver, reply: rpc_pb2.Delivered, future: "asyncio.Future[bytes]"
    ) -> Iterator[None]:
        """Send all deliveries of a request; yields every few rows."""
        p = request.partition
        for number, delivery in enumerate(request.deliveries):
            gone, slow = array("I"), array("I")
            yield from self._send(p, delivery, gone, slow)
            if gone or slow:
                reply.refused.append(rpc_pb2.Refused(delivery=number, gone=gone, slow=slow))
                self.gone_total += len(gone)
                self.slow_total += len(slow)
        if not future.done():
            future.set_result(reply.SerializeToString())

    def _send(
        self,
        p: int,
        delivery: rpc_pb2.Delivery,
        gone: "array[int]",
        slow: "array[int]",
    ) -> Iterator[None]:
        if delivery.bitmap:
            wanted = BitMap.deserialize(delivery.bitmap)
            self._send_early(p, wanted, delivery.frame, slow)
            here = wanted & self._table.here.get(p, BitMap())
            gone.extend(wanted - here)
            yield from self._send_to_many(p, delivery.frame, here, slow)
        else:
            yield from self._send_to_few(p, delivery.frame, delivery.index, (gone, slow))

    def _send_to_few(
        self,
        p: int,
        frame: bytes,
        indexes: Iterable[int],
        refused: tuple["array[int]", "array[int]"],
    ) -> Iterator[None]:
        """Queued: several messages for one connection in this turn go out in one write."""
        gone, slow = refused
        rows = self._table.rows.get(p, {})
        if p in self._table.arriving:
            early = BitMap(indexes)
            self._send_early(p, early, frame, slow)
            indexes = [index for index in indexes if index in early]
        for count, index in enumerate(indexes, 1):
            fd = rows.get(index)
            if fd is None:
                gone.append(index)
            elif self._reactor.offer(fd, frame):
                self.messages_total += 1
            else:
                slow.append(index)
            if not count % _STRIDE:
                yield
        yield

    def _send_to_many(
        self, p: int, frame: bytes, here: BitMap, slow: "array[int]"
    ) -> Iterator[None]:
        """Written on the spot, a stride at a time."""
        rows = self._table.rows.get(p, {})
        indexes = iter(here)
        while stride := list(islice(indexes, _STRIDE)):
            # Between two strides rows come and go.
            fds = [rows[index] for index in stride if index in rows]
            gone_meanwhile = len(stride) - len(fds)
            full = self._reactor.broadcast(fds, frame)
            if full:
                slow.extend(index for index in stride if rows.get(index) in full)
            self.messages_total += len(fds) - len(full)
            self.gone_total += gone_meanwhile  # their end of session tells the node
            yield

    def _send_early(self, p: int, wanted: BitMap, frame: bytes, slow: "array[int]") -> None:
        """Rows whose registration is on its way keep the frame until their WELCOME.

        A node's deliver can reach us before the store's reply to our own registration does. Such
        rows are taken out of `wanted`: an older row of the same device is about to be fenced.
        """
        arriving = self._table.arriving.get(p, {})
        fewer, others = (wanted, arriving) if len(wanted) < len(arriving) else (arriving, wanted)
        for index in [index for index in fewer if index in others]:
            wanted.discard(index)
            if self._hold(arriving[index], frame):
                self.messages_total += 1
            else:
                slow.append(index)
