"""The store's clock, as this process knows it: our monotonic clock, corrected by the store's TIME.

Expiry, leases and push ids use it, so that a node whose own clock is minutes off does no harm.
"""

import time


class StoreClock:
    """Corrected with each answer that carries the store's time; drifts only between two of them."""

    __slots__ = ("_offset_ms",)

    def __init__(self) -> None:
        self._offset_ms = time.time() * 1000 - time.monotonic() * 1000

    def correct(self, server_ms: float, sent: float, received: float) -> None:
        """`server_ms` was read by the store between `sent` and `received` (monotonic seconds)."""
        self._offset_ms = server_ms - (sent + received) * 500

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return int(time.monotonic() * 1000 + self._offset_ms)
