"""What devices do by themselves, with a clock of numbers."""

from collections import Counter
from random import Random

import pytest

from loadtest.engine.behaviour import Act, Behaviour, Doing
from loadtest.engine.rows import Ranges
from loadtest.engine.scenario import Doze, Group, Vanish
from loadtest.engine.spread import Fixed


def behaviour(*groups: Group, size: int = 100) -> Behaviour:
    made = Behaviour(groups, Ranges([size] * len(groups)), Random(7))
    made.begin(0.0)
    return made


def test_nobody_does_anything_unless_told_to() -> None:
    idle = behaviour(Group(name="a"))
    assert idle.next_at() is None and list(idle.due(1e9)) == []


def test_nothing_begins_before_begin() -> None:
    early = Behaviour([Group(name="a", flap_per_min=60)], Ranges([10]), Random(1))
    assert list(early.due(100.0)) == [] and early.next_at() is None


def test_rates_are_each_devices_own_and_of_its_group_alone() -> None:
    acts = behaviour(
        Group(name="a", share=0.5, flap_per_min=6, switch_per_min=3), Group(name="b", share=0.5)
    )
    done = Counter[Act]()
    rows = Counter[int]()
    for second in range(1, 61):
        for act, row in acts.due(float(second)):
            done[act] += 1
            rows[row] += 1
    assert done[Act.FLAP] == pytest.approx(600, rel=0.15)
    assert done[Act.SWITCH] == pytest.approx(300, rel=0.2)
    assert set(rows) <= set(range(100)) and len(rows) > 90, "any of the group, nobody else"


def test_next_at_is_when_something_is_due() -> None:
    acts = behaviour(Group(name="a", flap_per_min=60))
    for _ in range(50):
        at = acts.next_at()
        assert at is not None
        assert list(acts.due(at - 1e-6)) == [] and len(list(acts.due(at))) == 1


def test_a_turn_begins_a_bounded_number_and_goes_on_in_the_next() -> None:
    acts = behaviour(Group(name="a", flap_per_min=6000))
    assert len(list(acts.due(1.0))) == 2000 and len(list(acts.due(1.0))) == 2000


@pytest.mark.parametrize(
    ("group", "begin", "end"),
    [
        (Group(name="a", doze=Doze(per_min=60, wake_after=Fixed(5.0))), Act.DOZE, Act.WAKE),
        (Group(name="a", vanish=Vanish(per_min=60, back_after=Fixed(5.0))), Act.VANISH, Act.RETURN),
    ],
)
def test_who_is_away_begins_nothing_and_comes_back(group: Group, begin: Act, end: Act) -> None:
    acts = behaviour(group, size=1)
    at = acts.next_at()
    assert at is not None and list(acts.due(at)) == [Doing(begin, 0)]
    acts.stays_away(begin, 0, at)
    assert list(acts.due(at + 4.9)) == [], "the only device is away"
    [ended, *_] = acts.due(at + 5.06)
    assert ended == Doing(end, 0)


def test_calm_ends_what_lasts_and_begins_nothing() -> None:
    acts = behaviour(Group(name="a", doze=Doze(per_min=60, wake_after=Fixed(50.0))), size=3)
    for row in (0, 2):
        acts.stays_away(Act.DOZE, row, 1.0)
    assert acts.calm() == [Doing(Act.WAKE, 0), Doing(Act.WAKE, 2)]
    assert list(acts.due(1e6)) == [] and acts.next_at() is None


def test_an_end_that_was_forgotten_or_overtaken_does_not_come() -> None:
    acts = behaviour(Group(name="a", doze=Doze(per_min=0.001, wake_after=Fixed(5.0))), size=2)
    acts.stays_away(Act.DOZE, 0, 0.0)
    acts.forget(0)
    acts.stays_away(Act.DOZE, 0, 2.0)
    assert list(acts.due(6.0)) == [], "of the first doze, whose connection has ended"
    assert list(acts.due(7.1)) == [Doing(Act.WAKE, 0)]
    acts.forget(1)
