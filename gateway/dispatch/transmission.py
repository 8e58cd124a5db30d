"""Sends of one partition on their way to the edges: contents are fetched, frames made, answers heard.

What is to be sent waits by lane and edge, so that a high push does not wait for a campaign to millions: not
here, not for its contents, and not in the socket to the edge, since a lane sends an edge no more than it
has soon worked off. Within lane and edge the order is that of the decisions (`gateway.dispatch.sending`),
and nothing here may change it: a send whose devices have refused something since, or were looked at since,
or whose link has been lost since, is dropped, because what is pending for them is decided anew.
"""

import asyncio
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog
from pyroaring import BitMap

from gateway.dispatch.campaign import PERSONAL, REPLACED, Campaign
from gateway.dispatch.contents import Contents, message_frame, recall_frame, remaining_s
from gateway.dispatch.links import Links
from gateway.dispatch.partition import Partition
from gateway.dispatch.sending import Sending
from gateway.dispatch.sends import Send
from gateway.dispatch.unanswered import Unanswered
from gateway.lanes import HIGH, WEIGHTS
from gateway.store.errors import StoreError
from protocol.schema import rpc_pb2

_log = structlog.get_logger("columba.dispatch")

QUEUED_SENDS: Final = 50_000
"""Sends of a lane that wait for contents or an edge's turn; beyond it devices are looked at again later."""
_DELIVER_BYTES: Final = 1 << 20
"""Bound of one deliver RPC."""
_DELIVERIES: Final = 32
_BATCH_DEVICES: Final = 2_000
"""So many sends, and about so many devices, of the low lane go out in one step; the others have more by
their weight. Some ms of work: in between other lanes, and the fold, have their turn."""
_AS_INDEXES: Final = 16
"""Up to so many devices travel as a list, more as a bitmap."""


_RANK: Final = {priority: rank for rank, priority in enumerate(WEIGHTS)}


class Ways(NamedTuple):
    """What a transmission goes by; shared with the partition's owner."""

    links: Links
    unanswered: Mapping[int, Unanswered]
    """Of each lane."""
    contents: Contents
    now_ms: Callable[[], int]
    may_act: Callable[[], bool]
    on_deposed: Callable[[], None]
    """A newer owner has spoken to an edge."""


class _Queued(NamedTuple):
    send: Send
    link: int
    """How often the edge's link had been lost when this was decided."""
    number: int
    """When it was decided (`gateway.dispatch.sends.Overtaken`)."""


class _Lane:
    """Sends of one priority, a queue for each edge."""

    def __init__(self, priority: int, unanswered: Unanswered) -> None:
        self.weight = WEIGHTS[priority]
        self.ready = asyncio.Event()
        self.wake = self.ready.set
        self.unanswered = unanswered
        self.count = 0
        self._queues: OrderedDict[int, deque[_Queued]] = OrderedDict()
        """By edge: the next one that has room is served."""

    def put(self, queued: _Queued) -> None:
        queue = self._queues.get(queued.send.edge)
        if queue is None:
            queue = self._queues[queued.send.edge] = deque()
        queue.append(queued)
        self.count += 1
        self.ready.set()

    def next_batch(self) -> list[_Queued]:
        """What is next for some edge, or nothing: none waits, or none has room."""
        edge = next(filter(self.unanswered.has_room, self._queues), None)
        if edge is None:
            return []
        queue = self._queues[edge]
        batch: list[_Queued] = []
        devices = 0
        while queue and len(batch) < _DELIVERIES * self.weight:
            if devices >= _BATCH_DEVICES * self.weight:
                break
            batch.append(queue.popleft())
            devices += len(batch[-1].send.devices)
        if queue:
            self._queues.move_to_end(edge)
        else:
            del self._queues[edge]
        self.count -= len(batch)
        return batch

    def wait(self) -> None:
        """Nothing more goes just now: for the edges of what is left."""
        for edge in self._queues:
            self.unanswered.wait(edge, self.wake)
        self.unanswered.pass_on()


class Transmission:
    """Of one partition, under its owner's fence."""

    def __init__(self, partition: Partition, sending: Sending, fence: int, ways: Ways) -> None:
        self._partition = partition
        self._sending = sending
        self._overtaken = sending.overtaken
        self._fence = fence
        self._ways = ways
        self._lanes = {priority: _Lane(priority, ways.unanswered[priority]) for priority in WEIGHTS}
        self._losses: defaultdict[int, int] = defaultdict(int)
        """edge -> times its link was lost"""
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run(lane)) for lane in self._lanes.values()]

    def stop(self) -> None:
        """Nothing is sent from here on."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        for lane in self._lanes.values():
            lane.unanswered.leave(lane.wake)

    def on_link_down(self, edge: int) -> None:
        self._losses[edge] += 1

    def queue(self, sends: Sequence[Send]) -> None:
        """Sends that have been decided at this moment, in their order."""
        number = self._overtaken.enter(len(sends))
        # A lane's task wakes up with its first send: the highest goes first, in each lane in order.
        for send in sorted(sends, key=lambda send: _RANK[send.push.priority]):
            lane = self._lanes[send.push.priority]
            queued = _Queued(send, self._losses[send.edge], number)
            if lane.count < QUEUED_SENDS:
                lane.put(queued)
            else:
                self._put_off([queued])
                self._overtaken.leave(number)

    def __len__(self) -> int:
        return sum(lane.count for lane in self._lanes.values())

    async def _run(self, lane: _Lane) -> None:
        while True:
            await lane.ready.wait()
            lane.ready.clear()
            while batch := lane.next_batch():
                try:
                    await self._transmit(lane, batch)
                except StoreError:
                    # Contents could not be read: the store is away. Look again when it may be back.
                    self._put_off(batch)
                # A defect that one push brings to light must not end all sending of the partition.
                except Exception:
                    _log.exception(
                        "messages not sent", partition=self._partition.number, sends=len(batch)
                    )
                    self._put_off(batch)
                finally:
                    for queued in batch:
                        self._overtaken.leave(queued.number)
                await asyncio.sleep(0)
            lane.wait()

    def _put_off(self, batch: Iterable[_Queued]) -> None:
        now = time.monotonic()
        for queued in batch:
            self._on_refused(queued, queued.send.devices, now)

    def _on_refused(self, queued: _Queued, devices: Iterable[int], now: float) -> None:
        """Of devices that have refused before, or were looked at since, this is no news."""
        refused = BitMap(devices)
        refused -= self._overtaken.of(queued.number, refused)
        self._sending.on_refused(refused, now)

    async def _transmit(self, lane: _Lane, batch: Sequence[_Queued]) -> None:
        found = await self._contents_of(lane, batch)
        if self._stopped:
            return
        if not self._ways.may_act():
            self._put_off(batch)
            return
        withdrawn: list[Send] = []
        due: list[_Queued] = []
        for queued in batch:
            send = queued.send
            # A pause, a stop, or that a device is no longer its account's, may have been folded since.
            if queued.link != self._losses[send.edge]:
                continue
            if send.push.push_id in self._partition.controls.paused:
                withdrawn.append(send)
            elif self._sending.is_open(send.push):
                due.append(self._still_due(queued))
        if withdrawn:
            self._sending.on_withdrawn(withdrawn)
        if due:
            self._deliver(lane, _framed(due, found, self._ways.now_ms()))

    async def _contents_of(self, lane: _Lane, batch: Sequence[_Queued]) -> dict[int, bytes]:
        contents = self._ways.contents
        found: dict[int, bytes] = {}
        missing = {}
        for queued in batch:
            push = queued.send.push
            content = contents.get_nowait(push.push_id)
            if content is None:
                missing[push.push_id] = push
            else:
                found[push.push_id] = content
        if missing:
            lane.unanswered.leave(lane.wake)  # others need not wait for our contents
            found |= await contents.load(self._partition.number, list(missing.values()))
        return found

    def _still_due(self, queued: _Queued) -> _Queued:
        """Without devices for which it was decided anew, or that need it no more."""
        send = queued.send
        push, devices = send.push, send.devices
        if push.ttl_s:  # else this is the one attempt
            overtaken = self._overtaken.of(queued.number, devices)
            if overtaken:
                devices = devices - overtaken
        if isinstance(push, Campaign) and (PERSONAL in push.marks or REPLACED in push.marks):
            devices = devices & push.pending()
        return (
            queued
            if devices is send.devices
            else queued._replace(send=send._replace(devices=devices))
        )

    def _begin_anew(self, queued: _Queued) -> Iterable[tuple[_Queued, bool]]:
        """(part of a send, is it a new beginning for its devices?)"""
        send = queued.send
        anew = self._sending.anew[send.push.priority]
        first = send.devices & anew if anew else anew
        if not first:
            yield queued, False
            return
        anew -= first
        yield queued._replace(send=send._replace(devices=first)), True
        if len(first) < len(send.devices):
            yield queued._replace(send=send._replace(devices=send.devices - first)), False

    def _deliver(self, lane: _Lane, framed: Iterable[tuple[_Queued, bytes]]) -> None:
        """All of one edge and lane."""
        request, sent, size = rpc_pb2.Deliver(), [], 0
        for whole, frame in framed:
            for queued, restart in self._begin_anew(whole):
                send = queued.send
                few = len(send.devices) <= _AS_INDEXES
                targets = b"" if few else bytes(send.devices.serialize())
                request.deliveries.add(
                    frame=frame,
                    index=send.devices if few else (),
                    bitmap=targets,
                    push_id=send.push.push_id,
                    restart=restart,
                )
                sent.append(queued)
                size += len(frame) + len(targets)
            if size >= _DELIVER_BYTES:
                self._call(lane, request, sent, size)
                request, sent, size = rpc_pb2.Deliver(), [], 0
        if sent:
            self._call(lane, request, sent, size)

    def _call(
        self, lane: _Lane, request: rpc_pb2.Deliver, sent: Sequence[_Queued], size: int
    ) -> None:
        first = sent[0].send
        edge, request.priority = first.edge, first.push.priority
        request.partition, request.fence = self._partition.number, self._fence
        cost = sum(len(queued.send.devices) for queued in sent) + size // 64

        def answered(reply: rpc_pb2.Delivered | None, deposed: bool) -> None:
            lane.unanswered.answered(edge, cost)
            try:
                if deposed:
                    self._ways.on_deposed()
                elif reply is None:
                    self._put_off(sent)
                else:
                    self._on_delivered(sent, reply)
            finally:
                for queued in sent:
                    self._overtaken.leave(queued.number)

        self._ways.links.deliver(edge, request, answered)
        # Only now: what raises before it is sent has taken no room.
        lane.unanswered.add(edge, cost)
        for queued in sent:
            self._overtaken.enter(1, queued.number)

    def _on_delivered(self, sent: Sequence[_Queued], reply: rpc_pb2.Delivered) -> None:
        now = time.monotonic()
        refused: dict[int, BitMap] = {}
        for each in reply.refused:
            devices = refused[each.delivery] = BitMap((*each.gone, *each.slow))
            self._on_refused(sent[each.delivery], devices, now)
        for number, queued in enumerate(sent):
            send = queued.send
            if number in refused:
                send = send._replace(devices=send.devices - refused[number])
            self._sending.on_handed_over(send, now)

    def tell_recalled(self, push_id: int, devices: BitMap) -> None:
        """RECALL to those of the devices that are online; the others hear of it with their WELCOME."""
        frame = recall_frame(push_id)
        for edge in self._sending.linked:
            here = devices & self._partition.online.get(edge, BitMap())
            if not here or not self._ways.may_act():
                continue
            request = rpc_pb2.Deliver(
                partition=self._partition.number, fence=self._fence, priority=HIGH
            )
            request.deliveries.add(frame=frame, bitmap=bytes(here.serialize()))
            self._ways.links.deliver(edge, request, lambda _, deposed: None)


def _framed(
    batch: Iterable[_Queued], contents: dict[int, bytes], now_ms: int
) -> Iterable[tuple[_Queued, bytes]]:
    for queued in batch:
        push = queued.send.push
        content = contents.get(push.push_id)
        ttl_s = remaining_s(push, now_ms)
        if content is None or ttl_s is None or not queued.send.devices:
            continue  # expired, or final meanwhile: expiry is checked at each send
        yield queued, message_frame(push.push_id, ttl_s, content, push.collapse_key)
