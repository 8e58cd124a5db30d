"""Which rows are whose: shares of a fleet as ranges, and an order that mixes them. Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from math import gcd
from typing import Final

_GOLDEN: Final = 0.6180339887498949
"""Steps of this part of a circle come near no earlier place for as long as any steps can."""


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """`total` in whole parts, each within one of its share, and the sum exact.

    The largest remainders get what rounding down leaves. `shares` sum up to 1.
    """
    exact = [total * share for share in shares]
    parts = [int(each) for each in exact]
    by_remainder = sorted(range(len(parts)), key=lambda at: parts[at] - exact[at])
    for at in by_remainder[: total - sum(parts)]:
        parts[at] += 1
    return parts


def split_evenly(total: int, parts: int) -> list[int]:
    """The first ones are one larger where it does not come out even."""
    return [total // parts + (number < total % parts) for number in range(parts)]


class Ranges:
    """Groups of rows, one behind the other."""

    __slots__ = ("_begins", "rows")

    def __init__(self, sizes: Sequence[int]) -> None:
        self.rows: list[range] = []
        begin = 0
        for size in sizes:
            self.rows.append(range(begin, begin + size))
            begin += size
        self._begins = [rows.start for rows in self.rows]

    def of(self, row: int) -> int:
        """The number of the row's group. Empty groups have no rows, so none is found."""
        return bisect_right(self._begins, row) - 1


class Mixed:
    """The numbers 0 to count - 1, each once, any stretch of them spread over all; no memory."""

    __slots__ = ("_count", "_stride")

    def __init__(self, count: int) -> None:
        self._count = count
        stride = max(1, round(count * _GOLDEN))
        while gcd(stride, count) > 1:
            stride += 1
        self._stride = stride

    def __getitem__(self, at: int) -> int:
        return at * self._stride % self._count
