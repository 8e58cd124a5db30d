"""What devices do by themselves, and when. Pure, time is an argument.

That each of n devices does something r times a second, at random, is the same as one process of n * r
times a second that picks one of them: so a group needs one moment for each kind of thing it does,
whatever its size, and nothing stands anywhere for a device that does nothing now.
"""

from array import array
from collections.abc import Iterator, Sequence
from enum import IntEnum
from random import Random
from typing import Final, NamedTuple

from loadtest.engine.rows import Ranges
from loadtest.engine.scenario import Group
from loadtest.engine.spread import Spread
from loadtest.schedule import Schedule

_TICK_S: Final = 0.05
_A_TURN: Final = 2000
"""Things that are begun in one turn at most: a fleet that lags behind catches up step by step."""


class Act(IntEnum):
    FLAP = 0
    SWITCH = 1
    VANISH = 2
    DOZE = 3
    RETURN = 4
    """Of one that vanished."""
    WAKE = 5
    """Of one that dozed."""


class Doing(NamedTuple):
    act: Act
    row: int


class _Process:
    """One kind of thing that a group does, at random moments."""

    __slots__ = ("act", "at", "lasts", "per_s", "rows")

    def __init__(self, act: Act, rows: range, per_s: float, lasts: Spread | None) -> None:
        self.act = act
        self.rows = rows
        self.per_s = per_s
        """Of all its rows together."""
        self.lasts = lasts
        self.at = 0.0


class Behaviour:
    """Draws what happens; the fleet does it. Begins to draw with `begin`, and ends with `calm`.

    `until` is a column: when the row's doze or absence ends. A wheel's entry that says otherwise
    is of an earlier one.
    """

    def __init__(self, groups: Sequence[Group], ranges: Ranges, random: Random) -> None:
        self._random = random
        self._processes = [
            process
            for group, rows in zip(groups, ranges.rows, strict=True)
            for process in _processes(group, rows)
        ]
        devices = ranges.rows[-1].stop
        self._until = array("d", bytes(8)) * (devices if self._processes else 0)
        self._ends = Schedule(_TICK_S)
        self._ending: dict[int, Act] = {}
        """Row -> how its doze or absence ends: a dict, as few are away at once."""
        self.running = False

    def begin(self, now: float) -> None:
        for process in self._processes:
            process.at = now + self._random.expovariate(process.per_s)
        self.running = True

    def calm(self) -> list[Doing]:
        """Nothing begins any more; what everybody who is away has to do now."""
        self.running = False
        back = [Doing(act, row) for row, act in self._ending.items()]
        self._ending.clear()
        return back

    def due(self, now: float) -> Iterator[Doing]:
        """What is to be done, ends first. Whoever is away begins nothing."""
        for _, rows in self._ends.take(now):
            for row in rows:
                if row in self._ending and self._until[row] <= now:
                    yield Doing(self._ending.pop(row), row)
        if self.running:
            yield from self._beginnings(now)

    def _beginnings(self, now: float) -> Iterator[Doing]:
        left = _A_TURN
        for process in self._processes:
            while process.at <= now and left:
                left -= 1
                row = process.rows[self._random.randrange(len(process.rows))]
                if row not in self._ending:
                    yield Doing(process.act, row)
                process.at += self._random.expovariate(process.per_s)

    def stays_away(self, act: Act, row: int, now: float) -> None:
        """The row has vanished, or dozes: draw how long, and say so in time."""
        for process in self._processes:
            if process.act is act and row in process.rows:
                assert process.lasts is not None, "only what lasts has an end"
                at = now + process.lasts.draw(self._random)
                tick = self._ends.put(row, at)
                # The entry comes up at its tick, up to one later than drawn: that is the end.
                self._until[row] = tick * _TICK_S
                self._ending[row] = Act.WAKE if act is Act.DOZE else Act.RETURN
                return

    def forget(self, row: int) -> None:
        """The row's connection ended while it was away: nothing is left to end."""
        self._ending.pop(row, None)

    def next_at(self) -> float | None:
        moments = [process.at for process in self._processes] if self.running else []
        ends = self._ends.next_at()
        return min([*moments, *([] if ends is None else [ends])], default=None)


def _processes(group: Group, rows: range) -> Iterator[_Process]:
    kinds: list[tuple[Act, float, Spread | None]] = [
        (Act.FLAP, group.flap_per_min, None),
        (Act.SWITCH, group.switch_per_min, None),
    ]
    if group.vanish is not None:
        kinds.append((Act.VANISH, group.vanish.per_min, group.vanish.back_after))
    if group.doze is not None:
        kinds.append((Act.DOZE, group.doze.per_min, group.doze.wake_after))
    for act, per_min, lasts in kinds:
        if per_min and rows:
            yield _Process(act, rows, len(rows) * per_min / 60, lasts)
