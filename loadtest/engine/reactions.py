"""What devices do about what they were shown, later: display and click. Pure, time is an argument."""

from array import array
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final, NamedTuple

_TICK_S: Final = 0.05
_MOST_PUSHES: Final = 1 << 31


class Reaction(NamedTuple):
    row: int
    push_id: int
    state: int


class _Due:
    """Of one tick, in columns: nine bytes a reaction."""

    __slots__ = ("pushes", "rows", "states")

    def __init__(self) -> None:
        self.rows = array("I")
        self.pushes = array("I")
        self.states = bytearray()


class Reactions:
    """A wheel: reactions under the tick they are due in, which come in any order.

    The bound: at most `most` wait. What comes beyond is dropped and counted, as a receipt that a
    user never causes breaks nothing but the expected number of displays.
    """

    __slots__ = ("_heap", "_most", "_number", "_push_ids", "_ticks", "dropped", "waiting")

    def __init__(self, most: int) -> None:
        self.waiting = 0
        self.dropped = 0
        self._most = most
        self._ticks: dict[int, _Due] = {}
        self._heap: list[int] = []
        self._push_ids = array("Q")
        self._number: dict[int, int] = {}

    def put(self, row: int, push_id: int, state: int, at: float) -> bool:
        """Due at `at` (seconds) or up to one tick later. False: dropped."""
        if self.waiting >= self._most:
            self.dropped += 1
            return False
        tick = int(at / _TICK_S) + 1
        due = self._ticks.get(tick)
        if due is None:
            due = self._ticks[tick] = _Due()
            heappush(self._heap, tick)
        due.rows.append(row)
        due.pushes.append(self._number_of(push_id))
        due.states.append(state)
        self.waiting += 1
        return True

    def _number_of(self, push_id: int) -> int:
        """Push ids take eight bytes, and there are few for many reactions."""
        number = self._number.get(push_id)
        if number is None:
            number = self._number[push_id] = len(self._push_ids)
            assert number < _MOST_PUSHES
            self._push_ids.append(push_id)
        return number

    def take(self, now: float) -> Iterator[Reaction]:
        """All that is due at `now`, earliest tick first."""
        while self._heap and self._heap[0] * _TICK_S <= now:
            due = self._ticks.pop(heappop(self._heap))
            self.waiting -= len(due.rows)
            for row, number, state in zip(due.rows, due.pushes, due.states, strict=True):
                yield Reaction(row, self._push_ids[number], state)
        if not self.waiting and self._number:
            self._number.clear()
            del self._push_ids[:]

    def next_at(self) -> float | None:
        return self._heap[0] * _TICK_S if self._heap else None
