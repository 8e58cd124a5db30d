"""Whom an audience means, computed over plain sets of device ids. Pure.

It shares nothing with the service but the language (docs/audiences.md), so that the two can be
held against each other. Trees are the language's JSON form, decoded.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Tree = Any
"""An audience in JSON: an object, or "all"."""
Devices = AbstractSet[int]


@dataclass(frozen=True, slots=True)
class World:
    """All that an audience can ask about, at one moment."""

    devices: Devices
    """Everybody."""
    tags: Mapping[str, Devices] = field(default_factory=dict)
    states: Mapping[tuple[int, str], Devices] = field(default_factory=dict)
    """(push id, state) -> devices, of the pushes that may be asked for."""
    samples: Mapping[tuple[float, str], Devices] = field(default_factory=dict)
    """(fraction, salt) -> devices. Which ones is the service's to choose, so they are learned."""


def meant(tree: Tree, world: World) -> Devices:
    """Raises KeyError for a push, a state or a sample that the world does not know."""
    if tree == "all":
        return world.devices
    match tree:
        case {"and": terms}:
            return frozenset.intersection(*(frozenset(meant(term, world)) for term in terms))
        case {"or": terms}:
            return frozenset.union(*(frozenset(meant(term, world)) for term in terms))
        case {"not": term}:
            return world.devices - meant(term, world)
        case {"tag": tag}:
            return world.tags.get(tag, frozenset())
        case {"devices": ids}:
            return world.devices & set(map(int, ids))
        case {"push": push, "state": state}:
            return world.states[int(push), state]
        case {"sample": fraction}:
            return world.samples[fraction, tree.get("salt", "")]
    raise ValueError(f"{tree!r} is no audience of this driver's")


class Bounds(NamedTuple):
    """Who must be among those a push is for, and who may be."""

    must: Devices
    may: Devices


def bounds(tree: Tree, worlds: Iterable[World]) -> Bounds:
    """Of an audience looked at while each device is as in one of the worlds, each for itself.

    Whether a device is meant depends on that device alone, so those meant in every world must be
    among them, and only those meant in some may be.
    """
    each = [frozenset(meant(tree, world)) for world in worlds]
    return Bounds(frozenset.intersection(*each), frozenset.union(*each))


def by_tag(tags: Mapping[int, Iterable[str]]) -> dict[str, set[int]]:
    """Device -> its tags, turned round."""
    carriers: dict[str, set[int]] = {}
    for device, carried in tags.items():
        for tag in carried:
            carriers.setdefault(tag, set()).add(device)
    return carriers


def to_text(tree: Tree) -> str:
    """The same audience in the text form, with more parentheses than it needs."""
    if tree == "all":
        return "all"
    match tree:
        case {"and": terms}:
            return "(" + " & ".join(map(to_text, terms)) + ")"
        case {"or": terms}:
            return "(" + " | ".join(map(to_text, terms)) + ")"
        case {"not": term}:
            return f"!{to_text(term)}"
        case {"tag": tag}:
            return str(tag)
        case {"devices": ids}:
            return f"devices({', '.join(map(str, ids))})"
        case {"push": push, "state": state}:
            return f"push({push}, {state})"
        case {"sample": fraction}:
            salt = f", {tree['salt']}" if tree.get("salt") else ""
            return f"sample({fraction}{salt})"
    raise ValueError(f"{tree!r} is no audience of this driver's")


def leaves(tree: Tree) -> Iterator[Tree]:
    """Every leaf, as often as it stands in the tree."""
    match tree:
        case {"and": terms} | {"or": terms}:
            for term in terms:
                yield from leaves(term)
        case {"not": term}:
            yield from leaves(term)
        case _:
            yield tree
