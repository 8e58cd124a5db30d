"""Lanes: priority, shares, order."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lanes import HIGH, LOW, NORMAL, WEIGHTS, Lanes

PRIORITIES = st.sampled_from(list(WEIGHTS))


def test_what_comes_into_the_high_lane_is_next() -> None:
    lanes: Lanes[str] = Lanes(1)
    lanes.put(NORMAL, "campaign")
    for _ in range(3):
        lanes.charge(NORMAL, 1)
    lanes.put(HIGH, "urgent")
    assert lanes.peek() == (HIGH, "urgent")


def test_shares_while_all_lanes_are_full() -> None:
    lanes: Lanes[int] = Lanes(10)
    for priority in WEIGHTS:
        for n in range(5000):
            lanes.put(priority, n)
    served: Counter[int] = Counter()
    for _ in range(5000):
        found = lanes.take(lambda _: 1)
        assert found is not None
        served[found[0]] += 1
    total = sum(WEIGHTS.values())
    for priority, weight in WEIGHTS.items():
        assert served[priority] == pytest.approx(5000 * weight / total, abs=10 * weight)


def test_a_flood_of_high_ones_starves_nobody() -> None:
    """A high lane that is never empty, nor ever full."""
    lanes: Lanes[str] = Lanes(1)
    lanes.put(LOW, "patient")
    served: list[int] = []
    while LOW not in served and len(served) < 100:
        lanes.put(HIGH, "flood")
        found = lanes.take(lambda _: 1)
        assert found is not None
        served.append(found[0])
    assert served.count(HIGH) <= WEIGHTS[HIGH]


def test_a_costly_item_is_paid_for_in_rounds() -> None:
    lanes: Lanes[str] = Lanes(1)
    lanes.put(LOW, "large")
    lanes.put(LOW, "next")
    assert lanes.take(lambda _: 1_000_000) == (LOW, "large")
    # Alone it waits for nobody, however much it owes.
    assert lanes.peek() == (LOW, "next")


@given(st.lists(st.tuples(PRIORITIES, st.integers(1, 50))))
def test_every_item_once_and_each_lane_in_its_order(items: list[tuple[int, int]]) -> None:
    lanes: Lanes[tuple[int, int, int]] = Lanes(7)
    for n, (priority, cost) in enumerate(items):
        lanes.put(priority, (n, priority, cost))
    assert len(lanes) == len(items)
    out = []
    while (found := lanes.take(lambda item: item[2])) is not None:
        assert found[0] == found[1][1]
        out.append(found[1])
    assert not lanes and sorted(out) == [(n, p, c) for n, (p, c) in enumerate(items)]
    for priority in WEIGHTS:
        numbers = [n for n, p, _ in out if p == priority]
        assert numbers == sorted(numbers)


def test_dropped_items_leave_the_others_in_order() -> None:
    lanes: Lanes[int] = Lanes(1)
    for n in range(9):
        lanes.put((NORMAL, HIGH, LOW)[n % 3], n)
    assert sorted(lanes.drop(lambda n: n in (0, 4, 5))) == [0, 4, 5]
    assert list(lanes) == [1, 7, 3, 6, 2, 8]
