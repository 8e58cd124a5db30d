"""How long an event loop has not had its turn: whatever else runs on it has waited as long."""

import asyncio
import time
from collections import deque
from typing import Final

PERIOD_S: Final = 0.01
"""A stall may be seen shorter by as much; 100 wake-ups a second are 0.2 % of a core."""
WINDOW_S: Final = 60.0
_BUCKETS: Final = 6


class LoopStall:
    """The longest stall of about the last minute."""

    def __init__(self) -> None:
        self._worst: deque[float] = deque([0.0], maxlen=_BUCKETS + 1)
        """By bucket of time, the current one last."""
        self._bucket = 0

    async def watch(self) -> None:
        """Wake up again and again and note how late that is, until cancelled."""
        while True:
            slept_at = time.monotonic()
            await asyncio.sleep(PERIOD_S)
            now = time.monotonic()
            self.note(now, now - slept_at - PERIOD_S)

    def note(self, now: float, late_s: float) -> None:
        """`now`: seconds of any steady clock."""
        bucket = int(now / WINDOW_S * _BUCKETS)
        self._worst.extend([0.0] * min(bucket - self._bucket, _BUCKETS + 1))
        self._bucket = bucket
        self._worst[-1] = max(self._worst[-1], late_s)

    @property
    def largest_s(self) -> float:
        return max(self._worst)
