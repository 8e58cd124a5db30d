"""Selection: an audience evaluated over the bitmaps of one partition.

Pure. Smallest term first, in place where it can be, a count without materialising its last step,
and no term evaluated twice. What a leaf means is the caller's to say (`leaf`); bitmaps it returns are
only read.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyroaring import BitMap

from gateway.audience import And, Audience, Leaf, Not, Or

LeafBitmap = Callable[[Leaf], BitMap]


class TermCost(NamedTuple):
    """What one term of an audience cost, for `explain`."""

    term: Audience
    devices: int
    seconds: float


class Selection:
    """One evaluation over one partition; bitmaps of subtrees are kept for as long as it lives."""

    def __init__(self, universe: BitMap, leaf: LeafBitmap) -> None:
        self._universe = universe
        self._leaf = leaf
        self._known: dict[Audience, BitMap] = {}
        self.costs: list[TermCost] = []
        """In the order in which terms were looked at."""

    def select(self, audience: Audience) -> BitMap:
        """The devices meant, as a bitmap of the caller's own."""
        return self._evaluate(audience) & self._universe

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
        began = time.perf_counter()
        match audience:
            case And(terms):
                found = self._intersect(terms)
            case Or(terms):
                found = BitMap.union(BitMap(), *[self._evaluate(term) for term in terms])
            case Not(term):
                found = self._universe - self._evaluate(term)
            case _:
                found = self._leaf(audience)
        self._known[audience] = found
        self.costs.append(TermCost(audience, len(found), time.perf_counter() - began))
        return found

    def _sorted(self, terms: Sequence[Audience]) -> tuple[list[BitMap], list[BitMap]]:
        """(what devices must be in, the smallest first; what they must not be in, the largest first)"""
        wanted = [self._evaluate(t) for t in terms if not isinstance(t, Not)]
        unwanted = [self._evaluate(t.term) for t in terms if isinstance(t, Not)]
        if not wanted:
            wanted = [self._universe]
        return sorted(wanted, key=len), sorted(unwanted, key=len, reverse=True)

    def _intersect(self, terms: Sequence[Audience]) -> BitMap:
        wanted, unwanted = self._sorted(terms)
        if len(wanted) > 1:
            found = wanted[0] & wanted[1]
            steps = wanted[2:]
        else:
            found = wanted[0].copy()
            steps = []
        for other in steps:
            if not found:
                return found
            found &= other
        for other in unwanted:
            found -= other
        return found

    def _count_and(self, terms: Sequence[Audience]) -> int:
        # The universe is the last thing to cut by: leaves lie within it already, unless they are
        # lists that a caller made, so it is a term like the others.
        wanted, unwanted = self._sorted(terms)
        if wanted[-1] is not self._universe and not self._within_universe(terms):
            wanted = sorted([*wanted, self._universe], key=len)
        last: BitMap | None = unwanted.pop(0) if unwanted else None
        if last is None:
            if len(wanted) == 1:
                return len(wanted[0])
            last_wanted = wanted.pop()
            return self._narrow(wanted, []).intersection_cardinality(last_wanted)
        return self._narrow(wanted, unwanted).difference_cardinality(last)

    def _narrow(self, wanted: Sequence[BitMap], unwanted: Sequence[BitMap]) -> BitMap:
        """May be one of `wanted` itself: only read."""
        if len(wanted) == 1 and not unwanted:
            return wanted[0]
        found = wanted[0] & wanted[1] if len(wanted) > 1 else wanted[0].copy()
        for other in wanted[2:]:
            found &= other
        for other in unwanted:
            found -= other
        return found

    def _within_universe(self, terms: Sequence[Audience]) -> bool:
        smallest = min(
            (self._evaluate(t) for t in terms if not isinstance(t, Not)),
            key=len,
            default=self._universe,
        )
        return smallest.issubset(self._universe)
