"""Rows, arrivals, spreads, reactions and the timeline: pure, with literal moments."""

import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.engine.arrivals import Arrivals
from loadtest.engine.reactions import Reaction, Reactions
from loadtest.engine.rows import Mixed, Ranges, apportion, split_evenly
from loadtest.engine.scenario import Event, PushStep
from loadtest.engine.spread import LONGEST_S, Exponential, Fixed, LogNormal, Spread, Uniform
from loadtest.engine.timeline import Moment, in_order, moments

QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(st.integers(0, 10**6), st.lists(st.integers(1, 100), min_size=1, max_size=12))
def test_apportioned_parts_are_whole_near_their_shares_and_complete(
    total: int, weights: list[int]
) -> None:
    shares = [weight / sum(weights) for weight in weights]
    parts = apportion(total, shares)
    assert sum(parts) == total
    assert all(
        abs(part - total * share) <= 1.000001 for part, share in zip(parts, shares, strict=True)
    )


def test_split_evenly() -> None:
    assert split_evenly(10, 3) == [4, 3, 3] and split_evenly(2, 3) == [1, 1, 0]


@QUICK
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_ranges_know_whose_a_row_is(sizes: list[int]) -> None:
    ranges = Ranges(sizes)
    for number, rows in enumerate(ranges.rows):
        assert len(rows) == sizes[number]
        assert all(ranges.of(row) == number for row in rows)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 97, 1000, 19_000])
def test_mixed_has_each_once_and_any_stretch_from_everywhere(count: int) -> None:
    mixed = Mixed(count)
    order = [mixed[at] for at in range(count)]
    assert sorted(order) == list(range(count))
    if count >= 1000:
        tenth = [0] * 10
        for row in order[: count // 10]:
            tenth[row * 10 // count] += 1
        assert max(tenth) - min(tenth) <= count // 100 * 0.4 + 3


def test_arrivals() -> None:
    steady, ramped = Arrivals(10), Arrivals(10, ramp_s=4)
    assert steady.by(0) == 0 and steady.by(2.5) == 25 and steady.when(25) == 2.5
    assert ramped.by(2) == pytest.approx(5) and ramped.by(4) == 20 and ramped.by(5) == 30
    assert math.isinf(Arrivals(0).by(0)) and Arrivals(0).when(99) == 0


@QUICK
@given(st.floats(0.1, 1e4), st.floats(0, 100), st.integers(0, 10**5))
def test_arrivals_when_is_by_turned_round(per_s: float, ramp_s: float, count: int) -> None:
    arrivals = Arrivals(per_s, ramp_s)
    assert arrivals.by(arrivals.when(count)) == pytest.approx(count, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("spread", "median"),
    [
        (Fixed(2.0), 2.0),
        (Uniform(1.0, 3.0), 2.0),
        (Exponential(2.0), 2.0 * math.log(2)),
        (LogNormal(2.0, 0.5), 2.0),
        (LogNormal(2.0, 0.0), 2.0),
    ],
)
def test_spreads_draw_around_their_medians(spread: Spread, median: float) -> None:
    random = Random(1)
    drawn = sorted(spread.draw(random) for _ in range(2000))
    assert drawn[1000] == pytest.approx(median, rel=0.1) and drawn[0] >= 0


def test_heavy_tails_end_at_a_day() -> None:
    random = Random(1)
    for spread in (LogNormal(86_400.0, 5.0), Exponential(86_400.0)):
        assert max(spread.draw(random) for _ in range(200)) == pytest.approx(LONGEST_S)


def test_reactions_come_when_they_are_due_in_whatever_order_they_were_put() -> None:
    reactions = Reactions(most=3)
    assert reactions.next_at() is None
    assert reactions.put(1, 1 << 63, 2, 10.0) and reactions.put(2, 7, 3, 5.0)
    assert list(reactions.take(4.9)) == []
    next_at = reactions.next_at()
    assert next_at is not None and 5.0 < next_at <= 5.06
    assert list(reactions.take(5.06)) == [Reaction(2, 7, 3)] and reactions.waiting == 1
    assert reactions.put(3, 7, 2, 6.0) and reactions.put(4, 7, 2, 6.0)
    assert not reactions.put(5, 7, 2, 6.0) and reactions.dropped == 1
    assert list(reactions.take(11.0)) == [
        Reaction(3, 7, 2), Reaction(4, 7, 2), Reaction(1, 1 << 63, 2)
    ]  # fmt: skip
    assert reactions.waiting == 0 and reactions.put(9, 8, 1, 12.0)
    assert list(reactions.take(13.0)) == [Reaction(9, 8, 1)]


@QUICK
@given(st.lists(st.tuples(st.integers(0, 99), st.floats(0, 60)), max_size=40), st.floats(0, 61))
def test_reactions_lose_nothing_and_are_at_most_a_tick_late(
    put: list[tuple[int, float]], now: float
) -> None:
    reactions = Reactions(most=1000)
    for row, at in put:
        reactions.put(row, row, 2, at)
    taken = [reaction.row for reaction in reactions.take(now)]
    assert all(at <= now for row, at in put if row in taken and [r for r, _ in put].count(row) == 1)
    late = [row for row, at in put if at <= now - 0.0501]
    assert len(taken) >= len(late) and len(taken) + reactions.waiting == len(put)


def step(at_s: float, per_s: float = 0.0, for_s: float = 0.0) -> PushStep:
    return PushStep(at_s=at_s, per_s=per_s, for_s=for_s)


def test_timeline_of_one_and_of_a_rate() -> None:
    assert list(moments([step(3)], 5)) == [Moment(3, 0, 0)]
    assert [m.at_s for m in moments([step(1, 2, 1.5)], 10)] == [1.0, 1.5, 2.0]
    assert [m.at_s for m in moments([step(4, 2)], 5)] == [4.0, 4.5], "to the end of the run"
    assert list(moments([], 5)) == []


def test_timelines_are_one_stream() -> None:
    merged = list(moments([step(1, 10), step(2), step(0, 3)], 4))
    assert [m.at_s for m in merged] == sorted(m.at_s for m in merged)
    assert len(merged) == 30 + 1 + 12


@QUICK
@given(st.floats(0, 100), st.floats(0.01, 1000))
def test_a_rate_adds_nothing_up(at_s: float, per_s: float) -> None:
    stream = moments([step(at_s, per_s)], at_s + 50 / per_s)
    times = [moment.at_s for moment in stream]
    assert len(times) in (50, 51)
    assert all(b - a == pytest.approx(1 / per_s, rel=1e-3) for a, b in pairwise(times))


def test_events_in_order() -> None:
    events = [Event(at_s=5, do="cut"), Event(at_s=1, do="kill_edge")]
    assert [event.at_s for event in in_order(events)] == [1, 5]
