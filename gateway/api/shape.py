"""How a push is dealt out: in which order and at which speed, what it replaces, and to whom it does not go
at all. No I/O."""

from typing import Final, NamedTuple

from gateway.lanes import HIGH, LOW, NORMAL
from protocol.codes import MAX_COLLAPSE_KEY_BYTES
from protocol.frames import varint
from protocol.schema import log_pb2

PRIORITIES: Final = {"normal": NORMAL, "high": HIGH, "low": LOW}
MAX_SPEED: Final = 1_000_000_000
"""Devices a second; the log has 32 bits for it."""


class Flaw(NamedTuple):
    """What a push cannot do."""

    field: str
    text: str


class Shape(NamedTuple):
    speed: int = 0
    """Devices a second, over all partitions; 0: as fast as it goes."""
    holdout: float = 0.0
    """Part of the audience that is deliberately not sent to."""
    priority: int = NORMAL
    collapse_key: str = ""
    """Of the app's pushes with this key a device keeps the newest."""

    def flaw(self, ttl_s: int) -> Flaw | None:
        """What a push with this ttl cannot do; None if it can."""
        if not 0 <= self.speed <= MAX_SPEED:
            allowed = f'"auto", or 1 to {MAX_SPEED} devices a second, is allowed'
            return Flaw("speed", f"speed is {self.speed}: {allowed}")
        if self.speed and not ttl_s:
            text = "a push with ttl 0 has one attempt, at once: it takes no speed"
            return Flaw("speed", text)
        if not 0 <= self.holdout < 1:
            return Flaw("holdout", f"holdout is {self.holdout}: from 0 to below 1 is allowed")
        if self.priority not in PRIORITIES.values():
            return Flaw("priority", f"there is no priority {self.priority}")
        size = len(self.collapse_key.encode())
        if size > MAX_COLLAPSE_KEY_BYTES:
            allowed = f"at most {MAX_COLLAPSE_KEY_BYTES} are allowed"
            return Flaw("collapse_key", f"collapse_key takes {size} bytes in UTF-8: {allowed}")
        return None

    def options(self, inbox_cap: int) -> bytes:
        """The fields of columba.log.Push that say so. `inbox_cap` stands in the record, since the fold must
        not depend on what is configured when it is replayed."""
        if self == _PLAIN:  # most pushes
            return _INBOX_CAP + varint(inbox_cap)
        return log_pb2.Push(
            speed=self.speed,
            holdout=self.holdout or 0.0,  # `or` takes the sign from -0.0, which would be a field
            priority=log_pb2.Priority.Name(self.priority),
            collapse_key=self.collapse_key,
            inbox_cap=inbox_cap,
        ).SerializeToString()

    def meaning(self) -> list[object]:
        """For digests: only what was asked for, so that a digest of before these fields is still right."""
        said: list[object] = [self.speed, self.holdout] if self.speed or self.holdout else []
        if self.priority:
            said.append({"priority": self.priority})
        if self.collapse_key:
            said.append({"collapse_key": self.collapse_key})
        return said


_PLAIN: Final = Shape()
_INBOX_CAP: Final = b"\x68"
"""Tag of columba.log.Push.inbox_cap (13, varint)."""
