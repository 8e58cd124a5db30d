"""Which device has seen which push, kept by push: bits, not lists per device. Pure."""

from typing import Final

_SET_ENTRY_BYTES: Final = 64
"""Memory of one small int in a set, about: decides when a bitmap is the smaller form."""

_NONE: Final[set[int]] = set()
"""Of nobody; never changed."""


class Shown:
    """The rows that one push was shown on: one by itself (most pushes), a set while they are few, then one bit
    per row."""

    __slots__ = ("_bits", "_few", "_few_max", "_first", "_size", "count", "push_id")

    def __init__(self, push_id: int, rows: int) -> None:
        self.push_id = push_id
        self.count = 0
        self._size = rows
        self._first = -1
        self._few: set[int] = _NONE
        self._few_max = max(8, rows // 8 // _SET_ENTRY_BYTES)
        self._bits: bytearray | None = None

    def add(self, row: int) -> bool:
        """Mark the row; False if it was marked before."""
        if not self.count:
            self._first = row
            self.count = 1
            return True
        if self.count == 1:
            self._few = {self._first}
        bits = self._bits
        if bits is None:
            if row in self._few:
                return False
            self._few.add(row)
            if len(self._few) > self._few_max:
                self._to_bits()
        else:
            mask = 1 << (row & 7)
            if bits[row >> 3] & mask:
                return False
            bits[row >> 3] |= mask
        self.count += 1
        return True

    def _to_bits(self) -> None:
        bits = self._bits = bytearray((self._size + 7) // 8)
        for row in self._few:
            bits[row >> 3] |= 1 << (row & 7)
        self._few = set()

    def rows(self) -> list[int]:
        """All marked rows, ascending."""
        if self.count == 1:
            return [self._first]
        if self._bits is None:
            return sorted(self._few)
        return [
            at * 8 + bit
            for at, byte in enumerate(self._bits)
            if byte
            for bit in range(8)
            if byte >> bit & 1
        ]


class Ledger:
    """`Shown` of the last `pushes` pushes of a fleet of `rows` devices.

    The bound: a broadcast costs rows / 8 bytes, a push to few devices some 500 bytes, and at most
    `pushes` are remembered. The one first seen longest ago is forgotten beyond that and counted
    in `forgotten`: a count of duplicates is complete only while that is 0.
    """

    __slots__ = ("_max", "_rows", "forgotten", "pushes")

    def __init__(self, rows: int, pushes: int) -> None:
        self._rows = rows
        self._max = pushes
        self.pushes: dict[int, Shown] = {}
        self.forgotten = 0

    def of(self, push_id: int) -> Shown:
        shown = self.pushes.get(push_id)
        if shown is None:
            if len(self.pushes) >= self._max:
                del self.pushes[next(iter(self.pushes))]
                self.forgotten += 1
            shown = self.pushes[push_id] = Shown(push_id, self._rows)
        return shown
