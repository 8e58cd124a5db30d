"""The messages of delivers, written to connections: who may have them now, and who is told to the node as not served.

One encode (done by the node), then one write for each connection; messages to the same devices that
come together share it. The reply names the devices that
were not there, or whose output is full; they stay pending at the node.

Order. A device that refused a message gets no later one of its lane either, until the node, which has
heard of it meanwhile, begins anew with a delivery marked `restart`. Without that a message could slip
through behind a refused one as soon as there is room again. A new session begins with a restart, too: a
message that was on its way when the session came about could overtake those that the one before it lost.
"""

from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Final, NamedTuple

from pyroaring import BitMap

from gateway.edge.handling import Outlet
from gateway.edge.output import CONTROL, Item
from gateway.edge.recalls import Recalls
from gateway.edge.table import Table
from gateway.lanes import WEIGHTS
from protocol.codes import Kind
from protocol.ids import split_device_id
from protocol.schema import rpc_pb2

_STRIDE: Final = 64
"""Rows between two looks at the clock."""
_SWEEP: Final = 4096
"""Rows that are looked up and sorted in one go: 0.8 ms where their descriptors are in no order."""
_TOGETHER_BYTES: Final = 8192
"""Messages to the same devices share a write up to this size: several of them fit the buffer of a socket."""
_MESSAGE: Final = bytes((Kind.MESSAGE,))
_NOBODY: Final = BitMap()
Hold = Callable[[int, Item], bool]
"""(descriptor, message) of a row before its WELCOME: keep it; False if it keeps too much already"""
Work = Generator[None, None, list[bytes]]
"""Yields between two strides, returns columba.rpc.Delivered of each deliver."""
Key = tuple[int, int]
"""(partition, priority)"""


class _Part(NamedTuple):
    """One delivery of a deliver, and who could not be served."""

    partition: int
    message: Item
    restart: bool
    gone: "array[int]"
    slow: "array[int]"


class Writing:
    """Does what delivers ask for, a stride of rows at a time. While the reactor may not send, it refuses."""

    def __init__(self, table: Table, reactor: Outlet, hold: Hold, recalls: Recalls) -> None:
        self._table = table
        self._reactor = reactor
        self._hold = hold
        self._recalls = recalls
        self._refusing: dict[Key, BitMap] = {}
        """Devices that refused a message, or have a new session, and wait for a restart."""
        self.messages_total = 0
        self.gone_total = 0
        self.slow_total = 0
        self.recalled_total = 0

    def refuse_all(self, key: Key, devices: BitMap) -> None:
        """They got no message that there was, and so no later one either."""
        self._refusing.setdefault(key, BitMap()).update(devices)

    def work(self, requests: Sequence[rpc_pb2.Deliver]) -> Work:
        """Send all deliveries of a request, or of several that share a sweep; yields every few rows. Returns a
        columba.rpc.Delivered for each."""
        replies = [rpc_pb2.Delivered() for _ in requests]
        for run in _runs(requests[0].deliveries):
            parts = [[_part(request, number) for number in run] for request in requests]
            firsts = [request.deliveries[run[0]] for request in requests]
            if firsts[0].bitmap:
                wanted = [BitMap.deserialize(first.bitmap) for first in firsts]
                yield from self._send_to_many(wanted, parts)
            else:
                assert len(requests) == 1, "only what goes to many is joined"
                yield from self._send_to_few(firsts[0].index, parts[0][0])
            for reply, its in zip(replies, parts, strict=True):
                for number, part in zip(run, its, strict=True):
                    self.gone_total += len(part.gone)
                    self.slow_total += len(part.slow)
                    if part.gone or part.slow:
                        refused = rpc_pb2.Refused(delivery=number, gone=part.gone, slow=part.slow)
                        reply.refused.append(refused)
        return [reply.SerializeToString() for reply in replies]

    def _send_to_few(self, indexes: Iterable[int], part: _Part) -> Iterator[None]:
        """Queued: several messages for one connection in this turn go out in one write."""
        p, message = part.partition, part.message
        if message.push_id in self._recalls:
            self.recalled_total += 1
            return
        if p in self._table.arriving:
            late = BitMap(indexes)
            self._send_early(late, part)
            indexes = late
        rows = self._rows(p)
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

    def _send_to_many(
        self, wanted: Sequence[BitMap], parts: Sequence[Sequence[_Part]]
    ) -> Iterator[None]:
        """The same messages to devices of several partitions: a bitmap and the parts of each."""
        parts_of = {its[0].partition: its for its in parts}
        kept = self._not_recalled(parts_of)
        for p, its in parts_of.items():
            self.recalled_total += len(its) - len(kept[p])
        if not any(kept.values()):
            return
        first_of = {p: its[0] for p, its in kept.items()}
        here: dict[int, BitMap] = {}
        for devices, (p, its) in zip(wanted, kept.items(), strict=True):
            later = devices
            if p in self._table.arriving:
                for part in its:
                    later = devices.copy()
                    self._send_early(later, part)
            here[p] = later & self._table.here.get(p, _NOBODY)
            gone = later - here[p]
            for part in its:
                part.gone.extend(gone)
            if gone:
                yield
        rows = chain.from_iterable(map(self._rows(p).get, devices) for p, devices in here.items())
        while any(kept.values()) and (chunk := list(islice(rows, _SWEEP))):
            fds = [fd for fd in chunk if fd is not None]
            self.gone_total += (len(chunk) - len(fds)) * max(map(len, kept.values()))
            yield from self._sweep(fds, kept, first_of)
            kept = self._not_recalled(kept)

    def _sweep(
        self, fds: list[int], parts: Mapping[int, Sequence[_Part]], first_of: Mapping[int, _Part]
    ) -> Iterator[None]:
        """The same messages to these rows, which are those of devices in the partitions of `parts`.

        In the order of the descriptors, which mostly is that of the sockets in the memory of the kernel: one behind
        the other they cost a tenth less than partition by partition.
        """
        fds.sort()
        with self._table.watched() as left:
            for start in range(0, len(fds), _STRIDE):
                parts = self._not_recalled(parts)
                if not any(parts.values()):
                    return
                self._write(fds[start : start + _STRIDE], parts, first_of, left)
                yield

    def _write(
        self,
        fds: Sequence[int],
        parts: Mapping[int, Sequence[_Part]],
        first_of: Mapping[int, _Part],
        left: Mapping[int, int],
    ) -> None:
        """On the spot: all messages in one write for each connection. `left`: rows that are no longer those of
        their devices."""
        device = self._table.device
        messages = [part.message for part in next(iter(parts.values()))]
        refused: list[tuple[int, int]] = []
        """(device, how many of the messages it took before)"""
        if left:
            still: list[int] = []
            for fd in fds:
                if fd not in left:
                    still.append(fd)
                    continue
                back = self._table.fd_of(left[fd])
                if back is None:
                    self.gone_total += len(messages)  # its end of session tells the node
                elif messages[0].priority == CONTROL:
                    still.append(back)  # nobody sends it again, and it has no place in an order
                else:
                    refused.append((left[fd], 0))
            fds = still
        barred = self._barred(fds, first_of)
        if barred:
            refused += [(device[fd], 0) for fd in barred]
            fds = [fd for fd in fds if fd not in barred]
        full = self._reactor.broadcast(fds, messages)
        refused += [(device[fd], taken) for fd, taken in full.items()]
        self.messages_total += (len(fds) - len(full)) * len(messages) + sum(full.values())
        for each, taken in refused:
            p, index = split_device_id(each)
            for part in parts[p][taken:]:
                self._refuse(index, part)

    def _barred(self, fds: Sequence[int], first_of: Mapping[int, _Part]) -> set[int]:
        """Those that may not get the messages now. Of each partition the first part is asked: the others have its lane
        and, it being before them, no restart."""
        lane = next(iter(first_of.values())).message.priority
        if lane != CONTROL and not self._reactor.may_send():
            return set(fds)
        fresh = self._table.fresh
        asked = [p for p in first_of if p in fresh or self._refusing.get((p, lane))]
        if not asked:
            return set()
        rows: dict[int, dict[int, int]] = {p: {} for p in asked}
        for fd in fds:
            p, index = split_device_id(self._table.device[fd])
            if p in rows:
                rows[p][index] = fd
        barred: set[int] = set()
        for p, fd_of in rows.items():
            barred.update(map(fd_of.__getitem__, self._not_admitted(fd_of, first_of[p])))
        return barred

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

    def _not_recalled(self, parts: Mapping[int, Sequence[_Part]]) -> Mapping[int, Sequence[_Part]]:
        recalls = self._recalls
        messages = [part.message.push_id for part in next(iter(parts.values()))]
        if not recalls or not any(push_id in recalls for push_id in messages):
            return parts
        return {
            p: [part for part in its if part.message.push_id not in recalls]
            for p, its in parts.items()
        }

    def _rows(self, p: int) -> Mapping[int, int]:
        return self._table.rows.get(p, {})

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


def devices_of(delivery: rpc_pb2.Delivery) -> BitMap:
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
        alike = delivery.bitmap and delivery.bitmap == before and is_message(delivery)
        if run and not (alike and not delivery.restart and size <= _TOGETHER_BYTES):
            yield run
            run, size = [], len(delivery.frame)
        run.append(number)
        before = delivery.bitmap if is_message(delivery) else b""
    if run:
        yield run


def to_many(request: rpc_pb2.Deliver) -> list[tuple[int, bytes]]:
    """(push id, frame) of each message of a deliver that is one run to a bitmap of devices; empty if it is not."""
    deliveries = request.deliveries
    if not deliveries or not deliveries[0].bitmap or len(next(_runs(deliveries))) < len(deliveries):
        return []
    try:
        BitMap.deserialize(deliveries[0].bitmap)
    except ValueError:
        return []  # nobody else is to fail with it
    if not is_message(deliveries[0]):
        return []
    return [(delivery.push_id, delivery.frame) for delivery in deliveries]


def _part(request: rpc_pb2.Deliver, number: int) -> _Part:
    delivery = request.deliveries[number]
    lane = request.priority if is_message(delivery) else CONTROL
    message = Item(lane, delivery.push_id, delivery.frame)
    return _Part(request.partition, message, delivery.restart, array("I"), array("I"))


def is_message(delivery: rpc_pb2.Delivery) -> bool:
    return delivery.frame[:1] == _MESSAGE
