"""What app servers decided about pushes that are under way: pause, resume, stop.

Pure, a part of the fold. A fan-out reaches one partition before another, so a decision may stand in the
log before its push does; it is remembered until the push could no longer be delivered anyway.
"""

from typing import Final

import msgspec

from protocol.schema import log_pb2

MOST_EARLY: Final = 10_000
"""Decisions about pushes that are not known yet; beyond it the one that ends first is dropped."""


class Early(msgspec.Struct, frozen=True):
    """A decision that came before its push."""

    app: int
    paused: bool
    stopped: bool
    until_ms: int
    recalled: bool = False


class Controls:
    """Of one partition; stands in every snapshot."""

    def __init__(self) -> None:
        self.paused: set[int] = set()
        """Known pushes of which nothing is sent for now."""
        self.early: dict[int, Early] = {}
        """push id -> decision"""

    def remember(self, control: log_pb2.Control, ms: int) -> None:
        """A decision about a push that is not known here. The last one counts, but for stop and recall."""
        before = self.early.get(control.push_id)
        mine = before if before is not None and before.app == control.app else None
        stopped = control.action == log_pb2.STOP or (mine is not None and mine.stopped)
        recalled = control.action == log_pb2.RECALL or (mine is not None and mine.recalled)
        paused = control.action == log_pb2.PAUSE
        for push_id in [i for i, early in self.early.items() if early.until_ms <= ms]:
            del self.early[push_id]
        if len(self.early) >= MOST_EARLY and control.push_id not in self.early:
            # Both parts of the key come from the log, so every owner drops the same one.
            ends = min(self.early, key=lambda push_id: (self.early[push_id].until_ms, push_id))
            del self.early[ends]
        self.early[control.push_id] = Early(
            control.app, paused, stopped, control.until_ms, recalled
        )

    def take(self, push_id: int, app: int) -> Early | None:
        """The decision about a push that has just come; another app's is none."""
        early = self.early.pop(push_id, None)
        return early if early is not None and early.app == app else None
