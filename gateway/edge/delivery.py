"""Down: `deliver` of a dispatch node turned into writes, in slices of at most 1 ms: one of what can be done as it
comes, and one of what waits.

One encode (done by the node), then one write for each connection; messages to the same devices that
come together share it. The reply names the devices that
were not there, or whose output is full; they stay pending at the node.

Order. A device that refused a message gets no later one of its lane either, until the node, which has
heard of it meanwhile, begins anew with a delivery marked `restart`. Without that a message could slip
through behind a refused one as soon as there is room again. A new session begins with a restart, too: a
message that was on its way when the session came about could overtake those that the one before it lost.
"""

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple, cast

from pyroaring import BitMap

from gateway.edge.handling import Outlet
from gateway.edge.output import CONTROL, Item
from gateway.edge.recalls import Recalls
from gateway.edge.table import Table
from gateway.lanes import HIGH, WEIGHTS, Lanes
from gateway.rpc import RpcError
from protocol.codes import Kind
from protocol.schema import rpc_pb2

_SLICE_S: Final = 0.001
"""A deliver to 20,000 rows in one go would hold heartbeats and other pushes up for 150 ms."""
_STRIDE: Final = 64
"""Rows between two looks at the clock."""
_QUANTUM: Final = 1
"""Strides that the low lane may use in a round: a high deliver waits for one stride of a campaign."""
_TOGETHER_BYTES: Final = 8192
"""Messages to the same devices share a write up to this size: several of them fit the buffer of a socket."""
_MESSAGE: Final = bytes((Kind.MESSAGE,))
_NOBODY: Final = BitMap()
Hold = Callable[[int, Item], bool]
"""(descriptor, message) of a row before its WELCOME: keep it; False if it keeps too much already"""


_Work = Generator[None, None, bytes]
"""Yields between two strides, returns columba.rpc.Delivered."""
_Key = tuple[int, int]
"""(partition, priority)"""


class _Job(NamedTuple):
    """One deliver that waits or is being worked off."""

    key: _Key
    work: _Work
    answer: "asyncio.Future[bytes]"
    size: int


class _Part(NamedTuple):
    """One delivery of a deliver, and who could not be served."""

    partition: int
    message: Item
    restart: bool
    gone: "array[int]"
    slow: "array[int]"


class Delivery:
    """Works off delivers, by lane; within a lane in the order in which they came."""

    JOBS: Final = 4096
    BYTES: Final = 64 * 1024 * 1024
    """Delivers that may wait in one lane, and their size; beyond it the node is told to come again."""

    def __init__(
        self,
        table: Table,
        reactor: Outlet,
        hold: Hold,
        recalls: Recalls,
    ) -> None:
        """While the reactor may not send, messages are refused."""
        self._table = table
        self._reactor = reactor
        self._hold = hold
        self._recalls = recalls
        self._jobs: Lanes[_Job] = Lanes(_QUANTUM)
        self._fences: dict[int, int] = {}
        self._refusing: dict[_Key, BitMap] = {}
        """Devices that refused a message, or have a new session, and wait for a restart."""
        self._open: Counter[_Key] = Counter()
        """Delivers that wait or are being worked off."""
        self._barred: dict[_Key, BitMap] = {}
        """Devices of delivers that found no room: refusing, as soon as those before them are done."""
        self._count = dict.fromkeys(WEIGHTS, 0)
        self._bytes = dict.fromkeys(WEIGHTS, 0)
        self._scheduled = False
        self._left_s = _SLICE_S
        """Of delivers that are begun as they come, until the next turn."""
        self.messages_total = 0
        self.gone_total = 0
        self.slow_total = 0
        self.recalled_total = 0

    def deliver(self, body: bytes) -> "bytes | asyncio.Future[bytes]":
        """RPC handler: columba.rpc.Deliver -> Delivered.

        Begun at once where nothing waits that comes before it, and done if the slice of this turn of the loop
        is long enough: most delivers are to a few devices, for which a place in a queue costs more than
        the work. RpcError 'fenced' for a deposed owner, 'busy' where too much waits.
        """
        request = rpc_pb2.Deliver.FromString(body)
        p, priority = request.partition, request.priority
        if request.fence < self._fences.get(p, 0):
            raise RpcError("fenced", f"a newer owner of partition {p} has spoken")
        if priority not in WEIGHTS:
            raise RpcError("invalid", f"there is no priority {priority}")
        key = (p, priority)
        full = self._count[priority] >= self.JOBS or self._bytes[priority] + len(body) > self.BYTES
        silent = not self._reactor.may_send() and any(map(_is_message, request.deliveries))
        if full or silent or key in self._barred:
            self._bar(key, request)
            raise RpcError("busy", "this edge takes nothing more just now")
        self._fences[p] = request.fence
        work = self._work(request)
        if not self._jobs or (priority == HIGH and not self._jobs.waits(HIGH)):
            done = self._begin(work)
            if done is not None:
                if priority == HIGH:
                    self._reactor.flush()  # it need not wait for the rest of the slice
                return done
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._jobs.put(priority, _Job(key, work, future, len(body)))
        self._open[key] += 1
        self._count[priority] += 1
        self._bytes[priority] += len(body)
        return future

    def _begin(self, work: _Work) -> bytes | None:
        """As much of it as there is time for before the next turn; the answer, if that was all."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)
        began = now = time.perf_counter()
        end = began + self._left_s
        try:
            while now < end:
                next(work)
                now = time.perf_counter()
        except StopIteration as done:
            return cast(bytes, done.value)
        finally:
            self._left_s -= time.perf_counter() - began
        return None

    def _bar(self, key: _Key, request: rpc_pb2.Deliver) -> None:
        """Nothing may overtake what is refused here, and what waits already is not refused by that."""
        barred = self._barred.setdefault(key, BitMap())
        for delivery in request.deliveries:
            barred |= _devices_of(delivery)
        if not self._open[key]:
            self._unbar(key)

    def _unbar(self, key: _Key) -> None:
        barred = self._barred.pop(key, None)
        if barred:
            self._refusing.setdefault(key, BitMap()).update(barred)

    def _done(self, priority: int) -> None:
        """The first deliver of a lane is worked off."""
        job = self._jobs.pop(priority)
        self._count[priority] -= 1
        self._bytes[priority] -= job.size
        key = job.key
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]
            self._unbar(key)

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def _turn(self) -> None:
        end = time.perf_counter() + _SLICE_S
        while time.perf_counter() < end:
            found = self._jobs.peek()
            if found is None:
                break
            priority, job = found
            self._jobs.charge(priority, 1)
            try:
                next(job.work)
            except StopIteration as done:
                self._done(priority)
                if not job.answer.done():
                    job.answer.set_result(done.value)
                if priority == HIGH:
                    self._reactor.flush()  # it need not wait for the rest of the slice
            except Exception as error:  # one malformed deliver must not stop those behind it
                self._done(priority)
                if not job.answer.done():
                    job.answer.set_exception(error)
        self._reactor.flush()
        self._left_s = _SLICE_S
        if self._jobs:
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._scheduled = False

    def _work(self, request: rpc_pb2.Deliver) -> _Work:
        """Send all deliveries of a request; yields every few rows. Returns columba.rpc.Delivered."""
        reply = rpc_pb2.Delivered()
        for run in _runs(request.deliveries):
            parts = [_part(request, number) for number in run]
            yield from self._send(request.deliveries[run[0]], parts)
            for number, part in zip(run, parts, strict=True):
                self.gone_total += len(part.gone)
                self.slow_total += len(part.slow)
                if part.gone or part.slow:
                    refused = rpc_pb2.Refused(delivery=number, gone=part.gone, slow=part.slow)
                    reply.refused.append(refused)
        return reply.SerializeToString()

    def _send(self, delivery: rpc_pb2.Delivery, parts: Sequence[_Part]) -> Iterator[None]:
        """All parts go to the devices of this delivery; they are one, or have a bitmap."""
        p = parts[0].partition
        wanted_parts = self._not_recalled(parts)
        self.recalled_total += len(parts) - len(wanted_parts)
        if not wanted_parts:
            return
        if not delivery.bitmap:
            yield from self._send_to_few(delivery.index, wanted_parts[0])
            return
        wanted = BitMap.deserialize(delivery.bitmap)
        if p in self._table.arriving:
            later = wanted
            for part in wanted_parts:
                later = wanted.copy()
                self._send_early(later, part)
            wanted = later
        here = wanted & self._table.here.get(p, _NOBODY)
        gone = wanted - here
        for part in wanted_parts:
            part.gone.extend(gone)
        yield from self._send_to_many(here, wanted_parts)

    def _not_recalled(self, parts: Sequence[_Part]) -> Sequence[_Part]:
        recalls = self._recalls
        if not recalls:
            return parts
        return [part for part in parts if part.message.push_id not in recalls]

    def _not_admitted(self, devices: Iterable[int], part: _Part) -> BitMap:
        """Those who may not get it now; with `restart` nobody, and what follows may go again.

        Asked right before the write: between two strides sessions come.
        """
        p, message = part.partition, part.message
        if message.priority != CONTROL and not self._reactor.may_send():
            return BitMap(devices)
        fresh = self._table.fresh.pop(p, None)
        if fresh is not None:
            for priority in WEIGHTS:
                self._refusing.setdefault((p, priority), BitMap()).update(fresh)
        refusing = self._refusing.get((p, message.priority))
        if not refusing:
            return _NOBODY
        hit = refusing & BitMap(devices)
        if hit and part.restart:
            refusing -= hit
            return _NOBODY
        return hit

    def _refuse(self, index: int, part: _Part) -> None:
        """Its output is full, or it waits for a restart."""
        part.slow.append(index)
        if part.message.priority != CONTROL:
            key = (part.partition, part.message.priority)
            self._refusing.setdefault(key, BitMap()).add(index)

    def _send_to_few(self, indexes: Iterable[int], part: _Part) -> Iterator[None]:
        """Queued: several messages for one connection in this turn go out in one write."""
        p, message = part.partition, part.message
        if p in self._table.arriving:
            late = BitMap(indexes)
            self._send_early(late, part)
            indexes = late
        rows = self._table.rows.get(p, {})
        remaining = iter(indexes)
        while stride := list(islice(remaining, _STRIDE)):
            if message.push_id in self._recalls:
                return
            barred = self._not_admitted(stride, part)
            for index in stride:
                fd = rows.get(index)
                if fd is None:
                    part.gone.append(index)
                elif index not in barred and self._reactor.offer(fd, message):
                    self.messages_total += 1
                else:
                    self._refuse(index, part)
            yield

    def _send_to_many(self, here: BitMap, parts: Sequence[_Part]) -> Iterator[None]:
        """Written on the spot, a stride at a time: all parts in one write for each connection."""
        p, first = parts[0].partition, parts[0]
        rows = self._table.rows.get(p, {})
        indexes = iter(here)
        while stride := list(islice(indexes, _STRIDE)):
            parts = self._not_recalled(parts)
            if not parts:
                return
            # The others bar nobody else: they have the lane of the first, and no restart.
            barred = self._not_admitted(stride, first)
            if barred:
                stride = [index for index in stride if index not in barred]
                for part in parts:
                    for index in barred:
                        self._refuse(index, part)
            # Between two strides rows come and go.
            fds = [fd for fd in map(rows.get, stride) if fd is not None]
            gone_meanwhile = len(stride) - len(fds)
            full = self._reactor.broadcast(fds, [part.message for part in parts])
            for number, part in enumerate(parts) if full else ():
                behind = {fd for fd, taken in full.items() if taken <= number}
                for index in [index for index in stride if rows.get(index) in behind]:
                    self._refuse(index, part)
                self.messages_total -= len(behind)
            self.messages_total += len(fds) * len(parts)
            self.gone_total += gone_meanwhile * len(parts)  # their end of session tells the node
            yield

    def _send_early(self, wanted: BitMap, part: _Part) -> None:
        """Rows whose registration is on its way keep the message until their WELCOME.

        A node's deliver can reach us before the store's reply to our own registration does. Such
        rows are taken out of `wanted`: an older row of the same device is about to be fenced.
        """
        p, message = part.partition, part.message
        rows = self._table.arriving.get(p, {})
        fewer, others = (wanted, rows) if len(wanted) < len(rows) else (rows, wanted)
        early = [index for index in fewer if index in others]
        barred = self._not_admitted(early, part)
        for index in early:
            wanted.discard(index)
            if index not in barred and self._hold(rows[index], message):
                self.messages_total += 1
            else:
                self._refuse(index, part)


def _devices_of(delivery: rpc_pb2.Delivery) -> BitMap:
    return BitMap.deserialize(delivery.bitmap) if delivery.bitmap else BitMap(delivery.index)


def _runs(deliveries: Sequence[rpc_pb2.Delivery]) -> Iterator[list[int]]:
    """Numbers of deliveries, in order: those that go to the same many devices, one behind the other, in one
    list. Redis and NATS write what has gathered for a connection at once, too: it is the system call that costs.
    """
    run: list[int] = []
    size = 0
    before = b""
    for number, delivery in enumerate(deliveries):
        size += len(delivery.frame)
        alike = delivery.bitmap and delivery.bitmap == before and _is_message(delivery)
        if run and not (alike and not delivery.restart and size <= _TOGETHER_BYTES):
            yield run
            run, size = [], len(delivery.frame)
        run.append(number)
        before = delivery.bitmap if _is_message(delivery) else b""
    if run:
        yield run


def _part(request: rpc_pb2.Deliver, number: int) -> _Part:
    delivery = request.deliveries[number]
    lane = request.priority if _is_message(delivery) else CONTROL
    message = Item(lane, delivery.push_id, delivery.frame)
    return _Part(request.partition, message, delivery.restart, array("I"), array("I"))


def _is_message(delivery: rpc_pb2.Delivery) -> bool:
    return delivery.frame[:1] == _MESSAGE
