"""The audience language: whom a push is for, as a frozen tree.

A tree is built of And, Or, Not and leaves. Build it with `all_of`, `any_of`, `negate` and
`devices`: they flatten nested `and`s and `or`s, drop what stands there twice (the first stays where it
is), take away double negation and operators around a single term. So two trees that differ in these
respects only are equal, and their hashes and digests too.

The JSON form is in `audience_json`, the one-line text form in `audience_text`, other services' spellings
are in `audience_foreign`.
Pure: nothing here knows which tags, accounts or pushes exist.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from msgspec import Struct

from protocol.codes import MAX_TAG_BYTES, MAX_TEXT_BYTES

MAX_DEPTH: Final = 16
"""Operators around one leaf. Every walk over a tree recurses this deep at most, far from Python's limit."""
MAX_LEAVES: Final = 512
"""Leaves of one audience as it is written, accounts apart. Each may be a pass over a bitmap in every
partition."""
MAX_ACCOUNTS: Final = 1000
"""Accounts of one audience as it is written, as many as other services take in a push. An account is
no pass over a bitmap: it is a look at a few devices, in their own partitions alone."""
MAX_ACCOUNT_BYTES: Final = MAX_TEXT_BYTES
"""Length of an account id, UTF-8: as long as any other text of a device."""
MAX_NAME_BYTES: Final = MAX_TAG_BYTES
"""Length of a segment's name and of a salt, UTF-8: both are names that people give, as tags are."""
_SHOWN: Final = 48
"""Characters of the caller's input that are repeated in an error."""
MAX_ID: Final = (1 << 64) - 1
_U64_DIGITS: Final = 20

State: TypeAlias = Literal[
    "targeted", "received", "displayed", "clicked", "dismissed", "failed", "expired", "pending",
    "recalled", "replaced", "overflowed", "stopped", "held_out",
]  # fmt: skip
STATES: Final[tuple[State, ...]] = get_args(State)
"""What a device can be to a push: the counts that the API reports, by the same names."""
Which: TypeAlias = Literal["all", "latest"]
WHICH: Final[tuple[Which, ...]] = get_args(Which)


class AudienceError(Exception):
    """An audience that cannot be read or is over a limit. The caller's mistake: answer with it.

    `path` is the place in the JSON request, such as `audience.and[1].not`; "" for text that stands alone.
    `position` is the offset, from 0, in an expression in text; None where there is no text.
    `said` is what was expected there and what came instead, in text with the line and a caret below.
    """

    def __init__(self, path: str, said: str, position: int | None = None) -> None:
        place = [path] if path else []
        if position is not None:
            place.append(f"at position {position}")
        super().__init__(f"{' '.join(place)}: {said}" if place else said)
        self.path = path
        self.position = position
        self.said = said


class UnknownSegments(AudienceError):
    """`names` are referred to and not saved."""

    def __init__(self, path: str, names: Sequence[str]) -> None:
        listed = ", ".join(f"`{shown(name)}`" for name in names)
        super().__init__(path, f"no segment of this name is saved: {listed}")
        self.names = tuple(names)


class All(Struct, frozen=True):
    """Every device of the app."""


class Tag(Struct, frozen=True):
    """Devices with this tag, `name` or `name:value`."""

    name: str


class Account(Struct, frozen=True):
    """All devices of the account, or the one it was bound to last."""

    id: str
    which: Which = "all"


class Bound(Struct, frozen=True):
    """Those of the devices that still belong to the account: what an Account is when it stands in a
    log, looked up. Not part of the language: callers can only say Account."""

    account: str
    ids: tuple[int, ...]
    which: Which = "all"
    """What was asked for; for people who read it."""


class Devices(Struct, frozen=True):
    """Devices by id. May be empty, which is nobody. How many there may be is the caller's to say."""

    ids: tuple[int, ...]


class PushState(Struct, frozen=True):
    """Devices that are in this state of that push, at the moment of selection."""

    push_id: int
    state: State


class Segment(Struct, frozen=True):
    """The audience saved under this name. `resolve` puts it in."""

    name: str


class Sample(Struct, frozen=True):
    """That part of the devices (0 to 1), the same ones each time for the same salt."""

    fraction: float
    salt: str = ""


class And(Struct, frozen=True):
    """Devices in each of the terms. Two terms or more, none of them an And."""

    terms: "tuple[Audience, ...]"


class Or(Struct, frozen=True):
    """Devices in any of the terms. Two terms or more, none of them an Or."""

    terms: "tuple[Audience, ...]"


class Not(Struct, frozen=True):
    """Devices of the app that are not in the term, which is no Not."""

    term: "Audience"


Leaf: TypeAlias = All | Tag | Account | Bound | Devices | PushState | Segment | Sample
Audience: TypeAlias = And | Or | Not | Leaf


def all_of(terms: Iterable[Audience]) -> Audience:
    """Devices in each of the terms. Raises ValueError without any: that would be everybody."""
    flat = _flat(And, terms)
    return flat[0] if len(flat) == 1 else And(flat)


def any_of(terms: Iterable[Audience]) -> Audience:
    """Devices in any of the terms. Raises ValueError without any."""
    flat = _flat(Or, terms)
    return flat[0] if len(flat) == 1 else Or(flat)


def _flat(kind: type[And | Or], terms: Iterable[Audience]) -> tuple[Audience, ...]:
    once: dict[Audience, None] = {}
    for term in terms:
        for inner in term.terms if isinstance(term, kind) else (term,):
            once[inner] = None
    if not once:
        raise ValueError(f"{kind.__name__} of nothing")
    return tuple(once)


def negate(term: Audience) -> Audience:
    return term.term if isinstance(term, Not) else Not(term)


def devices(ids: Iterable[int]) -> Devices:
    return Devices(tuple(dict.fromkeys(ids)))


def _below(tree: Audience) -> tuple[Audience, ...]:
    if isinstance(tree, And | Or):
        return tree.terms
    return (tree.term,) if isinstance(tree, Not) else ()


def leaves(tree: Audience) -> Iterator[Leaf]:
    """In the order of the text, as often as they occur."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, And | Or | Not):
            waiting.extend(reversed(_below(node)))
        else:
            yield node


def segments(tree: Audience) -> list[str]:
    """Names of the segments it refers to, each once, in the order of the text."""
    return list(dict.fromkeys(leaf.name for leaf in leaves(tree) if isinstance(leaf, Segment)))


def replaced(tree: Audience, change: Callable[[Leaf], "Audience"]) -> Audience:
    """The tree with each leaf changed, in normal form."""
    match tree:
        case And(terms):
            return all_of(replaced(term, change) for term in terms)
        case Or(terms):
            return any_of(replaced(term, change) for term in terms)
        case Not(term):
            return negate(replaced(term, change))
    return change(tree)


class Size(NamedTuple):
    """What the limits count. Accounts that have been looked up are neither."""

    leaves: int
    accounts: int


def size_of(nodes: Iterable[Audience]) -> Size:
    """Of these nodes, without what is below them."""
    counted = [node for node in nodes if not isinstance(node, And | Or | Not | Bound)]
    accounts = sum(isinstance(node, Account) for node in counted)
    return Size(len(counted) - accounts, accounts)


def check_limits(tree: Audience, path: str = "audience") -> None:
    """Raises AudienceError if the tree is over MAX_DEPTH, MAX_LEAVES or MAX_ACCOUNTS, however deep it is."""
    level: Sequence[Audience] = (tree,)
    count = accounts = depth = 0
    while level:
        if depth > MAX_DEPTH:
            raise too_deep(path)
        size = size_of(level)
        count, accounts = count + size.leaves, accounts + size.accounts
        if count > MAX_LEAVES:
            raise too_many(path)
        if accounts > MAX_ACCOUNTS:
            raise too_many_accounts(path)
        level = [term for node in level for term in _below(node)]
        depth += 1


def too_deep(path: str) -> AudienceError:
    return AudienceError(
        path, f"nested too deeply: at most {MAX_DEPTH} operators may stand around one leaf"
    )


def too_many(path: str) -> AudienceError:
    return AudienceError(path, f"too many leaves: at most {MAX_LEAVES} are allowed")


def too_many_accounts(path: str) -> AudienceError:
    return AudienceError(path, f"too many accounts: at most {MAX_ACCOUNTS} are allowed")


# Saved segments


def resolve(tree: Audience, saved: Mapping[str, Audience], path: str = "audience") -> Audience:
    """The tree with each segment replaced by what is saved under its name, these resolved likewise.

    Raises UnknownSegments with all names that are missing, and AudienceError for segments that refer
    to themselves, even indirectly, and if the result would be over a limit. Takes time in
    proportion to the saved trees that are referred to, however often one is.
    """
    resolved: dict[str, Audience] = {}
    for name in _referred(tree, saved, path):
        inside = f"{path}: segment `{shown(name)}`"
        resolved[name] = _put_in(saved[name], resolved, inside)
    return _put_in(tree, resolved, path)


def _put_in(tree: Audience, resolved: Mapping[str, Audience], path: str) -> Audience:
    check_limits(tree, path)
    sizes = {name: size_of(leaves(resolved[name])) for name in segments(tree)}
    # Counted before it is built: 512 references to 512 leaves must not be written out to be refused.
    parts = [sizes[n.name] if isinstance(n, Segment) else size_of((n,)) for n in leaves(tree)]
    for what, limit, count in (
        ("leaves", MAX_LEAVES, sum(part.leaves for part in parts)),
        ("accounts", MAX_ACCOUNTS, sum(part.accounts for part in parts)),
    ):
        if count > limit:
            raise AudienceError(
                path,
                f"with its segments put in it has more than {limit} {what}, which is the limit",
            )
    whole = replaced(tree, lambda n: resolved[n.name] if isinstance(n, Segment) else n)
    check_limits(whole, path)
    return whole


def _referred(tree: Audience, saved: Mapping[str, Audience], path: str) -> list[str]:
    """All segments needed, each after those that it refers to itself.

    With a stack of its own: a chain of segments may be longer than Python's recursion limit.
    """
    finished: dict[str, None] = {}
    unknown: dict[str, None] = {}
    way: dict[
        str, Iterator[str]
    ] = {}  # from the top down to where we are, with what is left to visit
    for start in segments(tree):
        following: str | None = start
        while following is not None or way:
            if following is None:
                finished[way.popitem()[0]] = None
            elif following in way:
                names = list(way)
                circle = [*names[names.index(following) :], following]
                drawn = " -> ".join(f"`{shown(name)}`" for name in circle)
                raise AudienceError(path, f"segments that refer to themselves: {drawn}")
            elif following not in saved:
                unknown[following] = None
            elif following not in finished:
                way[following] = iter(segments(saved[following]))
            following = next(way[next(reversed(way))], None) if way else None
    if unknown:
        raise UnknownSegments(path, list(unknown))
    return list(finished)


# What a value may be


# One line of text must be able to show any name, and UTF-8 to write it: so no control characters, no
# line or paragraph separators, no halves of surrogate pairs. Joiners are letters' parts and stay.
UNFIT: Final = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
_UNFIT: Final = re.compile(f"[{UNFIT}]")


def flaw(name: str, limit: int = MAX_TAG_BYTES, least: int = 1) -> str | None:
    """What is wrong with a name of `least` to `limit` bytes, as the end of an error; None if nothing is."""
    unfit = _UNFIT.search(name)
    if unfit is not None:
        return f"text without control characters, got U+{ord(unfit[0]):04X} in it"
    size = len(name.encode())
    return None if least <= size <= limit else f"{least} to {limit} bytes in UTF-8, got {size}"


def u64(value: object) -> int | None:
    """An id as a number or decimal digits; None if it is no u64."""
    if isinstance(value, str):
        # isdigit alone takes other scripts' digits; int() also takes "1_0" and " 1".
        if not (value.isascii() and value.isdigit() and len(value) <= _U64_DIGITS):
            return None
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_ID else None


def shown(value: object) -> str:
    """Input of the caller's for an error: on one line, and not all of it if it is long."""
    text = _UNFIT.sub("\N{REPLACEMENT CHARACTER}", str(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def got(value: object) -> str:
    """What came instead of what was expected."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f'the string "{shown(value)}"'
        case float():
            return f"the number {value}"
        case int():
            # Python refuses to write very large numbers out, and nobody wants to read them.
            return f"the number {value}" if abs(value) <= MAX_ID else "a number beyond 64 bits"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
    return f"a {type(value).__name__}"
