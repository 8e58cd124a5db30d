"""What the edges have of one lane and have not answered, over all partitions of a node.

A push to a million devices is decided in a moment and takes a minute to carry out where edges, devices and
this node share two cores. All of it handed over at once, every edge would work at the same time, each with a
sixtieth of the machine, and none would answer, renew its lease or be counted before its deadline: what
follows is sent again, and nothing ends. So edges have little at a time, few of them are at work, and the
node hands over more as fast as it is answered. An edge that says nothing at all is not at work: it gets no more, and
the others need not wait for it. Pure.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

OF_ONE: Final = 4_096
"""That an edge may have: some 50 ms of its time."""
OF_ALL: Final = 8 * OF_ONE
"""That all edges together may have: a few of them at work are as fast as many."""

STUCK_S: Final = 2.0
"""Without an answer for so long an edge does not count among those at work: its machine has stopped, say, and with
it all edges on it. What an edge has is the work of some 50 ms."""

Wake = Callable[[], None]


class Unanswered:
    """Of one lane, in messages; 64 bytes of frames count as one.

    Room is asked for before each step, and a step may take more than there is. Whoever finds none waits; who is
    woken and has done what it could calls `pass_on`.
    """

    def __init__(
        self,
        of_one: int = OF_ONE,
        of_all: int = OF_ALL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = 0
        """At the edges that are not stuck."""
        self._clock = clock
        self._moved_at: dict[int, float] = {}
        """When an edge that has something got the first of it, or answered last."""
        self._stuck: set[int] = set()
        self._of_one = of_one
        self._of_all = of_all
        self._of: Counter[int] = Counter()
        self._waiting: OrderedDict[int, OrderedDict[Wake, None]] = OrderedDict()
        """edge -> who waits for room at it; both in turn"""

    def has_room(self, edge: int) -> bool:
        full = self.total >= self._of_all or self._of[edge] >= self._of_one
        return not full and edge not in self._stuck

    def add(self, edge: int, cost: int) -> None:
        """A deliver of so many messages is on its way."""
        if edge not in self._of:
            self._moved_at[edge] = self._clock()
        self._of[edge] += cost
        if edge not in self._stuck:
            self.total += cost

    def answered(self, edge: int, cost: int, *, heard: bool = True) -> None:
        """The edge has answered, or (not `heard`) never will."""
        if heard and edge in self._stuck:
            self._stuck.discard(edge)
            self.total += self._of[edge]
        if edge not in self._stuck:
            self.total -= cost
        self._of[edge] -= cost
        if not self._of[edge]:
            # If it is stuck still, what comes next finds that out.
            del self._of[edge], self._moved_at[edge]
            self._stuck.discard(edge)
        elif heard:
            self._moved_at[edge] = self._clock()
        self.pass_on()

    def look(self) -> None:
        """Who is stuck? To be called now and then."""
        before = self._clock() - STUCK_S
        for edge, moved_at in self._moved_at.items():
            if moved_at < before and edge not in self._stuck:
                self._stuck.add(edge)
                self.total -= self._of[edge]
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
