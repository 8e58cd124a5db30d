"""Devices that differ, against a scripted edge: real sockets, a manual clock, no sleeps."""

from collections.abc import Callable, Iterator
from random import Random

import pytest

from loadtest.device_table import CLOSED, OPEN
from loadtest.engine.arrivals import Arrivals
from loadtest.engine.lively_fleet import LivelyFleet
from loadtest.engine.scenario import Doze, Group, Vanish
from loadtest.engine.spread import Fixed
from loadtest.fleet import Plan
from protocol.codes import Kind
from protocol.schema import device_pb2
from tests.loadtest.fleet_setting import Clock
from tests.loadtest.scripted_edge import Peer, ScriptedEdge, message, receipts_of, turn_until

Make = Callable[..., LivelyFleet]
OFTEN = 6000.0


class Stage:
    def __init__(self, edge: ScriptedEdge) -> None:
        self.edge = edge
        self.clock = Clock()
        self.fleets: list[LivelyFleet] = []

    def fleet(
        self, *groups: Group, sizes: list[int] | None = None, sources: tuple[str, ...] = ()
    ) -> LivelyFleet:
        sizes = sizes or [1] * len(groups)
        plan = Plan(address=self.edge.address, devices=sum(sizes), access_key="key", think_s=None)
        fleet = LivelyFleet(plan, groups, sizes, sources, self.clock, Random(1))
        self.fleets.append(fleet)
        return fleet

    def connected(self, group: Group, sources: tuple[str, ...] = ()) -> tuple[LivelyFleet, Peer]:
        fleet = self.fleet(group, sources=sources)
        fleet.dial([0])
        peer = self.edge.accept(fleet)
        self.edge.welcome(peer, heartbeat_s=group.heartbeat_s)
        turn_until(fleet, lambda: fleet.counters.open == 1)
        return fleet, peer

    def later(self, fleet: LivelyFleet, seconds: float) -> None:
        self.clock.now += seconds
        fleet.turn(0)

    def begin_once(self, fleet: LivelyFleet) -> None:
        """What the group does happens one time: the next would be long after."""
        fleet.begin()
        self.later(fleet, 1e-9 + (fleet.behaviour.next_at() or 0.0) - self.clock.now)
        fleet.behaviour.running = False


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ScriptedEdge() as edge:
        stage = Stage(edge)
        yield stage
        for fleet in stage.fleets:
            fleet.close()


def send(fleet: LivelyFleet, peer: Peer, push_id: int) -> None:
    before = fleet.counters.messages
    peer.send(Kind.MESSAGE, message(push_id))
    turn_until(fleet, lambda: fleet.counters.messages == before + 1)


def test_each_group_asks_for_its_own_heartbeat_and_keeps_the_one_agreed(stage: Stage) -> None:
    fleet = stage.fleet(
        Group(name="a", share=0.5, heartbeat_s=10), Group(name="b", share=0.5, heartbeat_s=40)
    )
    fleet.dial([0, 1])
    for agreed in (10, 50):
        stage.edge.welcome(stage.edge.accept(fleet), heartbeat_s=agreed)
    turn_until(fleet, lambda: fleet.counters.open == 2)
    assert [hello.heartbeat_s for hello in stage.edge.hellos] == [10, 40]
    assert (fleet._interval_s(0), fleet._interval_s(1)) == (10, 50)


def test_displays_and_clicks_after_their_times(stage: Stage) -> None:
    fleet, peer = stage.connected(
        Group(name="a", think=Fixed(2.0), clicked=1.0, click_after=Fixed(3.0))
    )
    send(fleet, peer, 7)
    assert receipts_of(peer.read()) == [(1, 7, device_pb2.RECEIVED)]
    stage.later(fleet, 1.9)
    assert receipts_of(peer.read()) == []
    stage.later(fleet, 0.2)
    assert receipts_of(peer.read()) == [(2, 7, device_pb2.DISPLAYED)]
    stage.later(fleet, 3.0)
    assert receipts_of(peer.read()) == [(3, 7, device_pb2.CLICKED)]
    assert (fleet.lively.displayed, fleet.lively.clicked) == (1, 1)


def test_displays_only_its_share(stage: Stage) -> None:
    fleet, peer = stage.connected(Group(name="a", displayed=0.0, clicked=1.0))
    send(fleet, peer, 7)
    stage.later(fleet, 100)
    assert fleet.lively.displayed == fleet.reactions.waiting == 0
    assert receipts_of(peer.read()) == [(1, 7, device_pb2.RECEIVED)]


def test_flaps_and_comes_back(stage: Stage) -> None:
    fleet, peer = stage.connected(Group(name="a", flap_per_min=OFTEN))
    stage.begin_once(fleet)
    assert peer.read() == [] and peer.ended and fleet.lively.flaps == 1
    stage.clock.now += 1
    stage.edge.connect(fleet)
    assert fleet.counters.reconnected == 1


def test_vanishes_without_a_fin_and_comes_back_later(stage: Stage) -> None:
    fleet, peer = stage.connected(
        Group(name="a", vanish=Vanish(per_min=OFTEN, back_after=Fixed(5)))
    )
    stage.begin_once(fleet)
    peer.send(Kind.MESSAGE, message(1))
    stage.later(fleet, 4)
    assert peer.read() == [] and not peer.ended, "nothing is read, nothing is said"
    assert fleet.counters.messages == 0 and fleet.links.in_limbo == 1
    assert fleet.table.phase[0] == CLOSED and fleet.counters.dialled == 1
    stage.clock.now += 1.1
    stage.edge.connect(fleet)
    peer.close()
    turn_until(fleet, lambda: fleet.links.in_limbo == 0)
    assert fleet.counters.open == 1


def test_limbo_is_bounded(stage: Stage) -> None:
    fleet, peer = stage.connected(Group(name="a", switch_per_min=OFTEN))
    fleet.links.most_in_limbo = 1
    stage.begin_once(fleet)
    stage.clock.now += 1
    second = stage.edge.connect(fleet)
    stage.begin_once(fleet)
    fleet.turn(0)
    assert fleet.links.limbo_overflowed == 1 and fleet.links.in_limbo == 1
    assert (peer.read(), peer.ended) == ([], True), "the oldest was closed after all"
    assert (second.read(), second.ended) == ([], False)


def test_switches_to_the_next_source_address(stage: Stage) -> None:
    fleet, peer = stage.connected(Group(name="a", switch_per_min=OFTEN), ("127.0.0.8", "127.0.0.9"))
    assert peer.connection.getpeername()[0] == "127.0.0.8"
    for source in ("127.0.0.9", "127.0.0.8"):
        stage.begin_once(fleet)
        stage.clock.now += 1
        after = stage.edge.connect(fleet)
        assert after.connection.getpeername()[0] == source
    assert peer.read() == [] and not peer.ended and fleet.lively.switches == 2


def test_dozes_neither_reading_nor_writing_and_asks_when_it_wakes(stage: Stage) -> None:
    fleet, peer = stage.connected(
        Group(
            name="a",
            heartbeat_s=10,
            think=Fixed(1.0),
            doze=Doze(per_min=OFTEN, wake_after=Fixed(60)),
        )
    )
    send(fleet, peer, 1)
    assert receipts_of(peer.read()) == [(1, 1, device_pb2.RECEIVED)]
    stage.begin_once(fleet)
    peer.send(Kind.MESSAGE, message(2, sent_ns=str(int(stage.clock.now * 1e9))))
    for _ in range(5):
        stage.later(fleet, 11)
    assert peer.read() == [] and fleet.counters.messages == 1, "no beat, and not given up either"
    assert fleet.counters.open == 1
    stage.later(fleet, 6)
    turn_until(fleet, lambda: fleet.counters.messages == 2)
    stage.later(fleet, 1.1)  # the beat is told to the second
    frames = peer.read()
    assert Kind.PING in [kind for kind, _ in frames]
    assert (2, 1, device_pb2.DISPLAYED) in receipts_of(frames)
    assert (fleet.latency.count, fleet.latency_late.count) == (0, 1), "it could not have had it"


def test_a_dozing_device_finds_out_on_waking_that_it_was_given_up(stage: Stage) -> None:
    fleet, peer = stage.connected(Group(name="a", doze=Doze(per_min=OFTEN, wake_after=Fixed(60))))
    stage.begin_once(fleet)
    peer.close()
    stage.later(fleet, 30)
    assert fleet.counters.open == 1
    stage.later(fleet, 31)
    turn_until(fleet, lambda: fleet.counters.lost == 1)


def test_nat_forgets_an_idle_connection_and_the_device_finds_out_by_its_beats(
    stage: Stage,
) -> None:
    fleet, peer = stage.connected(Group(name="a", heartbeat_s=60, nat_timeout_s=20))
    stage.later(fleet, 15)
    send(fleet, peer, 1)
    peer.read()
    stage.later(fleet, 15)
    assert fleet.lively.nat_drops == 0, "something has passed meanwhile"
    # A beat passes, too, so the moment depends on the first one's.
    for _ in range(8):
        if fleet.lively.nat_drops:
            break
        stage.later(fleet, 8)
    assert fleet.lively.nat_drops == 1
    peer.read()
    peer.send(Kind.MESSAGE, message(2))
    for _ in range(18):
        stage.later(fleet, 10)
        if fleet.counters.silent:
            break
    assert fleet.counters.silent == 1 and fleet.counters.messages == 1
    assert peer.read() == [] and not peer.ended, "its PINGs did not get through, nor did a FIN"


def test_nat_leaves_a_talking_device_alone(stage: Stage) -> None:
    fleet, peer = stage.connected(Group(name="a", heartbeat_s=60, nat_timeout_s=20))
    for push_id in range(1, 20):
        stage.later(fleet, 10)
        send(fleet, peer, push_id)
        peer.read()
    assert fleet.lively.nat_drops == 0


def test_reads_slowly(stage: Stage) -> None:
    fleet, peer = stage.connected(Group(name="a", read_bytes_per_s=100))
    stage.later(fleet, 60)  # what the WELCOME cost is paid
    frame = len(message(1).SerializeToString()) + 2
    for push_id in range(1, 11):
        peer.send(Kind.MESSAGE, message(push_id))
    seconds = 0.0
    while fleet.counters.shown < 10 and seconds < 60:
        stage.later(fleet, 0.1)
        seconds += 0.1
    assert fleet.counters.shown == 10 and fleet.lively.slow_waits >= frame * 10 // 25
    assert seconds >= frame * 10 / 100 * 0.8, "ten messages take as long as their bytes"


def test_calm_lets_everybody_come_back_and_read(stage: Stage) -> None:
    for group in (
        Group(name="a", doze=Doze(per_min=OFTEN, wake_after=Fixed(1000))),
        Group(name="a", vanish=Vanish(per_min=OFTEN, back_after=Fixed(1000))),
        Group(name="a", read_bytes_per_s=1),
    ):
        fleet, peer = stage.connected(group)
        if group.read_bytes_per_s:
            peer.send(Kind.MESSAGE, message(1))
            fleet.turn(0)
        else:
            stage.begin_once(fleet)
        fleet.calm()
        if group.vanish:
            peer = stage.edge.connect(fleet)
        if not group.read_bytes_per_s:
            peer.send(Kind.MESSAGE, message(1))
        turn_until(fleet, lambda fleet=fleet: fleet.counters.shown == 1)
        assert fleet.table.phase[0] == OPEN
        fleet.disconnect([0])


def test_calm_gives_up_what_a_nat_has_forgotten(stage: Stage) -> None:
    fleet, _ = stage.connected(Group(name="a", heartbeat_s=600, nat_timeout_s=5))
    while not fleet.lively.nat_drops:
        stage.later(fleet, 4)
    fleet.calm()
    stage.clock.now += 1
    stage.edge.connect(fleet)
    assert fleet.counters.open == 1


def test_arrivals_keep_to_their_rate_and_mix_the_groups(stage: Stage) -> None:
    fleet = stage.fleet(Group(name="a", share=0.5), Group(name="b", share=0.5), sizes=[50, 50])
    fleet.arrive(Arrivals(10.0))
    fleet.turn(0)
    assert fleet.counters.dialled == 0
    stage.later(fleet, 2.05)
    assert fleet.counters.dialled == 20
    dialled = [row for row in range(100) if fleet.table.fd[row] >= 0]
    assert 7 <= sum(row < 50 for row in dialled) <= 13
    stage.later(fleet, 0.05)
    assert fleet._next_arrival() == pytest.approx(stage.clock.now, abs=0.1)
    fleet.arrive(Arrivals(0))
    stage.later(fleet, 0)
    assert fleet._arrivals is None, "all at once, as far as the bound in flight allows"


def test_tags_are_those_of_the_group_and_what_was_drawn(stage: Stage) -> None:
    fleet = stage.fleet(
        Group(name="a", share=0.5, tags=("phone",), drawn_tags={"vip": 0.5}),
        Group(name="b", share=0.5),
        sizes=[200, 10],
    )
    sets = [fleet.profiles.choices[choice] for choice in fleet.profiles.chosen()]
    assert all("phone" in tags for tags in sets[:200]) and set(sets[200:]) == {frozenset()}
    assert 60 < sum("vip" in tags for tags in sets[:200]) < 140


def test_cuts_a_share(stage: Stage) -> None:
    fleet = stage.fleet(Group(name="a"), sizes=[20])
    fleet.dial(range(20))
    for _ in range(20):
        stage.edge.connect(fleet)
    assert fleet.cut_share(0.0) == 0
    cut = fleet.cut_share(0.5)
    assert 3 <= cut <= 17 and fleet.counters.lost == cut
    assert fleet.cut_share(1.0) == 20 - cut


def test_latencies_are_taken_once(stage: Stage) -> None:
    fleet, _ = stage.connected(Group(name="a"))
    assert fleet.take_latencies()["welcome"].count == 1
    assert fleet.take_latencies()["welcome"].count == 0
