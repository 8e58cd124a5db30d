"""What is held back: pushes that are paused or stopped, and devices of paced pushes without permit."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from gateway.dispatch.sending import Sending
from gateway.dispatch.sends import Send
from protocol.schema import log_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.desk import PACING, WINDOW, Desk, online, pairs, received, to_one
from tests.gateway.dispatch.test_sending import Delivery

PAUSE, RESUME, STOP = log_pb2.PAUSE, log_pb2.RESUME, log_pb2.STOP


def paced(push_id: int, *, ttl_s: int = 60, app: int = 1) -> bytes:
    return records.push(push_id, app=app, ttl_s=ttl_s, everybody=True, speed=10)


def offline(*devices: int) -> Desk:
    """Known devices, and a link to the edge that they will come to."""
    desk = online(*devices)
    desk.fold(records.sessions(1, [], devices))
    return desk


# Paused.


def test_nothing_of_a_paused_push_is_sent_whatever_happens() -> None:
    desk = online(0, 2)
    desk.fold(to_one(1), records.push(2, [0, 2]))
    assert desk.fold(records.control(1, PAUSE), records.control(2, PAUSE)) == []
    assert desk.fold(records.sessions(1, [0, 2], epoch=9)) == []
    desk.sending.on_link_down(1)
    assert desk.link_up(1) == []
    desk.sending.on_refused([0], desk.now)
    assert desk.after(3600.0) == []
    # And with a backlog that is larger than a window.
    desk.fold(*[to_one(n) for n in range(3, 10)], records.control(9, PAUSE))
    sends = desk.fold(records.sessions(1, [0], epoch=20))
    for n in range(3, 10):
        sends += desk.fold(received(n, 0))
    assert pairs(sends) == [(0, n) for n in range(3, 9)]


def test_a_decision_that_stood_in_the_log_before_its_push_holds_it_back() -> None:
    desk = online(0, 2)
    desk.fold(*[records.control(n, PAUSE) for n in (1, 2, 3)], records.control(4, STOP))
    fresh = [to_one(1), records.push(2, [0, 2]), to_one(3, ttl_s=0), to_one(4)]
    assert desk.fold(*fresh) == []
    again = [records.control(n, RESUME) for n in (1, 2, 3, 4)]
    assert pairs(desk.fold(*again)) == [(0, 1), (0, 2), (2, 2), (0, 3)]


def test_a_push_that_is_resumed_goes_to_those_who_have_not_received_it() -> None:
    desk = online(0, 2, 4)
    desk.fold(records.push(1, [0, 2, 4, 6]), received(1, 2), records.control(1, PAUSE))
    assert pairs(desk.fold(records.control(1, RESUME))) == [(0, 1), (4, 1)]
    assert desk.fold(records.control(1, RESUME)) == [], "it was not paused any more"
    assert pairs(desk.after(30.0)) == [(0, 1), (4, 1)]


def test_a_paused_push_takes_no_room_in_a_window() -> None:
    desk = offline(0)
    desk.fold(*[to_one(n) for n in range(1, 8)], *[records.control(n, PAUSE) for n in (1, 2, 3)])
    assert pairs(desk.fold(records.sessions(1, [0]))) == [(0, 4), (0, 5), (0, 6)]
    assert pairs(desk.fold(*[received(n, 0) for n in (4, 5, 6)])) == [(0, 7)]
    assert pairs(desk.fold(records.control(2, RESUME))) == [(0, 2)]


def test_what_no_receipt_will_come_of_holds_nothing_back() -> None:
    desk = online(0)
    desk.fold(*[records.control(n, PAUSE) for n in range(1, WINDOW + 2)])
    desk.fold(*[to_one(n) for n in range(1, WINDOW + 2)])
    assert pairs(desk.fold(to_one(20))) == [(0, 20)]
    desk = online(0)
    desk.fold(*[to_one(n, ttl_s=0) for n in range(1, WINDOW + 2)])
    assert pairs(desk.fold(to_one(20))) == [(0, 20)]


def test_a_push_that_is_resumed_behind_a_window_comes_before_what_is_newer() -> None:
    desk = offline(0)
    desk.fold(*[to_one(n) for n in range(1, 8)], records.control(1, PAUSE))
    assert pairs(desk.fold(records.sessions(1, [0]))) == [(0, 2), (0, 3), (0, 4)]
    assert pairs(desk.fold(records.control(1, RESUME))) == [(0, 1), (0, 2), (0, 3)]


def test_what_a_pause_overtakes_on_its_way_makes_room_at_once() -> None:
    desk = offline(0)
    desk.fold(*[to_one(n) for n in range(1, 8)])
    desk.edges_answer = False
    on_the_way = desk.fold(records.sessions(1, [0]))
    desk.fold(*[records.control(n, PAUSE) for n in (1, 2, 3)])
    assert pairs(desk.withdrawn(on_the_way)) == [(0, 4), (0, 5), (0, 6)]
    assert desk.sending.state_of(desk.partition.pushes[1], 0, desk.now).attempt == 0
    assert pairs(desk.fold(records.control(1, RESUME))) == [(0, 1), (0, 4), (0, 5)]


def test_ttl_0_has_its_one_attempt_after_the_pause_if_not_before() -> None:
    desk = online(0, 2)
    desk.fold(records.control(1, PAUSE), records.push(1, everybody=True, ttl_s=0))
    assert pairs(desk.fold(records.control(1, RESUME))) == [(0, 1), (2, 1)]
    on_the_way = desk.fold(records.push(2, everybody=True, ttl_s=0))
    overtaken = [Send(1, on_the_way[0].push, on_the_way[0].devices[:1])]
    desk.fold(records.control(2, PAUSE))
    desk.withdrawn(overtaken)
    assert pairs(desk.fold(records.control(2, RESUME))) == [(0, 2)]
    desk.fold(records.control(2, PAUSE))
    assert desk.fold(records.control(2, RESUME)) == []


def test_a_stopped_push_is_sent_to_nobody_any_more() -> None:
    desk = online(0, 2)
    desk.fold(to_one(1), records.push(2, [0, 2, 4]), received(2, 2))
    pushes = [desk.partition.pushes[n] for n in (1, 2)]
    assert [desk.sending.is_open(push) for push in pushes] == [True, True]
    assert desk.fold(records.control(1, STOP), records.control(2, STOP)) == []
    assert [desk.sending.is_open(push) for push in pushes] == [False, False]
    assert desk.after(3600.0) == []
    assert desk.fold(records.sessions(1, [0, 2, 4], epoch=5)) == []
    assert desk.fold(records.control(1, RESUME), records.control(2, RESUME)) == []


# Paced.


def test_no_device_of_a_paced_push_goes_without_permit() -> None:
    desk = online(0, 2, 4)
    assert pairs(desk.fold(paced(1), records.push(2, [0]))) == [(0, 2)]
    assert pairs(desk.fold(records.sessions(1, [0, 2], epoch=9))) == [(0, 2)]
    desk.sending.on_link_down(1)
    assert pairs(desk.link_up(1)) == [(0, 2)]
    assert pairs(desk.after(30.0)) == [(0, 2)]
    assert desk.sending.wanted(desk.now) == {1: 3}
    assert pairs(desk.sending.release(1, 2, desk.now)) == [(0, 1), (2, 1)]
    assert desk.sending.wanted(desk.now) == {1: 1}
    assert len(desk.sending.held) == 1


def test_who_was_let_go_is_sent_to_again_without_another_permit() -> None:
    desk = online(0, 2)
    desk.fold(paced(1))
    desk.handed_over(desk.sending.release(1, 1, desk.now))
    assert pairs(desk.after(30.0)) == [(0, 1)]
    assert pairs(desk.fold(records.sessions(1, [0, 2], epoch=9))) == [(0, 1)]


def test_only_who_could_be_sent_to_now_is_wanted_and_let_go() -> None:
    desk = Desk()
    desk.link_up(1)
    desk.fold(records.sessions(1, range(0, 12, 2)), records.sessions(2, [12]))
    backlog = [to_one(n) for n in range(10, 10 + WINDOW + 2)]
    desk.fold(records.sessions(1, [], [0, 2]), *backlog, records.sessions(1, [0]))
    desk.fold(paced(1), received(1, 4))
    # 0 is behind, 2 offline, 4 has it already, 12 is at an edge without a link.
    assert desk.sending.wanted(desk.now) == {1: 3}
    assert pairs(desk.sending.release(1, 99, desk.now)) == [(6, 1), (8, 1), (10, 1)]
    desk.now += 1
    assert desk.sending.wanted(desk.now) == {}
    desk.fold(records.sessions(1, [2]))
    desk.fold(*[received(n, 0) for n in range(10, 10 + WINDOW + 2)])
    desk.link_up(2)
    desk.now += 1
    assert desk.sending.wanted(desk.now) == {1: 3}
    assert sorted(pairs(desk.sending.release(1, 99, desk.now))) == [(0, 1), (2, 1), (12, 1)]
    assert not desk.sending.held


def test_permits_of_who_left_meanwhile_go_to_nobody_else_than_those_that_are_there() -> None:
    desk = online(0, 2, 4)
    desk.fold(paced(1))
    assert desk.sending.wanted(desk.now) == {1: 3}
    desk.fold(records.sessions(1, [], [0, 2]))
    assert pairs(desk.sending.release(1, 2, desk.now)) == [(4, 1)]
    assert desk.sending.wanted(desk.now + 1) == {}
    assert desk.sending.release(1, 5, desk.now) == []


def test_a_paced_push_that_is_paused_wants_nothing_and_uses_no_permit() -> None:
    desk = online(0, 2)
    desk.fold(records.control(1, PAUSE), paced(1))
    assert desk.sending.wanted(desk.now) == {}
    assert desk.sending.release(1, 1, desk.now) == []
    assert desk.fold(records.control(1, RESUME)) == [], "resumed, but still without permit"
    assert desk.sending.wanted(desk.now + 1) == {1: 2}


def test_what_a_pause_overtakes_of_a_paced_push_needs_another_permit() -> None:
    desk = online(0, 2)
    desk.fold(paced(1))
    on_the_way = desk.sending.release(1, 2, desk.now)
    desk.fold(records.control(1, PAUSE))
    assert desk.withdrawn(on_the_way) == []
    assert desk.fold(records.control(1, RESUME)) == []
    assert desk.sending.wanted(desk.now + 1) == {1: 2}
    # When it was on its way for the second time, too.
    desk.handed_over(desk.sending.release(1, 2, desk.now))
    desk.edges_answer = False
    on_the_way = desk.after(30.0)
    assert pairs(on_the_way) == [(0, 1), (2, 1)]
    desk.fold(records.control(1, PAUSE))
    desk.withdrawn(on_the_way)
    desk.fold(records.control(1, RESUME))
    assert desk.after(3600.0) == []


def test_a_push_that_is_over_wants_nothing_and_is_forgotten() -> None:
    for over in (records.control(1, STOP), records.due(expired=[1])):
        desk = online(0, 2)
        desk.fold(paced(1))
        assert desk.sending.wanted(desk.now) == {1: 2}
        desk.fold(over)
        assert desk.sending.wanted(desk.now) == {}
        assert not desk.sending.held
        desk.fold(paced(2), records.control(2, STOP))
        assert desk.sending.release(2, 2, desk.now) == []
        assert not desk.sending.held


def test_nothing_is_kept_of_a_push_that_ends_unseen_by_those_it_waited_for() -> None:
    desk = offline(0, 2)
    desk.fold(paced(1), records.control(2, PAUSE))
    desk.fold(records.sessions(1, [0, 2]), records.push(2, everybody=True, ttl_s=0))
    desk.fold(records.sessions(1, [], [0, 2]))
    assert desk.sending.held and desk.sending._untried
    desk.fold(records.due(expired=[1, 2]))
    assert not desk.sending.held and not desk.sending._untried


def test_an_heir_holds_all_that_is_pending_again() -> None:
    desk = online(0, 2, 4)
    desk.fold(paced(1))
    desk.sending.release(1, 2, desk.now)
    desk.fold(received(1, 0))
    heir = Sending(desk.partition, PACING)
    heir.on_live()
    heir.on_link_up(1)
    assert heir.look() == []
    assert heir.wanted(desk.now) == {1: 2}


def test_counting_again_waits_a_quarter_of_a_second() -> None:
    """Arrivals come by the thousand; each count goes over all held devices."""
    desk = online(0)
    desk.fold(records.sessions(1, [2]), records.sessions(1, [], [2]), paced(1))
    assert desk.sending.wanted(desk.now) == {1: 1}
    desk.fold(records.sessions(1, [2]))
    assert desk.sending.wanted(desk.now + 0.2) == {1: 1}
    assert desk.sending.wanted(desk.now + 0.25) == {1: 2}


# Why it is not sent now.


def test_what_is_known_of_one_push_on_its_way_to_one_device() -> None:
    desk = online(0)
    desk.fold(to_one(1), records.sessions(2, [2]), to_one(2, 2), paced(3), to_one(4, 4))
    pushes, sending = desk.partition.pushes, desk.sending
    assert sending.state_of(pushes[1], 0, desk.now + 5) == (1, 5.0, "")
    desk.after(30.0)
    assert sending.state_of(pushes[1], 0, desk.now + 3) == (2, 3.0, "")
    assert sending.state_of(pushes[2], 2, desk.now) == (0, None, "no_link")
    assert sending.state_of(pushes[3], 0, desk.now) == (0, None, "paced")
    assert sending.state_of(pushes[4], 4, desk.now) == (0, None, "")
    sending.on_refused([0], desk.now)
    assert sending.state_of(pushes[1], 0, desk.now).why == "refused"
    desk.fold(records.control(1, PAUSE))
    assert sending.state_of(pushes[1], 0, desk.now).why == "paused"
    desk.fold(received(1, 0))
    assert sending.state_of(pushes[1], 0, desk.now).why == ""


def test_behind_are_those_that_the_window_has_no_room_for() -> None:
    desk = offline(0)
    desk.fold(*[to_one(n) for n in range(1, WINDOW + 2)], records.sessions(1, [0]))
    whys = [desk.sending.state_of(push, 0, desk.now).why for push in desk.partition.pushes.values()]
    assert whys == [""] * WINDOW + ["behind"]


# Everything at once, in any order.


class HeldBack(Delivery):
    """As `Delivery`, and what was decided waits in a queue that decisions of app servers overtake."""

    def __init__(self) -> None:
        super().__init__()
        self.out: list[Send] = []
        self.permits: Counter[int] = Counter()
        self.let_go: dict[int, set[int]] = {}

    @property
    def paused(self) -> set[int]:
        return self.desk.partition.controls.paused

    def go(self, sends: list[Send]) -> None:
        for send in sends:
            assert send.push.push_id not in self.paused
            assert send.edge in self.desk.sending.linked
            assert all(self.desk.partition.edge_of(d) == send.edge for d in send.devices)
        self.out += sends

    @rule()
    def the_queue_goes_out(self) -> None:
        """As the owner does it."""
        batch, self.out = self.out, []
        for send in batch:
            push = send.push
            if push.push_id not in self.paused and self.desk.sending.is_open(push):
                self.send(send)
        overtaken = [send for send in batch if send.push.push_id in self.paused]
        self.go(self.desk.withdrawn(overtaken))

    def send(self, send: Send) -> None:
        push_id = send.push.push_id
        for device in send.devices:
            self.wire.append((device, push_id))
            if send.push.ttl_s == 0:
                key = (device, push_id)
                self.attempts[key] = self.attempts.get(key, 0) + 1
                assert self.attempts[key] == 1, "ttl 0 has one attempt"
        if send.push.speed:
            let_go = self.let_go.setdefault(push_id, set())
            let_go.update(send.devices)
            assert len(let_go) <= self.permits[push_id], "faster than ordered"

    @rule(app=st.integers(1, 2), ttl_s=st.sampled_from([60, 60, 0]))
    def a_paced_push_to_all(self, app: int, ttl_s: int) -> None:
        self.drawn += 1
        self.go(self.desk.fold(paced(self.drawn, ttl_s=ttl_s, app=app)))

    @rule(
        back=st.integers(-2, 6),
        action=st.sampled_from([PAUSE, PAUSE, RESUME, STOP]),
        app=st.integers(1, 2),
    )
    def somebody_decides(self, back: int, action: "log_pb2.Action", app: int) -> None:
        """About a push that is known, or that is still to come."""
        push_id = max(1, self.drawn - back)
        self.go(self.desk.fold(records.control(push_id, action, app=app)))

    @precondition(lambda self: self.desk.sending.held)
    @rule(data=st.data(), count=st.integers(1, 3))
    def permits_come(self, data: st.DataObject, count: int) -> None:
        wanted = self.desk.sending.wanted(self.desk.now)
        if wanted:
            self.permit(data.draw(st.sampled_from(sorted(wanted))), count)

    def permit(self, push_id: int, count: int) -> None:
        self.permits[push_id] += count
        self.go(self.desk.sending.release(push_id, count, self.desk.now))

    @rule()
    def another_owner_takes_over(self) -> None:
        desk = self.desk
        linked = desk.sending.linked
        desk.sending = Sending(desk.partition, PACING)
        self.out.clear()
        self.let_go.clear()
        self.permits.clear()
        for push in desk.partition.campaigns.values():
            if push.speed:  # whether it had its one attempt is not known any more
                for device in push.targeted:
                    self.attempts.pop((device, push.push_id), None)
        desk.sending.on_live()
        for edge in linked:
            self.go(desk.link_up(edge))

    @rule()
    def from_now_on_what_is_sent_arrives(self) -> None:
        desk = self.desk
        self.looking_is_put_off(False)
        for _ in range(600):
            self.the_queue_goes_out()
            while self.wire:
                device, push_id = self.wire.pop(0)
                self.go(desk.fold(received(push_id, device)))
            for push_id, count in desk.sending.wanted(desk.now).items():
                self.permit(push_id, count)
            if self.out:
                continue
            desk.now += 0.3
            sends = desk.next_timer()
            if sends is None and not desk.sending.wanted(desk.now):
                break
            self.go(sends or [])
        for device in range(8):
            if desk.partition.edge_of(device) in desk.sending.linked:
                left = {p.push_id for p in desk.partition.pending_of(device) if p.ttl_s}
                assert left <= self.paused, f"nobody sends these to device {device}"

    def teardown(self) -> None:
        self.from_now_on_what_is_sent_arrives()
        for push_id in sorted(self.paused):
            app = self.desk.partition.pushes[push_id].app
            self.go(self.desk.fold(records.control(push_id, RESUME, app=app)))
        assert not self.paused
        self.from_now_on_what_is_sent_arrives()


TestHeldBack = HeldBack.TestCase
TestHeldBack.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
