"""Which terms of an audience match one device. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from gateway.audience import And, Audience, Leaf, Not, Or
from gateway.audience_text import to_text

_SHOWN: Final = 200
"""Characters of a term: it may list thousands of devices."""
_NAMED: Final = 3
"""Terms that a sentence names."""


class Term(NamedTuple):
    term: str
    """Text form, cut if it is long."""
    matches: bool


def holds(tree: Audience, leaves: Mapping[Leaf, bool]) -> bool:
    """Does an audience mean a device? `leaves`: whether each of its leaves does."""
    match tree:
        case And(terms):
            return all(holds(term, leaves) for term in terms)
        case Or(terms):
            return any(holds(term, leaves) for term in terms)
        case Not(term):
            return not holds(term, leaves)
    return leaves[tree]


def terms(tree: Audience, leaves: Mapping[Leaf, bool]) -> list[Term]:
    """Each term once, in the order of the text, the whole before its parts.

    `!vip` is one term; of an `and` or `or` at the top only the parts are told.
    """
    found: dict[Audience, None] = {}
    _collect(tree, found)
    if isinstance(tree, And | Or):
        del found[tree]
    return [Term(brief(term), holds(term, leaves)) for term in found]


def _collect(tree: Audience, found: dict[Audience, None]) -> None:
    found[tree] = None
    match tree:
        case And(inner) | Or(inner):
            for term in inner:
                _collect(term, found)
        case Not(And(inner) | Or(inner)):
            for term in inner:
                _collect(term, found)


def mismatch(tree: Audience, leaves: Mapping[Leaf, bool]) -> str:
    """What of an audience does not match, as a clause; "" if it means the device."""
    if holds(tree, leaves):
        return ""
    if isinstance(tree, Or):
        return f"none of {_listed([brief(term) for term in tree.terms])} matched"
    terms = tree.terms if isinstance(tree, And) else (tree,)
    return f"{_listed([brief(term) for term in terms if not holds(term, leaves)])} did not match"


def _listed(texts: Sequence[str]) -> str:
    if len(texts) > _NAMED:
        texts = [*texts[: _NAMED - 1], f"{len(texts) - _NAMED + 1} more"]
    return " and ".join((", ".join(texts[:-1]), texts[-1])) if len(texts) > 1 else texts[0]


def brief(term: Audience) -> str:
    text = to_text(term)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
