"""Selection against plain Python sets: what it finds, how often it asks, and what it leaves alone."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.audience import (
    Account,
    All,
    And,
    Audience,
    Devices,
    Leaf,
    Not,
    Or,
    Segment,
    Tag,
    all_of,
    any_of,
    leaves,
    negate,
)
from gateway.dispatch.selection import Selection
from tests.gateway.audience_trees import TAGS, plain_leaves, trees

A, B, C, D = (Tag(name) for name in TAGS)
# Containers begin at multiples of 65,536. The last four are never anybody's.
PLACES = [0, 1, 2, 3, 65_535, 65_536, 65_537, 131_071, 131_072, 1_048_575, 10, 11, 12, 1_048_576]
places = st.sets(st.sampled_from(PLACES))
universes = st.sets(st.sampled_from(PLACES[:10]))
tables = st.fixed_dictionaries(dict.fromkeys(TAGS, places))


class Table:
    """What leaves mean, whether these devices exist or not; counts the questions."""

    def __init__(self, universe: Iterable[int], tags: Mapping[str, Iterable[int]]) -> None:
        self.universe = BitMap(universe)
        self.bitmaps = {name: BitMap(devices) for name, devices in tags.items()}
        self.asked: Counter[Leaf] = Counter()
        self._before = self._everything()

    def leaf(self, leaf: Leaf) -> BitMap:
        self.asked[leaf] += 1
        match leaf:
            case All():
                return self.universe
            case Tag(name) | Segment(name) | Account(name):
                # Accounts and segments are other names here: two terms share one bitmap.
                named = {"u1": "a", "u2": "b", "s1": "c", "s2": "d"}.get(name, name)
                return self.bitmaps.setdefault(named, BitMap())
            case Devices(ids):
                return self.bitmaps.setdefault(str(ids), BitMap(ids))
        raise AssertionError(leaf)

    def meant(self, tree: Audience) -> set[int]:
        """By the book."""
        universe = set(self.universe)
        match tree:
            case And(terms):
                return set.intersection(*map(self.meant, terms))
            case Not(term):
                return universe - self.meant(term)
            case Tag() | Segment() | Account() | Devices() | All():
                found = set(self.leaf(tree)) & universe
                self.asked[tree] -= 1
                return found
            case Or(terms):
                return set.union(*map(self.meant, terms))
        raise AssertionError(tree)

    def selection(self) -> Selection:
        return Selection(self.universe, self.leaf)

    def unchanged(self) -> bool:
        now = self._everything()
        return all(now[name] == kept for name, kept in self._before.items())

    def _everything(self) -> dict[str, BitMap]:
        return {"": self.universe.copy()} | {n: held.copy() for n, held in self.bitmaps.items()}


stages = st.builds(Table, universes, tables)
ANY = trees(plain_leaves)


@given(ANY, stages)
def test_select_and_count_mean_what_sets_mean(tree: Audience, stage: Table) -> None:
    meant = stage.meant(tree)
    assert set(stage.selection().select(tree)) == meant
    assert stage.selection().count(tree) == len(meant)
    assert stage.unchanged()


@given(st.lists(ANY, min_size=1, max_size=3), stages)
def test_one_selection_answers_in_any_order_and_asks_for_a_leaf_once(
    asked: list[Audience], stage: Table
) -> None:
    selection = stage.selection()
    for tree in (*asked, *reversed(asked)):
        meant = stage.meant(tree)
        assert selection.count(tree) == len(meant)
        selected = selection.select(tree)
        assert set(selected) == meant
        selected.flip_inplace(0, 200_000)  # the caller's own: nobody else sees it
        assert selection.count(tree) == len(meant)
    used = {leaf for tree in asked for leaf in leaves(tree)}
    assert {leaf: n for leaf, n in stage.asked.items() if n} == dict.fromkeys(used, 1)
    assert stage.unchanged()


@given(ANY, ANY, tables)
def test_nobody_is_selected_where_nobody_is(
    tree: Audience, other: Audience, tags: dict[str, set[int]]
) -> None:
    selection = Table(set(), tags).selection()
    assert selection.count(tree) == selection.count(negate(other)) == 0
    assert not selection.select(negate(tree))


@given(stages)
def test_not_at_the_top_means_all_but(stage: Table) -> None:
    selection = stage.selection()
    assert set(selection.select(Not(A))) == set(stage.universe - stage.bitmaps["a"])
    assert selection.count(Not(A)) + selection.count(A) == len(stage.universe)


@given(ANY, stages)
def test_an_audience_and_its_contrary_share_all_between_them(tree: Audience, stage: Table) -> None:
    selection = stage.selection()
    assert selection.count(tree) + selection.count(negate(tree)) == len(stage.universe)


@pytest.mark.parametrize("tree", [All(), And((All(), A)), And((A, B)), A, any_of([A, B])])
def test_what_is_selected_is_never_a_bitmap_of_the_partition(tree: Audience) -> None:
    everybody = BitMap(range(100))
    selection = Selection(everybody, lambda leaf: everybody)
    selection.select(tree).clear()
    assert len(everybody) == 100
    assert selection.count(tree) == 100


def test_a_subtree_that_stands_in_two_places_is_evaluated_once() -> None:
    stage = Table({0, 1, 2, 3}, {"a": {0, 1}, "b": {1, 2}, "c": {3}, "d": {0}})
    ticks = count()
    selection = Selection(stage.universe, stage.leaf, lambda: float(next(ticks)))
    twice = all_of([A, B])
    selection.select(any_of([all_of([any_of([twice, C]), D]), all_of([negate(twice), C])]))
    terms = [cost.term for cost in selection.costs]
    assert terms.count(twice) == 1
    assert len(set(terms)) == len(terms)


def test_costs_are_kept_with_a_clock_only() -> None:
    stage = Table({0, 1, 2}, {"a": {0, 1}, "b": {1, 9}, "c": set(), "d": set()})
    ticks = count()
    timed = Selection(stage.universe, stage.leaf, lambda: float(next(ticks)))
    assert timed.count(all_of([A, B])) == 1
    assert [(cost.term, cost.devices, cost.seconds) for cost in timed.costs] == [
        (A, 2, 1.0),
        (B, 2, 1.0),
    ]
    untimed = stage.selection()
    untimed.select(all_of([A, B]))
    assert not untimed.costs


# Dense bitmaps, where containers are bit sets and runs


SHAPES = {
    "a": BitMap(range(0, 300_000, 2)),
    "b": BitMap(range(50_000, 250_000)),
    "c": BitMap(range(0, 300_000, 3)),
    "d": BitMap(range(7, 300_000, 1009)),
}
shapes = st.recursive(
    st.sampled_from([A, B, C, D, All()]),
    lambda below: st.one_of(
        st.lists(below, min_size=1, max_size=4).map(all_of),
        st.lists(below, min_size=1, max_size=3).map(any_of),
        below.map(negate),
    ),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None)
@given(shapes, st.booleans())
def test_bit_sets_runs_and_arrays(tree: Audience, optimized: bool) -> None:
    stage = Table(range(100, 280_000), SHAPES)
    if optimized:
        for held in (stage.universe, *stage.bitmaps.values()):
            held.run_optimize()
    assert stage.selection().count(tree) == len(stage.selection().select(tree))
    assert stage.selection().select(tree) == by_algebra(tree, stage)
    assert stage.unchanged()


def by_algebra(tree: Audience, stage: Table) -> BitMap:
    match tree:
        case And(terms):
            return BitMap.intersection(*[by_algebra(term, stage) for term in terms])
        case Not(term):
            return stage.universe - by_algebra(term, stage)
        case Tag() | All():
            return stage.leaf(tree) & stage.universe
        case Or(terms):
            return BitMap.union(*[by_algebra(term, stage) for term in terms])
    raise AssertionError(tree)
