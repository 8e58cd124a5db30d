"""Rows by device index, in lists of a thousand: what a partition knows of a million devices one by one.

A dict of that size stops everybody for tens of milliseconds each time it grows, and one that gets a
new tuple is looked through by the collector of cycles, again and again; a list of a thousand is
neither. A block is also what a snapshot writes as one piece, where it writes such rows at all.
"""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

BLOCK_SHIFT: Final = 10
"""1,024 rows make a block."""
_PLACE: Final = (1 << BLOCK_SHIFT) - 1

Row = TypeVar("Row")


class Blocks(Generic[Row]):
    """index -> row. Iterates over the numbers of its blocks."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[int, list[Row | None]] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(self._blocks)

    def get(self, index: int) -> Row | None:
        block = self._blocks.get(index >> BLOCK_SHIFT)
        return None if block is None else block[index & _PLACE]

    def set(self, index: int, row: Row | None) -> None:
        """None: there is no such row any more."""
        block = self._blocks.get(index >> BLOCK_SHIFT)
        if block is None:
            block = self._blocks[index >> BLOCK_SHIFT] = [None] * (_PLACE + 1)
        block[index & _PLACE] = row

    def rows_of(self, block: int) -> dict[int, Row]:
        """index -> row of one block."""
        rows = enumerate(self._blocks.get(block, ()), block << BLOCK_SHIFT)
        return {index: row for index, row in rows if row is not None}

    def count(self, block: int) -> int:
        """Of the rows in a block."""
        rows = self._blocks.get(block, ())
        return len(rows) - rows.count(None)
