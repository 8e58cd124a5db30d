"""Deadlines of many rows in one byte each: setting one is a store, finding the due ones a memchr.

A timing wheel (Varghese, Lauck 1987) turned inside out: instead of a list of rows for each tick, a
tick for each row. No object, no timer and no Python-level loop over rows that are not due.
"""

from typing import Final

MOST_TICKS: Final = 254
_TICKS: Final = 255
_NEVER: Final = 0
"""So a wheel that is not used yet is zeros, which cost no memory."""


class Wheel:
    """Deadlines of rows 0 to `size` - 1, in ticks of whatever length the owner advances by."""

    __slots__ = ("_slots", "tick")

    def __init__(self, size: int) -> None:
        self._slots = bytearray(size)
        self.tick = 0

    def set(self, row: int, ticks: int) -> None:
        """Due when `ticks` (1 to 254) have passed; replaces an earlier deadline of the row."""
        self._slots[row] = (self.tick + ticks) % _TICKS + 1

    def clear(self, row: int) -> None:
        self._slots[row] = _NEVER

    def advance(self, tick: int) -> list[int]:
        """Move on to `tick`; the rows that have become due, each once, earlier ones first."""
        due: list[int] = []
        slots = self._slots
        while self.tick < tick:
            self.tick += 1
            wanted = self.tick % _TICKS + 1
            row = slots.find(wanted)
            while row >= 0:
                due.append(row)
                slots[row] = _NEVER
                row = slots.find(wanted, row + 1)
        return due
