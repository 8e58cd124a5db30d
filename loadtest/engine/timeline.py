"""When a scenario pushes what: one stream of moments out of all its steps. Pure."""

from collections.abc import Iterator, Sequence
from heapq import merge
from typing import NamedTuple

from loadtest.engine.scenario import Event, PushStep


class Moment(NamedTuple):
    at_s: float
    """Since the load began."""
    step: int
    """Its place in the scenario's list."""
    number: int
    """Of the pushes of that step."""


def moments(steps: Sequence[PushStep], duration_s: float) -> Iterator[Moment]:
    """Earliest first, none at or after the end but a single push at the end itself.

    Made one by one: a soak of days costs no memory. A rate's moments come from their number, so
    that nothing adds up.
    """
    return merge(*(_of_step(at, step, duration_s) for at, step in enumerate(steps)))


def _of_step(at: int, step: PushStep, duration_s: float) -> Iterator[Moment]:
    if step.per_s == 0:
        yield Moment(step.at_s, at, 0)
        return
    end = min(duration_s, step.at_s + step.for_s) if step.for_s else duration_s
    number = 0
    while (moment := step.at_s + number / step.per_s) < end:
        yield Moment(moment, at, number)
        number += 1


def in_order(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=lambda event: event.at_s)
