"""What the API accepted, and what became of it by the devices' own records. Pure."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

_ENDED: Final = ("failed", "recalled", "replaced", "overflowed", "stopped", "expired")
"""States in which a push has ended for a device without being received."""


_SUSPECTS: Final = 20


class Accepted(NamedTuple):
    push_id: int
    step: int
    device: int | None
    """None: an audience."""
    known: int
    """Devices that had registered when it was made, at least; 0 where that says nothing."""
    until: float
    """When its time is over, seconds of the clock that `judged` is told; for ttl 0 that is at once."""


class Suspect(NamedTuple):
    """A push that was lost on somebody, or shown on the wrong ones."""

    push: Accepted
    shown: int
    counts: Mapping[str, int]
    """As the service tells them; empty if it was not asked."""


@dataclass(slots=True)
class Outcome:
    """Pairs of push and device, except where it says pushes."""

    targeted: int = 0
    shown: int = 0
    expired: int = 0
    lost: int = 0
    duplicates: int = 0
    strays: int = 0
    untargeted: int = 0
    unbalanced_pushes: int = 0
    suspects: list[Suspect] = field(default_factory=list)
    """The first pushes that something was wrong with."""


class Book:
    """Accepted pushes in columns, 31 bytes each."""

    def __init__(self) -> None:
        self._ids = array("Q")
        self._steps = array("H")
        self._devices = array("Q")
        self._known = array("I")
        self._until = array("d")
        self._single = bytearray()
        self.audiences = 0
        """Of them: for several devices."""

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Accepted]:
        for at, push_id in enumerate(self._ids):
            device = self._devices[at] if self._single[at] else None
            yield Accepted(push_id, self._steps[at], device, self._known[at], self._until[at])

    def note(self, push: Accepted) -> None:
        self._ids.append(push.push_id)
        self._steps.append(push.step)
        self._devices.append(push.device or 0)
        self._known.append(push.known)
        self._until.append(push.until)
        self._single.append(push.device is not None)
        self.audiences += push.device is None

    def open(self, shown_counts: Mapping[int, int], ended: Iterable[int]) -> list[Accepted]:
        """Pushes that may still be missing somewhere: single ones that nobody has been shown, and
        those for audiences; without those known to have `ended`.
        """
        over = set(ended)
        return [
            push
            for push in self
            if push.push_id not in over
            and (push.device is None or not shown_counts.get(push.push_id))
        ]


def judged(
    book: Book,
    shown_counts: Mapping[int, int],
    shown: Mapping[int, list[int]],
    counts: Mapping[int, Mapping[str, int]],
    unanswered: int,
    now: float,
) -> Outcome:
    """`shown_counts`: push id -> devices. `shown`: push id -> devices it was shown on, of singles.
    `counts`: the service's, of every push that `Book.open` named.

    Requests without an answer may have been accepted all the same, so as many unknown ids are nobody's
    fault. Of a push whose time is over nothing is lost: what has not been shown counts as expired.
    """
    outcome = Outcome()
    known_ids = set()
    for push in book:
        known_ids.add(push.push_id)
        before = outcome.lost + outcome.strays + outcome.untargeted + outcome.unbalanced_pushes
        if push.device is None:
            _judge_audience(
                outcome, push, shown_counts.get(push.push_id, 0), counts[push.push_id], now
            )
        else:
            told_of = counts.get(push.push_id)
            _judge_single(outcome, push, shown.get(push.push_id, []), told_of, now)
        after = outcome.lost + outcome.strays + outcome.untargeted + outcome.unbalanced_pushes
        if after > before and len(outcome.suspects) < _SUSPECTS:
            told = counts.get(push.push_id, {})
            outcome.suspects.append(Suspect(push, shown_counts.get(push.push_id, 0), told))
    unknown = shown_counts.keys() - known_ids
    excess = sorted((shown_counts[push] for push in unknown), reverse=True)
    outcome.duplicates = sum(excess[unanswered:])
    return outcome


def has_ended(counts: Mapping[str, int]) -> bool:
    """Nobody has it still to come."""
    return not counts["pending"]


def _judge_audience(
    outcome: Outcome, push: Accepted, shown: int, counts: Mapping[str, int], now: float
) -> None:
    targeted, ended = counts["targeted"], sum(counts[state] for state in _ENDED)
    missing = max(0, targeted - ended - shown)
    over = push.until <= now
    outcome.targeted += targeted
    outcome.shown += shown
    outcome.expired += counts["expired"] + over * missing
    outcome.lost += missing * (not over)
    outcome.strays += max(0, shown - targeted)
    outcome.untargeted += max(0, push.known - targeted)
    states = ("received", "pending", *_ENDED)
    outcome.unbalanced_pushes += targeted != sum(counts[state] for state in states)


def _judge_single(
    outcome: Outcome,
    push: Accepted,
    shown: list[int],
    counts: Mapping[str, int] | None,
    now: float,
) -> None:
    outcome.targeted += 1
    right = push.device in shown
    outcome.shown += right
    outcome.strays += len(shown) - right
    if right:
        return
    over = push.until <= now
    outcome.expired += over or bool(counts and counts["expired"])
    outcome.lost += not over and not (counts and sum(counts[state] for state in _ENDED))
