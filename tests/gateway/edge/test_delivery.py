"""Delivers of dispatch nodes, on a table of rows and a recorder for their output."""

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dispatch.contents import recall_frame
from gateway.edge import writing as writing_module
from gateway.edge.delivery import Delivery
from gateway.edge.output import CONTROL, Item
from gateway.edge.recalls import Recall
from gateway.lanes import HIGH
from gateway.rpc import RpcError
from gateway.store.sessions import Status
from protocol.codes import Kind
from protocol.ids import device_id
from protocol.schema import rpc_pb2
from tests.gateway.edge.delivering import (
    A,
    B,
    Output,
    Refused,
    Rig,
    To,
    answer,
    as_list,
    bitmap,
    both,
    many_rows,
    one,
    queued,
    refusals,
    request,
)
from tests.gateway.edge.stage import (
    NOW_MS,
    deliver,
    goaway_of,
    kinds,
    message,
)


@both
async def test_who_is_not_there_and_who_is_full_is_named(to: To) -> None:
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
    counts = rig.writing
    assert (counts.messages_total, counts.gone_total, counts.slow_total) == (2, 2, 1)


async def test_messages_to_the_same_devices_share_a_write() -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.stage.open(5, device=8)
    frames = [message(n) for n in range(1, 6)]
    deliveries = [(frame, bitmap(7, 8, 9)) for frame in frames]
    gone: list[Refused] = [(number, [9], []) for number in range(5)]
    assert await rig.run(0, *deliveries) == gone
    assert rig.output.broadcasts == 1 and rig.writing.messages_total == 10
    assert rig.stage.take(4) == rig.stage.take(5) == b"".join(frames)
    large = message(6, "x" * (writing_module._TOGETHER_BYTES // 2))
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


async def test_what_of_a_shared_write_was_taken_is_not_refused() -> None:
    rig = Rig()
    rig.output = Narrow({4: 1, 5: 3})
    rig.stage.reactor = rig.stage.sessions.reactor = rig.output  # type: ignore[assignment]
    rig.delivery = rig._delivery()
    rig.stage.open(4, device=7)
    rig.stage.open(5, device=8)
    deliveries = [(message(n), bitmap(7, 8)) for n in range(1, 4)]
    assert await rig.run(0, *deliveries) == [(1, [], [7]), (2, [], [7])]
    assert rig.writing.messages_total == 4 and rig.writing.slow_total == 2


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
            rig.writing.messages_total,
            rig.writing.slow_total,
            rig.writing.recalled_total,
        )
        return refused, counted, [rig.stage.take(fd) for fd in (4, 5, 6)]

    assert outcome(apart=False) == outcome(apart=True)


@both
async def test_a_partition_without_sessions(to: To) -> None:
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
    async def scene(to: Iterable[int] | bytes) -> tuple[list[Refused], set[int]]:
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

    refused, got = asyncio.run(scene(sorted(wanted)))
    assert (refused, got) == asyncio.run(scene(bitmap(*wanted)))
    gone = sorted(wanted - here - arriving)
    slow = sorted(wanted & here & full - arriving)
    assert refused == ([(0, gone, slow)] if gone or slow else [])
    assert got == {200 + i for i in wanted & arriving} | {
        100 + i for i in wanted & here - arriving - full
    }


@both
async def test_messages_reach_a_device_in_the_order_of_the_delivers(to: To) -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    await asyncio.gather(
        rig.run(0, (A, to(7)), (B, to(7))), rig.run(0, (B, as_list(7)), (A, to(7)))
    )
    assert rig.stage.take(4) == A + B + B + A


# A deliver may be here before the answer to the device's registration is.


@both
async def test_an_early_message_comes_right_after_welcome(to: To) -> None:
    rig = Rig()
    rig.stage.accept(4)
    rig.stage.feed(4, rig.stage.hello(device=7))
    assert await rig.run(0, (A, to(7)), (B, to(7))) == []
    assert rig.stage.take(4) == b""
    rig.stage.answer()
    sent = rig.stage.take(4)
    assert kinds(sent) == [Kind.WELCOME, Kind.MESSAGE, Kind.MESSAGE] and sent.endswith(A + B)


@both
async def test_an_early_message_is_for_the_new_connection_not_the_older_one(to: To) -> None:
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
async def test_if_the_registration_is_refused_the_standing_session_gets_it(to: To) -> None:
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
async def test_too_much_before_welcome_is_refused_as_slow(to: To) -> None:
    rig = Rig(output_cap_bytes=len(A) + 5)
    rig.stage.accept(4)
    rig.stage.feed(4, rig.stage.hello(device=7))
    assert await rig.run(0, (A, to(7)), (B, to(7))) == [(1, [], [7])]


@both
async def test_a_refused_connection_without_another_one_is_not_there(to: To) -> None:
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
    bad = rig.queued(deliver(0, (A, b"no bitmap at all")))
    assert await rig.run(0, (B, [7])) == []
    with pytest.raises(ValueError):
        await bad
    assert rig.stage.take(4) == B


async def test_too_many_delivers_are_told_to_come_again() -> None:
    rig = Rig()
    waiting = [rig.queued(deliver(0, (A, [1]))) for _ in range(Delivery.JOBS)]
    with pytest.raises(RpcError, match="busy"):
        rig.delivery.deliver(deliver(0, (A, [1]), fence=9))
    await asyncio.gather(*waiting)
    assert await rig.run(0, (A, [1])) == [(0, [1], [])], "a refused one is no newer owner"


async def test_a_deliver_whose_caller_has_gone_is_done_all_the_same() -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.queued(deliver(0, (A, [7]))).cancel()
    await rig.run(0, (B, [7]))
    assert rig.stage.take(4) == A + B


# Slices.


async def test_a_small_deliver_is_done_when_it_comes() -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.stage.table.fresh.clear()
    assert rig.delivery.deliver(deliver(0, (A, [7]))) == b""
    assert rig.stage.take(4) == A and rig.delivery.waiting == 0
    assert await rig.queued(deliver(0, (B, [7]))) == b"" and rig.stage.take(4) == B
    assert rig.delivery.deliver(deliver(0, (A, [7]))) == b"", "another turn"


async def test_many_small_delivers_of_a_turn_have_no_more_time_than_one_large() -> None:
    work, output, _ = many_rows(100)
    answers = [work.deliver(deliver(0, (A, [row]))) for row in range(100)]
    assert 8 <= len(output.out) <= 11, "1 ms"
    waiting = [answer for answer in answers if not isinstance(answer, bytes)]
    assert work.waiting == len(waiting)
    assert await asyncio.gather(*waiting) == [b""] * len(waiting) and len(output.out) == 100


async def test_what_is_begun_and_not_done_goes_on_and_nothing_of_its_lane_passes() -> None:
    rows = 200
    work, output, _ = many_rows(rows)
    campaign = work.deliver(deliver(0, (A, range(rows))))
    assert not isinstance(campaign, bytes) and len(output.out) == 64
    later = work.deliver(deliver(0, (B, [0, rows - 1])))
    assert not isinstance(later, bytes) and output.out[0] == A
    await asyncio.gather(campaign, later)
    assert output.out[0] == output.out[rows - 1] == A + B


async def test_a_high_deliver_passes_no_other_whose_caller_has_gone() -> None:
    rows = 200
    work, output, _ = many_rows(rows)
    orphan = work.deliver(request(0, one(A, *range(rows), restart=True), priority=HIGH))
    assert not isinstance(orphan, bytes)
    orphan.cancel()
    await asyncio.sleep(0)
    work._left_s = 1.0
    await answer(work, request(0, one(B, rows - 1, restart=True), priority=HIGH))
    assert output.out[rows - 1] == A + B


async def test_a_high_deliver_is_done_at_once_beside_what_waits() -> None:
    work, output, _ = many_rows(3)
    campaign = queued(work, deliver(0, (A, [0, 1])))
    await asyncio.sleep(0)
    waiting = queued(work, deliver(0, (A, [0, 1])))
    work._left_s = 1.0
    high = request(0, one(B, 2, restart=True), priority=HIGH)
    assert work.deliver(high) == b"" and output.out[2] == B
    first = queued(work, high)
    work._left_s = 1.0
    assert not isinstance(work.deliver(high), bytes), "in their order"
    await asyncio.gather(campaign, waiting, first)


@both
async def test_a_large_deliver_lets_the_loop_turn(to: To) -> None:
    """Nothing else waits for longer than some milliseconds, however many rows there are."""
    rows = 2000
    work, output, _ = many_rows(rows)
    future = queued(work, deliver(0, (A, to(*range(rows)))))
    longest, last = 0.0, output.now
    while not future.done():
        await asyncio.sleep(0)
        longest = max(longest, output.now - last)
        last = output.now
    assert all(output.out[fd] == A for fd in range(rows))
    assert longest < 0.010, f"the loop waited for {longest * 1000:.0f} ms"


async def test_rows_that_come_and_go_between_slices_do_no_harm() -> None:
    rows = 400
    work, output, table = many_rows(rows)
    future = queued(work, deliver(0, (A, bitmap(*range(rows)))))
    await asyncio.sleep(0)
    served = set(output.out)
    assert 0 < len(served) < rows
    table.remove(rows - 1)  # gone
    table.add(rows - 1)
    table.open(rows - 1, 5000, 999)  # and its descriptor is another device's
    table.leave(rows - 2)
    await future
    assert set(output.out) == set(range(rows - 2))
