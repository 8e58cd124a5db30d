"""Who gives how many sessions to whom."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.moving import shares

COUNTS = st.dictionaries(st.integers(1, 60), st.integers(0, 20_000), max_size=60)


def moved(counts: dict[int, int], within: float) -> dict[int, int]:
    after = dict(counts)
    for giver, takers in shares(counts, within).items():
        for taker, sessions in takers.items():
            assert giver != taker and sessions > 0
            after[giver] -= sessions
            after[taker] += sessions
    return after


@given(COUNTS, st.sampled_from([0.01, 0.05, 0.5]))
def test_afterwards_all_have_the_same_give_or_take_one(
    counts: dict[int, int], within: float
) -> None:
    after = moved(counts, within)
    assert sum(after.values()) == sum(counts.values())
    if after != counts:
        assert max(after.values()) - min(after.values()) <= 1
        assert not shares(after, within), "and then there is nothing left to do"
    elif counts and sum(counts.values()):
        mean = sum(counts.values()) / len(counts)
        assert max(counts.values()) - min(counts.values()) <= max(2, within * mean)


@given(COUNTS)
def test_nobody_both_gives_and_takes(counts: dict[int, int]) -> None:
    moves = shares(counts, 0.01)
    takers = {taker for to in moves.values() for taker in to}
    assert not takers & moves.keys()


def test_small_differences_stay() -> None:
    assert shares({1: 1000, 2: 960}, 0.05) == {}
    assert shares({1: 1000, 2: 900}, 0.05) == {1: {2: 50}}
    assert shares({1: 3, 2: 2}, 0.05) == {}, "one more is not moved for ever"
    assert shares({1: 0, 2: 0}, 0.05) == {} == shares({}, 0.05) == shares({4: 9}, 0.05)
