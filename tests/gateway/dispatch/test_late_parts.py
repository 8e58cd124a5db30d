"""Parts of a push that waited for room in a log, and come behind pushes that were accepted after theirs."""

import pytest

from gateway.config import Dispatch
from gateway.dispatch.contents import Contents
from gateway.dispatch.links import Links
from gateway.dispatch.owned import Owned, Surroundings
from gateway.dispatch.unanswered import Unanswered
from gateway.lanes import HIGH, WEIGHTS
from gateway.store.client import Store
from gateway.store.leases import Identity
from gateway.store.log import Entry
from protocol.schema import log_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.desk import Desk, pairs, received, to_one
from tests.gateway.dispatch.records import START_MS

LATE_MS = START_MS - 20_000
"""Accepted long before everything else here."""


def test_they_take_their_place_in_the_log_whether_a_device_is_there_or_comes_back() -> None:
    desk = Desk()
    desk.link_up(1)
    desk.fold(records.sessions(1, [0, 2]), records.sessions(1, [], [2]))
    first = desk.fold(to_one(8), records.push(9, [0, 2]), to_one(10, 2))
    late = desk.fold(records.push(1, [0, 2], accepted_ms=LATE_MS))
    assert pairs([*first, *late]) == [(0, 8), (0, 9), (0, 1)]
    assert pairs(desk.fold(records.sessions(1, [2], epoch=9))) == [(2, 9), (2, 10), (2, 1)]
    assert desk.fold(received(9, 2), received(10, 2), received(1, 2)) == []


def test_they_do_not_slip_in_front_of_what_waits_behind_a_window() -> None:
    desk = Desk()
    desk.link_up(1)
    desk.fold(records.sessions(1, [0], [0]), *[to_one(n) for n in range(11, 16)])
    assert pairs(desk.fold(records.sessions(1, [0], epoch=2))) == [(0, 11), (0, 12), (0, 13)]
    assert desk.fold(records.push(1, [0], accepted_ms=LATE_MS)) == []
    got = desk.fold(*[received(n, 0) for n in (11, 12, 13, 14, 15)])
    assert pairs(got) == [(0, 14), (0, 15), (0, 1)]


def test_their_lane_is_their_own() -> None:
    desk = Desk()
    desk.link_up(1)
    desk.fold(records.sessions(1, [0], [0]), *[to_one(n) for n in range(11, 16)])
    desk.fold(records.sessions(1, [0], epoch=2))
    late = records.push(1, [0], accepted_ms=LATE_MS, priority=HIGH)
    assert pairs(desk.fold(late)) == [(0, 1)], "it waits for no window of another lane"


def test_what_was_decided_about_them_before_they_came_holds() -> None:
    desk = Desk()
    desk.link_up(1)
    desk.fold(records.sessions(1, [0]), records.push(9, [0], collapse_key="k"))
    older = records.push(1, [0], accepted_ms=LATE_MS, collapse_key="k")
    assert desk.fold(older) == [], "a newer one has its place"
    desk.fold(records.control(2, log_pb2.RECALL))
    assert desk.fold(records.push(2, [0], accepted_ms=LATE_MS)) == []
    assert [push.final for push in desk.partition.pushes.values()] == [False, True, True]


@pytest.mark.parametrize(("late_s", "sent"), [(29, True), (30, False), (3600, False)])
async def test_with_ttl_0_later_is_never(store: Store, late_s: int, sent: bool) -> None:
    now_ms = START_MS + 7_200_000
    around = Surroundings(
        Dispatch(live_only_s=30.0),
        store,
        Identity("node", 1, 1),
        lambda: now_ms,
        lambda: True,
        Links(b"", lambda _: None, lambda _: None),
        {priority: Unanswered() for priority in WEIGHTS},
        Contents(store, 1 << 20),
    )
    owner = Owned(0, 1, 0, around)
    owner.live = True
    owner.sending.linked.add(1)
    owner.on_entry(Entry(0, f"{now_ms}-0", records.sessions(1, [0, 2])))
    accepted_ms = now_ms - late_s * 1000
    late = records.push(1, everybody=True, ttl_s=0, accepted_ms=accepted_ms)
    owner.on_entry(Entry(0, f"{now_ms}-1", late))
    assert owner.queued == sent
    assert list(owner.partition.campaigns) == [1], "until it expires by way of the log"
