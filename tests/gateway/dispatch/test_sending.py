"""Delivery follows state: who is online, can be reached and has something pending gets it.

Time is a number that the tests set.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from pyroaring import BitMap

from gateway.dispatch.sending import Sending
from gateway.dispatch.sends import Send, SendState
from tests.gateway.dispatch import records
from tests.gateway.dispatch.desk import PACING, WINDOW, Desk, online, pairs, received, to_one

# Few, so that much happens to each.
DEVICES = st.integers(0, 2)
EDGES = st.integers(1, 2)
SOME = st.lists(DEVICES, min_size=1, max_size=3, unique=True)


# Each reason to look.


def test_a_new_push_goes_to_who_is_online_and_waits_for_the_others() -> None:
    desk = online(0, 2)
    desk.fold(records.sessions(2, [4]))  # at an edge without a link
    sends = desk.fold(records.push(1, [0, 2, 4, 6]), to_one(2), to_one(3, 4))
    assert pairs(sends) == [(0, 1), (2, 1), (0, 2)]


def test_a_session_a_link_and_a_takeover_bring_the_backlog_in_the_order_of_the_log() -> None:
    desk = Desk()
    desk.fold(records.sessions(1, [0, 2]), to_one(1), records.push(2, [0, 2]), to_one(3))
    wanted = [(0, 1), (0, 2), (2, 2), (0, 3)]
    assert pairs(desk.link_up(1)) == wanted
    desk.sending.on_link_down(1)
    assert desk.fold(records.sessions(1, [0])) == []
    assert pairs(desk.link_up(1)) == wanted
    assert pairs(desk.fold(records.sessions(1, [2]))) == [(2, 2)]
    # Another owner begins with the state alone.
    heir = Sending(desk.partition, PACING)
    heir.on_link_up(1)
    assert pairs(heir.look()) == wanted


def test_a_refusal_is_looked_at_again_a_little_later_and_then_less_often() -> None:
    desk = online(0)
    desk.fold(to_one(1))
    waits = []
    for _ in range(9):
        began = desk.now
        desk.sending.on_refused([0], began)
        while not (sends := desk.next_timer()):
            pass
        assert pairs(sends) == [(0, 1)]
        waits.append(desk.now - began)
    assert waits[:6] == [1, 2, 4, 8, 16, 32] and max(waits) <= 64


def test_a_whole_window_refused_at_once_is_one_refusal() -> None:
    desk = online(0)
    desk.fold(to_one(1), to_one(2), to_one(3))
    for _ in range(3):
        desk.sending.on_refused([0], desk.now)
    assert pairs(desk.after(1.0)) == [(0, 1), (0, 2), (0, 3)]
    assert desk.after(20.0) == []


def test_a_refusal_beside_a_look_that_waits_makes_what_is_under_way_void() -> None:
    """The look brings everything again, in order: what went before must not come behind it."""
    desk = online(0)
    desk.fold(to_one(1), to_one(2))
    number = desk.sending.overtaken.enter()
    desk.sending.waiting.look(BitMap([0]))
    desk.sending.on_refused([0], desk.now)
    assert desk.sending.overtaken.of(number, BitMap([0])) == BitMap([0])
    assert pairs(desk.sending.look()) == [(0, 1), (0, 2)], "at its turn, not a second later"


def test_a_new_session_forgets_the_refusals_of_the_one_before() -> None:
    """An early refusal, before the edge had seen its own registration's reply, costs a second."""
    desk = online(0)
    desk.fold(to_one(1))
    for _ in range(8):
        desk.sending.on_refused([0], desk.now)
        desk.next_timer()
    desk.sending.on_refused([0], desk.now)  # long patience by now
    desk.fold(records.sessions(1, [0], epoch=9))
    desk.sending.on_refused([0], desk.now)
    assert pairs(desk.after(1.0)) == [(0, 1)]


def test_who_refuses_for_an_hour_is_not_asked_more_and_more_often() -> None:
    desk = online(0)
    desk.fold(to_one(1, ttl_s=86_400))
    end = desk.now + 3600
    sent = 0
    desk.sending.on_refused([0], desk.now)
    while desk.now < end:
        for device, _ in pairs(desk.next_timer() or []):
            sent += 1
            desk.sending.on_refused([device], desk.now)
    assert sent <= 70


def test_a_message_without_receipt_is_sent_again_with_growing_patience() -> None:
    desk = online(0)
    desk.fold(to_one(1, ttl_s=86_400))
    began, times = desk.now, []
    for _ in range(7):
        assert pairs(desk.next_timer() or []) == [(0, 1)]
        times.append(desk.now - began)
    assert times == [30, 90, 210, 450, 930, 1530, 2130]
    desk.fold(received(1, 0))
    assert desk.next_timer() == [] and desk.next_timer() is None


def test_a_receipt_is_not_missing_before_it_could_be_here() -> None:
    """Not while the log is folded as it was some time ago, and not before the edge had the message."""
    desk = online(0, 2, 4)
    for record in (records.sessions(1, [0, 2, 4]), records.push(1, [0, 2, 4], ttl_s=3600)):
        desk.log.fold(record)
    push = desk.partition.pushes[1]
    desk.sending.on_handed_over(Send(1, push, BitMap([0, 2])), desk.now)
    assert desk.sending.state_of(push, 0, desk.now + 20).sent_s_ago == 20
    assert desk.sending.state_of(push, 4, desk.now) == SendState(0, None, "")
    desk.now += 31
    desk.sending.on_handed_over(Send(1, push, BitMap([4])), desk.now)
    assert desk.sending.on_timer(desk.now, desk.now - 2) == []
    desk.fold(received(1, 0))
    (again,) = desk.sending.on_timer(desk.now, desk.now)
    assert (list(again.devices), again.attempt) == ([2], 1)
    desk.sending.on_handed_over(again, desk.now)
    assert desk.sending.state_of(push, 2, desk.now).attempt == 2
    desk.now += 30
    (other,) = desk.sending.on_timer(desk.now, desk.now)
    assert (list(other.devices), other.attempt) == ([4], 1), "each from when it was handed over"


def test_who_has_receipted_is_not_sent_to_again() -> None:
    desk = online(0, 2, 4)
    desk.fold(records.push(1, [0, 2, 4]), received(1, 2))
    assert pairs(desk.after(30.0)) == [(0, 1), (4, 1)]


# The window.


def test_a_backlog_comes_a_window_at_a_time_complete_and_in_order() -> None:
    desk = Desk()
    desk.link_up(1)
    desk.fold(records.sessions(1, [0]), records.sessions(1, [], [0]))
    desk.fold(*[to_one(n) for n in range(1, 11)])
    under_way = [push for _, push in pairs(desk.fold(records.sessions(1, [0])))]
    seen = []
    while under_way:
        assert len(under_way) <= WINDOW
        push_id = under_way.pop(0)
        seen.append(push_id)
        under_way += [push for _, push in pairs(desk.fold(received(push_id, 0)))]
    assert seen == list(range(1, 11))


def test_live_messages_queue_behind_a_backlog() -> None:
    desk = Desk()
    desk.fold(records.sessions(1, [0]), *[to_one(n) for n in range(1, 6)])
    assert pairs(desk.link_up(1)) == [(0, 1), (0, 2), (0, 3)]
    assert desk.fold(to_one(6)) == [], "4 and 5 come before it"
    assert pairs(desk.fold(received(1, 0), received(2, 0), received(3, 0))) == [
        (0, 4),
        (0, 5),
        (0, 6),
    ]


def test_a_window_that_was_lost_on_the_way_comes_again() -> None:
    """No refusal, no receipt, and more waits behind it."""
    desk = Desk()
    desk.fold(records.sessions(1, [0]), *[to_one(n) for n in range(1, 6)])
    desk.link_up(1)
    assert pairs(desk.after(30.0)) == [(0, 1), (0, 2), (0, 3)]
    assert pairs(desk.after(59.0)) == [], "with growing patience"
    assert pairs(desk.after(1.0)) == [(0, 1), (0, 2), (0, 3)]


def test_a_window_that_expired_unreceipted_does_not_hold_back_the_rest() -> None:
    desk = Desk()
    desk.fold(records.sessions(1, [0]), *[to_one(n) for n in range(1, 6)])
    desk.link_up(1)
    desk.fold(records.due(expired=[1, 2, 3]))
    assert pairs(desk.after(30.0)) == [(0, 4), (0, 5)]


# ttl 0: one attempt within the session that it found.


def test_ttl_0_has_one_attempt() -> None:
    desk = online(0, 2)
    sends = desk.fold(to_one(1, ttl_s=0), records.push(2, everybody=True, ttl_s=0))
    assert pairs(sends) == [(0, 1), (0, 2), (2, 2)]
    desk.sending.on_refused([0], desk.now)
    assert desk.after(300.0) == []
    assert desk.fold(records.sessions(1, [0, 2], epoch=5)) == []
    assert desk.link_up(1) == []


def test_ttl_0_does_not_wait_behind_a_backlog_for_its_only_attempt() -> None:
    desk = Desk()
    desk.fold(records.sessions(1, [0]), *[to_one(n) for n in range(1, 6)])
    desk.link_up(1)
    assert pairs(desk.fold(to_one(8, ttl_s=0), records.push(9, everybody=True, ttl_s=0))) == [
        (0, 8),
        (0, 9),
    ]
    assert pairs(desk.fold(received(1, 0), received(2, 0))) == [(0, 4), (0, 5)]


# Everything at once, in any order.


class Delivery(RuleBasedStateMachine):
    """Whatever has happened: if from now on what is sent arrives, all that is pending arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.wire: list[tuple[int, int]] = []
        self.session: dict[int, int] = {}
        self.sessions = 0
        self.sent: dict[tuple[int, int], list[int]] = {}
        self.attempts: dict[tuple[int, int], int] = {}
        self.drawn = 0

    def go(self, sends: list[Send]) -> None:
        partition = self.desk.partition
        for send in sends:
            for device in send.devices:
                assert partition.edge_of(device) == send.edge, "not where the device is"
                assert send.edge in self.desk.sending.linked
                key = (device, send.push.push_id)
                self.wire.append(key)
                if send.push.ttl_s == 0:
                    self.attempts[key] = self.attempts.get(key, 0) + 1
                    assert self.attempts[key] == 1, "ttl 0 has one attempt"
                    continue
                orders = self.sent.setdefault((device, self.session[device]), [])
                if send.push.order not in orders:
                    assert not orders or send.push.order > max(orders), "out of the log's order"
                    orders.append(send.push.order)

    @rule(edge=EDGES, devices=SOME)
    def sessions_come(self, edge: int, devices: list[int]) -> None:
        self.sessions += 1
        self.session.update(dict.fromkeys(devices, self.sessions))
        self.go(self.desk.fold(records.sessions(edge, devices)))

    @rule(edge=EDGES, devices=SOME)
    def sessions_go(self, edge: int, devices: list[int]) -> None:
        self.go(self.desk.fold(records.sessions(edge, (), devices)))

    @rule(edge=EDGES)
    def an_edge_dies(self, edge: int) -> None:
        self.desk.sending.on_link_down(edge)
        self.go(self.desk.fold(records.edge_down(edge)))

    @rule(edge=EDGES)
    def a_link_comes(self, edge: int) -> None:
        if edge not in self.desk.sending.linked:
            self.go(self.desk.link_up(edge))

    @rule(edge=EDGES)
    def a_link_goes(self, edge: int) -> None:
        self.desk.sending.on_link_down(edge)

    @rule(device=DEVICES, count=st.integers(1, 5), ttl_s=st.sampled_from([60, 60, 0]))
    def pushes_to_one(self, device: int, count: int, ttl_s: int) -> None:
        for _ in range(count):
            self.drawn += 1
            self.go(self.desk.fold(to_one(self.drawn, device, ttl_s)))

    @rule(device=DEVICES, edge=EDGES, count=st.integers(WINDOW + 1, 3 * WINDOW))
    def a_session_meets_a_backlog(self, device: int, edge: int, count: int) -> None:
        self.sessions_go(self.desk.partition.edge_of(device) or edge, [device])
        self.pushes_to_one(device, count, 60)
        self.a_link_comes(edge)
        self.sessions_come(edge, [device])

    @rule(app=st.integers(1, 2), ttl_s=st.sampled_from([60, 60, 0]))
    def a_push_to_all(self, app: int, ttl_s: int) -> None:
        self.drawn += 1
        record = records.push(self.drawn, app=app, ttl_s=ttl_s, everybody=True)
        self.go(self.desk.fold(record))

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def one_arrives(self, data: st.DataObject) -> None:
        device, push_id = self.wire.pop(data.draw(st.integers(0, len(self.wire) - 1)))
        self.go(self.desk.fold(received(push_id, device)))

    @precondition(lambda self: self.wire)
    @rule(data=st.data(), count=st.integers(1, 6))
    def some_are_refused(self, data: st.DataObject, count: int) -> None:
        at = data.draw(st.integers(0, len(self.wire) - 1))
        refused = {device for device, _ in self.wire[at : at + count]}
        del self.wire[at : at + count]
        self.desk.sending.on_refused(refused, self.desk.now)

    @precondition(lambda self: self.wire)
    @rule()
    def all_are_lost_without_a_word(self) -> None:
        self.wire.clear()

    @precondition(lambda self: self.drawn)
    @rule(data=st.data(), count=st.integers(1, 2 * WINDOW))
    def some_expire(self, data: st.DataObject, count: int) -> None:
        first = data.draw(st.integers(1, self.drawn))
        self.go(self.desk.fold(records.due(expired=range(first, first + count))))

    @rule()
    def a_timer_fires(self) -> None:
        self.go(self.desk.next_timer() or [])

    @rule(rests=st.booleans())
    def looking_is_put_off(self, rests: bool) -> None:
        self.desk.rests = rests
        self.go(self.desk.looked())

    @precondition(lambda self: self.desk.sending.waiting)
    @rule()
    def some_are_looked_at(self) -> None:
        self.go(self.desk.handed_over(self.desk.sending.look()))

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.go(self.desk.after(seconds))

    @rule()
    def from_now_on_what_is_sent_arrives(self) -> None:
        partition, sending = self.desk.partition, self.desk.sending
        self.looking_is_put_off(False)
        for _ in range(300):
            while self.wire:
                device, push_id = self.wire.pop(0)
                self.go(self.desk.fold(received(push_id, device)))
            sends = self.desk.next_timer()
            if sends is None:
                break
            self.go(sends)
        for device in range(8):
            if partition.edge_of(device) in sending.linked:
                left = [push.push_id for push in partition.pending_of(device) if push.ttl_s]
                assert left == [], f"nobody sends these to device {device}"

    def teardown(self) -> None:
        self.from_now_on_what_is_sent_arrives()


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
