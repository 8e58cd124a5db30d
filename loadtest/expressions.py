"""Which tags the devices of the audience scenario have, and what it asks for. Pure, given a Random."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from loadtest.meaning import Tree

_SHARES: Final[Mapping[str, Mapping[str, float]]] = {
    "city": {"gz": 0.25, "sz": 0.2, "bj": 0.2, "sh": 0.15, "cd": 0.1, "": 0.1},
    "sex": {"male": 0.45, "female": 0.45, "": 0.1},
    "tier": {"gold": 0.1, "silver": 0.3, "": 0.6},
    "platform": {"android": 0.6, "ios": 0.4},
    "lang": {"zh": 0.8, "en": 0.2},
}
"""Part of the devices by value; "": without. The last two are system tags, sent as attributes."""
VIP: Final = "vip"
_VIP_SHARE: Final = 0.08
BETA: Final = "beta"
"""Set by the app server, and by some devices themselves."""
_BETA_SHARE: Final = 0.02
CUTS: Final = ("city", "sex", "tier", VIP, "platform")
"""The names that statistics are cut by: as many as one request may have."""

SALT: Final = "loadtest"
LARGE: Final = 0.3
SMALL: Final = 0.05
"""Fractions of the samples."""
OF_ALL: Final = ("new:7d", "active:7d")
"""Tags of all devices that have registered within the week."""
_NOBODY: Final = "nobody:here"

_LEAF_SHARE: Final = 0.4
"""Terms that are drawn as leaves although they need not be."""

FIXED: Final[Sequence[Tree]] = (
    {"tag": "city:gz"},
    {"and": [{"tag": "city:gz"}, {"tag": "sex:male"}, {"not": {"tag": VIP}}]},
    {"or": [{"tag": VIP}, {"and": [{"tag": "tier:gold"}, {"tag": "city:bj"}]}]},
    {"and": [{"tag": "platform:ios"}, {"tag": "lang:en"}]},
    {"and": [{"not": {"tag": "platform:android"}}, {"not": {"tag": "tier:silver"}}]},
    {"and": [{"tag": "new:7d"}, {"tag": "active:7d"}, {"tag": "city:sh"}]},
    {"and": [{"tag": BETA}, {"or": [{"tag": "sex:female"}, {"tag": "city:sz"}]}]},
    {"and": [{"or": [{"tag": BETA}, {"tag": VIP}]}, {"not": {"tag": _NOBODY}}]},
    {"tag": _NOBODY},
    {"or": [{"tag": _NOBODY}, {"and": [{"tag": "city:cd"}, {"not": {"tag": "lang:zh"}}]}]},
)
"""What is always asked, whatever else is drawn."""


def draw_tags(random: Random) -> frozenset[str]:
    """What one device says of itself."""
    tags = {
        f"{name}:{value}"
        for name, shares in _SHARES.items()
        if (value := random.choices([*shares], [*shares.values()])[0])
    }
    tags |= {VIP} if random.random() < _VIP_SHARE else set()
    tags |= {BETA} if random.random() < _BETA_SHARE else set()
    return frozenset(tags)


def leaves_of_tags() -> list[Tree]:
    """Every tag that there is, and one that nobody has."""
    named = [f"{name}:{value}" for name, shares in _SHARES.items() for value in shares if value]
    return [{"tag": tag} for tag in (*named, VIP, BETA, *OF_ALL, _NOBODY)]


def sample(fraction: float) -> Tree:
    return {"sample": fraction, "salt": SALT}


def draw_tree(random: Random, leaves: Sequence[Tree], depth: int = 3) -> Tree:
    """An expression over these leaves, with one to `depth` operators around each."""
    operator = random.choice(("and", "and", "or", "not"))
    if operator == "not":
        return {"not": _term(random, leaves, depth - 1)}
    terms = random.randint(2, 4)
    return {operator: [_term(random, leaves, depth - 1) for _ in range(terms)]}


def _term(random: Random, leaves: Sequence[Tree], depth: int) -> Tree:
    if depth == 0 or random.random() < _LEAF_SHARE:
        return random.choice(leaves)
    return draw_tree(random, leaves, depth)
