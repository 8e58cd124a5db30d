"""A partition's state cut into pieces for a snapshot, and put together again.

`freeze` takes copies at one position without serialising what is large in Python; `Frozen.pieces`
serialises piece by piece, so that the fold can go on in between.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec
from pyroaring import BitMap

from gateway.dispatch.campaign import Campaign, Push, Single, Tally
from gateway.dispatch.controls import Early
from gateway.dispatch.partition import Partition
from gateway.dispatch.tags import Profile
from protocol.schema import log_pb2

_META: Final = "meta"
_Lists = dict[str, tuple[int, ...]]
_Holders = dict[int, str]


class Meta(msgspec.Struct, frozen=True):
    order: int
    paused: list[int] = []
    early: dict[int, Early] = {}


class Frozen(NamedTuple):
    """What changed since the last snapshot, as it stood at `position`."""

    position: str
    makers: list[tuple[str, Callable[[], bytes]]]
    """(name, serialise)"""
    removed: list[str]

    def pieces(self) -> Iterator[tuple[str, bytes]]:
        for name, make in self.makers:
            yield name, make()


def names(partition: Partition) -> set[str]:
    """All pieces that this state consists of, but for what every snapshot has."""
    found = {f"apps/{app}" for app in partition.apps}
    found |= {f"online/{edge}" for edge in partition.online}
    found |= {f"bound/{key}" for key in partition.tags.bound}
    found |= {f"seen/{day}" for day in partition.seen}
    found |= {f"born/{day}" for day in partition.born}
    found |= {f"profiles/{block}" for block in partition.tags.profiles}
    found |= {f"accounts/{block}" for block in partition.accounts.lists}
    found |= {f"holders/{block}" for block in partition.accounts.holders}
    for push in partition.pushes.values():
        found.add(partition.piece_of(push))
    return found


def freeze(partition: Partition, wanted: set[str] | None = None) -> Frozen:
    """Copies of the wanted pieces (the dirty ones, if none are named); what gets dirty from here on
    is collected for the next snapshot."""
    makers: list[tuple[str, Callable[[], bytes]]] = []
    removed: list[str] = []
    controls = partition.controls
    meta = Meta(partition.order, sorted(controls.paused), dict(controls.early))
    makers.append((_META, lambda: msgspec.json.encode(meta)))
    for name in sorted(partition.dirty if wanted is None else wanted):
        maker = _maker(partition, name)
        if maker is None:
            removed.append(name)
        else:
            makers.append((name, maker))
    partition.dirty.clear()
    return Frozen(partition.position, makers, removed)


def restore(partition: Partition, position: str, pieces: dict[str, bytes]) -> None:
    """Put a freshly made partition into the state of a snapshot. Any exception: it is unreadable."""
    meta = msgspec.json.decode(pieces[_META], type=Meta)
    partition.order = meta.order
    partition.controls.paused.update(meta.paused)
    partition.controls.early.update(meta.early)
    pushes: list[Push] = []
    for name, blob in pieces.items():
        kind, _, rest = name.partition("/")
        if kind == "apps":
            partition.apps[int(rest)] = BitMap.deserialize(blob)
        elif kind == "online":
            partition.restore_online(int(rest), BitMap.deserialize(blob))
        elif kind == "bound":
            partition.tags.restore_bound(rest, BitMap.deserialize(blob))
        elif kind == "seen":
            partition.seen[int(rest)] = BitMap.deserialize(blob)
        elif kind == "born":
            partition.born[int(rest)] = BitMap.deserialize(blob)
        elif kind == "profiles":
            for profile in log_pb2.Record.FromString(blob).profiles:
                partition.tags.restore_profile(profile.index, profile.change, profile.tags)
        elif kind == "accounts":
            partition.accounts.restore_lists(int(rest), msgspec.json.decode(blob, type=_Lists))
        elif kind == "holders":
            partition.accounts.restore_holders(int(rest), msgspec.json.decode(blob, type=_Holders))
        elif kind == "campaigns":
            pushes.append(_read_campaign(blob))
        elif kind == "singles":
            pushes += _read_singles(blob)
    for push in sorted(pushes, key=lambda push: push.order):
        partition.restore_push(push)
    for devices in partition.apps.values():
        if devices:
            partition.reserve(devices.max())
    partition.position = position
    partition.dirty.clear()


def _maker(partition: Partition, name: str) -> Callable[[], bytes] | None:
    """Serialiser of a frozen copy of one piece; None if there is nothing left of it."""
    kind, _, rest = name.partition("/")
    by_number = {
        "apps": partition.apps,
        "online": partition.online,
        "seen": partition.seen,
        "born": partition.born,
    }.get(kind)
    if by_number is not None or kind == "bound":
        bound = partition.tags.bound
        devices = bound.get(rest) if by_number is None else by_number.get(int(rest))
        return _bitmap_maker(devices) if devices else None
    if kind == "profiles":
        rows = partition.tags.profiles.get(int(rest), {}).copy()
        return lambda: _write_profiles(rows)
    if kind == "accounts":
        lists = partition.accounts.lists.get(int(rest), {}).copy()
        return (lambda: msgspec.json.encode(lists)) if lists else None
    if kind == "holders":
        holders = partition.accounts.holders.get(int(rest), {}).copy()
        return (lambda: msgspec.json.encode(holders)) if holders else None
    if kind == "singles":
        singles = [_row(single) for single in partition.singles_of(int(rest))]
        return (lambda: _write_singles(singles)) if singles else None
    push = partition.pushes.get(int(rest))
    match push:
        case Campaign():
            return _campaign_maker(push)
        case Tally():
            return lambda: _write_tally(push)
    return None


def _bitmap_maker(devices: BitMap) -> Callable[[], bytes]:
    copy = devices.copy()
    return lambda: bytes(copy.serialize())


def _write_profiles(rows: dict[int, Profile]) -> bytes:
    profiles = [
        log_pb2.Profile(index=index, change=change, tags=tags)
        for index, (change, tags) in rows.items()
    ]
    return log_pb2.Record(profiles=profiles).SerializeToString()


_Row = tuple[int, int, int, int, int, int, int]


def _row(single: Single) -> _Row:
    return (
        single.push_id,
        single.app,
        single.ttl_s,
        single.accepted_ms,
        single.order,
        single.index,
        single.marks,
    )


def _write_singles(rows: list[_Row]) -> bytes:
    columns = list(zip(*rows, strict=True))
    names = ("push_id", "app", "ttl_s", "accepted_ms", "order", "index", "marks")
    return log_pb2.SingleStates(**dict(zip(names, columns, strict=True))).SerializeToString()


def _read_singles(blob: bytes) -> list[Push]:
    states = log_pb2.SingleStates.FromString(blob)
    singles: list[Push] = []
    for push_id, app, ttl_s, accepted_ms, order, index, marks in zip(
        states.push_id,
        states.app,
        states.ttl_s,
        states.accepted_ms,
        states.order,
        states.index,
        states.marks,
        strict=True,
    ):
        single = Single(push_id, app, ttl_s, accepted_ms, order, index)
        single.marks = marks
        singles.append(single)
    return singles


def _campaign_maker(campaign: Campaign) -> Callable[[], bytes]:
    targeted = campaign.targeted  # never changed after the fold of its push
    marks = {mark: devices.copy() for mark, devices in campaign.marks.items()}

    def make() -> bytes:
        return log_pb2.CampaignState(
            push_id=campaign.push_id,
            app=campaign.app,
            ttl_s=campaign.ttl_s,
            accepted_ms=campaign.accepted_ms,
            home=campaign.home,
            in_record=campaign.in_record,
            order=campaign.order,
            targeted=bytes(targeted.serialize()),
            marks={mark: bytes(devices.serialize()) for mark, devices in marks.items()},
            held_out=bytes(campaign.held_out.serialize()) if campaign.held_out else b"",
            speed=campaign.speed,
        ).SerializeToString()

    return make


def _write_tally(tally: Tally) -> bytes:
    return log_pb2.CampaignState(
        push_id=tally.push_id,
        app=tally.app,
        ttl_s=tally.ttl_s,
        accepted_ms=tally.accepted_ms,
        order=tally.order,
        counts=dict(tally.counts()),
    ).SerializeToString()


def _read_campaign(blob: bytes) -> Push:
    state = log_pb2.CampaignState.FromString(blob)
    campaign = Campaign(
        state.push_id,
        state.app,
        state.ttl_s,
        state.accepted_ms,
        state.order,
        BitMap.deserialize(state.targeted) if state.targeted else BitMap(),
    )
    if state.counts:
        return Tally(campaign, state.counts)
    campaign.home, campaign.in_record = state.home, state.in_record
    campaign.speed = state.speed
    if state.held_out:
        campaign.held_out = BitMap.deserialize(state.held_out)
    campaign.marks = {m: BitMap.deserialize(raw) for m, raw in state.marks.items()}
    return campaign
