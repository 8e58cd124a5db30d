"""Percentiles of durations in bounded memory: a log-bucket histogram. Pure, no clock."""

from array import array
from collections.abc import Iterable
from typing import Final

_SUB_BITS: Final = 7
_SUB: Final = 1 << _SUB_BITS
"""Buckets between two powers of two: a value is told to within 1/128, below 0.8 %."""
_BUCKETS: Final = (64 - _SUB_BITS + 1) * _SUB


def _bucket(value: int) -> int:
    """Values below 2 * _SUB have a bucket each; above, the leading 8 bits choose it."""
    shift = value.bit_length() - _SUB_BITS - 1
    if shift <= 0:
        return value
    return shift * _SUB + (value >> shift)


def _upper(bucket: int) -> int:
    """The greatest value that falls into `bucket`."""
    if bucket < 2 * _SUB:
        return bucket
    shift = bucket // _SUB - 1
    return ((bucket - shift * _SUB + 1) << shift) - 1


class Histogram:
    """Counts whole numbers (nanoseconds, say) from 0 to 2^63; 58 KiB whatever the count.

    The same layout as HdrHistogram's: each power of two is cut into equal parts, so the error is
    relative and the same for a microsecond and a minute.
    """

    __slots__ = ("_counts", "count", "greatest", "least")

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * _BUCKETS))
        self.count = 0
        self.least = 0
        self.greatest = 0

    def record(self, value: int) -> None:
        """Count one value; a negative one (two clocks that disagree) counts as 0."""
        value = max(value, 0)
        self._counts[_bucket(value)] += 1
        self.least = value if self.count == 0 else min(self.least, value)
        self.greatest = max(self.greatest, value)
        self.count += 1

    def percentile(self, share: float) -> int | None:
        """The least value that at least `share` (0..1) of all are at or below; None when empty.

        Told as the upper end of its bucket, so never too low and at most 1/128 too high.
        """
        if self.count == 0:
            return None
        wanted = max(1, -int(-share * self.count // 1))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return min(_upper(bucket), self.greatest)
        return self.greatest

    def to_pairs(self) -> list[tuple[int, int]]:
        """(greatest value of the bucket, count) of each that is not empty, ascending."""
        return [(_upper(i), count) for i, count in enumerate(self._counts) if count]

    def add_pairs(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Merge what `to_pairs` of another histogram gave; its extremes become bucket ends."""
        for value, count in pairs:
            self._counts[_bucket(value)] += count
            self.least = value if self.count == 0 else min(self.least, value)
            self.greatest = max(self.greatest, value)
            self.count += count


def milliseconds(nanoseconds: int | None) -> float | None:
    """Rounded to the microsecond, for reports."""
    return None if nanoseconds is None else round(nanoseconds / 1e6, 3)
