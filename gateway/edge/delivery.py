"""Down: `deliver` of a dispatch node, worked off in slices of at most 1 ms: one of what can be done as it
comes, and one of what waits. What is done, and for whom, is `gateway.edge.writing`.

Delivers of the same messages to several partitions that wait one behind the other are one sweep over their
connections.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast

from pyroaring import BitMap

from gateway.edge.handling import Outlet
from gateway.edge.writing import Key, Work, Writing, devices_of, is_message, to_many
from gateway.lanes import HIGH, WEIGHTS, Lanes
from gateway.rpc import RpcError
from protocol.schema import rpc_pb2

_SLICE_S: Final = 0.001
"""A deliver to 20,000 rows in one go would hold heartbeats and other pushes up for 150 ms."""
_QUANTUM: Final = 1
"""Strides that the low lane may use in a round: a high deliver waits for one stride of a campaign."""
_JOINED: Final = 16
"""Delivers in one sweep: none of them is answered before the last row of all, and a node waits for answers before it
sends more. By default there are as many partitions."""


class _Job(NamedTuple):
    """One deliver that waits or is being worked off."""

    key: Key
    request: rpc_pb2.Deliver
    answer: "asyncio.Future[bytes]"
    size: int


class Delivery:
    """Works off delivers, by lane; within a lane in the order in which they came."""

    JOBS: Final = 4096
    BYTES: Final = 64 * 1024 * 1024
    """Delivers that may wait in one lane, and their size; beyond it the node is told to come again."""

    def __init__(
        self,
        writing: Writing,
        reactor: Outlet,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._writing = writing
        self._reactor = reactor
        self._clock = clock
        self._jobs: Lanes[_Job] = Lanes(_QUANTUM)
        self._fences: dict[int, int] = {}
        self._open: Counter[Key] = Counter()
        """Delivers that wait or are being worked off."""
        self._barred: dict[Key, BitMap] = {}
        """Devices of delivers that found no room: refusing, as soon as those before them are done."""
        self._under_way: dict[int, tuple[Work, int]] = {}
        """lane -> what has been begun of it, and how many delivers from the first on it is made of"""
        self._count = dict.fromkeys(WEIGHTS, 0)
        self._bytes = dict.fromkeys(WEIGHTS, 0)
        self._scheduled = False
        self._left_s = _SLICE_S
        """Of delivers that are begun as they come, until the next turn."""

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
        silent = not self._reactor.may_send() and any(map(is_message, request.deliveries))
        if full or silent or key in self._barred:
            self._bar(key, request)
            raise RpcError("busy", "this edge takes nothing more just now")
        self._fences[p] = request.fence
        if not self._jobs or (priority == HIGH and not self._jobs.waits(HIGH)):
            done = self._begin(request)
            if done is not None:
                return done
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._jobs.put(priority, _Job(key, request, future, len(body)))
        self._open[key] += 1
        self._count[priority] += 1
        self._bytes[priority] += len(body)
        return future

    def _begin(self, request: rpc_pb2.Deliver) -> bytes | None:
        """As much of it as there is time for before the next turn; the answer, if that was all.

        What goes to many waits for that turn, for others of its kind.
        """
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)
        if any(delivery.bitmap for delivery in request.deliveries):
            return None
        work = self._writing.work([request])
        began = now = self._clock()
        end = began + self._left_s
        try:
            while now < end:
                next(work)
                now = self._clock()
        except StopIteration as done:
            if request.priority == HIGH:
                self._reactor.flush()  # it need not wait for the rest of the slice
            return cast(list[bytes], done.value)[0]
        finally:
            self._left_s -= self._clock() - began
        self._under_way[request.priority] = work, 1
        return None

    def _bar(self, key: Key, request: rpc_pb2.Deliver) -> None:
        """Nothing may overtake what is refused here, and what waits already is not refused by that."""
        barred = self._barred.setdefault(key, BitMap())
        for delivery in request.deliveries:
            barred |= devices_of(delivery)
        if not self._open[key]:
            self._unbar(key)

    def _unbar(self, key: Key) -> None:
        barred = self._barred.pop(key, None)
        if barred:
            self._writing.refuse_all(key, barred)

    def _done(self, priority: int) -> _Job:
        """The first deliver of a lane is worked off."""
        job = self._jobs.pop(priority)
        self._count[priority] -= 1
        self._bytes[priority] -= job.size
        key = job.key
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]
            self._unbar(key)
        return job

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def _turn(self) -> None:
        end = self._clock() + _SLICE_S
        while self._clock() < end:
            found = self._jobs.peek()
            if found is None:
                break
            priority, _ = found
            self._jobs.charge(priority, 1)
            try:
                next(self._begun(priority))
            except StopIteration as done:
                self._end(priority, done.value)
                if priority == HIGH:
                    self._reactor.flush()  # it need not wait for the rest of the slice
            except Exception as error:  # one malformed deliver must not stop those behind it
                _, count = self._under_way.get(priority, (None, 1))
                self._end(priority, [error] * count)
        self._reactor.flush()
        self._left_s = _SLICE_S
        if self._jobs:
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._scheduled = False

    def _begun(self, priority: int) -> Work:
        """What is under way in a lane; if nothing is, what waits there comes to be."""
        if priority not in self._under_way:
            joined = self._joined(priority)
            self._under_way[priority] = self._writing.work(joined), len(joined)
        return self._under_way[priority][0]

    def _joined(self, priority: int) -> list[rpc_pb2.Deliver]:
        """The first deliver of a lane, and those right behind it that can share its sweep."""
        waiting = (job.request for job in self._jobs.lane(priority))
        joined = [next(waiting)]
        messages = to_many(joined[0])
        partitions = {joined[0].partition}
        for request in waiting if messages else ():
            p = request.partition
            if len(joined) == _JOINED or p in partitions or to_many(request) != messages:
                break
            partitions.add(p)
            joined.append(request)
        return joined

    def _end(self, priority: int, answers: Sequence[bytes | Exception]) -> None:
        """Of what is under way in a lane, from its first deliver on."""
        self._under_way.pop(priority, None)
        for answer in answers:
            job = self._done(priority)
            if job.answer.done():
                continue
            if isinstance(answer, bytes):
                job.answer.set_result(answer)
            else:
                job.answer.set_exception(answer)
