"""The fleet's journal: first showings of each device, in their order, told across processes."""

import time
from random import Random

from loadtest.fleet import Fleet, Plan
from loadtest.fleet_process import FleetProcess
from loadtest.floor import Floor, frame_of_size
from protocol.codes import Kind
from tests.loadtest.scripted_edge import ScriptedEdge, message, turn_until

LARGE = (1 << 62) + 1


def test_first_showings_are_kept_in_their_order() -> None:
    with ScriptedEdge() as edge:
        fleet = Fleet(Plan(address=edge.address, devices=2, journal=True), random=Random(1))
        fleet.dial(range(2))
        peers = [edge.connect(fleet) for _ in range(2)]
        began = time.monotonic()
        for push_id in (7, 5, 7, LARGE):
            peers[0].send(Kind.MESSAGE, message(push_id))
        turn_until(fleet, lambda: fleet.counters.messages == 4)
        (lines,) = fleet.journals.values()
        assert [push_id for push_id, _ in lines] == [7, 5, LARGE]
        times = [at for _, at in lines]
        assert began <= times[0] and times == sorted(times) and times[-1] <= time.monotonic()
        fleet.close()


def test_without_the_plan_nothing_is_kept() -> None:
    with ScriptedEdge() as edge:
        fleet = Fleet(Plan(address=edge.address, devices=1), random=Random(1))
        fleet.dial(range(1))
        edge.connect(fleet).send(Kind.MESSAGE, message(7))
        turn_until(fleet, lambda: fleet.counters.shown == 1)
        assert fleet.journals == {}
        fleet.close()


def test_journals_of_a_fleet_in_a_process_of_its_own() -> None:
    with Floor() as floor:
        plan = Plan(address=floor.address, devices=3, bare=True, journal=True)
        with FleetProcess(plan) as fleet:
            fleet.dial(range(3))
            floor.accept(3, 5)
            fleet.wait("open", 3, 5)
            before = time.monotonic()
            floor.write(frame_of_size(120, LARGE, {"sent_ns": "1"}))
            fleet.wait("messages", 3, 5)
            journals = fleet.journals()
            assert journals.keys() == {0, 1, 2}
            for ((push_id, at),) in journals.values():
                assert push_id == LARGE
                assert before <= at <= time.monotonic()
