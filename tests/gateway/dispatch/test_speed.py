"""A paced push goes at its speed: never faster, and in no second noticeably slower.

Time is a number that the tests set; whoever asks does so as often as a node does, a little irregularly.
"""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dispatch import speed as speed_module
from gateway.dispatch.speed import Dealer, depth
from tests.gateway.dispatch import records
from tests.gateway.dispatch.desk import Desk

MANY = 10**9
SPEEDS = st.one_of(st.integers(1, 20), st.integers(1, 2_000), st.sampled_from([50_000, 1_000_000]))


def dealt(
    dealer: Dealer, speed: int, wants: list[int], seconds: int, seed: int = 0, gap_s: float = 0.025
) -> list[tuple[float, int, int]]:
    """(time, asker, granted), each asker asking about every 20 ms for itself."""
    chance = random.Random(seed)
    next_at = [chance.uniform(0, 0.02) for _ in wants]
    found = []
    while min(next_at) < seconds:
        asker = next_at.index(min(next_at))
        now = next_at[asker]
        found.append((now, asker, dealer.ask(1, speed, asker, wants[asker], now)))
        next_at[asker] = now + chance.uniform(0.015, gap_s)
    return found


@settings(deadline=None, max_examples=60)
@given(SPEEDS, st.lists(st.sampled_from([1, 5, 1_000, MANY]), max_size=4), st.integers(0, 99))
def test_each_second_is_within_five_percent_of_the_speed(
    speed: int, others: list[int], seed: int
) -> None:
    given_in: Counter[int] = Counter()
    for now, _, granted in dealt(Dealer(), speed, [MANY, *others], 8, seed):
        given_in[int(now)] += granted
    for second in range(1, 8):
        assert abs(given_in[second] - speed) <= max(1.0, 0.05 * speed), given_in


@settings(deadline=None, max_examples=60)
@given(
    SPEEDS,
    st.lists(
        st.tuples(st.floats(0, 3), st.integers(0, 3), st.integers(1, MANY)), min_size=1, max_size=60
    ),
)
def test_never_more_than_the_speed_and_the_depth_whatever_is_asked(
    speed: int, questions: list[tuple[float, int, int]]
) -> None:
    """In every stretch of time, after silences, with those who ask coming and going."""
    dealer = Dealer()
    now = 0.0
    found: list[tuple[float, int]] = []
    for gap_s, asker, wanted in questions:
        now += gap_s
        granted = dealer.ask(1, speed, asker, wanted, now)
        assert 0 <= granted <= wanted
        found.append((now, granted))
    for at, (began, _) in enumerate(found):
        total = 0
        for then, granted in found[at:]:
            total += granted
            assert total <= speed * (then - began) + depth(speed) + 1e-6
    assert found[0][1] == 0, "it starts empty"


def test_one_device_a_second_is_one_in_each_second() -> None:
    for wants in ([MANY], [MANY, 40, 7], [9, 9, 9, 9]):
        times = [now for now, _, granted in dealt(Dealer(), 1, wants, 30) if granted]
        waits = [later - now for now, later in itertools.pairwise([0.0, *times])]
        assert all(abs(wait - 1) < 0.06 * len(wants) for wait in waits)


def test_who_asks_seldom_loses_nothing() -> None:
    """The depth of a slow push: a whole token, and what comes until somebody asks."""
    for speed in (1, 3, 50):
        granted = sum(row[2] for row in dealt(Dealer(), speed, [MANY], 60, gap_s=0.24))
        assert 59 * speed <= granted <= 60 * speed


def test_those_who_ask_at_one_moment_get_no_more_than_the_bucket_holds() -> None:
    dealer = Dealer()
    for asker in range(4):
        dealer.ask(1, 20, asker, 100, 0.0)
    at_once = [dealer.ask(1, 20, asker, 100, 0.9) for asker in range(4)]
    assert sum(at_once) == depth(20) == 6


def test_shares_are_in_proportion_to_what_is_wanted() -> None:
    given_to: Counter[int] = Counter()
    for _, asker, granted in dealt(Dealer(), 100, [6_000, 3_000, 1_000], 60):
        given_to[asker] += granted
    assert [given_to[asker] for asker in range(3)] == pytest.approx([3600, 1800, 600], rel=0.03)


def test_who_asks_no_more_keeps_its_share_from_the_others_for_a_second_at_most() -> None:
    for speed in (1, 100):
        dealer = Dealer()
        dealt(dealer, speed, [1_000, 1_000], 5)
        alone = [(5 + t, dealer.ask(1, speed, 0, 1_000, 5 + t)) for t in _times(5.0)]
        assert sum(granted for now, granted in alone if now < 6) >= speed // 2 - 1
        later = sum(granted for now, granted in alone if 6.1 <= now < 9.1)
        assert later == pytest.approx(3 * speed, abs=1 + 0.05 * speed)


def test_who_wants_little_leaves_the_rest_to_the_others() -> None:
    dealer = Dealer()
    given_to: Counter[int] = Counter()
    for t in _times(10.0):
        given_to[0] += dealer.ask(1, 100, 0, MANY, t)
        if given_to[1] < 3:
            given_to[1] += dealer.ask(1, 100, 1, 3 - given_to[1], t)
    assert given_to[0] + given_to[1] == pytest.approx(1000, abs=3)


def test_pushes_have_nothing_to_do_with_one_another() -> None:
    dealer = Dealer()
    given_to: Counter[int] = Counter()
    for t in _times(10.0):
        for push_id, speed in ((1, 10), (2, 1_000), (3, 77)):
            given_to[push_id] += dealer.ask(push_id, speed, 0, MANY, t)
    assert [given_to[n] for n in (1, 2, 3)] == pytest.approx([100, 10_000, 770], rel=0.01, abs=1)


def test_buckets_are_bounded_and_idle_ones_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_module, "_BUCKETS", 3)
    dealer = Dealer()
    for push_id in range(1, 6):
        dealer.ask(push_id, 1, 0, 1, 0.0)
    assert len(dealer) == 3
    assert dealer.ask(5, 1, 0, 1, 1.0) == 1
    assert dealer.ask(1, 1, 0, 1, 1.0) == 0, "dropped, so it starts empty again"
    dealer.ask(9, 1, 0, 1, 20.0)
    assert len(dealer) == 1
    assert dealer.ask(5, 1, 0, 1, 20.0) == 0


def _times(seconds: float) -> list[float]:
    return [n * 0.02 for n in range(int(seconds / 0.02))]


# With what decides about sending: several partitions, asked in rotation as a node does it.


@settings(deadline=None, max_examples=25)
@given(
    st.integers(2, 400),
    st.lists(st.integers(0, 60), min_size=2, max_size=5),
    st.sampled_from([1, 2]),
    st.integers(0, 99),
)
def test_every_device_is_let_go_once_and_not_too_early(
    speed: int, sizes: list[int], nodes: int, seed: int
) -> None:
    chance = random.Random(seed)
    desks = [_partition(size, chance) for size in sizes]
    dealer = Dealer()
    let_go: list[list[int]] = [[] for _ in desks]
    total, now = 0, 0.0
    while any(len(found) < size for found, size in zip(let_go, sizes, strict=True)):
        now += chance.uniform(0.015, 0.03)
        assert now < 2 * sum(sizes) / speed + 60, "somebody is never let go"
        for desk in desks:
            _somebody_comes_or_goes(desk, chance)
        for node in range(nodes):
            mine = range(node, len(desks), nodes)
            wanted = {p: desks[p].sending.wanted(now).get(1, 0) for p in mine}
            if not any(wanted.values()):
                continue
            granted = dealer.ask(1, speed, node, sum(wanted.values()), now)
            for p in chance.sample(list(mine), len(mine)):
                for send in desks[p].sending.release(1, granted, now) if granted else ():
                    let_go[p] += send.devices
                    granted -= len(send.devices)
                    total += len(send.devices)
        assert total <= speed * now + depth(speed)
    assert all(len(set(found)) == len(found) for found in let_go), "one permit each"
    assert not any(desk.sending.held for desk in desks)


def _partition(size: int, chance: random.Random) -> Desk:
    desk = Desk()
    desk.link_up(1)
    desk.fold(records.sessions(1, range(size), app=1))
    assert desk.fold(records.push(1, app=1, ttl_s=86_400, everybody=True, speed=1)) == []
    desk.fold(records.sessions(1, [], [i for i in range(size) if chance.random() < 0.3]))
    return desk


def _somebody_comes_or_goes(desk: Desk, chance: random.Random) -> None:
    """More come than go, so that it ends."""
    known = desk.partition.devices_of(1)
    if known and chance.random() < 0.5:
        index = chance.choice(list(known))
        down = [index] if chance.random() < 0.2 else []
        up = [] if down else [index]
        assert desk.fold(records.sessions(1, up, down, app=1)) == [] or index not in (
            desk.sending.held.of(1)
        )
