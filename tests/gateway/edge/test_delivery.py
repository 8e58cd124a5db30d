"""Delivers of dispatch nodes, on a table of rows and a recorder for their output."""

import asyncio
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.dispatch.contents import recall_frame
from gateway.edge import delivery as delivery_module
from gateway.edge.delivery import Delivery
from gateway.edge.output import CONTROL, Item
from gateway.edge.recalls import Recall, Recalls
from gateway.edge.table import Table
from gateway.lanes import HIGH, NORMAL
from gateway.rpc import RpcError
from gateway.store.sessions import Status
from protocol.codes import Kind
from protocol.ids import device_id
from protocol.schema import rpc_pb2
from tests.gateway.edge.stage import (
    NOW_MS,
    ReactorRecorder,
    Stage,
    deliver,
    goaway_of,
    kinds,
    message,
)

A, B = message(1), message(2)


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
    """Sessions on a recorder, and the delivery beside them."""

    def __init__(self, **edge: int) -> None:
        self.stage = Stage(size=512, **edge)
        self.output = Output()
        self.stage.reactor = self.stage.sessions.reactor = self.output  # type: ignore[assignment]
        self.delivery = self._delivery()

    def _delivery(self) -> Delivery:
        sessions = self.stage.sessions
        return Delivery(
            self.stage.table,
            self.output,  # type: ignore[arg-type]
            sessions.early.hold,
            sessions.recalls,
        )

    async def run(
        self, p: int, *deliveries: tuple[bytes, Iterable[int] | bytes], fence: int = 1
    ) -> list[tuple[int, list[int], list[int]]]:
        """(delivery, gone, slow) of the reply, to sessions that have had their beginning."""
        self.stage.table.fresh.clear()
        reply = await self.delivery.deliver(deliver(p, *deliveries, fence=fence, restart=False))
        return [
            (r.delivery, list(r.gone), list(r.slow))
            for r in rpc_pb2.Delivered.FromString(reply).refused
        ]


def bitmap(*indexes: int) -> bytes:
    return bytes(BitMap(indexes).serialize())


def as_list(*indexes: int) -> list[int]:
    return list(indexes)


both = pytest.mark.parametrize("to", [as_list, bitmap])


@both
async def test_who_is_not_there_and_who_is_full_is_named(to) -> None:  # type: ignore[no-untyped-def]
    rig = Rig()
    for fd, index in ((4, 0), (5, 1), (6, 2)):
        rig.stage.open(fd, device=index)
    rig.stage.open(7, device=device_id(1, 9))
    rig.output.full = {5}
    rig.stage.sessions.depart(6, "")
    rig.stage.take(6)
    assert await rig.run(0, (A, to(0, 1, 2, 9)), (B, to(0))) == [(0, [2, 9], [1])]
    assert rig.stage.take(4) == A + B
    assert [rig.stage.take(fd) for fd in (5, 6, 7)] == [b"", b"", b""]
    counts = rig.delivery
    assert (counts.messages_total, counts.gone_total, counts.slow_total) == (2, 2, 1)


async def test_messages_to_the_same_devices_share_a_write() -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.stage.open(5, device=8)
    frames = [message(n) for n in range(1, 6)]
    deliveries = [(frame, bitmap(7, 8, 9)) for frame in frames]
    gone = [(number, [9], []) for number in range(5)]
    assert await rig.run(0, *deliveries) == gone
    assert rig.output.broadcasts == 1 and rig.delivery.messages_total == 10
    assert rig.stage.take(4) == rig.stage.take(5) == b"".join(frames)
    large = message(6, "x" * (delivery_module._TOGETHER_BYTES // 2))
    assert await rig.run(0, *[(large, bitmap(7, 8))] * 3) == []
    assert rig.output.broadcasts == 4, "as much as the buffer of a socket takes in any case"


class Narrow(Output):
    """Each connection takes so many messages."""

    def __init__(self, room: dict[int, int]) -> None:
        super().__init__()
        self.room = room

    def offer(self, fd: int, message: Item) -> bool:
        if message.priority != CONTROL:
            if not self.room[fd]:
                return False
            self.room[fd] -= 1
        return super().offer(fd, message)


_TO = st.sampled_from([bitmap(1, 2), bitmap(1, 2, 3), bitmap(3, 4)])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(_TO, st.booleans(), st.booleans(), st.booleans()), max_size=8),
    st.lists(st.integers(0, 6), min_size=3, max_size=3),
)
def test_those_that_share_a_write_are_refused_as_if_each_had_come_alone(
    told: list[tuple[bytes, bool, bool, bool]], room: list[int]
) -> None:
    def outcome(apart: bool) -> object:
        rig = Rig()
        rig.output = Narrow(dict(zip((4, 5, 6), room, strict=True)))
        rig.stage.reactor = rig.stage.sessions.reactor = rig.output  # type: ignore[assignment]
        rig.delivery = rig._delivery()
        for fd, device in ((4, 1), (5, 2), (6, 3)):
            rig.stage.open(fd, device=device)
        rig.stage.table.fresh.clear()
        rig.stage.sessions.recall([Recall(99, 1, NOW_MS + 1000)])
        deliveries = [
            rpc_pb2.Delivery(
                frame=recall_frame(n) if is_recall else message(n),
                bitmap=to,
                restart=restart,
                push_id=99 if recalled else n,
            )
            for n, (to, restart, recalled, is_recall) in enumerate(told)
        ]

        async def run() -> list[tuple[int, list[int], list[int]]]:
            if not apart:
                return await refusals(rig, request(0, *deliveries))
            found = []
            for n, delivery in enumerate(deliveries):
                for _, gone, slow in await refusals(rig, request(0, delivery)):
                    found.append((n, gone, slow))
            return found

        refused = asyncio.run(run())
        counted = (
            rig.delivery.messages_total,
            rig.delivery.slow_total,
            rig.delivery.recalled_total,
        )
        return refused, counted, [rig.stage.take(fd) for fd in (4, 5, 6)]

    assert outcome(apart=False) == outcome(apart=True)


@both
async def test_a_partition_without_sessions(to) -> None:  # type: ignore[no-untyped-def]
    assert await Rig().run(1, (A, to(3, 4))) == [(0, [3, 4], [])]


@settings(max_examples=50, deadline=None)
@given(
    here=st.sets(st.integers(0, 30)),
    full=st.sets(st.integers(0, 30)),
    arriving=st.sets(st.integers(0, 30)),
    wanted=st.sets(st.integers(0, 40)),
)
def test_a_bitmap_means_the_same_as_a_list(
    here: set[int], full: set[int], arriving: set[int], wanted: set[int]
) -> None:
    async def scene(to: Iterable[int] | bytes) -> object:
        rig = Rig(output_cap_bytes=len(A))
        for index in here:
            rig.stage.open(100 + index, device=index)
        for index in arriving:
            rig.stage.accept(200 + index)
            rig.stage.feed(200 + index, rig.stage.hello(device=index, connection=2))
        rig.output.full = {100 + index for index in full}
        refused = await rig.run(0, (A, to))
        for _ in arriving:
            rig.stage.answer()
        got = {fd for fd, data in rig.output.out.items() if Kind.MESSAGE in kinds(data)}
        return refused, got

    refused, got = asyncio.run(scene(sorted(wanted)))  # type: ignore[misc]
    assert (refused, got) == asyncio.run(scene(bitmap(*wanted)))
    gone = sorted(wanted - here - arriving)
    slow = sorted(wanted & here & full - arriving)
    assert refused == ([(0, gone, slow)] if gone or slow else [])
    assert got == {200 + i for i in wanted & arriving} | {
        100 + i for i in wanted & here - arriving - full
    }


@both
async def test_messages_reach_a_device_in_the_order_of_the_delivers(to) -> None:  # type: ignore[no-untyped-def]
    rig = Rig()
    rig.stage.open(4, device=7)
    await asyncio.gather(
        rig.run(0, (A, to(7)), (B, to(7))), rig.run(0, (B, as_list(7)), (A, to(7)))
    )
    assert rig.stage.take(4) == A + B + B + A


# A deliver may be here before the answer to the device's registration is.


@both
async def test_an_early_message_comes_right_after_welcome(to) -> None:  # type: ignore[no-untyped-def]
    rig = Rig()
    rig.stage.accept(4)
    rig.stage.feed(4, rig.stage.hello(device=7))
    assert await rig.run(0, (A, to(7)), (B, to(7))) == []
    assert rig.stage.take(4) == b""
    rig.stage.answer()
    sent = rig.stage.take(4)
    assert kinds(sent) == [Kind.WELCOME, Kind.MESSAGE, Kind.MESSAGE] and sent.endswith(A + B)


@both
async def test_an_early_message_is_for_the_new_connection_not_the_older_one(to) -> None:  # type: ignore[no-untyped-def]
    rig = Rig()
    rig.stage.open(4, device=7, connection=1)
    rig.stage.accept(5)
    rig.stage.feed(5, rig.stage.hello(device=7, connection=2))
    assert await rig.run(0, (A, to(7))) == []
    assert rig.stage.take(4) == b""
    rig.stage.answer()
    assert kinds(rig.stage.take(5)) == [Kind.WELCOME, Kind.MESSAGE]
    assert kinds(rig.stage.take(4)) == [Kind.GOAWAY]


@both
async def test_if_the_registration_is_refused_the_standing_session_gets_it(to) -> None:  # type: ignore[no-untyped-def]
    rig = Rig()
    rig.stage.open(4, device=7, connection=5)
    rig.stage.accept(5)
    rig.stage.feed(5, rig.stage.hello(device=7, connection=4))
    await rig.run(0, (A, to(7)))
    rig.stage.answer(status=Status.STALE, value=5)
    assert rig.stage.take(4) == A
    assert goaway_of(rig.stage.take(5)).connection == 5
    # The refused connection lingers for a moment, and is not in the way of what follows.
    assert await rig.run(0, (B, to(7))) == []
    assert rig.stage.take(4) == B


@both
async def test_too_much_before_welcome_is_refused_as_slow(to) -> None:  # type: ignore[no-untyped-def]
    rig = Rig(output_cap_bytes=len(A) + 5)
    rig.stage.accept(4)
    rig.stage.feed(4, rig.stage.hello(device=7))
    assert await rig.run(0, (A, to(7)), (B, to(7))) == [(1, [], [7])]


@both
async def test_a_refused_connection_without_another_one_is_not_there(to) -> None:  # type: ignore[no-untyped-def]
    rig = Rig()
    rig.stage.accept(4)
    rig.stage.feed(4, rig.stage.hello(device=7))
    rig.stage.answer(status=Status.UNKNOWN_DEVICE, value=0)
    assert await rig.run(0, (A, to(7))) == [(0, [7], [])]


# Owners.


async def test_an_older_owner_is_refused_in_its_partition_only() -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    assert await rig.run(0, (A, [7]), fence=5) == []
    with pytest.raises(RpcError, match="fenced"):
        await rig.run(0, (B, [7]), fence=4)
    assert rig.stage.take(4) == A
    assert await rig.run(1, (A, [1]), fence=1) == [(0, [1], [])]
    assert await rig.run(0, (B, [7]), fence=5) == []
    assert await rig.run(0, (B, [7]), fence=6) == []


async def test_a_malformed_deliver_does_not_stop_those_behind_it() -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    bad = rig.delivery.deliver(deliver(0, (A, b"no bitmap at all")))
    assert await rig.run(0, (B, [7])) == []
    with pytest.raises(ValueError):
        await bad
    assert rig.stage.take(4) == B


async def test_too_many_delivers_are_told_to_come_again() -> None:
    rig = Rig()
    waiting = [rig.delivery.deliver(deliver(0, (A, [1]))) for _ in range(Delivery.JOBS)]
    with pytest.raises(RpcError, match="busy"):
        rig.delivery.deliver(deliver(0, (A, [1]), fence=9))
    await asyncio.gather(*waiting)
    assert await rig.run(0, (A, [1])) == [(0, [1], [])], "a refused one is no newer owner"


async def test_a_deliver_whose_caller_has_gone_is_done_all_the_same() -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.delivery.deliver(deliver(0, (A, [7]))).cancel()
    await rig.run(0, (B, [7]))
    assert rig.stage.take(4) == A + B


# Slices.


class SlowOutput(Output):
    """Each message takes 0.1 ms of a clock that only moves here."""

    now = 0.0

    def offer(self, fd: int, message: Item) -> bool:
        self.now += 0.0001
        return super().offer(fd, message)


@both
async def test_a_large_deliver_lets_the_loop_turn(monkeypatch: pytest.MonkeyPatch, to) -> None:  # type: ignore[no-untyped-def]
    """Nothing else waits for longer than some milliseconds, however many rows there are."""
    rows = 2000
    table, output = Table(rows), SlowOutput()
    monkeypatch.setattr(delivery_module, "time", SimpleNamespace(perf_counter=lambda: output.now))
    for fd in range(rows):
        table.add(fd)
        table.open(fd, fd, fd + 1)
    work = Delivery(table, output, lambda fd, message: False, Recalls())  # type: ignore[arg-type]
    future = work.deliver(deliver(0, (A, to(*range(rows)))))
    longest, last = 0.0, output.now
    while not future.done():
        await asyncio.sleep(0)
        longest = max(longest, output.now - last)
        last = output.now
    assert all(output.out[fd] == A for fd in range(rows))
    assert longest < 0.010, f"the loop waited for {longest * 1000:.0f} ms"


async def test_rows_that_come_and_go_between_slices_do_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = 400
    table, output = Table(2 * rows), SlowOutput()
    monkeypatch.setattr(delivery_module, "time", SimpleNamespace(perf_counter=lambda: output.now))
    for fd in range(rows):
        table.add(fd)
        table.open(fd, fd, fd + 1)
    work = Delivery(table, output, lambda fd, message: False, Recalls())  # type: ignore[arg-type]
    future = work.deliver(deliver(0, (A, bitmap(*range(rows)))))
    await asyncio.sleep(0)
    served = set(output.out)
    assert 0 < len(served) < rows
    table.remove(rows - 1)  # gone
    table.add(rows - 1)
    table.open(rows - 1, 5000, 999)  # and its descriptor is another device's
    table.leave(rows - 2)
    await future
    assert set(output.out) == set(range(rows - 2))


# Order, lanes, recalls.


def request(p: int, *deliveries: rpc_pb2.Delivery, priority: int = NORMAL) -> bytes:
    return rpc_pb2.Deliver(
        partition=p, fence=1, deliveries=deliveries, priority=priority
    ).SerializeToString()


def one(frame: bytes, *indexes: int, restart: bool = False, push_id: int = 0) -> rpc_pb2.Delivery:
    return rpc_pb2.Delivery(frame=frame, index=indexes, restart=restart, push_id=push_id)


async def refusals(rig: Rig, body: bytes) -> list[tuple[int, list[int], list[int]]]:
    """(delivery, who was gone, who was slow): sets of devices, here sorted."""
    reply = rpc_pb2.Delivered.FromString(await rig.delivery.deliver(body))
    return [(r.delivery, sorted(r.gone), sorted(r.slow)) for r in reply.refused]


@both
async def test_nothing_overtakes_a_refused_message_until_a_restart(to) -> None:  # type: ignore[no-untyped-def]
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.stage.open(5, device=8)
    rig.output.full = {4}
    assert await rig.run(0, (A, to(7, 8))) == [(0, [], [7])]
    rig.output.full = set()
    assert await rig.run(0, (B, to(7, 8))) == [(0, [], [7])], "there is room, but A is missing"
    assert rig.stage.take(4) == b"" and rig.stage.take(5) == A + B
    high = request(0, one(B, 7), priority=HIGH)
    assert await refusals(rig, high) == [], "another lane has an order of its own"
    again = request(0, one(A, 7, restart=True), one(B, 7))
    assert await refusals(rig, again) == []
    assert rig.stage.take(4) == B + A + B


async def test_a_refused_restart_leaves_it_as_it_was() -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.output.full = {4}
    await rig.run(0, (A, [7]))
    again = request(0, one(A, 7, restart=True), one(B, 7))
    assert await refusals(rig, again) == [(0, [], [7]), (1, [], [7])]
    rig.output.full = set()
    assert await rig.run(0, (B, [7])) == [(0, [], [7])]


@both
async def test_a_new_session_gets_nothing_before_its_beginning(to) -> None:  # type: ignore[no-untyped-def]
    """B was on its way when the session came about; A is lost with the one before."""
    rig = Rig()
    rig.stage.open(4, device=7)
    assert await refusals(rig, request(0, one(A, 7, restart=True))) == []
    rig.stage.hang_up(4)
    rig.stage.open(5, device=7, connection=2)
    whom = {"index": [7]} if isinstance(to(7), list) else {"bitmap": to(7)}
    late, anew = (rpc_pb2.Delivery(frame=f, restart=f == A, **whom) for f in (B, A))
    assert await refusals(rig, request(0, late)) == [(0, [], [7])]
    assert await refusals(rig, request(0, late, priority=HIGH)) == [(0, [], [7])]
    assert await refusals(rig, request(0, anew, late)) == []
    assert rig.stage.take(5) == A + B


@both
async def test_a_session_that_is_still_registering_begins_anew_just_once(to) -> None:  # type: ignore[no-untyped-def]
    rig = Rig()
    rig.stage.accept(4)
    rig.stage.feed(4, rig.stage.hello(device=7))
    whom = {"index": [7]} if isinstance(to(7), list) else {"bitmap": to(7)}
    late, anew = (rpc_pb2.Delivery(frame=f, restart=f == A, **whom) for f in (B, A))
    assert await refusals(rig, request(0, late)) == [(0, [], [7])]
    assert await refusals(rig, request(0, anew)) == []
    rig.stage.answer()
    assert await refusals(rig, request(0, late)) == []
    sent = rig.stage.take(4)
    assert kinds(sent)[0] == Kind.WELCOME and sent.endswith(A + B)


async def test_a_session_that_comes_while_a_campaign_goes_out_gets_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = 400
    table, output = Table(2 * rows), SlowOutput()
    monkeypatch.setattr(delivery_module, "time", SimpleNamespace(perf_counter=lambda: output.now))
    for fd in range(rows):
        table.add(fd)
        table.open(fd, fd, fd + 1)
    table.fresh.clear()
    work = Delivery(table, output, lambda fd, message: False, Recalls())  # type: ignore[arg-type]
    campaign = work.deliver(deliver(0, (A, bitmap(*range(rows))), restart=False))
    await asyncio.sleep(0)
    assert rows - 1 not in output.out
    table.remove(rows - 1)
    table.add(rows)
    table.open(rows, rows - 1, 999)
    (refused,) = rpc_pb2.Delivered.FromString(await campaign).refused
    assert list(refused.slow) == [rows - 1] and rows not in output.out


async def test_early_messages_that_are_lost_are_not_overtaken() -> None:
    for ending in ("closed", "refused while the other is full"):
        rig = Rig()
        rig.stage.open(4, device=7, connection=5)
        rig.stage.accept(5)
        rig.stage.feed(5, rig.stage.hello(device=7, connection=4))
        await refusals(rig, request(0, one(A, 7, restart=True)))
        if ending == "closed":
            rig.stage.hang_up(5)
        else:
            rig.output.full = {4}
            rig.stage.answer(status=Status.STALE, value=5)
            rig.output.full = set()
        assert rig.stage.take(4) == b""
        assert await refusals(rig, request(0, one(B, 7))) == [(0, [], [7])], ending


async def test_what_was_not_even_looked_at_is_not_overtaken_either() -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.stage.open(5, device=8)
    # What waits already, even a new beginning, was decided before, and does not make up for it.
    waiting = [
        rig.delivery.deliver(deliver(0, (A, [8]), restart=False)) for _ in range(Delivery.JOBS - 1)
    ]
    waiting.append(rig.delivery.deliver(deliver(0, (A, [7]))))
    for _ in range(2):
        with pytest.raises(RpcError, match="busy"):
            rig.delivery.deliver(deliver(0, (A, [7])))
    rig.delivery.deliver(request(0, one(B, 7), priority=HIGH))  # another lane has room
    await asyncio.gather(*waiting)
    rig.stage.take(4)
    assert await rig.run(0, (B, [7])) == [(0, [], [7])]
    assert await refusals(rig, request(0, one(A, 7, restart=True))) == []
    assert await refusals(rig, request(0, one(B, 8, restart=True))) == []
    assert rig.stage.take(4) == A


async def test_one_lane_that_is_full_bars_no_other_partition_for_longer_than_its_own_queue() -> (
    None
):
    rig = Rig()
    rig.stage.open(4, device=device_id(1, 7))
    waiting = [rig.delivery.deliver(deliver(0, (A, [1]))) for _ in range(Delivery.JOBS)]
    with pytest.raises(RpcError, match="busy"):
        rig.delivery.deliver(deliver(1, (A, [7])))
    await asyncio.gather(*waiting)
    assert await refusals(rig, request(1, one(A, 7))) == [(0, [], [7])]
    assert await refusals(rig, request(1, one(A, 7, restart=True))) == []
    assert not rig.delivery._barred and not rig.delivery._open


@both
async def test_a_recall_frame_reaches_whoever_is_there(to) -> None:  # type: ignore[no-untyped-def]
    """Not only those with room, or with nothing refused: nobody would tell them again."""
    rig = Rig()
    rig.stage.open(4, device=7)
    frame = recall_frame(99)
    rig.output.full = {4}
    await rig.run(0, (A, [7]))
    assert await rig.run(0, (frame, to(7, 8))) == [(0, [8], [])]
    assert rig.stage.take(4) == frame


async def test_a_high_deliver_does_not_wait_for_a_campaign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = 2000
    table, output = Table(rows), SlowOutput()
    monkeypatch.setattr(delivery_module, "time", SimpleNamespace(perf_counter=lambda: output.now))
    for fd in range(rows):
        table.add(fd)
        table.open(fd, fd, fd + 1)
    work = Delivery(table, output, lambda fd, message: False, Recalls())  # type: ignore[arg-type]
    campaign = work.deliver(deliver(0, (A, bitmap(*range(rows)))))
    await asyncio.sleep(0)
    before = len(output.out)
    await work.deliver(request(0, one(B, rows - 1, restart=True), priority=HIGH))
    assert not campaign.done() and output.out[rows - 1] == B
    assert len(output.out) - before <= 2 * 64 + 1
    await campaign


@both
async def test_while_it_is_silent_no_message_goes_out_and_nothing_overtakes(  # type: ignore[no-untyped-def]
    to,
) -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.stage.table.fresh.clear()
    under_way = rig.delivery.deliver(deliver(0, (A, to(7)), restart=False))
    rig.output.silent = True
    reply = rpc_pb2.Delivered.FromString(await under_way)
    assert [(list(r.gone), list(r.slow)) for r in reply.refused] == [([], [7])]
    with pytest.raises(RpcError, match="busy"):
        rig.delivery.deliver(deliver(0, (B, to(7))))
    assert rig.stage.take(4) == b""
    recall = recall_frame(99)
    assert await rig.run(0, (recall, to(7))) == [] and rig.stage.take(4) == recall
    rig.output.silent = False
    assert await rig.run(0, (B, to(7))) == [(0, [], [7])], "A is missing"
    whom = {"index": [7]} if isinstance(to(7), list) else {"bitmap": to(7)}
    again = rpc_pb2.Delivery(frame=A, restart=True, **whom)
    assert await refusals(rig, request(0, again, one(B, 7))) == []
    assert rig.stage.take(4) == A + B


async def test_early_messages_are_dropped_where_none_may_go_out() -> None:
    rig = Rig()
    rig.stage.accept(4)
    rig.stage.feed(4, rig.stage.hello(device=7))
    assert await refusals(rig, request(0, one(A, 7, restart=True))) == []
    rig.output.silent = True
    rig.stage.answer()
    assert kinds(rig.stage.take(4)) == [Kind.WELCOME]
    rig.output.silent = False
    assert await refusals(rig, request(0, one(B, 7))) == [(0, [], [7])], "A is missing"


@both
async def test_a_recalled_push_is_delivered_no_more(to) -> None:  # type: ignore[no-untyped-def]
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.stage.sessions.recall([Recall(99, 1, NOW_MS + 1000)])
    whom = {"index": [7]} if isinstance(to(7), list) else {"bitmap": to(7)}
    gone = rpc_pb2.Delivery(frame=A, push_id=99, restart=True, **whom)
    other = rpc_pb2.Delivery(frame=B, push_id=98, restart=True, **whom)
    assert await refusals(rig, request(0, gone, other)) == []
    assert rig.stage.take(4) == B and rig.delivery.recalled_total == 1


async def test_a_recall_stops_a_campaign_that_is_being_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = 1000
    table, output, recalls = Table(rows), SlowOutput(), Recalls()
    monkeypatch.setattr(delivery_module, "time", SimpleNamespace(perf_counter=lambda: output.now))
    for fd in range(rows):
        table.add(fd)
        table.open(fd, fd, fd + 1)
    work = Delivery(table, output, lambda fd, message: False, recalls)  # type: ignore[arg-type]
    campaign = rpc_pb2.Delivery(frame=A, bitmap=bitmap(*range(rows)), push_id=99, restart=True)
    future = work.deliver(request(0, campaign))
    await asyncio.sleep(0)
    assert 0 < len(output.out) < rows
    begun = len(output.out)
    recalls.add([Recall(99, 1, 1000)], 10)
    await future
    assert len(output.out) == begun


async def test_a_recalled_message_does_not_wait_for_a_welcome() -> None:
    rig = Rig()
    rig.stage.accept(4)
    rig.stage.feed(4, rig.stage.hello(device=7))
    await refusals(rig, request(0, one(A, 7, push_id=99, restart=True), one(B, 7, push_id=98)))
    rig.stage.sessions.recall([Recall(99, 1, NOW_MS + 1000)])
    rig.stage.answer()
    sent = rig.stage.take(4)
    assert kinds(sent) == [Kind.WELCOME, Kind.MESSAGE] and sent.endswith(B)
