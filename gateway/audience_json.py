"""The audience language as JSON, both ways: what a request carries, decoded, and the tree."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from gateway.audience import (
    MAX_ACCOUNT_BYTES,
    MAX_ACCOUNTS,
    MAX_DEPTH,
    MAX_LEAVES,
    MAX_NAME_BYTES,
    STATES,
    WHICH,
    Account,
    All,
    And,
    Audience,
    AudienceError,
    Bound,
    Devices,
    Not,
    Or,
    PushState,
    Sample,
    Segment,
    Tag,
    Which,
    all_of,
    any_of,
    flaw,
    got,
    negate,
    shown,
    too_deep,
    too_many,
    too_many_accounts,
    u64,
)
from protocol.codes import MAX_TAG_BYTES

T = TypeVar("T")

Json: TypeAlias = str | dict[str, Any]

_REPEATED: Final = 64
"""Characters of a malformed device id that are repeated in the answer."""


def to_json(tree: Audience) -> Json:
    """`from_json` of it gives the tree again. Ids are strings: JavaScript's numbers end at 2^53."""
    match tree:
        case And(terms):
            return {"and": [to_json(term) for term in terms]}
        case Or(terms):
            return {"or": [to_json(term) for term in terms]}
        case Not(term):
            return {"not": to_json(term)}
        case Tag(name):
            return {"tag": name}
        case Account(id, which):
            return {"account": id} if which == "all" else {"account": id, "which": which}
        case Bound(account, ids, which):
            listed = {"bound": account, "devices": [str(id) for id in ids]}
            return listed if which == "all" else {**listed, "which": which}
        case Devices(ids):
            return {"devices": [str(id) for id in ids]}
        case PushState(push_id, state):
            return {"push": str(push_id), "state": state}
        case Segment(name):
            return {"segment": name}
        case Sample(fraction, salt):
            return {"sample": fraction, "salt": salt} if salt else {"sample": fraction}
    return "all"


def from_json(
    value: object,
    path: str = "audience",
    malformed: list[str] | None = None,
    *,
    bound: bool = False,
) -> Audience:
    """The tree of a decoded JSON value. Raises AudienceError.

    Entries of a `devices` list that are no ids are an error, unless `malformed` is given: then they
    are added to it, cut short, and the other devices stand. `bound`: it comes from a log, or from an
    API process, where accounts have been looked up.
    """
    return Reading(malformed, bound=bound).tree(value, path)


class Reading:
    """One audience being read from JSON: counts leaves as they are written."""

    __slots__ = ("_accounts", "_bound", "_leaves", "_malformed")

    def __init__(self, malformed: list[str] | None = None, *, bound: bool = False) -> None:
        self._leaves = 0
        self._accounts = 0
        self._malformed = malformed
        self._bound = bound

    def tree(self, value: object, path: str, depth: int = 0) -> Audience:
        """`depth`: operators around it."""
        if isinstance(value, str) and value == "all":
            self._count(path)
            return All()
        if not isinstance(value, Mapping) or not value:
            what = "an empty object" if isinstance(value, Mapping) else got(value)
            raise AudienceError(
                path, f'expected an object such as {{"tag": ...}}, or "all", got {what}'
            )
        if self._bound and "bound" in value:
            account = self._name(value["bound"], f"{path}.bound", MAX_ACCOUNT_BYTES)
            ids = self._ids(value.get("devices"), f"{path}.devices")
            return Bound(account, ids, _which(value, path))
        kinds = [key for key in value if key in _MEMBERS]
        listed = ", ".join(_MEMBERS)
        if not kinds:
            raise AudienceError(path, f"expected one of {listed}, got `{shown(next(iter(value)))}`")
        kind = kinds[0]
        if len(kinds) > 1:
            raise AudienceError(
                path,
                f"expected one of {listed}, got `{kind}` and `{kinds[1]}` in one object: say with "
                "`and` or `or` how they belong together",
            )
        for key in value:
            if key not in _MEMBERS[kind]:
                raise AudienceError(path, f"`{shown(key)}` does not belong to `{kind}`")
        return self._operator(kind, value[kind], f"{path}.{kind}", depth) or self._leaf(
            kind, value, path
        )

    def _operator(self, kind: str, inner: object, path: str, depth: int) -> Audience | None:
        if kind not in ("and", "or", "not"):
            return None
        if depth >= MAX_DEPTH:
            raise too_deep(path)
        if kind == "not":
            return negate(self.tree(inner, path, depth + 1))
        join = all_of if kind == "and" else any_of
        terms = non_empty_list(inner, path)
        return join([self.tree(term, f"{path}[{i}]", depth + 1) for i, term in enumerate(terms)])

    def _leaf(self, kind: str, value: Mapping[str, object], path: str) -> Audience:
        inner = value[kind]
        at = f"{path}.{kind}"
        match kind:
            case "tag":
                return self.tag(inner, at)
            case "account":
                return self.account(inner, at, _which(value, path))
            case "devices":
                return self.devices(inner, at)
            case "segment":
                return self.segment(inner, at)
            case "push":
                self._count(path)
                push_id = u64(inner)
                if push_id is None:
                    raise AudienceError(at, f"expected a push id (decimal), got {got(inner)}")
                if "state" not in value:
                    raise AudienceError(path, 'expected `state` beside `push`, such as "displayed"')
                return PushState(push_id, one_of(STATES, value["state"], f"{path}.state"))
        self._count(path)
        salt = self._name(value.get("salt", ""), f"{path}.salt", MAX_NAME_BYTES, least=0)
        if isinstance(inner, bool) or not isinstance(inner, int | float) or not 0 <= inner <= 1:
            raise AudienceError(at, f"expected a number from 0 to 1, got {got(inner)}")
        return Sample(inner + 0.0, salt)  # a float always, and no -0.0

    def tag(self, value: object, path: str) -> Tag:
        self._count(path)
        return Tag(self._name(value, path, MAX_TAG_BYTES))

    def account(self, value: object, path: str, which: Which = "all") -> Account:
        self._accounts += 1
        if self._accounts > MAX_ACCOUNTS:
            raise too_many_accounts(path)
        return Account(self._name(value, path, MAX_ACCOUNT_BYTES), which)

    def segment(self, value: object, path: str) -> Segment:
        self._count(path)
        return Segment(self._name(value, path, MAX_NAME_BYTES))

    def devices(self, value: object, path: str) -> Devices:
        self._count(path)
        return Devices(self._ids(value, path))

    def _ids(self, value: object, path: str) -> tuple[int, ...]:
        if not isinstance(value, list | tuple):
            raise AudienceError(path, f"expected a list of device ids, got {got(value)}")
        ids: dict[int, None] = {}
        for i, one in enumerate(value):
            device = u64(one)
            if device is not None:
                ids[device] = None
            elif self._malformed is None or isinstance(one, bool) or not isinstance(one, str | int):
                raise AudienceError(
                    f"{path}[{i}]", f"expected a device id (decimal), got {got(one)}"
                )
            else:
                self._malformed.append(str(one)[:_REPEATED] if _short(one) else got(one))
        return tuple(ids)

    def _count(self, path: str) -> None:
        self._leaves += 1
        if self._leaves > MAX_LEAVES:
            raise too_many(path)

    def _name(self, value: object, path: str, limit: int, least: int = 1) -> str:
        if not isinstance(value, str):
            raise AudienceError(path, f"expected a string, got {got(value)}")
        wrong = flaw(value, limit, least)
        if wrong is not None:
            raise AudienceError(path, f"expected {wrong}")
        return value


_MEMBERS: Final[dict[str, tuple[str, ...]]] = {
    "and": ("and",),
    "or": ("or",),
    "not": ("not",),
    "tag": ("tag",),
    "account": ("account", "which"),
    "devices": ("devices",),
    "push": ("push", "state"),
    "segment": ("segment",),
    "sample": ("sample", "salt"),
}
"""Each kind of object and the members it may have."""


def _which(value: Mapping[str, object], path: str) -> Which:
    return one_of(WHICH, value.get("which", "all"), f"{path}.which")


def one_of(options: Sequence[T], value: object, path: str) -> T:
    for option in options:
        if option == value:
            return option
    listed = ", ".join(str(option) for option in options)
    raise AudienceError(path, f"expected one of {listed}, got {got(value)}")


def non_empty_list(value: object, path: str) -> Sequence[object]:
    """An empty `and` would be everybody: nobody who writes one means that."""
    if not isinstance(value, list | tuple):
        raise AudienceError(path, f"expected a list, got {got(value)}")
    if not value:
        raise AudienceError(path, "expected at least one entry, got an empty list")
    return value


def _short(one: str | int) -> bool:
    # Python refuses to write out integers of more than 4,300 digits.
    return isinstance(one, str) or abs(one) < 10**_REPEATED
