"""How much one app may push: a rate, and a quota for each day (UTC).

The rate is a token bucket in each API process, an equal share of the configured one; the quota is
counted in the store, from which a process takes it in portions, so that a push costs no call of its own.
"""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.config import Api
from gateway.store import quotas
from gateway.store.client import Store
from gateway.store.clock import StoreClock

DAY_MS: Final = 86_400_000
_PORTIONS: Final = 100
"""A day's quota is taken from the store in so many portions at least: what a process leaves unused when it
ends is lost to its app until tomorrow."""
_PORTION_MAX: Final = 1000
_BURST_S: Final = 1.0
"""A bucket holds as much as comes in this time."""
_APPS: Final = 10_000
"""Buckets and portions kept; beyond it the one used longest ago goes. A bucket is full when its app comes
again; a portion is lost until tomorrow."""
_SHARES_S: Final = 1.0
"""How many processes share the rate is looked up so often: each look goes through everybody's lease."""


class Excess(NamedTuple):
    """Why a push is refused."""

    quota: str
    """"rate" or "day"."""
    limit: int
    """Pushes a second, over all API processes, or pushes a day."""
    retry_ms: int
    """Before that it is of no use to come again."""


class Buckets:
    """Token buckets by app. Pure: time is an argument, seconds of a steady clock."""

    def __init__(self) -> None:
        self._tokens: dict[int, tuple[float, float]] = {}
        """app -> (tokens, as of), the one used last at the end"""

    def take(self, app: int, rate: float, now: float) -> float:
        """0.0 if a token was there; else the seconds until there is one."""
        burst = max(1.0, rate * _BURST_S)
        tokens, at = self._tokens.pop(app, (burst, now))
        tokens = min(burst, tokens + (now - at) * rate)
        wait_s = 0.0 if tokens >= 1.0 else (1.0 - tokens) / rate
        self._tokens[app] = (tokens if wait_s else tokens - 1.0, now)
        if len(self._tokens) > _APPS:
            del self._tokens[next(iter(self._tokens))]
        return wait_s

    def give_back(self, app: int) -> None:
        """One that was taken last, and not used."""
        if app in self._tokens:
            tokens, at = self._tokens[app]
            self._tokens[app] = (tokens + 1.0, at)  # `take` keeps to the burst


class _Portion:
    """What this process has of an app's quota of one day."""

    __slots__ = ("day", "left", "over", "turn")

    def __init__(self, day: int) -> None:
        self.day = day
        self.left = 0
        self.over = False
        """The store has no more to give for this day."""
        self.turn = asyncio.Lock()
        """One goes to the store for all that wait: each portion is for many."""


class Quotas:
    """Asked before a push is taken."""

    def __init__(
        self, store: Store, clock: StoreClock, limits: Api, processes: Callable[[], int]
    ) -> None:
        """`processes`: how many API processes share the rate."""
        self._store = store
        self._clock = clock
        self._limits = limits
        self._processes = processes
        self._shares = 1
        self._shares_at = float("-inf")
        self._buckets = Buckets()
        self._portions: dict[int, _Portion] = {}
        """By app, the one used last at the end."""
        self.refused_total: dict[str, int] = {"rate": 0, "day": 0}

    @property
    def limited(self) -> bool:
        """Is there anything to ask?"""
        return bool(self._limits.app_pushes_per_s or self._limits.app_pushes_per_day)

    async def excess(self, app: int, now: float) -> Excess | None:
        """None if the push may be taken: it is counted then. `now`: seconds of a steady clock.

        Raises StoreUnavailable where the day's quota cannot be asked; nothing is counted then.
        """
        limits = self._limits
        if limits.app_pushes_per_s:
            wait_s = self._buckets.take(app, self._rate(now), now)
            if wait_s:
                self.refused_total["rate"] += 1
                return Excess("rate", limits.app_pushes_per_s, max(1, int(wait_s * 1000)))
        if limits.app_pushes_per_day:
            try:
                within = await self._within_day(app)
            except BaseException:
                self._buckets.give_back(app)
                raise
            if not within:
                self._buckets.give_back(app)
                self.refused_total["day"] += 1
                left_ms = DAY_MS - self._clock.now_ms() % DAY_MS
                return Excess("day", limits.app_pushes_per_day, left_ms)
        return None

    def give_back(self, app: int) -> None:
        """A push that was counted made no push after all."""
        self._buckets.give_back(app)
        portion = self._portions.get(app)
        if portion is not None and portion.day == self._today():
            portion.left += 1

    def _rate(self, now: float) -> float:
        if now - self._shares_at >= _SHARES_S:
            self._shares, self._shares_at = max(1, self._processes()), now
        return self._limits.app_pushes_per_s / self._shares

    def _today(self) -> int:
        return self._clock.now_ms() // DAY_MS

    async def _within_day(self, app: int) -> bool:
        today, limit = self._today(), self._limits.app_pushes_per_day
        portion = self._portions.pop(app, None)
        if portion is None or portion.day != today:
            portion = _Portion(today)
        self._portions[app] = portion
        if len(self._portions) > _APPS:
            del self._portions[next(iter(self._portions))]
        if portion.left <= 0 and not portion.over:
            async with portion.turn:
                if portion.left <= 0 and not portion.over:
                    size = min(_PORTION_MAX, max(1, limit // _PORTIONS))
                    taken = await quotas.take(self._store, app, today, size, limit)
                    portion.left += taken
                    portion.over = taken < size
        if portion.left <= 0:
            return False
        portion.left -= 1
        return True
