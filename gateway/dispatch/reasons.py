"""Why a device has a push, or not: one sentence for people, and what could not be told.

Pure. A sentence says no more than the state and the log do: where they do not tell since when, it
says nothing of that.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from gateway.dispatch.ledger import MOST_STEPS, Facts, Told
from gateway.dispatch.trail import AWAY, LEFT_ACCOUNT, SESSIONS, Step, Whereabouts

ELSEWHERE: Final = "the push names devices or accounts, and this device is not among them"
"""Also of a push that the device's partition has nothing of."""
_HELD: Final = {
    "paused": "the push is paused",
    "paced": "held back by the speed limit: the device's turn has not come yet",
    "behind": "its window is full: it must receipt earlier messages first",
    "no_link": "its edge cannot be reached from the dispatch node at the moment; sent when it can",
    "refused": "the edge could not take it (no session there, or too much unsent); looked at again soon",
}
"""SendState.why of a device that is online."""


class Meant(NamedTuple):
    """What is known of whom the push is for."""

    listed: bool | None
    """True: devices are listed; False: an audience says; None: not known any more."""
    mismatch: str = ""
    """A clause: what of the audience does not match, as it stands now. "" if it does."""
    named: bool | None = None
    """With a list: is the device in it? None if that is not known any more."""


def rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def why(facts: Facts, told: Told, meant: Meant, before: Whereabouts) -> str:
    """One sentence."""
    match facts.state:
        case "received":
            return _received(facts)
        case "failed":
            return "the device reported that it can never hand it out"
        case "stopped":
            return _stopped(facts, told)
        case "recalled":
            return "the push was recalled before the device had received it"
        case "replaced":
            return "a newer push with the same collapse key took its place before it was received"
        case "overflowed":
            return "too many messages waited for the device: this was the oldest of the lowest priority"
        case "expired":
            return _expired(facts, told, before)
        case "held_out":
            return "held out on purpose: it is in the part of the audience that is not sent to"
        case "not_targeted":
            return _not_targeted(facts, meant)
        case "forgotten":
            return "the push is known, but only its counts are kept: no longer which device had it"
    return _pending(facts, told, before)


def _received(facts: Facts) -> str:
    if "clicked" in facts.events:
        return "the device has it, and it was clicked on"
    if "dismissed" in facts.events:
        return "the device has it, and it was dismissed"
    return f"the device has it{' and displayed it' if 'displayed' in facts.events else ''}"


def _stopped(facts: Facts, told: Told) -> str:
    happened = {step.event for step in told.steps}
    before = "before it had received the push"
    if LEFT_ACCOUNT in happened:
        return f"it was meant as a device of an account, and left that {before}"
    if facts.personal and "stopped" not in happened:
        return f"the push was stopped, or the device left the account it is for, {before}"
    return "the push was stopped before the device had received it"


def _not_targeted(facts: Facts, meant: Meant) -> str:
    moment = "it was not connected when the push came, and with ttl 0 only those who are get it"
    if meant.listed is None:
        return "the push was not meant for it, and what its audience was is no longer kept"
    if meant.listed:
        if meant.named:
            return moment
        if facts.ttl_s == 0 and meant.named is None:
            return "the push does not name it, or it was not connected when the push came (ttl 0)"
        return ELSEWHERE
    if meant.mismatch:
        return f"not meant by the audience: {meant.mismatch} (as it stands now)"
    if facts.ttl_s == 0:
        return moment
    return "not meant by the audience when the push came, although it matches as it stands now"


def _expired(facts: Facts, told: Told, before: Whereabouts) -> str:
    if facts.ttl_s == 0:
        return "it was for that moment only (ttl 0), and no receipt came"
    ended = f"the ttl of {facts.ttl_s} s was over before"
    dated = [step.at_ms for step in told.steps if step.event == "expired"]
    expired_ms = dated[0] if dated else facts.accepted_ms + facts.ttl_s * 1000
    held = [step.event for step in told.steps if step.event in ("paused", "resumed")]
    if held and held[-1] == "paused":
        return f"{ended} the push, which was paused, was resumed"
    if _was_online(facts, told, before, expired_ms) is False:
        return f"{ended} it came online"
    return f"{ended} the device had received it"


def _was_online(facts: Facts, told: Told, before: Whereabouts, until_ms: int) -> bool | None:
    """At any time from the accept on? None if the log does not tell."""
    sessions = _sessions(told)
    came = [step for step in sessions if step.event == "session_up" and step.at_ms <= until_ms]
    if came or (sessions and sessions[0].event in AWAY):
        return True
    if told.trimmed_ms or told.read_to_ms:
        return None
    if not sessions:
        return facts.edge != 0
    # It came up only afterwards; before that it was offline, or at another edge.
    return None if before.edge is None else before.edge != 0


def _pending(facts: Facts, told: Told, before: Whereabouts) -> str:
    sent, held = facts.sent, facts.sent.why
    if facts.ttl_s and facts.accepted_ms + facts.ttl_s * 1000 <= facts.now_ms:
        return f"its ttl of {facts.ttl_s} s is over; it is about to be marked as expired"
    if not facts.edge:
        offline = _offline(told, before)
        if held == "paused":
            return f"{_HELD['paused']}; besides, {offline}"
        return offline if facts.ttl_s else f"{offline}; with ttl 0 it is not sent again"
    if held in _HELD:
        return _HELD[held]
    if sent.sent_s_ago is not None:
        times = "once" if sent.attempt == 1 else f"{sent.attempt} times"
        last = "" if sent.attempt == 1 else "last "
        return f"sent {times}, {last}{_seconds(sent.sent_s_ago)} ago, no receipt yet"
    if facts.ttl_s == 0:
        return "with ttl 0 it is sent once, and no receipt has come"
    return "it is about to be sent"


def _offline(told: Told, before: Whereabouts) -> str:
    sessions = _sessions(told)
    if told.read_to_ms:
        return "the device is offline"
    if sessions and sessions[-1].event in AWAY:
        return f"the device is offline since {rfc3339(sessions[-1].at_ms)}"
    if told.trimmed_ms:
        return f"the device is offline, and was already at {rfc3339(told.trimmed_ms)}"
    if before.edge == 0:
        return f"the device is offline since {rfc3339(before.since_ms)}, before the push came"
    return "the device is offline, and was already when the push came"


def _sessions(told: Told) -> list[Step]:
    return [step for step in told.steps if step.event in SESSIONS]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def notes(facts: Facts, told: Told, meant: Meant, steps: int, terms: int) -> Sequence[str]:
    """What could not be told, and how what is told is to be taken. `steps`, `terms`: how many."""
    said = []
    if told.trimmed_ms:
        begins = rfc3339(told.trimmed_ms)
        said.append(f"the log begins only at {begins}: what happened before it has no time")
    if told.read_to_ms:
        ends = rfc3339(told.read_to_ms)
        said.append(f"the log was read up to {ends} only: what happened after it has no time")
    if steps > MOST_STEPS:
        said.append(f"only the first {MOST_STEPS} of {steps} steps are told")
    if terms:
        said.append("terms are as they stand now, not as they stood when the push came")
    if meant.listed is None and facts.state != "forgotten":
        said.append("the audience of the push is no longer kept")
    return said
