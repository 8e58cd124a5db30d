"""A bounded series: what merging keeps."""

from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.engine.series import Series


def test_rows_are_columns_and_a_late_column_is_null_before() -> None:
    series = Series()
    series.add(1.0, {"a": 1.0})
    series.add(2.0, {"a": None, "b": 5.0})
    assert series.at_s == [1.0, 2.0]
    assert series.columns == {"a": [1.0, None], "b": [None, 5.0]}
    assert series.last("b") == 5.0 and series.last("c") is None
    assert series.peak("a") == 1.0 and series.peak("c") is None
    assert series.to_dict() == {"at_s": [1.0, 2.0], "stride": 1, "a": [1.0, None], "b": [None, 5.0]}


def test_a_full_table_halves_and_keeps_means_and_worst() -> None:
    series = Series(worst=frozenset({"p99"}), most=4)
    for at in range(4):
        series.add(float(at), {"rate": float(at), "p99": float(at)})
    assert series.stride == 2 and series.at_s == [1.0, 3.0]
    assert series.columns == {"rate": [0.5, 2.5], "p99": [1.0, 3.0]}
    series.add(4.0, {"rate": 4.0, "p99": 9.0})
    assert series.at_s == [1.0, 3.0], "a row needs two samples now"
    series.add(5.0, {"rate": 8.0, "p99": 1.0})
    assert series.columns == {"rate": [0.5, 2.5, 6.0], "p99": [1.0, 3.0, 9.0]}


def test_nothing_measured_takes_the_other() -> None:
    series = Series(most=2)
    series.add(0.0, {"a": None, "b": None})
    series.add(1.0, {"a": 3.0, "b": None})
    assert series.columns == {"a": [3.0], "b": [None]}


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40).map(lambda half: half * 2), st.lists(st.floats(0, 1e6), max_size=400))
def test_never_more_rows_than_allowed_and_no_peak_is_lost(most: int, values: list[float]) -> None:
    series = Series(worst=frozenset({"w"}), most=most)
    for at, value in enumerate(values):
        series.add(float(at), {"w": value, "m": value})
    assert len(series.at_s) < most and series.at_s == sorted(series.at_s)
    assert all(len(column) == len(series.at_s) for column in series.columns.values())
    complete = len(values) // series.stride * series.stride
    assert (series.peak("w") or 0.0) == max(values[:complete], default=0.0)
