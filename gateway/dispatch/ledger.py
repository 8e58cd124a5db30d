"""The ledger of one push at one device: what the state knows, in the order in which it happened.

Pure. The state says what is true now, and the log, as far as it reaches back, says when that came
about; what the log no longer dates stands where it must have happened.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from gateway.dispatch.campaign import EFFECTS, PERSONAL, PRECEDENCE, Campaign, Push, Single, Tally
from gateway.dispatch.sends import SendState
from gateway.dispatch.trail import LEFT_ACCOUNT, SELECTED, SESSIONS, Step

MOST_STEPS: Final = 500
"""Steps that are told: of a device that connects all the time there may be any number."""
_NAMES: Final = dict((*PRECEDENCE, *EFFECTS))
_RANKS: Final = {
    name: rank
    for rank, names in enumerate(
        (
            ("targeted", "held_out", "not_targeted"),
            ("paused",),
            # Neither touches who has it already, but a receipt may come after either.
            ("recalled", "replaced", "overflowed", "stopped", "expired"),
            ("failed",),
            ("received",),
            ("displayed",),
            ("clicked", "dismissed"),
        )
    )
    for name in names
}
"""What the state knows without a time, in its logical order."""
_SETTLED: Final = frozenset(name for _, name in PRECEDENCE)
_ENDS: Final = frozenset({"recalled", "replaced", "overflowed", "stopped", "expired"})
_RECEIPTS: Final = frozenset(_NAMES.values()) - _ENDS
_MERGED_MS: Final = 1000
"""Sends of a push within this time count as one (gateway.dispatch.sending): its time is the first's."""


class Facts(NamedTuple):
    """One push at one device, as it stands now."""

    state: str
    """Of the law, or held_out, not_targeted, forgotten (only counts are left)."""
    events: Sequence[str]
    """All that the state knows to have happened there, without times."""
    accepted_ms: int
    ttl_s: int
    edge: int
    """0: offline."""
    sent: SendState
    now_ms: int
    """By the store's clock."""
    personal: bool = False
    """It is meant only as a device of some account."""


class Told(NamedTuple):
    """What was read of the log."""

    steps: Sequence[Step]
    trimmed_ms: int = 0
    """Not 0: the log begins only then, after the accept."""
    read_to_ms: int = 0
    """Not 0: it was read only up to then, since there is too much of it."""


def state_of(push: Push, index: int) -> tuple[str, list[str]]:
    """(state, events) of `Facts`."""
    if isinstance(push, Tally):
        return "forgotten", []
    if isinstance(push, Campaign) and index in push.held_out:
        return "held_out", ["held_out"]
    marks = _marks(push, index)
    if marks is None:
        return "not_targeted", ["not_targeted"]
    state = next((name for mark, name in PRECEDENCE if mark in marks), "pending")
    events = sorted((_NAMES[mark] for mark in marks), key=_RANKS.__getitem__)
    return state, ["targeted", *events]


def is_personal(push: Push, index: int) -> bool:
    match push:
        case Single():
            return index == push.index and bool(push.marks >> PERSONAL & 1)
        case Campaign():
            return index in push.marks.get(PERSONAL, ())
    return False


def _marks(push: Single | Campaign, index: int) -> set[int] | None:
    """None: it is not meant."""
    if isinstance(push, Single):
        return {mark for mark in _NAMES if push.marks >> mark & 1} if index == push.index else None
    if index not in push.targeted:
        return None
    return {mark for mark in _NAMES if mark in push.marks and index in push.marks[mark]}


def steps(facts: Facts, told: Told) -> list[Step]:
    """All that happened, in the order of the log, the accept first."""
    found = [step for step in (_renamed(step, facts) for step in told.steps) if _of(facts, step)]
    seen = {step.event for step in found}
    front = 0
    for event in facts.events:
        if event in seen:
            continue
        if told.trimmed_ms or not _RANKS[event]:
            found.insert(front, Step(0, event))  # before all that the log still has
            front += 1
        else:
            found.insert(_place(event, found), Step(0, event))
    if facts.sent.sent_s_ago is not None and facts.state == "pending":
        _put_sent(facts.sent.sent_s_ago, facts, found)
    found = _without_idle_controls(found, trimmed=bool(told.trimmed_ms))
    return [Step(facts.accepted_ms, "accepted"), *found]


def _renamed(step: Step, facts: Facts) -> Step:
    """For this device the push's record means that it is targeted, held out, or neither."""
    return step._replace(event=facts.events[0]) if step.event == SELECTED and facts.events else step


def _of(facts: Facts, step: Step) -> bool:
    """Does a step belong to this device? Not what befell the push when it was settled here."""
    if step.event in SESSIONS or step.event == LEFT_ACCOUNT:
        return True
    if facts.state == "forgotten":
        return step.event in _RECEIPTS
    if step.event in ("paused", "resumed"):
        return "targeted" in facts.events
    return step.event in facts.events


def _place(event: str, found: Sequence[Step]) -> int:
    """Before what can only come after it."""
    rank = _RANKS[event]
    later = (at for at, step in enumerate(found) if _RANKS.get(step.event, -1) > rank)
    return next(later, len(found))


def _put_sent(ago_s: float, facts: Facts, found: list[Step]) -> None:
    at_ms = facts.now_ms - int(ago_s * 1000)
    for step in found:
        if step.event == "session_up" and at_ms < step.at_ms <= at_ms + _MERGED_MS:
            at_ms = step.at_ms
        elif step.event == "targeted":
            at_ms = max(at_ms, step.at_ms)  # our clock is not just the store's
    place = next((at for at, step in enumerate(found) if step.at_ms > at_ms), len(found))
    moved = any(step.event in SESSIONS for step in found[place:])
    found.insert(place, Step(at_ms, "sent", 0 if moved else facts.edge, facts.sent.attempt))


def _without_idle_controls(found: Iterable[Step], *, trimmed: bool) -> list[Step]:
    """Without a resume of what was not paused, and what was decided once nothing was pending here."""
    kept: list[Step] = []
    paused, settled = trimmed, False
    for step in found:
        if step.event in ("paused", "resumed"):
            if settled or (step.event == "resumed" and not paused):
                continue
            paused = step.event == "paused"
        settled |= step.event in _SETTLED
        kept.append(step)
    return kept
