"""Devices that were sent a push, by when a receipt of theirs is missed. Pure."""

import heapq
from typing import Final, NamedTuple

from pyroaring import BitMap

_MERGE_S: Final = 1.0
"""Sends of a push within this time share one timer."""


class Missed(NamedTuple):
    """Devices of one push from which nothing has been heard for long enough, as far as the timer knows."""

    push_id: int
    attempt: int
    """How often it had been sent to them before the send whose receipt is missed."""
    devices: BitMap


class _Timer(NamedTuple):
    due: float
    push_id: int
    attempt: int


class Unreceipted:
    """Timers of sends; who has given his receipt is not taken out of them."""

    def __init__(self, resend_s: float, resend_max_s: float) -> None:
        self._resend_s = resend_s
        self._resend_max_s = resend_max_s
        self._timers: list[_Timer] = []
        self._devices: dict[_Timer, BitMap] = {}
        self._last: dict[tuple[int, int], _Timer] = {}

    def watch(self, push_id: int, attempt: int, devices: BitMap, now: float) -> None:
        """They have been sent it for the `attempt`th time, from 0. `now`: seconds of any steady clock."""
        due, key = now + self._delay_s(attempt), (push_id, attempt)
        timer = self._last.get(key)
        if timer is None or timer.due < due - _MERGE_S or timer not in self._devices:
            timer = self._last[key] = _Timer(due, push_id, attempt)
            if timer not in self._devices:
                heapq.heappush(self._timers, timer)
                self._devices[timer] = BitMap()
        self._devices[timer] |= devices

    def next_due(self) -> float | None:
        return self._timers[0].due if self._timers else None

    def missed(self, until: float) -> list[Missed]:
        """Whose time was over by then; they are not watched any more."""
        found = []
        while self._timers and self._timers[0].due <= until:
            timer = heapq.heappop(self._timers)
            key = (timer.push_id, timer.attempt)
            if self._last.get(key) == timer:
                del self._last[key]
            found.append(Missed(timer.push_id, timer.attempt, self._devices.pop(timer)))
        return found

    def known_of(self, push_id: int, index: int) -> tuple[int, float | None]:
        """(times it was sent to a device, when last), as far as watched. Looks through all timers."""
        attempt, sent_at = 0, None
        for timer, devices in self._devices.items():
            if timer.push_id == push_id and index in devices:
                attempt += timer.attempt + 1
                at = timer.due - self._delay_s(timer.attempt)
                sent_at = at if sent_at is None else max(sent_at, at)
        return attempt, sent_at

    def _delay_s(self, attempt: int) -> float:
        return min(self._resend_s * 2.0 ** min(attempt, 16), self._resend_max_s)
