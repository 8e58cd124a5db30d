"""Selection: an audience evaluated over the bitmaps of one partition.

Pure. Smallest term first, in place where it can be, a count without materialising its last step,
and no term evaluated twice. What a leaf means is the caller's to say (`leaf`); bitmaps it returns are
only read, and may hold devices outside the universe: what comes out never does.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyroaring import BitMap

from gateway.audience import And, Audience, Leaf, Not, Or

LeafBitmap = Callable[[Leaf], BitMap]
Clock = Callable[[], float]
"""Seconds, of which differences count only."""


class TermCost(NamedTuple):
    """What one term of an audience cost, for `explain`."""

    term: Audience
    devices: int
    seconds: float


class Selection:
    """One evaluation over one partition; bitmaps of subtrees are kept for as long as it lives."""

    def __init__(self, universe: BitMap, leaf: LeafBitmap, clock: Clock | None = None) -> None:
        self._universe = universe
        self._leaf = leaf
        self._clock = clock
        self._known: dict[Audience, BitMap] = {}
        self.costs: list[TermCost] = []
        """In the order in which terms were looked at. Kept with a clock only: the fold has none."""

    def select(self, audience: Audience) -> BitMap:
        """The devices meant, as a bitmap of the caller's own."""
        found = self._evaluate(audience)
        if isinstance(audience, And | Not) and found is not self._universe:
            # Made here and within the universe already. Given away rather than copied: writing a
            # dense one a second time costs twice what finding it does.
            return self._known.pop(audience)
        return found & self._universe

    def count(self, audience: Audience) -> int:
        """How many devices are meant. The last step of an `and` is counted, not materialised."""
        match audience:
            case And(terms):
                return self._count_and(terms)
            case Not(term):
                inside = self._evaluate(term)
                return len(self._universe) - inside.intersection_cardinality(self._universe)
        return self._evaluate(audience).intersection_cardinality(self._universe)

    def _evaluate(self, audience: Audience) -> BitMap:
        """May be shared: not to be changed."""
        known = self._known.get(audience)
        if known is not None:
            return known
        began = self._clock() if self._clock else 0.0
        found = self._known[audience] = self._look_up(audience)
        if self._clock:
            self.costs.append(TermCost(audience, len(found), self._clock() - began))
        return found

    def _look_up(self, audience: Audience) -> BitMap:
        match audience:
            case And(terms):
                return _narrow(*self._sorted(terms))
            case Or(terms):
                return BitMap.union(BitMap(), *[self._evaluate(term) for term in terms])
            case Not(term):
                return self._universe - self._evaluate(term)
        return self._leaf(audience)

    def _sorted(self, terms: Sequence[Audience]) -> tuple[list[BitMap], list[BitMap]]:
        """(what devices must be in, the smallest first; what they must not be in, the largest first)

        The universe is a term like the others, mostly the last: what is narrowed already meets it. To
        ask first whether the smallest lies within it pays for two terms alone (docs/performance.md).
        """
        wanted = [self._evaluate(t) for t in terms if not isinstance(t, Not)]
        unwanted = [self._evaluate(t.term) for t in terms if isinstance(t, Not)]
        wanted = [*(w for w in wanted if w is not self._universe), self._universe]
        return sorted(wanted, key=len), sorted(unwanted, key=len, reverse=True)

    def _count_and(self, terms: Sequence[Audience]) -> int:
        wanted, unwanted = self._sorted(terms)
        if unwanted:
            last = unwanted.pop()
            return _narrow(wanted, unwanted).difference_cardinality(last)
        last = wanted.pop()
        return _narrow(wanted, unwanted).intersection_cardinality(last) if wanted else len(last)


def _narrow(wanted: Sequence[BitMap], unwanted: Sequence[BitMap]) -> BitMap:
    """What is in all of the wanted and none of the unwanted. A new one, unless only one is given."""
    if len(wanted) > 1:
        found = wanted[0] & wanted[1]
    elif unwanted:
        found, unwanted = wanted[0] - unwanted[0], unwanted[1:]
    else:
        return wanted[0]
    for other in wanted[2:]:
        found &= other
    for other in unwanted:
        found -= other
    return found
