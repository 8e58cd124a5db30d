"""Why a push was not accepted."""

from gateway.api.quota import Excess


class Refused(Exception):
    """A push that was not accepted. `push_id` is its trace, 0 if none had been drawn."""

    def __init__(self, push_id: int = 0) -> None:
        super().__init__(push_id)
        self.push_id = push_id


class Busy(Refused):
    """The bounded queue in front of the store is full: nothing was taken."""


class LogIsFull(Busy):
    """The log of a partition is full, since nobody shortens it: nothing was taken."""


class Unavailable(Refused):
    """The store gave no answer in time: the push may arrive or not."""


class IdempotencyConflict(Refused):
    """The key belongs to a push with another body; nothing was taken."""


class Exceeded(Refused):
    """The app may not push that much; nothing was taken."""

    def __init__(self, excess: Excess) -> None:
        super().__init__()
        self.excess = excess
