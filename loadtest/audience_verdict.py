"""What the devices of an audience run say, held against what the service says. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from loadtest.api_client import STATES
from loadtest.meaning import Bounds, Devices
from loadtest.verdict import Verdict, judge

EFFECTS: Final = ("displayed", "clicked", "dismissed")
"""What is counted beside the states."""
Cuts: TypeAlias = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Name -> tag -> counts, as the service tells them."""


def judge_bounds(expected: Mapping[int, Bounds], shown: Mapping[int, Iterable[int]]) -> Verdict:
    """Lost is who must have got a push and did not, a stray who may not have got it and did."""
    times = {push_id: list(devices) for push_id, devices in shown.items()}
    must = judge({push_id: each.must for push_id, each in expected.items()}, times)
    may = judge({push_id: each.may for push_id, each in expected.items()}, times)
    return Verdict(lost=must.lost, duplicates=may.duplicates, strays=may.strays)


def states_of(targeted: Devices, shown: Devices, looking: Devices) -> dict[str, Devices]:
    """Who is in which state of a push, as the devices know it. Those that look have displayed it."""
    nobody: frozenset[int] = frozenset()
    return {
        **dict.fromkeys((*STATES, *EFFECTS), nobody),
        "targeted": targeted,
        "received": shown,
        "pending": targeted - shown,
        "displayed": shown & looking,
    }


def counts_of(states: Mapping[str, Devices]) -> dict[str, int]:
    """Without those that are zero."""
    return {state: len(devices) for state, devices in states.items() if devices}


def cuts_of(
    states: Mapping[str, Devices], carriers: Mapping[str, Devices], by: Iterable[str]
) -> dict[str, dict[str, int]]:
    """Tag -> counts of the devices that carry it, of the tags named so. Without zeros."""
    named = set(by)
    cuts = {}
    for tag, devices in carriers.items():
        if tag.partition(":")[0] in named:
            cuts[tag] = counts_of({state: here & devices for state, here in states.items()})
    return {tag: counts for tag, counts in cuts.items() if counts}


def told_cuts(cuts: Cuts) -> dict[str, dict[str, int]]:
    """What the service tells, as `cuts_of` has it. Raises ValueError for a tag under another name."""
    told = {}
    for name, tags in cuts.items():
        for tag, counts in tags.items():
            if tag.partition(":")[0] != name:
                raise ValueError(f"{tag!r} is told of under {name!r}")
            told[tag] = without_zeros(counts)
    return {tag: counts for tag, counts in told.items() if counts}


def without_zeros(counts: Mapping[str, int]) -> dict[str, int]:
    """A state that none of the devices is in may be told of or not."""
    return {state: count for state, count in counts.items() if count}


def differences(found: object, wanted: object) -> str:
    """In words, and of two mappings only where they differ."""
    if not isinstance(found, Mapping) or not isinstance(wanted, Mapping):
        return f"the service says {found}, the devices {wanted}"
    apart = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return "; ".join(f"{key}: {differences(found.get(key), wanted.get(key))}" for key in apart)
