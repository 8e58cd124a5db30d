"""What the edges have of one lane and have not answered, over all partitions of a node.

A push to a million devices is decided in a moment and takes a minute to carry out where edges, devices and
this node share two cores. All of it handed over at once, every edge would work at the same time, each with a
sixtieth of the machine, and none would answer, renew its lease or be counted before its deadline: what
follows is sent again, and nothing ends. So edges have little at a time, few of them are at work, and the
node hands over more as fast as it is answered. Pure.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

OF_ONE: Final = 4_096
"""That an edge may have: some 50 ms of its time."""
OF_ALL: Final = 8 * OF_ONE
"""That all edges together may have: a few of them at work are as fast as many."""

Wake = Callable[[], None]


class Unanswered:
    """Of one lane, in messages; 64 bytes of frames count as one.

    Room is asked for before each step, and a step may take more than there is. Whoever finds none waits; who is
    woken and has done what it could calls `pass_on`.
    """

    def __init__(self, of_one: int = OF_ONE, of_all: int = OF_ALL) -> None:
        self.total = 0
        self._of_one = of_one
        self._of_all = of_all
        self._of: Counter[int] = Counter()
        self._waiting: OrderedDict[int, OrderedDict[Wake, None]] = OrderedDict()
        """edge -> who waits for room at it; both in turn"""

    def has_room(self, edge: int) -> bool:
        return self.total < self._of_all and self._of[edge] < self._of_one

    def add(self, edge: int, cost: int) -> None:
        """A deliver of so many messages is on its way."""
        self._of[edge] += cost
        self.total += cost

    def answered(self, edge: int, cost: int) -> None:
        """The edge has answered, or never will."""
        self.total -= cost
        self._of[edge] -= cost
        if not self._of[edge]:
            del self._of[edge]
        self.pass_on()

    def wait(self, edge: int, wake: Wake) -> None:
        self._waiting.setdefault(edge, OrderedDict())[wake] = None

    def leave(self, wake: Wake) -> None:
        """Wait for nothing any more, and leave the room to others."""
        for edge in [edge for edge, waiting in self._waiting.items() if wake in waiting]:
            self._waiting[edge].pop(wake)
            if not self._waiting[edge]:
                del self._waiting[edge]
        self.pass_on()

    def pass_on(self) -> None:
        """Wake the next one for whom there is room, if there is any: as many as fit come one after the other."""
        if self.total >= self._of_all:
            return
        edge = next(filter(self.has_room, self._waiting), None)
        if edge is None:
            return
        waiting = self._waiting[edge]
        wake, _ = waiting.popitem(last=False)
        if waiting:
            self._waiting.move_to_end(edge)
        else:
            del self._waiting[edge]
        wake()
