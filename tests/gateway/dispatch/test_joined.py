"""Log to device: partition, decisions, transmission and the edges' delivery, joined by wires that lose things.

Real but for time, sockets, the store and the RPC, which the machine plays: whatever happens, each lane of a
device shows in the order of the log, nothing is shown after its recall, and in the end nothing is missing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from types import SimpleNamespace
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from gateway.dispatch import transmission as transmission_module
from gateway.dispatch.campaign import RECEIVED, Push
from gateway.dispatch.sending import Sending
from gateway.dispatch.transmission import Transmission, Ways
from gateway.dispatch.unanswered import Unanswered
from gateway.edge.delivery import Delivery
from gateway.edge.early import EarlyMessages
from gateway.edge.output import CONTROL, Item
from gateway.edge.recalls import Recall, Recalls
from gateway.edge.table import Table
from gateway.edge.writing import Writing
from gateway.lanes import WEIGHTS
from gateway.rpc import RpcError
from gateway.store.errors import StoreUnavailable
from protocol.schema import log_pb2, rpc_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.desk import PACING
from tests.gateway.dispatch.records import START_MS, Log
from tests.gateway.dispatch.test_conservation import LAW

DEVICES = (0, 2, 4)
EDGES = (1, 2)
_ROOM = 2
"""Messages that an edge keeps for a device that does not read."""
Answered = Callable[[rpc_pb2.Delivered | None, bool], None]


class Rows:
    """The reactor, as far as messages go: what a row has not read stands in `out`."""

    def __init__(self) -> None:
        self.out: defaultdict[int, list[Item]] = defaultdict(list)

    def offer(self, fd: int, message: Item) -> bool:
        if message.priority != CONTROL and len(self.out[fd]) >= _ROOM:
            return False
        self.out[fd].append(message)
        return True

    def broadcast(self, fds: Sequence[int], messages: Sequence[Item]) -> dict[int, int]:
        taken = {fd: sum(1 for _ in takewhile(partial(self.offer, fd), messages)) for fd in fds}
        return {fd: count for fd, count in taken.items() if count < len(messages)}

    def may_send(self) -> bool:
        return True

    def flush(self) -> None: ...


class EdgeModel:
    def __init__(self) -> None:
        self.table = Table(4096)
        self.rows = Rows()
        self.busy = False
        self.recalls = Recalls()
        self.early = EarlyMessages(1000)
        hold = self.early.hold
        writing = Writing(self.table, self.rows, hold, self.recalls)
        self.delivery = Delivery(writing, self.rows, lambda: 0.0)

    def close(self, fd: int) -> None:
        """As Sessions.on_closed."""
        if self.early.take(fd):
            self.table.begin_anew(0, self.table.device[fd])
        if self.table.state[fd]:
            self.table.remove(fd)
        self.rows.out.pop(fd, None)

    def recall(self, push_id: int) -> None:
        self.recalls.add([Recall(push_id, 1, 1 << 60)], START_MS)
        self.early.recall(push_id)
        for fd, items in self.rows.out.items():
            self.rows.out[fd] = [item for item in items if item.push_id != push_id]


class Wire:
    """Requests of one owner to one edge that the edge has not read; in order."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, Answered]] = []
        self.at_edge: list[tuple[asyncio.Future[bytes], Answered]] = []


class Owner:
    """One owner of the partition: what it decides and sends, under its fence."""

    def __init__(self, machine: "Joined", fence: int) -> None:
        self.sending = Sending(machine.log.partition, PACING)
        self.wires: dict[int, Wire] = {}
        self.unanswered = {priority: Unanswered(*machine.unanswered) for priority in WEIGHTS}
        ways = Ways(
            SimpleNamespace(deliver=self.deliver),  # type: ignore[arg-type]
            self.unanswered,
            SimpleNamespace(get_nowait=machine.content_at_hand, load=machine.load),  # type: ignore[arg-type]
            lambda: START_MS,
            lambda: True,
            lambda: None,
        )
        self.transmission = Transmission(machine.log.partition, self.sending, fence, ways)
        self.transmission.start()
        self._loop = machine.loop

    def deliver(self, edge: int, request: rpc_pb2.Deliver, answered: Answered) -> None:
        wire = self.wires.get(edge)
        if wire is None:
            self._loop.call_soon(answered, None, False)
        else:
            wire.requests.append((request.SerializeToString(), answered))


class Device:
    def __init__(self) -> None:
        self.at: tuple[int, int] | None = None
        """(edge, descriptor) of the connection that it holds to be its own."""
        self.shown: list[int] = []


class Joined(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        self._clock = patch.object(transmission_module, "time", clock)
        self._clock.start()
        self._deliveries = transmission_module._DELIVERIES
        # One message in each deliver, and few under way: so much the more can come in between.
        transmission_module._DELIVERIES = 0.25  # type: ignore[misc,assignment]
        self.unanswered = (2, 99)
        """That one edge, and all together, may have."""
        self.log = Log()
        self.unfolded: list[tuple[bytes, Callable[[], None] | None]] = []
        self.edges = {edge: EdgeModel() for edge in EDGES}
        self.devices = {device: Device() for device in DEVICES}
        self.sessions: dict[int, tuple[int, int]] = {}
        """As the store has them: device -> (edge, descriptor)."""
        self.abandoned: list[tuple[int, int]] = []
        """Connections that their devices have left without a word."""
        self.drawn = self.fds = self.epoch = 0
        self.fence = 1
        self.odd: set[int] = set()
        """Pushes that were paused once: they may come later than what is newer."""
        self.recalled: dict[int, dict[int, bool]] = {}
        self.store_away = False
        self.cold = False
        self.rests = False
        """The owner looks at nobody who waits for it."""
        self.old_wires: list[tuple[int, Wire]] = []
        self.loop.run_until_complete(self._begin())
        self.append(records.sessions(1, DEVICES, DEVICES))
        self.the_owner_folds(99)
        for edge in EDGES:
            self.a_link_comes(edge)
        for device in DEVICES:
            self.a_device_connects(device, 1, True, True)

    async def _begin(self) -> None:
        self.owner = Owner(self, self.fence)

    def teardown(self) -> None:
        try:
            self.heal()
        finally:
            self._clock.stop()
            transmission_module._DELIVERIES = self._deliveries  # type: ignore[misc]
            self.owner.transmission.stop()
            self.turn(3)
            self.loop.close()
            asyncio.set_event_loop(None)

    def turn(self, times: int = 4) -> None:
        async def some() -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        self.look()
        self.loop.run_until_complete(some())
        if self.owner.sending.waiting and not self.rests:
            self.turn(times)

    def look(self) -> None:
        while self.owner.sending.waiting and not self.rests:
            self.owner.transmission.queue(self.owner.sending.look())

    # Contents and the log.

    def content_at_hand(self, push_id: int) -> bytes | None:
        return None if self.cold else b"content"

    async def load(self, p: int, pushes: Sequence[Push]) -> dict[int, bytes]:
        await asyncio.sleep(0)
        if self.store_away:
            raise StoreUnavailable("away")
        return {push.push_id: b"content" for push in pushes}

    def append(self, record: bytes, then: Callable[[], None] | None = None) -> None:
        self.unfolded.append((record, then))

    @rule(count=st.integers(1, 5))
    def the_owner_folds(self, count: int) -> None:
        """And acts on it, as `Owned.on_entry` does."""
        for _ in range(min(count, len(self.unfolded))):
            record, then = self.unfolded.pop(0)
            effects = self.log.fold(record)
            sending, queue = self.owner.sending, self.owner.transmission.queue
            sending.on_final(effects.final)
            if effects.arrived:
                sending.on_arrived(effects.arrived)
            queue(sending.on_fresh(effects.fresh))
            queue(sending.on_resumed(effects.resumed))
            sending.on_receipted(effects.receipted)
            if then is not None:
                then()
        self.turn()

    # What app servers do.

    @rule(
        devices=st.lists(st.sampled_from(DEVICES), min_size=1, max_size=3, unique=True),
        count=st.integers(1, 5),
        priority=st.sampled_from([0, 0, 1, 2]),
        ttl_s=st.sampled_from([60, 60, 60, 60, 0]),
        key=st.sampled_from(["", "", "", "k"]),
        cap=st.sampled_from([0, 0, 6]),
        at_once=st.booleans(),
    )
    def pushes_come(
        self,
        devices: list[int],
        count: int,
        priority: int,
        ttl_s: int,
        key: str,
        cap: int,
        at_once: bool,
    ) -> None:
        for _ in range(count):
            self.drawn += 1
            self.append(
                records.push(
                    self.drawn,
                    devices,
                    ttl_s=ttl_s,
                    priority=priority,
                    collapse_key=key,
                    inbox_cap=cap,
                    everybody=len(devices) == len(DEVICES),
                )
            )
        if at_once:
            self.the_owner_folds(9999)

    @precondition(lambda self: self.drawn)
    @rule(back=st.integers(0, 6), action=st.sampled_from([log_pb2.PAUSE, log_pb2.RESUME]))
    def somebody_decides(self, back: int, action: "log_pb2.Action") -> None:
        push_id = max(1, self.drawn - back)
        self.odd.add(push_id)
        self.append(records.control(push_id, action))

    @rule(back=st.integers(-1, 6))
    def a_recall(self, back: int) -> None:
        push_id = max(1, self.drawn - back)
        for edge in self.edges.values():
            edge.recall(push_id)
        at = {device: push_id in self.devices[device].shown for device in DEVICES}

        def confirmed() -> None:
            self.recalled.setdefault(push_id, at)

        self.append(records.control(push_id, log_pb2.RECALL), confirmed)
        for device, had_it in at.items():
            if not had_it:
                self.recalled.setdefault(push_id, {})[device] = False

    # Sessions.

    @rule(
        device=st.sampled_from(DEVICES),
        edge=st.sampled_from(EDGES),
        early=st.booleans(),
        at_once=st.booleans(),
    )
    def a_device_connects(self, device: int, edge: int, early: bool, at_once: bool) -> None:
        """What its old connection still had for it is lost; the edge there finds out later."""
        mine = self.devices[device]
        self.fds += 1
        fd = self.fds
        model = self.edges[edge]
        if mine.at is not None:
            self.edges[mine.at[0]].rows.out[mine.at[1]].clear()
            self.abandoned.append(mine.at)
        mine.at = (edge, fd)
        model.table.add(fd)
        if early:
            model.table.arrive(fd, device)
        self.epoch += 1
        self.sessions[device] = (edge, fd)
        self.append(records.sessions(edge, [device], epoch=self.epoch, app=1))
        if at_once:
            self.welcome(device)

    @precondition(lambda self: self.abandoned)
    @rule()
    def an_edge_finds_out(self) -> None:
        edge, fd = self.abandoned.pop()
        self.edges[edge].close(fd)

    @rule(device=st.sampled_from(DEVICES))
    def welcome(self, device: int) -> None:
        at = self.devices[device].at
        if at is None:
            return
        model, fd = self.edges[at[0]], at[1]
        if model.table.state[fd] != 1 or self.sessions.get(device) != at:
            return
        older = model.table.open(fd, device, self.epoch + 1)
        for message in model.early.take(fd):
            model.rows.out[fd].append(message)
        if older is not None:
            model.close(older)

    @rule(device=st.sampled_from(DEVICES))
    def a_connection_ends(self, device: int) -> None:
        at = self.devices[device].at
        if at is not None:
            self.devices[device].at = None
            self.edges[at[0]].close(at[1])
            if self.sessions.get(device) == at:
                del self.sessions[device]
                self.append(records.sessions(at[0], (), [device]))

    @rule(device=st.sampled_from(DEVICES), count=st.integers(1, 6))
    def a_device_reads(self, device: int, count: int) -> None:
        at = self.devices[device].at
        if at is None or self.edges[at[0]].table.state[at[1]] != 3:
            return
        out = self.edges[at[0]].rows.out[at[1]]
        for item in out[:count]:
            self.show(device, item.push_id)
        del out[:count]

    def show(self, device: int, push_id: int) -> None:
        shown = self.devices[device].shown
        self.append(records.receipts(push_id, RECEIVED, [device]))
        if push_id in shown:
            return
        assert self.recalled.get(push_id, {}).get(device, True), "shown after its recall"
        pushes = self.log.partition.pushes
        push = pushes[push_id]
        if push.ttl_s and push_id not in self.odd:
            before = [
                pushes[other].order
                for other in shown
                if other not in self.odd and pushes[other].ttl_s
                if pushes[other].priority == push.priority
            ]
            assert push.order > max(before, default=0), f"{push_id} after {shown} at {device}"
        shown.append(push_id)

    # Wires.

    @rule(edge=st.sampled_from(EDGES))
    def a_link_comes(self, edge: int) -> None:
        if edge not in self.owner.wires:
            self.owner.wires[edge] = Wire()
            self.owner.sending.on_link_up(edge)
            self.turn()

    @rule(edge=st.sampled_from(EDGES))
    def a_link_is_lost(self, edge: int) -> None:
        wire = self.owner.wires.pop(edge, None)
        if wire is None:
            return
        self.owner.sending.on_link_down(edge)
        self.owner.transmission.on_link_down(edge)
        for _, answered in (*wire.requests, *wire.at_edge):
            self.loop.call_soon(answered, None, False)
        self.turn()

    @rule(devices=st.lists(st.sampled_from(DEVICES), min_size=1, max_size=3, unique=True))
    def all_goes_well(self, devices: list[int]) -> None:
        """For a moment, as nearly always; these devices read."""
        self.the_owner_folds(9999)
        for edge in EDGES:
            self.an_edge_reads(edge, 999, True)
        for device in devices:
            self.a_device_reads(device, 999)

    @rule(edge=st.sampled_from(EDGES), count=st.sampled_from([1, 2, 999]), works=st.booleans())
    def an_edge_reads(self, edge: int, count: int, works: bool) -> None:
        wire = self.owner.wires.get(edge)
        if wire is not None:
            self._read(edge, wire, count)
            if works:
                self.turn()
                self._answer(wire)

    def _read(self, edge: int, wire: Wire, count: int) -> None:
        taken, wire.requests[:count] = wire.requests[:count], []

        async def hand_over() -> None:
            model = self.edges[edge]
            for body, answered in taken:
                model.delivery._left_s = 0.0 if model.busy else 1.0
                try:
                    answer = model.delivery.deliver(body)
                except RpcError as error:
                    answered(None, error.code == "fenced")
                    continue
                if isinstance(answer, bytes):
                    at_once, answer = answer, self.loop.create_future()
                    answer.set_result(at_once)
                wire.at_edge.append((answer, answered))

        self.loop.run_until_complete(hand_over())

    def _answer(self, wire: Wire) -> None:
        for future, answered in [row for row in wire.at_edge if row[0].done()]:
            wire.at_edge.remove((future, answered))
            answered(rpc_pb2.Delivered.FromString(future.result()), False)
        self.turn()

    @rule(edge=st.sampled_from(EDGES), jobs=st.sampled_from([1, 2, Delivery.JOBS]))
    def an_edge_has_room_for(self, edge: int, jobs: int) -> None:
        self.edges[edge].delivery.JOBS = jobs  # type: ignore[misc]

    @rule(edge=st.sampled_from(EDGES), busy=st.booleans())
    def an_edge_is_busy(self, edge: int, busy: bool) -> None:
        """Then it begins nothing before its next turn."""
        self.edges[edge].busy = busy

    @rule(unanswered=st.sampled_from([1, 3, 4096]), of_all=st.sampled_from([1, 2, 4096]))
    def an_edge_may_have(self, unanswered: int, of_all: int = 4096) -> None:
        self.unanswered = unanswered, of_all
        for lane in self.owner.unanswered.values():
            lane._of_one, lane._of_all = self.unanswered

    @rule(edge=st.sampled_from(EDGES))
    def answers_come(self, edge: int) -> None:
        wire = self.owner.wires.get(edge)
        if wire is not None:
            self._answer(wire)

    @rule(away=st.booleans(), cold=st.booleans())
    def the_store(self, away: bool, cold: bool) -> None:
        self.store_away, self.cold = away, cold

    @rule()
    def another_owner_takes_over(self) -> None:
        """What the old one had on its way may still be read by the edges."""
        self.old_wires = list(self.owner.wires.items())
        self.owner.transmission.stop()
        self.fence += 1
        self.loop.run_until_complete(self._begin())
        self.owner.sending.on_live()
        for edge in EDGES:
            self.a_link_comes(edge)

    @precondition(lambda self: self.old_wires)
    @rule(count=st.integers(1, 3))
    def something_of_an_old_owner_arrives(self, count: int) -> None:
        edge, wire = self.old_wires.pop()
        self._read(edge, wire, count)
        self.turn()

    @rule(rests=st.booleans())
    def looking_is_put_off(self, rests: bool) -> None:
        self.rests = rests
        self.turn()

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 40.0]), behind=st.sampled_from([0.0, 2.0, 60.0]))
    def time_passes(self, seconds: float, behind: float = 0.0) -> None:
        self.now += seconds
        sends = self.owner.sending.on_timer(self.now, self.now - behind)
        self.owner.transmission.queue(sends)
        self.turn()

    # In the end.

    def heal(self) -> None:
        self.store_away = self.rests = False
        partition = self.log.partition
        self.the_owner_folds(9999)
        for push_id in sorted(partition.controls.paused):
            self.append(records.control(push_id, log_pb2.RESUME))
        for edge in EDGES:
            self.edges[edge].delivery.JOBS = Delivery.JOBS  # type: ignore[misc]
            self.a_link_comes(edge)
        for device, mine in self.devices.items():
            if mine.at is None:
                self.a_device_connects(device, 1, True, True)
        while self.abandoned:
            self.an_edge_finds_out()
        for _ in range(400):
            for device in DEVICES:
                self.welcome(device)
            self.the_owner_folds(9999)
            for edge in EDGES:
                self.an_edge_reads(edge, 999, True)
            for device in DEVICES:
                self.a_device_reads(device, 999)
            self.the_owner_folds(9999)
            idle = not any(w.requests or w.at_edge for w in self.owner.wires.values())
            idle = idle and not len(self.owner.transmission)
            if idle and not any(self.left(device) for device in DEVICES):
                break
            due = self.owner.sending.next_timer()
            if due is not None and idle:
                self.now = max(self.now, due)
                self.time_passes(0.0)
        for device in DEVICES:
            assert not self.left(device), f"nobody sends these to {device}"
        for push in partition.pushes.values():
            counts = dict(push.counts())
            assert sum(counts.get(state, 0) for state in LAW) == counts["targeted"]
        overtaken = self.owner.sending.overtaken
        assert not len(self.owner.transmission) and not overtaken._under_way and not len(overtaken)

    def left(self, device: int) -> list[int]:
        pending = self.log.partition.pending_of(device)
        return [push.push_id for push in pending if push.ttl_s]


TestJoined = Joined.TestCase
TestJoined.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


# Scenes of the machine that chance seldom comes upon.


def push(machine: Joined, *devices: int) -> None:
    machine.pushes_come(list(devices), 1, 0, 60, "", 0, True)


def test_what_is_on_the_wire_does_not_overtake_what_a_session_has_lost() -> None:
    machine = Joined()
    machine.an_edge_may_have(99)
    machine.all_goes_well([])
    push(machine, 0)
    machine.an_edge_reads(1, 9, True)
    push(machine, 0)
    machine.a_device_connects(0, 1, True, True)
    machine.an_edge_reads(1, 9, True)
    machine.a_device_reads(0, 9)
    machine.teardown()
    assert machine.devices[0].shown == [1, 2]


def test_what_waits_at_the_node_does_not_overtake_what_a_session_has_lost() -> None:
    machine = Joined()
    machine.an_edge_may_have(1)
    machine.all_goes_well([])
    push(machine, 0)
    machine.an_edge_reads(1, 9, False)
    push(machine, 0)
    machine.a_device_connects(0, 1, True, True)
    machine.the_owner_folds(9)
    machine.all_goes_well([0])
    machine.teardown()
    assert machine.devices[0].shown == [1, 2]


def test_what_is_on_the_wire_does_not_overtake_what_was_refused() -> None:
    machine = Joined()
    machine.an_edge_may_have(99)
    machine.all_goes_well([])
    for _ in range(_ROOM + 2):
        push(machine, 0, 2)
    machine.an_edge_reads(1, _ROOM + 1, True)
    machine.a_device_reads(0, 9)
    machine.an_edge_reads(1, 9, True)
    machine.a_device_reads(0, 9)
    machine.teardown()
    assert machine.devices[0].shown == [1, 2, 3, 4]


def test_what_waits_at_the_node_does_not_go_to_a_link_that_was_lost_since() -> None:
    machine = Joined()
    machine.an_edge_may_have(1)
    machine.all_goes_well([])
    push(machine, 0)
    push(machine, 0)
    machine.a_link_is_lost(1)
    machine.a_link_comes(1)
    machine.all_goes_well([0])
    machine.teardown()
    assert machine.devices[0].shown == [1, 2]


def test_a_high_push_waits_neither_for_the_contents_nor_the_answers_of_others() -> None:
    machine = Joined()
    machine.all_goes_well([])
    machine.an_edge_may_have(1)
    push(machine, 0)
    push(machine, 0)
    stuck = machine.loop.create_future()
    load = machine.load

    async def slow(p: int, pushes: Sequence[Push]) -> dict[int, bytes]:
        if any(push.priority == 0 for push in pushes):
            await stuck
        return await load(p, pushes)

    machine.owner.transmission._ways.contents.load = slow  # type: ignore[method-assign]
    machine.cold = True
    push(machine, 2)
    machine.pushes_come([0], 1, 1, 60, "", 0, True)
    machine.an_edge_is_busy(1, True)
    machine.an_edge_reads(1, 9, True)
    machine.a_device_reads(0, 9)
    assert machine.devices[0].shown == [4, 1]
    stuck.set_result(None)
    machine.teardown()
    assert machine.devices[0].shown == [4, 1, 2] and machine.devices[2].shown == [3]


def test_an_edge_has_no_more_under_way_than_it_may() -> None:
    machine = Joined()
    machine.all_goes_well([])
    machine.an_edge_may_have(2)
    for _ in range(6):
        push(machine, 0, 2)
    assert len(machine.owner.wires[1].requests) == 1, "two messages"
    machine.teardown()
    assert machine.devices[0].shown == machine.devices[2].shown == [1, 2, 3, 4, 5, 6]


def test_all_edges_together_have_no_more_under_way_than_they_may() -> None:
    machine = Joined()
    machine.all_goes_well([])
    machine.a_device_connects(2, 2, True, True)
    machine.all_goes_well([])
    machine.an_edge_may_have(99, of_all=2)
    for _ in range(6):
        push(machine, 0, 2)
    assert sum(len(wire.requests) for wire in machine.owner.wires.values()) == 2
    machine.teardown()
    assert machine.devices[0].shown == machine.devices[2].shown == [1, 2, 3, 4, 5, 6]
