"""How long to wait before a process that died is started again. Time is an argument."""

from typing import Final

FIRST_S: Final = 0.1
MOST_S: Final = 5.0
CALM_S: Final = 30.0


class Backoff:
    """0.1 s, doubling to 5 s; from the start again for a process that lived 30 s."""

    __slots__ = ("_delay_s", "_started_s")

    def __init__(self) -> None:
        self._delay_s = FIRST_S
        self._started_s = 0.0

    def started(self, now_s: float) -> None:
        self._started_s = now_s

    def died(self, now_s: float) -> float:
        """Seconds until the next start."""
        if now_s - self._started_s >= CALM_S:
            self._delay_s = FIRST_S
        # A start that then fails must not count as a long life of the process before it.
        self._started_s = now_s
        delay_s = self._delay_s
        self._delay_s = min(delay_s * 2, MOST_S)
        return delay_s
