from hypothesis import given
from hypothesis import strategies as st

from loadtest.histogram import Histogram, milliseconds

VALUES = st.lists(st.integers(0, 2**63), min_size=1, max_size=200)


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(VALUES, st.floats(0, 1))
def test_percentile_is_at_most_one_part_in_128_too_high(values: list[int], share: float) -> None:
    told = filled(values).percentile(share)
    # The definition, counted out: the least value that `share` of all are at or below.
    exact = min(v for v in values if sum(other <= v for other in values) >= share * len(values))
    assert told is not None and exact <= told <= exact + exact // 128


@given(VALUES, VALUES)
def test_merging_is_recording_both(one: list[int], other: list[int]) -> None:
    merged = filled(one)
    merged.add_pairs(filled(other).to_pairs())
    both = filled(one + other)
    assert merged.to_pairs() == both.to_pairs() and merged.count == both.count


def test_small_values_are_exact() -> None:
    assert [filled([value]).to_pairs() for value in range(256)] == [
        [(value, 1)] for value in range(256)
    ]


def test_empty_and_negative() -> None:
    assert Histogram().percentile(0.5) is None and milliseconds(None) is None
    assert filled([-5]).percentile(1) == 0
    assert milliseconds(1_234_567) == 1.235
