"""Random audiences, and what they mean on plain Python sets."""

from collections.abc import Mapping
from typing import NamedTuple

from hypothesis import strategies as st

from gateway import audience
from gateway.audience import (
    STATES,
    Account,
    All,
    And,
    Audience,
    Devices,
    Not,
    Or,
    PushState,
    Sample,
    Segment,
    Tag,
    all_of,
    any_of,
    negate,
)

# Letters that mean something somewhere: quoting, words, Chinese, a joined emoji, a combining mark.
AWKWARD = "ab:1 &|!(),\"\\'/%广👩\u200d👧é\u3000"
names = st.text(st.sampled_from(AWKWARD), min_size=1, max_size=8) | st.sampled_from(
    ["all", "AND", "OR", "NOT", "account", "devices", "city:gz", "1", "latest", "displayed"]
)
ids = st.integers(0, 20) | st.integers(0, audience.MAX_ID)
leaves = st.one_of(
    st.just(All()),
    st.builds(Tag, names),
    st.builds(Account, names, st.sampled_from(["all", "latest"])),
    st.lists(ids, max_size=4).map(audience.devices),
    st.builds(PushState, ids, st.sampled_from(STATES)),
    st.builds(Segment, names),
    st.builds(Sample, st.floats(0, 1).map(abs), st.just("") | names),
)


def trees(leaf: st.SearchStrategy[Audience] = leaves) -> st.SearchStrategy[Audience]:
    """Normalised trees well within the limits."""
    return st.recursive(
        leaf,
        lambda below: st.one_of(
            st.lists(below, min_size=1, max_size=4).map(all_of),
            st.lists(below, min_size=1, max_size=4).map(any_of),
            below.map(negate),
        ),
        max_leaves=12,
    ).filter(_fits)


def _fits(tree: Audience) -> bool:
    try:
        audience.check_limits(tree)
    except audience.AudienceError:
        return False
    return True


class World(NamedTuple):
    """Devices 0 to `size` - 1 and what is true of them."""

    size: int
    tags: Mapping[str, set[int]]
    accounts: Mapping[str, list[int]] = {}
    """Devices in the order of binding: the latest is last."""
    segments: Mapping[str, set[int]] = {}

    @property
    def everybody(self) -> set[int]:
        return set(range(self.size))


def select(tree: Audience, world: World) -> set[int]:
    """The devices that a tree means, by the book."""
    match tree:
        case And(terms):
            return set.intersection(*(select(term, world) for term in terms))
        case Or(terms):
            return set.union(*(select(term, world) for term in terms))
        case Not(term):
            return world.everybody - select(term, world)
        case Tag(name):
            return set(world.tags.get(name, ()))
        case Account(id, which):
            bound = world.accounts.get(id, [])
            return set(bound if which == "all" else bound[-1:])
        case Devices(named):
            return set(named) & world.everybody
        case Segment(name):
            return set(world.segments.get(name, ()))
        case All():
            return world.everybody
    raise AssertionError(f"no meaning here: {tree}")


TAGS = ("a", "b", "c", "d")
_subsets = st.sets(st.integers(0, 9))
worlds = st.builds(
    World,
    st.just(10),
    st.fixed_dictionaries(dict.fromkeys(TAGS, _subsets)),
    st.fixed_dictionaries(
        dict.fromkeys(("u1", "u2"), st.lists(st.integers(0, 9), max_size=4, unique=True))
    ),
    st.fixed_dictionaries(dict.fromkeys(("s1", "s2"), _subsets)),
)
plain_leaves = st.one_of(
    st.builds(Tag, st.sampled_from((*TAGS, "unknown"))),
    st.builds(Account, st.sampled_from(["u1", "u2"]), st.sampled_from(["all", "latest"])),
    st.lists(st.integers(0, 12), max_size=4).map(audience.devices),
    st.builds(Segment, st.sampled_from(["s1", "s2"])),
    st.just(All()),
)
"""Leaves that mean something in one of `worlds`."""
