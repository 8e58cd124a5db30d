"""Lanes: several queues served by priority, none of them starved.

Deficit round robin (Shreedhar, Varghese 1996) with the lanes looked at from the top each time: in one
round a lane may use up its credit, the highest first, and a lane that has been empty has its credit still.
So what comes into the high lane is next, unless the high lane has had its share of this round.
Pure.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

NORMAL: Final = 0
HIGH: Final = 1
LOW: Final = 2
"""The numbers of columba.log.Priority."""
WEIGHTS: Final = {HIGH: 8, NORMAL: 4, LOW: 1}
"""Shares of what there is to give while all lanes have something; from the highest to the lowest."""


class Lanes(Generic[Item]):
    """One queue for each priority. What an item costs is told after it was served."""

    __slots__ = ("_credit", "_quantum", "_queues")

    def __init__(self, quantum: int) -> None:
        """`quantum`: what the lowest lane may use in a round."""
        self._quantum = quantum
        self._queues: dict[int, deque[Item]] = {priority: deque() for priority in WEIGHTS}
        self._credit = {priority: weight * quantum for priority, weight in WEIGHTS.items()}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Item]:
        """From the highest lane to the lowest, each in its order."""
        for queue in self._queues.values():
            yield from queue

    def waits(self, priority: int) -> bool:
        return bool(self._queues[priority])

    def lane(self, priority: int) -> Iterator[Item]:
        """What waits in a lane, in its order."""
        return iter(self._queues[priority])

    def put(self, priority: int, item: Item) -> None:
        self._queues[priority].append(item)

    def put_back(self, priority: int, item: Item) -> None:
        """In front of its lane: it was taken and could not be served."""
        self._queues[priority].appendleft(item)

    def peek(self) -> tuple[int, Item] | None:
        """(priority, item) of what is to be served next; it stays where it is."""
        for _ in range(2):
            for priority, queue in self._queues.items():
                if queue and self._credit[priority] > 0:
                    return priority, queue[0]
            if not self:
                return None
            self._next_rounds()
        raise AssertionError("a round gives credit to a lane that waits")

    def pop(self, priority: int) -> Item:
        return self._queues[priority].popleft()

    def charge(self, priority: int, cost: int) -> None:
        """It may be more than the lane has: then it waits for so many rounds longer."""
        self._credit[priority] -= cost

    def take(self, cost: Callable[[Item], int]) -> tuple[int, Item] | None:
        """Peek, pop and charge."""
        found = self.peek()
        if found is not None:
            self.pop(found[0])
            self.charge(found[0], cost(found[1]))
        return found

    def drop(self, unwanted: Callable[[Item], bool]) -> list[Item]:
        """Take items out, wherever they are; returns them."""
        dropped: list[Item] = []
        for queue in self._queues.values():
            gone = [item for item in queue if unwanted(item)]
            if gone:
                kept = [item for item in queue if not unwanted(item)]
                queue.clear()
                queue.extend(kept)
                dropped += gone
        return dropped

    def _next_rounds(self) -> None:
        """As many rounds as it takes until a lane that waits has credit."""
        shares = {priority: weight * self._quantum for priority, weight in WEIGHTS.items()}
        rounds = min(
            -self._credit[priority] // shares[priority] + 1
            for priority, queue in self._queues.items()
            if queue
        )
        for priority, queue in self._queues.items():
            if queue:
                self._credit[priority] += rounds * shares[priority]
            else:
                self._credit[priority] = shares[priority]
