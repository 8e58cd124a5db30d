"""Backlogs of many devices at once: to each what it would get alone, in turns of bounded size."""

from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.dispatch import backlog
from gateway.dispatch.backlog import Waiting, Windows
from gateway.lanes import NORMAL
from tests.gateway.dispatch import records
from tests.gateway.dispatch.desk import WINDOW, Desk, pairs, received, to_one

DEVICES = range(4)


def alone(met: list[int], sent_to: int, window: int) -> tuple[list[int], bool]:
    """(what one device gets of what is pending for it, is more left)"""
    under_way = [order for order in met if order <= sent_to]
    unsent = [order for order in met if order > sent_to]
    room = window - len(under_way)
    goes = unsent[: max(0, room)] if room >= window // 2 else []
    return goes, len(goes) < len(unsent)


@given(
    st.lists(st.sets(st.sampled_from(DEVICES)), max_size=40),
    st.dictionaries(st.sampled_from(DEVICES), st.integers(0, 30)),
    st.integers(1, 9),
)
def test_each_gets_what_it_would_get_alone(
    pushes: list[set[int]], sent_to: dict[int, int], window: int
) -> None:
    lane = Windows(BitMap(DEVICES), sent_to, window)
    got: dict[int, list[int]] = {index: [] for index in DEVICES}
    for order, pending in enumerate(pushes):
        for index in lane.meet(order, BitMap(pending) & lane.open):
            got[index].append(order)
    for index in DEVICES:
        met = [order for order, pending in enumerate(pushes) if index in pending]
        goes, more = alone(met, sent_to.get(index, -1), window)
        assert (got[index], index in lane.behind) == (goes, more)
        assert (index in lane.open) != more
        if more:
            assert lane.last.get(index) == (goes[-1] if goes else None)


def storm(devices: int, edges: int) -> Desk:
    """Three campaigns to everybody, and everybody comes while nobody is looked at."""
    desk = Desk()
    for edge in range(1, edges + 1):
        desk.link_up(edge)
    everybody = range(devices)
    desk.fold(records.sessions(1, everybody, everybody, app=1))
    desk.fold(*[records.push(n, everybody=True, accepted_ms=5) for n in (1, 2, 3)])
    desk.rests = True
    for at in range(0, devices, 50):
        edge = 1 + at // 50 % edges
        assert desk.fold(records.sessions(edge, range(at, at + 50), app=1, epoch=at + 1)) == []
    return desk


def test_who_has_come_meanwhile_has_its_backlog_together_in_bounded_turns() -> None:
    desk = storm(1_200, 2)
    turns = []
    while desk.sending.waiting:
        turns.append(desk.sending.look())
    assert len(turns) == 4, "600 devices of each edge, 500 a turn"
    for sends in turns:
        assert [send.push.push_id for send in sends] == [1, 2, 3], "however many devices"
        assert len({send.edge for send in sends}) == 1
        assert all(len(send.devices) <= backlog._TURN for send in sends)
    found = sorted(pair for sends in turns for pair in pairs(sends))
    assert found == [(index, n) for index in range(1_200) for n in (1, 2, 3)]


def test_singles_count_in_a_turn() -> None:
    desk = Desk()
    everybody = range(0, 200, 2)
    desk.link_up(1)
    desk.fold(records.sessions(1, everybody, everybody))
    desk.fold(*[to_one(1_000 * n + i, i) for i in everybody for n in range(1, 21)])
    desk.rests = True
    desk.fold(records.sessions(1, everybody, epoch=500))
    sizes = []
    while desk.sending.waiting:
        sends = desk.sending.look()
        sizes.append(len({device for device, _ in pairs(sends)}))
    assert sum(sizes) == 100 and max(sizes) <= backlog._TURN // 20


def test_receipts_of_many_bring_their_next_windows_together() -> None:
    desk = Desk()
    desk.link_up(1)
    everybody = range(100)
    desk.fold(records.sessions(1, everybody, everybody, app=1))
    desk.fold(*[records.push(n, everybody=True, accepted_ms=5) for n in range(1, 8)])
    desk.fold(records.sessions(1, everybody, app=1, epoch=200))
    desk.rests = True
    desk.fold(received(1, *everybody), received(2, *everybody))
    sends = desk.sending.look()
    assert [(send.push.push_id, len(send.devices)) for send in sends] == [(4, 100), (5, 100)]
    assert not desk.sending.waiting


def test_no_device_waits_for_ever_behind_those_that_keep_coming() -> None:
    desk = storm(2_000, 1)
    partition, waiting = desk.partition, desk.sending.waiting
    seen = BitMap()
    for _ in range(4):
        turn = waiting.next(partition)
        assert turn is not None
        seen |= turn.devices
        waiting.look(turn.devices)  # they are back at once
    assert len(seen) == 2_000


def test_who_arrives_is_looked_at_as_new_whatever_it_waited_for() -> None:
    woken: list[int] = []
    desk = storm(50, 1)
    waiting = Waiting(lambda: woken.append(1))
    waiting.look(BitMap([1, 2]), attempt=3)
    waiting.go_on(BitMap([3]), NORMAL)
    waiting.look(BitMap([1]))
    waiting.look(BitMap([1]), attempt=4)
    assert woken == [1], "it is awake"
    turns = []
    while (turn := waiting.next(desk.partition)) is not None:
        turns.append((list(turn.devices), turn.priority, turn.attempt))
    assert turns == [([2], None, 3), ([3], NORMAL, 0), ([1], None, 0)]
    assert not waiting and not waiting.anew
    waiting.go_on(BitMap([3]), NORMAL)
    assert woken == [1, 1]


# Until its turn a device is sent nothing that could come before.


def waits_for_its_look(*logged: bytes) -> Desk:
    desk = Desk()
    desk.link_up(1)
    desk.fold(records.sessions(1, [0]), *logged)
    desk.rests = True
    return desk


def test_what_is_new_waits_with_the_device() -> None:
    desk = waits_for_its_look(records.sessions(1, [], [0]), to_one(1))
    desk.fold(records.sessions(1, [0], epoch=2))
    assert desk.fold(to_one(2), records.push(3, [0, 2])) == []
    desk.rests = False
    assert pairs(desk.looked()) == [(0, 1), (0, 2), (0, 3)]


def test_what_was_decided_for_an_earlier_session_is_void_at_once() -> None:
    desk = waits_for_its_look(to_one(1))
    overtaken = desk.sending.overtaken
    before = overtaken.enter()
    desk.fold(records.sessions(1, [0], epoch=2))
    assert 0 in overtaken.of(before, BitMap([0]))


def test_ttl_0_needs_no_look_and_begins_the_session_at_its_edge() -> None:
    desk = waits_for_its_look(to_one(1))
    desk.sending.anew[NORMAL].clear()
    desk.fold(records.sessions(1, [0], epoch=2))
    assert pairs(desk.fold(to_one(2, ttl_s=0))) == [(0, 2)]
    assert 0 in desk.sending.anew[NORMAL]


def test_receipts_of_an_earlier_session_bring_nothing_that_it_has_lost() -> None:
    desk = waits_for_its_look(
        records.sessions(1, [], [0]),
        *[to_one(n) for n in range(1, 7)],
        records.sessions(1, [0], epoch=2),
    )
    desk.fold(received(1, 0), records.sessions(1, [0], epoch=3))
    assert desk.sending.look() == []
    assert pairs(desk.sending.look()) == [(0, 2), (0, 3), (0, 4)] and WINDOW == 3
