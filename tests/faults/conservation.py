"""The law of conservation, asked of the service itself: nobody who was targeted is forgotten."""

import asyncio
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from tests.faults.app_server import AppServer, unlawful
from tests.faults.told import Pushed, Told

_ASKERS: Final = 4
_POLL_S: Final = 0.2
_ANSWER_S: Final = 10.0
"""Within this a healed service says something of each push."""


class Books(NamedTuple):
    """What the service says of all pushes in the end."""

    checked: int
    unlawful: list[str]
    """The states do not add up, or `targeted` is not whom the push was for."""
    pending: list[str]
    """Somebody is still pending though all devices are back."""


async def audit(server: AppServer, told: Told, settle_s: float) -> Books:
    """Ask for every accepted push until nothing is pending, at most for `settle_s` altogether.

    In rounds, so that one that stays pending leaves time to the others. Where there was no answer that
    says anything it is asked on for a moment, though the time is up: that the service knows nothing of a
    push is not to be taken from one refusal.
    """
    began = time.monotonic()
    said: dict[int, dict[str, int] | None] = {}
    left = list(told.pushes.values())
    while left:
        await _ask(server, left, said)
        left = [pushed for pushed in left if not _is_settled(pushed, said[pushed.push_id])]
        silent = any(said[pushed.push_id] is None for pushed in left)
        if time.monotonic() - began >= max(settle_s, _ANSWER_S if silent else 0.0):
            break
        await asyncio.sleep(_POLL_S)
    wrong: list[str] = []
    pending: list[str] = []
    for pushed in told.pushes.values():
        counts = said[pushed.push_id]
        wrong.extend(errors_of(pushed, counts))
        if counts is not None and counts["pending"]:
            pending.append(f"push {pushed.push_id}: {_short(counts)}")
    return Books(len(told.pushes), wrong, pending)


async def _ask(
    server: AppServer, pushes: Iterable[Pushed], said: dict[int, dict[str, int] | None]
) -> None:
    """Once for each; what was said before stays where there is no answer now."""
    todo = iter(pushes)

    async def ask_on() -> None:
        for pushed in todo:
            counts = said.setdefault(pushed.push_id, None)
            try:
                counts = await server.counts(pushed.push_id) or counts
            except (OSError, TimeoutError):
                pass  # asked again
            said[pushed.push_id] = counts

    await asyncio.gather(*(ask_on() for _ in range(_ASKERS)))


def _is_settled(pushed: Pushed, counts: dict[str, int] | None) -> bool:
    """It will not change any more, or is wrong already."""
    if counts is None:
        return False
    return not counts["pending"] or unlawful(pushed.push_id, counts) is not None


def errors_of(pushed: Pushed, counts: dict[str, int] | None) -> Iterable[str]:
    """What is wrong with the last counts of a push."""
    if counts is None:
        yield f"push {pushed.push_id}: accepted, and the service knows nothing of it"
        return
    wrong = unlawful(pushed.push_id, counts)
    if wrong:
        yield wrong
    wanted = len(pushed.devices)
    # With ttl 0 a push is only for those who are connected when it is folded.
    if counts["targeted"] > wanted or (pushed.ttl_s and counts["targeted"] < wanted):
        yield f"push {pushed.push_id}: for {wanted} devices, {_short(counts)}"
    elif pushed.must_arrive and counts["expired"]:
        yield f"push {pushed.push_id}: expired before its time, {_short(counts)}"


def _short(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)
