"""Which rows are due when: one list of rows per tick, no timer per row. Pure, time is an argument."""

from array import array
from heapq import heappop, heappush


class Schedule:
    """Rows under the tick they are due in.

    Putting a row costs one append; taking costs one pop per tick, not per row. Entries are never
    removed early: whoever takes a row checks in its own columns whether it still means something.
    """

    __slots__ = ("_heap", "_rows", "_tick_s")

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._rows: dict[int, array[int]] = {}
        self._heap: list[int] = []

    def put(self, row: int, at: float) -> int:
        """Row is due at `at` (seconds) or up to one tick later. Returns that tick."""
        tick = int(at / self._tick_s) + 1
        rows = self._rows.get(tick)
        if rows is None:
            rows = self._rows[tick] = array("I")
            heappush(self._heap, tick)
        rows.append(row)
        return tick

    def take(self, now: float) -> "list[tuple[int, array[int]]]":
        """(tick, its rows) of all that is due at `now`, earliest first; they are out of here then."""
        due = []
        while self._heap and self._heap[0] * self._tick_s <= now:
            tick = heappop(self._heap)
            due.append((tick, self._rows.pop(tick)))
        return due

    def next_at(self) -> float | None:
        """When something is due next, seconds; None if nothing is."""
        return self._heap[0] * self._tick_s if self._heap else None
