"""Worlds of a few devices, and audiences over them, for tests that draw theirs."""

from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st

from loadtest.meaning import Tree, World

SIZE: Final = 6
TAGS: Final = ("city:gz", "vip", "platform:ios")
STATES: Final = ((7, "received"), (7, "pending"))
SAMPLES: Final = ((0.25, "s"), (0.5, "s"))

UNHURRIED: Final = settings(deadline=None)
"""How long an example takes says something about the machine alone."""

_some: Final = st.frozensets(st.integers(0, SIZE - 1))


def _each(keys: tuple[Any, ...]) -> Any:
    return st.fixed_dictionaries(dict.fromkeys(keys, _some))


WORLDS: Final[st.SearchStrategy[World]] = st.builds(
    World, st.just(frozenset(range(SIZE))), _each(TAGS), _each(STATES), _each(SAMPLES)
)

_leaves: Final[st.SearchStrategy[Tree]] = st.one_of(
    st.just("all"),
    st.sampled_from([{"tag": tag} for tag in (*TAGS, "nobody:here")]),
    st.sampled_from([{"push": str(push), "state": state} for push, state in STATES]),
    st.sampled_from([{"sample": fraction, "salt": salt} for fraction, salt in SAMPLES]),
    _some.map(lambda devices: {"devices": [str(device) for device in sorted(devices)]}),
)


def _join(terms: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    several = st.lists(terms, min_size=1, max_size=3)
    return st.one_of(
        terms.map(lambda term: {"not": term}),
        several.map(lambda them: {"and": them}),
        several.map(lambda them: {"or": them}),
    )


TREES: Final[st.SearchStrategy[Tree]] = st.recursive(_leaves, _join, max_leaves=8)
