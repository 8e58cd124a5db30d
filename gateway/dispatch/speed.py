"""Who may let how many devices of a paced push go, so that all nodes together keep to its speed.

A token bucket for each push, at the owner of one partition. It starts empty: what an earlier dealer has
given is not known, and a push may be slower than ordered for a moment, but never faster.

Pure: time is an argument, seconds of any steady clock.
"""

from typing import Final

DEPTH_S: Final = 0.25
"""A bucket holds what comes in this time: longer silence of those who ask is lost, not caught up."""
_ASKS_S: Final = 1.0
"""Who has not asked for this long gets no share any more."""
_IDLE_S: Final = 10.0
"""A bucket nobody has asked for this long is dropped."""
_BUCKETS: Final = 10_000
_ROUNDING: Final = 1e-9
"""A third of a token three times is one."""


def depth(speed: int) -> float:
    """Tokens that a bucket holds. One more than the time's worth: a slow push waits for a whole token,
    and what comes until somebody asks must not be lost, or it would be slower than ordered."""
    return 1.0 + DEPTH_S * speed


class _Asker:
    __slots__ = ("asked_at", "credit", "wanted")

    def __init__(self) -> None:
        self.wanted = 0
        self.asked_at = 0.0
        self.credit = 0.0
        """Its share of what has come in, less what it was given."""


class _Bucket:
    __slots__ = ("_askers", "_tokens", "at")

    def __init__(self, now: float) -> None:
        self._tokens = 0.0
        self.at = now
        """Up to when tokens have come in."""
        self._askers: dict[int, _Asker] = {}

    def ask(self, speed: int, asker: int, wanted: int, now: float) -> int:
        """Tokens bound the speed; credits share them out in proportion to what each wants."""
        for number in [n for n, a in self._askers.items() if now - a.asked_at > _ASKS_S]:
            del self._askers[number]
        me = self._askers.setdefault(asker, _Asker())
        me.wanted, me.asked_at = wanted, now
        self._fill(speed, now)
        given = min(wanted, int(self._tokens + _ROUNDING), max(0, int(me.credit + _ROUNDING)))
        if not given and wanted and self._tokens + _ROUNDING >= 1:
            # A slow push: a whole token, and perhaps no share of one that is whole.
            given = int(me.credit >= max(a.credit for a in self._askers.values()))
        self._tokens -= given
        me.credit -= given
        me.wanted -= given
        if me.wanted <= 0:
            del self._askers[asker]
        return given

    def _fill(self, speed: int, now: float) -> None:
        come = max(0.0, now - self.at) * speed
        self.at = max(self.at, now)
        self._tokens = min(depth(speed), self._tokens + come)
        total = sum(a.wanted for a in self._askers.values())
        for asker in self._askers.values():
            share = asker.wanted / total if total else 0.0
            # Bounded for each by itself: one that is silent takes nothing from the others.
            asker.credit = min(1.0 + share * DEPTH_S * speed, asker.credit + share * come)


class Dealer:
    """Buckets of the pushes whose speed is kept in one partition."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        """push id -> bucket, the one asked last behind the others"""

    def ask(self, push_id: int, speed: int, asker: int, wanted: int, now: float) -> int:
        """Devices that `asker`, who could send to `wanted` now, may let go."""
        bucket = self._buckets.pop(push_id, None)
        if bucket is None or now - bucket.at > _IDLE_S:
            bucket = _Bucket(now)
        self._buckets[push_id] = bucket
        self._drop_idle(now)
        return bucket.ask(speed, asker, wanted, now)

    def __len__(self) -> int:
        return len(self._buckets)

    def _drop_idle(self, now: float) -> None:
        while True:
            first = next(iter(self._buckets))
            idle = now - self._buckets[first].at > _IDLE_S
            if not idle and len(self._buckets) <= _BUCKETS:
                return
            del self._buckets[first]
