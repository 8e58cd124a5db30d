"""A sample is the same part of the devices each time, and of the size that was asked for."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.dispatch.sampling import PRECISION, bitmap, sample

CHUNK = 65_536
sizes = st.sampled_from([0, 1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1])
fractions = st.sampled_from([0.0, 1.0, 0.5, 1e-4]) | st.floats(0, 1)
salts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
few = settings(max_examples=25, deadline=None)


@few
@given(fractions, salts, st.integers(0, 1023), sizes)
def test_the_same_devices_each_time(fraction: float, salt: str, partition: int, size: int) -> None:
    found = sample(fraction, salt, partition, size)
    assert found == sample(fraction, salt, partition, size)
    assert not found or found.max() < size


def test_the_same_devices_in_every_version() -> None:
    """Campaigns have told the outside who is in: this must not change between releases."""
    assert list(sample(0.0001, "salt", 3, CHUNK)) == PINNED


PINNED = [2257, 11649, 33324, 54757, 55879, 62116]


@few
@given(fractions, fractions, salts, sizes)
def test_a_larger_fraction_contains_a_smaller_one(
    one: float, other: float, salt: str, size: int
) -> None:
    smaller, larger = sorted((one, other))
    assert sample(smaller, salt, 0, size).issubset(sample(larger, salt, 0, size))


@few
@given(fractions, salts, sizes, sizes)
def test_devices_that_come_later_change_nothing_for_the_others(
    fraction: float, salt: str, one: int, other: int
) -> None:
    before, after = sorted((one, other))
    grown = sample(fraction, salt, 5, after)
    grown.remove_range(before, 3 * CHUNK)
    assert grown == sample(fraction, salt, 5, before)


def spread(fraction: float, size: int) -> float:
    """Five standard deviations of a binomial: by chance less than once in a million."""
    return 5 * math.sqrt(size * fraction * (1 - fraction))


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 1 / 3, 0.5, 0.75, 0.999])
def test_as_many_as_were_asked_for(fraction: float) -> None:
    size = 1 << 20
    found = sample(fraction, "share", 1, size)
    assert abs(len(found) - size * fraction) < spread(fraction, size)
    for start in range(0, size, size // 4):  # everywhere, not on the whole only
        part = found.range_cardinality(start, start + size // 4)
        assert abs(part - size / 4 * fraction) < spread(fraction, size // 4)


def test_another_salt_or_partition_is_another_draw() -> None:
    size, fraction = 4 * CHUNK, 0.2
    first = sample(fraction, "a", 0, size)
    others = [("b", 0), ("", 0), ("a ", 0), ("a", 1), ("0 a", 0)]
    for salt, partition in others:
        both = first.intersection_cardinality(sample(fraction, salt, partition, size))
        assert abs(both - size * fraction**2) < spread(fraction**2, size)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_nobody_and_everybody(size: int) -> None:
    less_than_the_precision = 0.4 / (1 << PRECISION)
    everybody = BitMap(range(size)) if size else BitMap()
    for nothing in (0.0, less_than_the_precision):
        assert not sample(nothing, "", 0, size)
    for whole in (1, 1.0, 1 - less_than_the_precision):
        assert sample(whole, "", 0, size) == everybody
    assert sample(1 - 2 / (1 << PRECISION), "", 0, size).issubset(everybody)


@pytest.mark.parametrize("number", [0, 1, 4095, 4096, 4097, CHUNK - 1, CHUNK])
@pytest.mark.parametrize("before", [0, 1])
def test_containers_on_both_sides_of_the_threshold(number: int, before: int) -> None:
    drawn = random.Random(number).sample(range(CHUNK), number)
    expected = BitMap([before * CHUNK + index for index in drawn])
    expected.add(2 * CHUNK)
    bits = bytearray(3 * CHUNK // 8)
    for index in expected:
        bits[index // 8] |= 1 << index % 8
    found = bitmap(bytes(bits))
    assert found == expected
    assert list(found) == sorted(expected)
    told = found.get_statistics()
    assert told["n_bitset_containers"] == (number > 4096)


def test_a_bitmap_of_nothing() -> None:
    assert bitmap(b"") == bitmap(bytes(CHUNK // 8)) == BitMap()
