"""What the reactor stands between: who hears of its connections, who writes, and the bounds it keeps to."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gateway.edge.output import Item


class Handler(Protocol):
    """What the reactor tells about connections, and asks."""

    def room(self) -> int:
        """How many more may be accepted now."""

    def on_accept(self, fd: int) -> None: ...

    def on_bytes(self, fd: int, data: bytes) -> None: ...

    def on_overflow(self, fd: int) -> None:
        """The peer sends but does not read: the connection is closed right after this."""

    def on_closed(self, fd: int) -> None:
        """The descriptor is still open, and closed right after this."""


class Outlet(Protocol):
    """The reactor, as far as whoever hands messages to it goes."""

    def may_send(self) -> bool: ...

    def offer(self, fd: int, message: Item) -> bool: ...

    def broadcast(self, fds: Sequence[int], messages: Sequence[Item]) -> dict[int, int]: ...

    def flush(self) -> None: ...


class Limits(NamedTuple):
    """Bounds of the reactor."""

    descriptors_high: int
    """A descriptor above it: the listeners close."""
    descriptors_low: int
    """Connections at or below it: they open again."""
    accepts_per_s: int
    output_cap: int
    """Bytes that may wait for one connection."""
    slow_close_s: float
    descriptors: int
    """That the process may open."""
