"""What the leaves of an audience mean in one partition.

Pure, and part of the fold: it uses the state and the time it is given, nothing else.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

import msgspec
from pyroaring import BitMap

from gateway.audience import (
    All,
    Audience,
    AudienceError,
    Bound,
    Devices,
    Leaf,
    PushState,
    Sample,
    Tag,
    replaced,
)
from gateway.audience import leaves as leaves_of
from gateway.audience_json import from_json
from gateway.dispatch.accounts import Accounts
from gateway.dispatch.campaign import EFFECTS, PRECEDENCE, Campaign, Push, Single
from gateway.dispatch.sampling import sample
from gateway.dispatch.selection import Clock, LeafBitmap, Selection
from gateway.dispatch.tags import Tags
from protocol.ids import split_device_id

DAY_MS: Final = 86_400_000
_DAYS: Final = re.compile(r"(active|new):([1-9]|[12][0-9]|30)d")
_STATES: Final = {name: mark for mark, name in (*PRECEDENCE, *EFFECTS)}
_NOBODY: Final = Devices(())
_EMPTY: Final = BitMap()


class Source(Protocol):
    """The state that leaves are looked up in: a Partition."""

    number: int
    apps: dict[int, BitMap]
    online: dict[int, BitMap]
    seen: dict[int, BitMap]
    born: dict[int, BitMap]

    tags: Tags
    accounts: Accounts

    @property
    def pushes(self) -> Mapping[int, Push]: ...


def read(raw: bytes) -> Audience:
    """The tree in a record or request. Raises AudienceError."""
    try:
        return from_json(msgspec.json.decode(raw), bound=True)
    except msgspec.DecodeError as error:
        raise AudienceError("audience", f"no JSON: {error}") from error


class Meant(NamedTuple):
    """Whom an audience means; bitmaps of the caller's own."""

    devices: BitMap
    personal: BitMap
    """Those of them that are meant only because of whose they are."""


def select(partition: Source, app: int, raw: bytes, ms: int) -> Meant:
    """Devices that an audience means at `ms`.

    Of an audience that this build cannot read: nobody. The API refuses those before they get here.
    """
    try:
        tree = read(raw)
    except AudienceError:
        return Meant(BitMap(), BitMap())
    devices = selection(partition, app, ms).select(tree)
    if not any(isinstance(leaf, Bound) for leaf in leaves_of(tree)):
        return Meant(devices, BitMap())
    others = replaced(tree, lambda leaf: _NOBODY if isinstance(leaf, Bound) else leaf)
    return Meant(devices, devices - selection(partition, app, ms).select(others))


def selection(partition: Source, app: int, ms: int, clock: Clock | None = None) -> Selection:
    """An evaluation of audiences over the devices that an app has in this partition."""
    return Selection(partition.apps.get(app, BitMap()), leaves(partition, app, ms), clock)


def leaves(partition: Source, app: int, ms: int) -> LeafBitmap:
    """What a leaf means for an app at `ms`. Accounts and segments have been put in before."""
    universe = partition.apps.get(app, BitMap())

    def bitmap(leaf: Leaf) -> BitMap:
        match leaf:
            case All():
                return universe
            case Tag(name):
                days = _DAYS.fullmatch(name)
                if days is not None:
                    return _by_day(partition, days[1], int(days[2]), ms // DAY_MS)
                return partition.tags.carriers(app, name)
            case Bound(account, ids):
                here = (split_device_id(device) for device in ids)
                indexes = [index for p, index in here if p == partition.number]
                # A push may name a thousand accounts, most of which have no device here.
                return partition.accounts.held(app, account, indexes) if indexes else _EMPTY
            case Devices(ids):
                here = (split_device_id(device) for device in ids)
                return BitMap([index for p, index in here if p == partition.number])
            case PushState(push_id, state):
                push = partition.pushes.get(push_id)
                return in_state(push, state) if push is not None and push.app == app else BitMap()
            case Sample(fraction, salt):
                size = universe.max() + 1 if universe else 0
                return sample(fraction, salt, partition.number, size)
        return BitMap()

    return bitmap


def _by_day(partition: Source, name: str, days: int, today: int) -> BitMap:
    """Active or new within the last `days` days, today included; who is online is active."""
    source = partition.seen if name == "active" else partition.born
    found = [source[day] for day in range(today - days + 1, today + 1) if day in source]
    if name == "active":
        found += partition.online.values()
    return BitMap.union(BitMap(), *found)


def in_state(push: Push, state: str) -> BitMap:
    """Devices that are in a state of the law, or have an effect, of a push."""
    match push:
        case Campaign():
            return _of_campaign(push, state)
        case Single():
            here = dict(push.counts()).get(state, 0)
            return BitMap((push.index,)) if here else BitMap()
    return BitMap()  # only its counts are left


def _of_campaign(push: Campaign, state: str) -> BitMap:
    if state == "targeted":
        return push.targeted
    if state == "held_out":
        return push.held_out
    if state == "pending":
        return push.pending()
    mark = _STATES.get(state)
    if mark is None or mark not in push.marks:
        return BitMap()
    found = push.marks[mark]
    for stronger, name in PRECEDENCE:
        if name == state or mark in {m for m, _ in EFFECTS}:
            break
        if stronger in push.marks:
            found = found - push.marks[stronger]
    return found
