"""A fleet whose devices differ and do things by themselves, as a scenario describes its groups.

All that a device is beyond loadtest.fleet stands in columns or in wheels: 20 bytes a row, and what is
under way.
"""

from array import array
from collections.abc import Callable, Sequence
from random import Random
from time import monotonic
from typing import Final

from loadtest.device_table import CLOSED, CONNECTED, OPEN
from loadtest.engine.arrivals import Arrivals
from loadtest.engine.behaviour import Act, Behaviour, Doing
from loadtest.engine.reactions import Reactions
from loadtest.engine.rows import Mixed, Ranges
from loadtest.engine.scenario import Group
from loadtest.fleet import Fleet
from loadtest.histogram import Histogram
from loadtest.links import Address
from loadtest.plan import Plan
from loadtest.schedule import Schedule
from loadtest.wire import DISPLAYED, Greeting, receipt

CLICKED: Final = 3
_TICK_S: Final = 0.05
_NAT_TICK_S: Final = 0.25
_SLOW_BUFFER: Final = 4096
"""Of a slow reader's socket, in place of 128 KiB: that much the kernel would read ahead for it."""
_MOST_READ: Final = 4096
_REACTIONS: Final = 16
"""That wait for each device of a fleet, on average, at most."""
_ARRIVALS_A_TURN: Final = 1024

SLOW: Final = 1
DOZING: Final = 2
MUTED: Final = 4


class Lively:
    """What such a fleet counts beyond loadtest.counters."""

    __slots__ = ("clicked", "displayed", "dozes", "flaps", "nat_drops", "slow_waits", "switches",
                 "vanished")  # fmt: skip

    def __init__(self) -> None:
        self.displayed = 0
        self.clicked = 0
        self.flaps = 0
        self.switches = 0
        self.vanished = 0
        self.dozes = 0
        self.nat_drops = 0
        """Connections over which nothing passes any more."""
        self.slow_waits = 0
        """Times that a slow reader left something unread."""

    def to_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


class LivelyFleet(Fleet):
    """Rows are those of the groups, one behind the other: `sizes[i]` devices of `groups[i]`."""

    def __init__(
        self,
        plan: Plan,
        groups: Sequence[Group],
        sizes: Sequence[int],
        sources: Sequence[str],
        clock: Callable[[], float] = monotonic,
        random: Random | None = None,
    ) -> None:
        """`sources`: addresses to dial from in turn, at most 256; none: as the plan says."""
        draws = random or Random()
        super().__init__(plan, clock, draws)
        self.groups = groups
        self.ranges = Ranges(sizes)
        self.lively = Lively()
        self.reactions = Reactions(max(10_000, plan.devices * _REACTIONS))
        self.behaviour = Behaviour(groups, self.ranges, draws)
        self._draws = draws
        self._sources = sources
        # All of them from the start: with half of an address's 28,000 ports taken, the kernel tries
        # thousands for each connect(2).
        cycle = bytes(range(len(sources) or 1))
        self._source_of = bytearray((cycle * (plan.devices // len(cycle) + 1))[: plan.devices])
        self._mode = bytearray(plan.devices)
        self._calm = False
        self._greetings = [
            Greeting(plan.app, plan.access_key, group.heartbeat_s) for group in groups
        ]
        self._intervals = [group.heartbeat_s for group in groups]
        self._slow = Schedule(_TICK_S)
        self._any_slow = any(group.read_bytes_per_s for group in groups)
        self._nat = Schedule(_NAT_TICK_S)
        self._any_nat = any(group.nat_timeout_s for group in groups)
        rows_with_nat = plan.devices if self._any_nat else 0
        self._active_at = array("d", bytes(8)) * rows_with_nat
        self._nat_tick = array("I", bytes(4)) * rows_with_nat
        self._arrivals: Arrivals | None = None
        self._arrival_began = 0.0
        self._arrived = 0
        self._order = Mixed(plan.devices)
        self._give_tags()

    def _give_tags(self) -> None:
        desk, draw = self.profiles, self._draws.random
        for group, rows in zip(self.groups, self.ranges.rows, strict=True):
            if not group.tags and not group.drawn_tags:
                continue
            for row in rows:
                drawn = [tag for tag, share in group.drawn_tags.items() if draw() < share]
                desk.set_tags(row, desk.choice_of((*group.tags, *drawn)))

    def arrive(self, arrivals: Arrivals) -> None:
        """From now on devices dial for the first time, groups mixed."""
        self._arrivals = arrivals
        self._arrival_began = self._now = self._clock()

    def begin(self) -> None:
        """From now on devices do things by themselves."""
        self.behaviour.begin(self._clock())

    def calm(self) -> None:
        """Everybody comes back, reads and stays: the end of a run, in which nothing may be missing."""
        self._calm = True
        for doing in self.behaviour.calm():
            self._do(doing)
        for row, mode in enumerate(self._mode):
            if mode & MUTED:
                self._lost(row)
            elif mode & SLOW:
                self._unslow(row)

    def cut_share(self, share: float) -> int:
        """That share of the connected devices, at random, lose their connection. How many."""
        phase, draw = self.table.phase, self._draws.random
        rows = [row for row in range(self.table.rows) if phase[row] == OPEN and draw() < share]
        self.cut(rows)
        return len(rows)

    # What a turn does beyond a plain fleet's

    def _act(self) -> None:
        self._let_arrive()
        for doing in self.behaviour.due(self._now):
            self._do(doing)
        for _, rows in self._slow.take(self._now):
            for row in rows:
                self._unslow(row)
        for tick, rows in self._nat.take(self._now):
            for row in rows:
                if self._nat_tick[row] == tick and self.table.phase[row] == OPEN:
                    self._look_at_nat(row)
        for row, push_id, state in self.reactions.take(self._now):
            self._react(row, push_id, state)

    def _acts_at(self) -> float | None:
        moments = (
            self.behaviour.next_at(),
            self._slow.next_at(),
            self._nat.next_at(),
            self.reactions.next_at(),
            self._next_arrival(),
        )
        return min((at for at in moments if at is not None), default=None)

    def _let_arrive(self) -> None:
        if self._arrivals is None:
            return
        due = self._arrivals.by(self._now - self._arrival_began)
        until = int(min(due, self.table.rows, self._arrived + _ARRIVALS_A_TURN))
        if until > self._arrived:
            self.dial(self._order[at] for at in range(self._arrived, until))
            self._arrived = until
        if self._arrived == self.table.rows:
            self._arrivals = None

    def _next_arrival(self) -> float | None:
        if self._arrivals is None:
            return None
        return self._arrival_began + self._arrivals.when(self._arrived + 1)

    def _do(self, doing: Doing) -> None:
        act, row = doing
        if act is Act.RETURN:
            self.dial([row])
        elif act is Act.WAKE:
            self._wake(row)
        elif self.table.phase[row] == OPEN and not self._mode[row] & (DOZING | MUTED):
            self._begin(act, row, self.table.fd[row])

    def _begin(self, act: Act, row: int, fd: int) -> None:
        if act is Act.FLAP:
            self.lively.flaps += 1
            self._lost(row)
        elif act is Act.SWITCH:
            self.lively.switches += 1
            self.links.mute(fd)
            if self._sources:
                self._source_of[row] = (self._source_of[row] + 1) % len(self._sources)
            self._lost(row)
        elif act is Act.VANISH:
            self.lively.vanished += 1
            self.links.mute(fd)
            self._drop(row, fd)
            self.table.phase[row] = CLOSED
            self.behaviour.stays_away(act, row, self._now)
        else:
            self.lively.dozes += 1
            self._mode[row] |= DOZING
            self.links.pause(fd, hush=True)
            self.table.beat_tick[row] = 0  # no beat meanwhile: the entry in the schedule is stale
            self.behaviour.stays_away(act, row, self._now)

    def _wake(self, row: int) -> None:
        """It reads what has come, and asks at once whether the connection still stands."""
        self._mode[row] &= ~DOZING
        if not self._mode[row] & SLOW:
            self.links.resume(self.table.fd[row])
        # What was sent while it dozed took as long as it dozed: that is no latency of the service's.
        self.table.since[row] = self._now
        self.table.heard[row] = 1
        self.table.beat_tick[row] = self._beats.put(row, self._now)

    def _unslow(self, row: int) -> None:
        if self._mode[row] & SLOW:
            self._mode[row] &= ~SLOW
            if not self._mode[row] & (DOZING | MUTED):
                self.links.resume(self.table.fd[row])

    def _look_at_nat(self, row: int) -> None:
        timeout_s = self.groups[self.ranges.of(row)].nat_timeout_s
        # Ticks are told up to one later than asked for, so a full timeout has passed at this one.
        if self._now - self._active_at[row] < timeout_s:
            self._nat_tick[row] = self._nat.put(row, self._active_at[row] + timeout_s)
        elif not self._calm:
            self.lively.nat_drops += 1
            self._mode[row] |= MUTED
            self.links.mute(self.table.fd[row])

    def _react(self, row: int, push_id: int, state: int) -> None:
        clicked = state == CLICKED
        self.lively.clicked += clicked
        self.lively.displayed += not clicked
        self.desk.note(row, receipt(push_id, state, self._wall_ms))
        self._touch(row)

    def _touch(self, row: int) -> None:
        if self._any_nat:
            self._active_at[row] = self._now

    # What a device does in its own way

    def _connect(self, row: int, address: Address) -> int:
        group = self.groups[self.ranges.of(row)]
        source = self._sources[self._source_of[row]] if self._sources else self.plan.source
        small = _SLOW_BUFFER if group.read_bytes_per_s else 0
        return self.links.dial(row, address, source, small)

    def _greeting_of(self, row: int) -> Greeting:
        return self._greetings[self.ranges.of(row)]

    def _interval_s(self, row: int) -> int:
        return self._intervals[self.ranges.of(row)]

    def _agree_interval(self, row: int, seconds: int) -> None:
        self._intervals[self.ranges.of(row)] = seconds

    def _read(self, row: int, fd: int) -> bytes | None:
        if self._mode[row] & (DOZING | MUTED):
            return None  # an event of the same batch in which it fell silent
        self._touch(row)
        if not self._any_slow or self._calm:
            return self.links.read(fd)
        rate = self.groups[self.ranges.of(row)].read_bytes_per_s
        if not rate or self.table.phase[row] != OPEN:
            return self.links.read(fd)
        chunk = self.links.read(fd, max(1, min(_MOST_READ, rate // 4)))
        if chunk:
            self.lively.slow_waits += 1
            self._mode[row] |= SLOW
            self.links.pause(fd)
            self._slow.put(row, self._now + len(chunk) / rate)
        return chunk

    def _opened(self, row: int) -> None:
        super()._opened(row)
        if self._any_nat:
            timeout_s = self.groups[self.ranges.of(row)].nat_timeout_s
            if timeout_s:
                self._nat_tick[row] = self._nat.put(row, self._now + timeout_s)

    def _on_first_shown(self, row: int, push_id: int) -> None:
        group, draw = self.groups[self.ranges.of(row)], self._draws
        if group.displayed < 1 and draw.random() >= group.displayed:
            return
        at = self._now + group.think.draw(draw)
        self.reactions.put(row, push_id, DISPLAYED, at)
        if group.clicked and draw.random() < group.clicked:
            self.reactions.put(row, push_id, CLICKED, at + group.click_after.draw(draw))

    def _drop(self, row: int, fd: int) -> None:
        if self._mode[row] & DOZING:
            self.behaviour.forget(row)
        self._mode[row] = 0
        super()._drop(row, fd)

    def take_latencies(self) -> dict[str, Histogram]:
        """Since the last call."""
        taken = {"push": self.latency, "late": self.latency_late, "welcome": self.welcome_latency}
        self.latency, self.latency_late, self.welcome_latency = (
            Histogram(),
            Histogram(),
            Histogram(),
        )
        return taken

    @property
    def connecting(self) -> int:
        """Devices between connect and WELCOME."""
        return sum(map(self.table.phase.count, (CONNECTED, CONNECTED + 1)))
