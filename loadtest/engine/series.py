"""Samples of a run, a bounded number of them: when there is no room, every two become one. Pure."""

from collections.abc import Mapping
from typing import Final

MOST: Final = 1024

Value = float | None


class Series:
    """Columns by name over `at_s`. A cell is null where nothing was measured.

    The bound: at most `most` rows. A full table halves its resolution: the mean of two rows of a
    rate or a level, the greater of two latencies, since a merge must not hide a peak of those.
    """

    def __init__(self, worst: frozenset[str] = frozenset(), most: int = MOST) -> None:
        """`worst`: columns of which a merge keeps the greater value."""
        self.at_s: list[float] = []
        self.columns: dict[str, list[Value]] = {}
        self.stride = 1
        """Samples to a row."""
        self._worst = worst
        self._most = most
        self._pending: dict[str, Value] = {}
        self._gathered = 0

    def add(self, at_s: float, values: Mapping[str, Value]) -> None:
        """One sample. A column may begin at any time; it is null before."""
        for name, value in values.items():
            self._pending[name] = self._merged(
                name, self._pending.get(name), value, self._gathered, 1
            )
        self._gathered += 1
        if self._gathered < self.stride:
            return
        for name in self._pending.keys() - self.columns.keys():
            self.columns[name] = [None] * len(self.at_s)
        self.at_s.append(at_s)
        for name, column in self.columns.items():
            column.append(self._pending.get(name))
        self._pending, self._gathered = {}, 0
        if len(self.at_s) >= self._most:
            self._halve()

    def _halve(self) -> None:
        even = len(self.at_s) // 2 * 2
        self.at_s = self.at_s[1:even:2]
        for name, column in self.columns.items():
            pairs = zip(column[0:even:2], column[1:even:2], strict=True)
            self.columns[name] = [self._merged(name, a, b, 1, 1) for a, b in pairs]
        self.stride *= 2

    def _merged(self, name: str, a: Value, b: Value, weight_a: int, weight_b: int) -> Value:
        if a is None or b is None:
            return b if a is None else a
        if name in self._worst:
            return max(a, b)
        return (a * weight_a + b * weight_b) / (weight_a + weight_b)

    def last(self, name: str) -> Value:
        column = self.columns.get(name)
        return column[-1] if column else None

    def peak(self, name: str) -> Value:
        """The greatest of a column; None if nothing was measured."""
        return max((v for v in self.columns.get(name, ()) if v is not None), default=None)

    def to_dict(self) -> dict[str, object]:
        """For the result: columns as lists, rounded to what means something."""
        told = {
            name: [None if value is None else round(value, 3) for value in column]
            for name, column in self.columns.items()
        }
        return {"at_s": [round(at, 2) for at in self.at_s], "stride": self.stride, **told}
