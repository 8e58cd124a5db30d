"""Audiences of requests: read in any spelling, made whole with the app's segments and accounts, checked."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from gateway.api.account_lookup import look_up
from gateway.api.errors import ApiError, Errno
from gateway.api.nodes import Nodes, NodesAway
from gateway.audience import (
    And,
    Audience,
    AudienceError,
    Bound,
    Devices,
    Not,
    Or,
    UnknownSegments,
    leaves,
    resolve,
    segments,
)
from gateway.audience_foreign import from_request
from gateway.audience_json import to_json
from gateway.audience_notes import describe
from gateway.store.apps import App
from gateway.store.segments import Segments
from protocol.ids import split_device_id

MAX_SEGMENTS: Final = 1000
"""Segments of an app. Saving one looks through them all."""
NOBODY: Final = Devices(())

_SHAPE: Final[dict[str, Any]] = {"anyOf": [{"type": "string"}, {"type": "object"}]}


class FcmMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """FCM's spelling of an audience."""

    condition: Any = None
    topic: Any = None
    token: Any = None


class AudienceBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a request is about: `audience`, or the same in the spelling of another service."""

    audience: Annotated[
        Any,
        Meta(
            description='`"all"`, an expression such as `city:gz & !vip`, or an object.',
            extra_json_schema=_SHAPE,
        ),
    ] = None
    audience_type: Annotated[Any, Meta(description="TPNS.")] = None
    tag_rules: Annotated[Any, Meta(description="TPNS.")] = None
    tag_list: Annotated[Any, Meta(description="TPNS.")] = None
    token_list: Annotated[Any, Meta(description="TPNS.")] = None
    account_list: Annotated[Any, Meta(description="TPNS.")] = None
    account_push_type: Annotated[Any, Meta(description="TPNS.")] = None
    condition: Annotated[Any, Meta(description="FCM.")] = None
    topic: Annotated[Any, Meta(description="FCM.")] = None
    token: Annotated[Any, Meta(description="FCM.")] = None
    message: Annotated[FcmMessage | None, Meta(description="FCM.")] = None


_SAYING: Final = tuple(name for name in AudienceBody.__struct_fields__ if name != "message")


def read_audience(body: AudienceBody, malformed: list[str] | None = None) -> Audience:
    """The tree as it was written. Raises ApiError. `malformed`: see `audience_json.from_json`."""
    said = {name: getattr(body, name) for name in _SAYING}
    if body.message is not None:
        said["message"] = msgspec.structs.asdict(body.message)
    try:
        return from_request(said, malformed)
    except AudienceError as error:
        raise refusal(error) from None


def refusal(error: AudienceError) -> ApiError:
    return ApiError(Errno.AUDIENCE, str(error))


def encoded(tree: Audience) -> bytes:
    """As it stands in logs and calls: JSON form."""
    return msgspec.json.encode(to_json(tree))


class Settled(NamedTuple):
    """An audience that a partition can look at by itself."""

    tree: Audience
    unknown_segments: tuple[str, ...]
    """Not saved; they stand for nobody in the tree."""
    unknown_accounts: tuple[str, ...]
    """Of no device; the same."""
    partitions: tuple[int, ...] | None
    """In which alone somebody can be meant; None: in any."""


async def settle(
    saved: Segments, nodes: Nodes, app: App, tree: Audience, max_devices: int
) -> Settled:
    """The tree with its segments put in and its accounts looked up. Raises ApiError, StoreUnavailable."""
    unknown: tuple[str, ...] = ()
    if segments(tree):
        found = await saved.needed(app.number, tree)
        try:
            tree, unknown = _put_in(tree, found)
        except AudienceError as error:
            raise refusal(error) from None
    check(tree, max_devices)
    try:
        known = await look_up(nodes, app.number, tree)
    except NodesAway:
        raise ApiError(Errno.DISPATCH_AWAY) from None
    if known.devices > max_devices:
        raise ApiError(
            Errno.ACCOUNTS,
            f"the accounts of the audience have {known.devices} devices together, at most "
            f"{max_devices} are allowed - at `$.audience`",
        )
    places = partitions_of(known.tree)
    return Settled(
        known.tree, unknown, known.unknown, None if places is None else tuple(sorted(places))
    )


def partitions_of(tree: Audience) -> frozenset[int] | None:
    """Partitions in which an audience can mean somebody; None: any. A push need not go anywhere else."""
    match tree:
        case Bound(_, ids) | Devices(ids):
            return frozenset(split_device_id(device)[0] for device in ids)
        case And(terms):
            found = [places for places in map(partitions_of, terms) if places is not None]
            return frozenset.intersection(*found) if found else None
        case Or(terms):
            found = [places for places in map(partitions_of, terms) if places is not None]
            return frozenset[int]().union(*found) if len(found) == len(terms) else None
    return None


def _put_in(tree: Audience, found: Mapping[str, Audience]) -> tuple[Audience, tuple[str, ...]]:
    try:
        return resolve(tree, found), ()
    except UnknownSegments as error:
        negated = _negated((tree, *found.values())).intersection(error.names)
        if negated:
            # As nobody it would stand for everybody there: a slip of the pen must not reach them all.
            raise UnknownSegments("audience", sorted(negated)) from None
        nobody = dict.fromkeys(error.names, NOBODY)
        return resolve(tree, {**found, **nobody}), error.names


def _negated(trees: Iterable[Audience]) -> set[str]:
    """Names of segments that stand below a `not`."""
    names: set[str] = set()
    for tree in trees:
        match tree:
            case Not(term):
                names.update(segments(term))
            case And(terms) | Or(terms):
                names |= _negated(terms)
    return names


def check(tree: Audience, max_devices: int) -> None:
    """What the language allows and this service does not. Raises ApiError."""
    named = sum(len(leaf.ids) for leaf in leaves(tree) if isinstance(leaf, Devices))
    if named > max_devices:
        raise ApiError(
            Errno.DEVICES,
            f"{named} devices are named, at most {max_devices} are allowed - at `$.audience`",
        )


async def save(saved: Segments, app: App, name: str, tree: Audience, max_devices: int) -> None:
    """Raises ApiError if it cannot be put in, or no longer some segment that refers to it."""
    check(tree, max_devices)
    others = await saved.all(app.number)
    if name not in others and len(others) >= MAX_SEGMENTS:
        raise ApiError(Errno.AUDIENCE, f"at most {MAX_SEGMENTS} segments of an app are kept")
    then = {**others, name: tree}
    try:
        whole = resolve(tree, then)
        # A circle has been found by now: what refers to this one is only longer than before.
        for other in others:
            if other != name:
                _check_still_whole(other, then)
    except AudienceError as error:
        raise refusal(error) from None
    check(whole, max_devices)
    await saved.save(app.number, name, tree)


def _check_still_whole(name: str, then: Mapping[str, Audience]) -> None:
    try:
        resolve(then[name], then, f"segment `{name}`")
    except UnknownSegments:
        pass  # it was so before: what it refers to has been deleted


def invalid(segments: Iterable[str], accounts: Iterable[str]) -> list[dict[str, str]]:
    """What was named and means nobody, for the answer."""
    found = [{"target": name, "code": "unknown_segment"} for name in segments]
    return found + [{"target": name, "code": "unknown_account"} for name in accounts]


def notes(tree: Audience) -> list[str]:
    """Of the tree as it was written."""
    return describe(tree)
