"""Notes on an audience: what is allowed but may not be what was meant."""

from typing import Final

from gateway.audience import And, Audience, Not, Or, any_of
from gateway.audience_text import to_text

_REPEATED: Final = 80
"""Characters of an expression that a note repeats."""


def describe(tree: Audience) -> list[str]:
    """One sentence for each, in the order of the text; the expressions in it are in canonical text."""
    notes: list[str] = []
    _describe(tree, notes, bounded=False)
    return notes


def _describe(tree: Audience, notes: list[str], *, bounded: bool) -> None:
    """`bounded`: something stands beside it that it is subtracted from."""
    match tree:
        case Not(term) if not bounded:
            notes.append(_everybody_except(tree, term))
        case And(terms):
            excluded = {term.term: None for term in terms if isinstance(term, Not)}
            bounded = bounded or _is_bounded(tree)
            if not bounded and len(excluded) == len(terms):
                notes.append(_everybody_except(tree, any_of(excluded)))
                return
            for term in (term for term in terms if term in excluded):
                what = f"asks for `{_brief(term)}` and for its opposite"
                notes.append(f"`{_brief(tree)}` is nobody: it {what}")
            for term in terms:
                _describe(term, notes, bounded=bounded)
        case Or(terms):
            excluded = {term.term: None for term in terms if isinstance(term, Not)}
            for term in (term for term in terms if term in excluded):
                what = f"takes `{_brief(term)}` and its opposite"
                notes.append(f"`{_brief(tree)}` is everybody: it {what}")
            for term in terms:
                _describe(term, notes, bounded=bounded)


def _is_bounded(tree: Audience) -> bool:
    """It begins from what it names, not from everybody."""
    match tree:
        case Not():
            return False
        case And(terms):
            return any(_is_bounded(term) for term in terms)
        case Or(terms):
            return all(_is_bounded(term) for term in terms)
    return True


def _everybody_except(tree: Audience, excluded: Audience) -> str:
    return f"`{_brief(tree)}` without anything to subtract from means everybody except {_brief(excluded)}"


def _brief(tree: Audience) -> str:
    text = to_text(tree)
    return text if len(text) <= _REPEATED else f"{text[:_REPEATED]}…"
