"""Delivers in their order, by lane, and without what was recalled."""

import asyncio

import pytest

from gateway.dispatch.contents import recall_frame
from gateway.edge.delivery import Delivery
from gateway.edge.recalls import Recall, Recalls
from gateway.lanes import HIGH
from gateway.rpc import RpcError
from gateway.store.sessions import Status
from protocol.codes import Kind
from protocol.ids import device_id
from protocol.schema import rpc_pb2
from tests.gateway.edge.delivering import (
    A,
    B,
    Rig,
    To,
    answer,
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
    kinds,
)


@both
async def test_nothing_overtakes_a_refused_message_until_a_restart(to: To) -> None:
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
async def test_a_new_session_gets_nothing_before_its_beginning(to: To) -> None:
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
async def test_a_session_that_is_still_registering_begins_anew_just_once(to: To) -> None:
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


async def test_a_session_that_comes_while_a_campaign_goes_out_gets_nothing_of_it() -> None:
    rows = 400
    work, output, table = many_rows(rows)
    table.fresh.clear()
    campaign = queued(work, deliver(0, (A, bitmap(*range(rows))), restart=False))
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
    waiting = [rig.queued(deliver(0, (A, [8]), restart=False)) for _ in range(Delivery.JOBS - 1)]
    waiting.append(rig.queued(deliver(0, (A, [7]))))
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
    waiting = [rig.queued(deliver(0, (A, [1]))) for _ in range(Delivery.JOBS)]
    with pytest.raises(RpcError, match="busy"):
        rig.delivery.deliver(deliver(1, (A, [7])))
    await asyncio.gather(*waiting)
    assert await refusals(rig, request(1, one(A, 7))) == [(0, [], [7])]
    assert await refusals(rig, request(1, one(A, 7, restart=True))) == []
    assert not rig.delivery._barred and not rig.delivery._open


@both
async def test_a_recall_frame_reaches_whoever_is_there(to: To) -> None:
    """Not only those with room, or with nothing refused: nobody would tell them again."""
    rig = Rig()
    rig.stage.open(4, device=7)
    frame = recall_frame(99)
    rig.output.full = {4}
    await rig.run(0, (A, [7]))
    assert await rig.run(0, (frame, to(7, 8))) == [(0, [8], [])]
    assert rig.stage.take(4) == frame


async def test_a_high_deliver_does_not_wait_for_a_campaign() -> None:
    rows = 2000
    work, output, _ = many_rows(rows)
    campaign = queued(work, deliver(0, (A, bitmap(*range(rows)))))
    await asyncio.sleep(0)
    before = len(output.out)
    await answer(work, request(0, one(B, rows - 1, restart=True), priority=HIGH))
    assert not campaign.done() and output.out[rows - 1] == B
    assert len(output.out) - before <= 2 * 64 + 1
    await campaign


@both
async def test_while_it_is_silent_no_message_goes_out_and_nothing_overtakes(
    to: To,
) -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.stage.table.fresh.clear()
    under_way = rig.queued(deliver(0, (A, to(7)), restart=False))
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
async def test_a_recalled_push_is_delivered_no_more(to: To) -> None:
    rig = Rig()
    rig.stage.open(4, device=7)
    rig.stage.sessions.recall([Recall(99, 1, NOW_MS + 1000)])
    whom = {"index": [7]} if isinstance(to(7), list) else {"bitmap": to(7)}
    gone = rpc_pb2.Delivery(frame=A, push_id=99, restart=True, **whom)
    other = rpc_pb2.Delivery(frame=B, push_id=98, restart=True, **whom)
    assert await refusals(rig, request(0, gone, other)) == []
    assert rig.stage.take(4) == B and rig.writing.recalled_total == 1


async def test_a_recall_stops_a_campaign_that_is_being_delivered() -> None:
    rows = 1000
    recalls = Recalls()
    work, output, _ = many_rows(rows, recalls)
    campaign = rpc_pb2.Delivery(frame=A, bitmap=bitmap(*range(rows)), push_id=99, restart=True)
    future = queued(work, request(0, campaign))
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
