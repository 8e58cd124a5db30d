"""The law of conservation, asked of the service itself: nobody who was targeted is forgotten."""

import asyncio
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from tests.faults.app_server import AppServer, unlawful
from tests.faults.told import Pushed, Told

_ASKERS: Final = 4
_POLL_S: Final = 0.2


class Books(NamedTuple):
    """What the service says of all pushes in the end."""

    checked: int
    unlawful: list[str]
    """The states do not add up, or `targeted` is not whom the push was for."""
    pending: list[str]
    """Somebody is still pending though all devices are back."""


async def audit(server: AppServer, told: Told, settle_s: float) -> Books:
    """Ask for every accepted push until nothing is pending, at most for `settle_s` altogether."""
    deadline = time.monotonic() + settle_s
    wrong: list[str] = []
    pending: list[str] = []
    todo = iter(list(told.pushes.values()))

    async def ask_on() -> None:
        for pushed in todo:
            counts = await _settled(server, pushed, deadline)
            wrong.extend(errors_of(pushed, counts))
            if counts is not None and counts["pending"]:
                pending.append(f"push {pushed.push_id}: {_short(counts)}")

    await asyncio.gather(*(ask_on() for _ in range(_ASKERS)))
    return Books(len(told.pushes), wrong, pending)


async def _settled(server: AppServer, pushed: Pushed, deadline: float) -> dict[str, int] | None:
    counts: dict[str, int] | None = None
    while True:
        try:
            counts = await server.counts(pushed.push_id) or counts
        except (OSError, TimeoutError):
            pass  # asked again
        if counts is not None and (not counts["pending"] or unlawful(pushed.push_id, counts)):
            return counts
        if time.monotonic() >= deadline:
            return counts
        await asyncio.sleep(_POLL_S)


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
