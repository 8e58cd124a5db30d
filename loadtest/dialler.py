"""When which device dials: pacing, backoff with full jitter, verdicts. Pure, time is an argument."""

from collections import deque
from collections.abc import Iterable
from random import Random
from typing import Final

from loadtest.device_table import CLOSED, QUEUED, WAITING, DeviceTable
from loadtest.schedule import Schedule
from protocol.codes import Verdict

_REDIAL_TICK_S: Final = 0.01
_MAX_EXPONENT: Final = 30


class Dialler:
    """Two queues: rows whose turn it is to dial, and rows that wait for their delay to pass.

    The pace is a rate, if one is set, and a bound on connections without WELCOME: a service that
    accepts more slowly than the fleet dials is then measured and not run over.
    """

    __slots__ = (
        "_allowance",
        "_delayed",
        "_paced_at",
        "_queue",
        "_random",
        "_table",
        "base_ms",
        "factor",
        "in_flight",
        "max_ms",
        "per_s",
    )

    def __init__(self, table: DeviceTable, in_flight: int, random: Random) -> None:
        self._table = table
        self.in_flight = in_flight
        self._random = random
        self._queue: deque[int] = deque()
        self._delayed = Schedule(_REDIAL_TICK_S)
        self._allowance = 0.0
        self._paced_at: float | None = None
        self.per_s: float | None = None
        """Dials a second; None: as the bound in flight allows."""
        self.base_ms = 1_000
        self.factor = 2.0
        self.max_ms = 120_000
        """Backoff as the last WELCOME set it, before that as docs/protocol.md does: random(0, min(max_ms,
        base_ms * factor^attempt))."""

    def enqueue(self, rows: Iterable[int]) -> int:
        """Let these dial as soon as the pace allows; rows with a connection are passed over."""
        phase = self._table.phase
        before = len(self._queue)
        for row in rows:
            if phase[row] in (CLOSED, WAITING):
                phase[row] = QUEUED
                self._queue.append(row)
        return len(self._queue) - before

    def redial(self, row: int, now: float, verdict: Verdict, retry_after_ms: int) -> None:
        """The row lost its connection and comes back as `verdict` says (NOW or LATER), as the SDK does.

        LATER is also for a connection that was lost without a word.
        """
        if verdict is Verdict.NOW:
            delay_ms = self._random.uniform(0, retry_after_ms or self.base_ms)
        else:
            delay_ms = retry_after_ms + self._random.uniform(0, self._cap_ms(row))
            self._table.attempt[row] = min(self._table.attempt[row] + 1, 255)
        self._table.phase[row] = WAITING
        self._delayed.put(row, now + delay_ms / 1e3)

    def stood(self, row: int, seconds: float) -> None:
        """The row's session has ended after so long: one that outlived the greatest delay starts the backoff over."""
        if seconds * 1e3 >= self._cap_ms(row):
            self._table.attempt[row] = 0

    def _cap_ms(self, row: int) -> float:
        exponent = min(self._table.attempt[row], _MAX_EXPONENT)
        return float(min(self.max_ms, self.base_ms * self.factor**exponent))

    def take(self, now: float, in_flight: int) -> list[int]:
        """The rows to dial now, given how many connections are without WELCOME."""
        phase = self._table.phase
        for _, rows in self._delayed.take(now):
            for row in rows:
                if phase[row] == WAITING:
                    phase[row] = QUEUED
                    self._queue.append(row)
        room = min(self.in_flight - in_flight, self._allowed(now), len(self._queue))
        taken: list[int] = []
        while len(taken) < room and self._queue:
            row = self._queue.popleft()
            if phase[row] == QUEUED:
                # Its turn is over: one that was told to stay away while it waited, and then to dial
                # after all, stands in the queue twice.
                phase[row] = CLOSED
                taken.append(row)
        if self.per_s is not None:
            self._allowance -= len(taken)
        return taken

    def _allowed(self, now: float) -> int:
        """A token bucket that holds at most 50 ms worth, so that a pause makes no burst."""
        if self.per_s is None:
            return self.in_flight
        if self._paced_at is not None:
            self._allowance += (now - self._paced_at) * self.per_s
        self._paced_at = now
        # Room for more than one, or a fraction that rounding left below one would be cut off.
        self._allowance = min(self._allowance, max(2.0, self.per_s * 0.05))
        return int(self._allowance)

    def next_at(self, now: float) -> float | None:
        """When `take` may have something again by the clock alone; None if only events change it."""
        if self._queue and self.per_s is not None:
            return now + 1 / self.per_s
        return self._delayed.next_at()

    @property
    def waiting(self) -> int:
        """Rows whose turn it is, the pace permitting."""
        return len(self._queue)
