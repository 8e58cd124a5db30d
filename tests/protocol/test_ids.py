"""Ids: which bit says what, and that push ids are unique and ordered whatever the clock does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.ids import (
    EPOCH_MS,
    MAX_DRAWERS,
    MAX_PARTITIONS,
    SEVERAL,
    PushIds,
    device_id,
    push_place,
    split_device_id,
)

TICK_MS = 62.5
free = settings(deadline=None)


def tick(push_id: int) -> int:
    return push_id >> 29


def counter(push_id: int) -> int:
    return push_id >> 11 & 0x3FF


def test_device_id_bits() -> None:
    assert device_id(0, 0) == 0
    assert device_id(7, 42) == 0x0000_0007_0000_002A
    assert device_id(1023, 0xFFFF_FFFF) == 0x0000_03FF_FFFF_FFFF


@given(st.integers(0, MAX_PARTITIONS - 1), st.integers(0, 0xFFFF_FFFF))
def test_device_id_splits_again(partition: int, index: int) -> None:
    assert split_device_id(device_id(partition, index)) == (partition, index)


def test_push_id_bits() -> None:
    first = PushIds(0xA5).draw(EPOCH_MS + 3 * TICK_MS, several=True, partition=0x155)
    assert first == 3 << 29 | 0xA5 << 21 | 0 << 11 | 1 << 10 | 0x155
    assert PushIds(0).draw(EPOCH_MS, several=False, partition=0) == 0


def test_push_id_stays_within_64_bits_until_2092() -> None:
    in_2092 = EPOCH_MS + 67 * 365 * 86_400_000
    last = PushIds(MAX_DRAWERS - 1).draw(in_2092, several=True, partition=MAX_PARTITIONS - 1)
    assert last < 1 << 64


@given(st.booleans(), st.integers(0, MAX_PARTITIONS - 1), st.integers(0, 1 << 41))
def test_push_place(several: bool, partition: int, ms: int) -> None:
    drawn = PushIds(3).draw(EPOCH_MS + ms, several=several, partition=partition)
    assert push_place(drawn) == (several, partition)
    assert bool(drawn & SEVERAL) is several


@pytest.mark.parametrize("number", [-1, MAX_DRAWERS])
def test_a_drawer_needs_a_number_of_eight_bits(number: int) -> None:
    with pytest.raises(ValueError, match="below 256"):
        PushIds(number)


def test_more_than_a_tick_holds_runs_ahead_and_falls_back_in_step() -> None:
    ids = PushIds(1)
    now = EPOCH_MS + 100 * TICK_MS
    drawn = [ids.draw(now, several=False, partition=5) for _ in range(2_500)]
    assert drawn == sorted(set(drawn))
    assert [tick(drawn[n]) for n in (0, 1_023, 1_024, 2_047, 2_048)] == [100, 100, 101, 101, 102]
    assert [counter(drawn[n]) for n in (0, 1_023, 1_024)] == [0, 1_023, 0]
    assert {push_place(one) for one in drawn} == {(False, 5)}
    # Until the clock is past what was used, it goes on from there; then the clock leads again.
    assert tick(ids.draw(now + TICK_MS, several=False, partition=5)) == 102
    later = ids.draw(now + 3 * TICK_MS, several=False, partition=5)
    assert (tick(later), counter(later)) == (103, 0)


def test_clock_set_back() -> None:
    ids = PushIds(1)
    before = ids.draw(EPOCH_MS + 1_000_000, several=False, partition=0)
    after = [ids.draw(EPOCH_MS + 5, several=False, partition=0) for _ in range(3)]
    assert [before, *after] == sorted({before, *after})
    assert tick(after[0]) == tick(before)


def test_clock_before_the_epoch() -> None:
    ids = PushIds(0)
    assert [ids.draw(0, several=False, partition=0) >> 11 for _ in range(3)] == [0, 1, 2]


CLOCK = st.lists(st.floats(0, 4e9, allow_nan=False), min_size=1, max_size=60)
"""Readings of a clock in any order: forth and back."""


@free
@given(CLOCK, st.integers(0, MAX_DRAWERS - 1), st.data())
def test_in_order_whatever_the_clock_says(
    times: list[float], number: int, data: st.DataObject
) -> None:
    ids = PushIds(number)
    last = -1
    for ms in times:
        several = data.draw(st.booleans())
        partition = data.draw(st.integers(0, MAX_PARTITIONS - 1))
        drawn = ids.draw(EPOCH_MS + ms, several=several, partition=partition)
        assert last < drawn < 1 << 64
        assert drawn >> 21 & 0xFF == number
        assert tick(drawn) >= int(ms / TICK_MS)
        assert push_place(drawn) == (several, partition)
        last = drawn


@free
@given(CLOCK, st.sets(st.integers(0, MAX_DRAWERS - 1), min_size=2, max_size=4))
def test_processes_never_draw_the_same(times: list[float], numbers: set[int]) -> None:
    drawers = [PushIds(number) for number in numbers]
    drawn = [ids.draw(EPOCH_MS + ms, several=False, partition=0) for ms in times for ids in drawers]
    assert len(set(drawn)) == len(drawn)
