"""The device's idea of the time, mended by the server's."""

from collections.abc import Callable


class DeviceClock:
    """Milliseconds since the Unix epoch, as the service counts them.

    A device whose clock is a day wrong would drop messages as expired that are not. So the
    server's time, where one is known, is kept as an offset (persisted with the device's state),
    and within a run the wall clock is read once: later changes of it do not matter. A change
    while the device was not running shows at the next connect; until then the time is not
    `confirmed`.
    """

    def __init__(
        self, wall_s: Callable[[], float], monotonic_s: Callable[[], float], offset_ms: int
    ) -> None:
        self._monotonic_s = monotonic_s
        self._started_ms = int(wall_s() * 1000 - monotonic_s() * 1000)
        self.offset_ms = offset_ms
        """The service's clock less the device's own."""
        self.confirmed = False
        """Has the service been heard in this run?"""

    def own_ms(self) -> int:
        """The device's own clock, uncorrected."""
        return max(0, self._started_ms + int(self._monotonic_s() * 1000))

    def now_ms(self) -> int:
        return max(0, self._started_ms + int(self._monotonic_s() * 1000) + self.offset_ms)

    def not_before(self, known_ms: int) -> None:
        """It was that late before, by the service's clock: an earlier time is the clock's mistake."""
        self.offset_ms += max(0, known_ms - self.now_ms())

    def on_server_time(self, server_ms: int) -> None:
        """The server was heard, in WELCOME or with WRONG_CLOCK, and what time it said it is; 0: it
        did not say, so what is known here is all there is."""
        self.confirmed = True
        if 0 < server_ms < 1 << 53:  # what is above is no time, and would not fit the journal
            self.offset_ms += server_ms - self.now_ms()
