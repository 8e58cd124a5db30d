"""Memory for what strangers send: bytes that may be held at one time, refused beyond that."""


class Budget:
    """Bytes held at one time. What would be held alone is always taken, or it never could be."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """False: it does not fit, and nothing was taken."""
        if self.used and self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """The reverse of `take`."""
        self.used -= size


class Stay:
    """A part of a budget that several hold together; given back when the last one has left."""

    __slots__ = ("_budget", "_holders", "_size")

    def __init__(self, budget: Budget, size: int) -> None:
        """For one holder, of bytes that were taken."""
        self._budget = budget
        self._size = size
        self._holders = 1

    def join(self) -> None:
        self._holders += 1

    def leave(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._budget.give(self._size)
