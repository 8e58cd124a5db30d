"""What an app server knows: what was accepted, for whom, and what it was left in doubt about."""

from dataclasses import dataclass, field

from tests.faults.door import Mark

LONG_TTL_S = 600
"""A push that lives longer than any run must arrive."""


@dataclass(slots=True, kw_only=True)
class Pushed:
    """A push that was accepted, and for whom."""

    push_id: int
    devices: frozenset[int]
    """Device ids."""
    asked_at: float
    """Before the first request, and when its answer was here (monotonic seconds)."""
    answered_at: float
    priority: str = "normal"
    ordered: bool = False
    """One append was its accept, so its place in the log is between these two times."""
    ttl_s: int = 3600
    collapse_key: str = ""
    recall_asked: bool = False
    recalled_at: float | None = None
    """When the recall was acknowledged."""
    mark: Mark | None = None
    """What had left the edges right after that."""

    @property
    def must_arrive(self) -> bool:
        """On every device that it was for, unless a later one of its collapse key does."""
        return self.ttl_s >= LONG_TTL_S and not self.recall_asked


@dataclass(slots=True)
class Told:
    """All that was accepted, and how it went."""

    pushes: dict[int, Pushed] = field(default_factory=dict)
    refused: int = 0
    """Answers that said: not now."""
    unanswered: int = 0
    """Requests without an answer, repeated or not."""
    doubtful: dict[int, frozenset[int]] = field(default_factory=dict)
    """Pushes that may have been accepted: refused under this push id with 503, and not repeated."""
    in_doubt: list[frozenset[int]] = field(default_factory=list)
    """Devices of requests that may have become a push of whose id nobody was told."""
    looks: int = 0
    """Counts that were asked for while the fault lasted."""
    unlawful: list[str] = field(default_factory=list)
    """Counts in which the states did not add up to `targeted`."""
