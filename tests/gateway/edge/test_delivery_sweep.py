"""Delivers of the same messages to several partitions, which wait together and go out in one sweep."""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dispatch.contents import recall_frame
from gateway.edge import delivery as delivery_module
from gateway.edge import writing as writing_module
from gateway.edge.output import Item
from gateway.edge.recalls import Recall
from protocol.ids import device_id
from protocol.schema import rpc_pb2
from tests.gateway.edge.delivering import A, B, Output, Rig, bitmap, queued, request
from tests.gateway.edge.stage import NOW_MS, deliver, message

EVERYBODY = bitmap(*range(8))


class Ordered(Output):
    """Keeps in mind to whom it was handed what."""

    def __init__(self) -> None:
        super().__init__()
        self.strides: list[list[int]] = []

    def broadcast(self, fds: Iterable[int], messages: Sequence[Item]) -> dict[int, int]:
        self.strides.append([*fds])
        return super().broadcast(fds, messages)


def three_partitions() -> tuple[Rig, Ordered]:
    """Devices 0 to 7 of each, on descriptors 10, 11, 12 and so on in turns."""
    rig, output = Rig(), Ordered()
    rig.output = rig.stage.reactor = rig.stage.sessions.reactor = output  # type: ignore[assignment]
    rig.delivery = rig._delivery()
    for place in range(24):
        row(rig, 10 + place, place % 3, place // 3)
    rig.stage.table.fresh.clear()
    return rig, output


def row(rig: Rig, fd: int, p: int, index: int) -> None:
    """A session."""
    rig.stage.table.add(fd)
    rig.stage.table.open(fd, device_id(p, index), fd)


def one_row_a_turn(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
    ticks = count(step=delivery_module._SLICE_S / 1.5)
    rig.clock = lambda: next(ticks)
    monkeypatch.setattr(writing_module, "_STRIDE", 1)


async def refused(
    *answers: "asyncio.Future[bytes]",
) -> list[list[tuple[int, list[int], list[int]]]]:
    """For each deliver: (delivery, gone, slow)."""
    replies = [rpc_pb2.Delivered.FromString(await answer) for answer in answers]
    return [
        [(r.delivery, sorted(r.gone), sorted(r.slow)) for r in reply.refused] for reply in replies
    ]


async def test_they_go_out_in_the_order_of_the_descriptors() -> None:
    rig, output = three_partitions()
    answers = [rig.delivery.deliver(deliver(p, (A, EVERYBODY), restart=False)) for p in (2, 0, 1)]
    assert output.strides == [], "the first one waits for others of its turn"
    assert [await answer for answer in answers if not isinstance(answer, bytes)] == [b""] * 3
    assert output.strides == [[*range(10, 34)]]
    assert rig.writing.messages_total == 24 and rig.delivery.waiting == 0


async def test_each_is_told_of_its_own() -> None:
    rig, output = three_partitions()
    output.full = {13, 14}  # device 1 of partitions 0 and 1
    waiting = [
        rig.queued(deliver(p, (A, bitmap(*wanted)), (B, bitmap(*wanted)), restart=False))
        for p, wanted in ((0, (0, 1, 8)), (1, (1, 2)), (2, (9,)))
    ]
    assert await refused(*waiting) == [
        [(0, [8], [1]), (1, [8], [1])],
        [(0, [], [1]), (1, [], [1])],
        [(0, [9], []), (1, [9], [])],
    ]
    assert len(output.strides) == 1 and output.out == {10: A + B, 17: A + B}
    output.full.clear()
    behind = [rig.queued(deliver(p, (B, bitmap(1)), restart=p == 0)) for p in (0, 1)]
    assert await refused(*behind) == [[], [(0, [], [1])]], "until its restart"


@pytest.mark.parametrize(
    "other",
    [
        deliver(1, (B, EVERYBODY), restart=False),
        deliver(1, (A, [0]), restart=False),
        deliver(1, (A, EVERYBODY), (B, EVERYBODY), restart=False),
        deliver(1, (A, EVERYBODY), (A, bitmap(0)), restart=False),
        deliver(1),
    ],
    ids=["other-message", "to-few", "more-messages", "two-runs", "nothing"],
)
async def test_others_go_by_themselves(other: bytes) -> None:
    rig, output = three_partitions()
    first, last = (deliver(p, (A, EVERYBODY), restart=False) for p in (0, 2))
    waiting = [*map(rig.queued, (first, other, last))]
    assert await asyncio.gather(*waiting) == [b""] * 3
    assert output.strides[0] == [*range(10, 34, 3)] and output.strides[-1] == [*range(12, 34, 3)]


async def test_a_second_one_to_a_partition_comes_after_the_first() -> None:
    rig, output = three_partitions()
    waiting = [rig.queued(deliver(p, (A, EVERYBODY), restart=False)) for p in (0, 0, 2)]
    assert await asyncio.gather(*waiting) == [b""] * 3
    behind = sorted([*range(10, 34, 3), *range(12, 34, 3)])
    assert output.strides == [[*range(10, 34, 3)], behind]


async def test_recall_frames_go_by_themselves() -> None:
    rig, output = three_partitions()
    frame = recall_frame(9)
    waiting = [rig.queued(deliver(p, (frame, EVERYBODY), restart=False)) for p in (0, 1)]
    assert await asyncio.gather(*waiting) == [b""] * 2
    assert len(output.strides) == 2


async def test_a_malformed_one_fails_alone() -> None:
    rig, output = three_partitions()
    waiting = [
        rig.queued(deliver(p, (A, to), restart=False))
        for p, to in ((0, EVERYBODY), (1, b"no bitmap at all"), (2, EVERYBODY))
    ]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert results[0] == results[2] == b"" and isinstance(results[1], ValueError)
    assert output.strides == [[*range(10, 34, 3)], [*range(12, 34, 3)]]


async def test_no_more_than_so_many_wait_for_each_other() -> None:
    rig, output = three_partitions()
    most = delivery_module._JOINED
    waiting = [rig.queued(deliver(p, (A, bitmap(0)), restart=False)) for p in range(most + 2)]
    await asyncio.gather(*waiting)
    assert output.strides == [[10, 11, 12]], "devices of the others are not here"
    assert rig.writing.gone_total == most - 1
    for p in (most, most + 1):
        row(rig, 100 + p, p, 0)
    rig.stage.table.fresh.clear()
    output.strides.clear()
    await asyncio.gather(
        *(rig.queued(deliver(p, (A, bitmap(0)), restart=False)) for p in range(most + 2))
    )
    assert output.strides == [[10, 11, 12], [100 + most, 101 + most]]


async def test_it_is_cut_where_there_are_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing_module, "_SWEEP", 10)
    rig, output = three_partitions()
    waiting = [rig.queued(deliver(p, (A, EVERYBODY), restart=False)) for p in range(3)]
    assert await asyncio.gather(*waiting) == [b""] * 3
    assert [len(stride) for stride in output.strides] == [10, 10, 4]
    assert all(stride == sorted(stride) for stride in output.strides)
    assert output.out == dict.fromkeys(range(10, 34), A)


@pytest.mark.parametrize("restart", [False, True])
async def test_rows_that_leave_under_it(monkeypatch: pytest.MonkeyPatch, restart: bool) -> None:
    """Gone, back on another descriptor, another device on theirs, sent away."""
    rig, output = three_partitions()
    one_row_a_turn(monkeypatch, rig)
    table = rig.stage.table
    waiting = [rig.queued(deliver(p, (A, EVERYBODY), restart=restart)) for p in range(3)]
    while len(output.strides) < 3:
        await asyncio.sleep(0)
    gone, away = 30, 33
    back = 31  # to which its device comes back elsewhere, and that of 32 while it is still open
    table.remove(gone)
    row(rig, gone, 0, 100)
    table.remove(back)
    row(rig, 40, 0, 7)
    row(rig, 41, 1, 7)
    table.leave(away)
    assert await refused(*waiting) == [[(0, [], [7])], [(0, [], [7])], []], "a restart is due"
    assert set(output.out) == set(range(10, 30))
    assert rig.writing.messages_total == 20 and rig.writing.gone_total == 2
    assert table._watchers == []


async def test_a_recall_frame_follows_a_device_to_its_new_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody sends it again, and a WELCOME may have been too early to tell of it."""
    rig, output = three_partitions()
    one_row_a_turn(monkeypatch, rig)
    waiting = rig.queued(deliver(0, (recall_frame(9), EVERYBODY), restart=False))
    while len(output.strides) < 3:
        await asyncio.sleep(0)
    rig.stage.table.remove(31)
    row(rig, 40, 0, 7)
    assert await refused(waiting) == [[]]
    assert set(output.out) == {10, 13, 16, 19, 22, 25, 28, 40}


async def test_a_restart_holds_for_those_behind_it_when_it_is_recalled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig, output = three_partitions()
    one_row_a_turn(monkeypatch, rig)
    rig.stage.table.begin_anew(0, 7)
    first = rpc_pb2.Delivery(frame=A, push_id=1, bitmap=EVERYBODY, restart=True)
    waiting = rig.queued(request(0, first, rpc_pb2.Delivery(frame=B, push_id=2, bitmap=EVERYBODY)))
    while len(output.strides) < 3:
        await asyncio.sleep(0)
    rig.stage.sessions.recall([Recall(1, 1, NOW_MS + 1000)])
    assert await refused(waiting) == [[]]
    assert output.out[31] == B


async def test_what_is_recalled_before_it_begins_costs_no_look_at_its_rows() -> None:
    rig, output = three_partitions()
    rig.stage.sessions.recall([Recall(1, 1, NOW_MS + 1000)])
    one = rpc_pb2.Delivery(frame=A, push_id=1, bitmap=bitmap(*range(9)))
    assert await refused(*(rig.queued(request(p, one)) for p in range(3))) == [[]] * 3
    assert output.strides == [] and rig.writing.recalled_total == 3


async def test_a_defect_in_front_of_others_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, output = three_partitions()
    whole = writing_module.to_many

    def broken(request: rpc_pb2.Deliver) -> list[tuple[int, bytes]]:
        if request.partition == 0:
            raise KeyError("a defect")
        return whole(request)

    monkeypatch.setattr(delivery_module, "to_many", broken)
    waiting = [rig.queued(deliver(p, (A, EVERYBODY), restart=False)) for p in range(3)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], KeyError) and results[1:] == [b"", b""]
    assert len(output.strides) == 1


async def test_a_recall_in_the_middle_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, output = three_partitions()
    one_row_a_turn(monkeypatch, rig)
    one, other = (
        rpc_pb2.Delivery(frame=f, push_id=n, bitmap=EVERYBODY) for n, f in ((1, A), (2, B))
    )
    waiting = [rig.queued(request(p, one, other)) for p in range(3)]
    while len(output.strides) < 4:
        await asyncio.sleep(0)
    rig.stage.sessions.recall([Recall(1, 1, NOW_MS + 1000)])
    while len(output.strides) < 6:
        await asyncio.sleep(0)
    rig.stage.sessions.recall([Recall(2, 1, NOW_MS + 1000)])
    assert await asyncio.gather(*waiting) == [b""] * 3
    assert output.out == {**dict.fromkeys(range(10, 14), A + B), 14: B, 15: B}


async def test_from_the_moment_on_at_which_nothing_may_be_sent_all_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig, output = three_partitions()
    one_row_a_turn(monkeypatch, rig)
    waiting = [rig.queued(deliver(p, (A, EVERYBODY), restart=False)) for p in range(3)]
    while len(output.out) < 21:
        await asyncio.sleep(0)
    output.silent = True
    assert await refused(*waiting) == [[(0, [], [7])]] * 3


_PLAN = st.lists(
    st.tuples(
        st.integers(0, 2),  # partition
        st.sampled_from([A, A, A, B]),
        st.sets(st.integers(0, 9), min_size=1),
        st.booleans(),  # a restart?
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150)
@given(plan=_PLAN, full=st.sets(st.integers(10, 33), max_size=5), fresh=st.sets(st.integers(0, 9)))
def test_together_is_as_one_by_one(
    plan: list[tuple[int, bytes, set[int], bool]], full: set[int], fresh: set[int]
) -> None:
    async def outcome(together: bool) -> object:
        rig, output = three_partitions()
        output.full = set(full)
        for index in fresh:
            rig.stage.table.begin_anew(0, index)
        bodies = [deliver(p, (f, bitmap(*to)), restart=restart) for p, f, to, restart in plan]
        if together:
            waiting = [queued(rig.delivery, body) for body in bodies]
            answers = await refused(*waiting)
        else:
            answers = [(await refused(queued(rig.delivery, body)))[0] for body in bodies]
        counts = rig.writing
        return (
            answers,
            dict(output.out),
            counts.messages_total,
            counts.slow_total,
            counts.gone_total,
        )

    assert asyncio.run(outcome(True)) == asyncio.run(outcome(False))


def test_messages_are_told_apart_by_their_push_too() -> None:
    same = rpc_pb2.Delivery(frame=message(1), bitmap=EVERYBODY, push_id=1)
    other = rpc_pb2.Delivery(frame=message(1), bitmap=EVERYBODY, push_id=2)
    to_many = writing_module.to_many
    assert to_many(rpc_pb2.Deliver(deliveries=[same])) != to_many(
        rpc_pb2.Deliver(deliveries=[other])
    )
