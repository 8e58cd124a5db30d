"""How a push is dealt out: at which speed, and to which part of its audience not at all. No I/O."""

from typing import Final, NamedTuple

from protocol.schema import log_pb2

MAX_SPEED: Final = 1_000_000_000
"""Devices a second; the log has 32 bits for it."""


class Shape(NamedTuple):
    speed: int = 0
    """Devices a second, over all partitions; 0: as fast as it goes."""
    holdout: float = 0.0
    """Part of the audience that is deliberately not sent to."""

    def flaw(self, ttl_s: int) -> str | None:
        """What a push with this ttl cannot do; None if it can."""
        if not 0 <= self.speed <= MAX_SPEED:
            return (
                f'speed is {self.speed}: "auto", or 1 to {MAX_SPEED} devices a second, is allowed'
            )
        if self.speed and not ttl_s:
            return "a push with ttl 0 has one attempt, at once: it takes no speed"
        if not 0 <= self.holdout < 1:
            return f"holdout is {self.holdout}: from 0 to below 1 is allowed"
        return None

    def options(self) -> bytes:
        """The fields of columba.log.Push that say so; empty if there is nothing to say."""
        if not self.speed and not self.holdout:
            return b""
        # `or` takes the sign from -0.0, which would be a field of its own.
        return log_pb2.Push(speed=self.speed, holdout=self.holdout or 0.0).SerializeToString()
