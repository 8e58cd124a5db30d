"""A partition's state cut into pieces for a snapshot, and put together again.

A snapshot is the state at exactly one position, and nothing waits for it. `freeze` only notes which
pieces are wanted; each is serialised when its turn comes, beside the fold, and one that the fold is about
to change before that is copied first (`gateway.dispatch.changes`). So what a turn of the loop costs is
the largest piece, not the state. `restoring` puts a state together piece by piece as well.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, Self

import msgspec
from pyroaring import BitMap

from gateway.dispatch.campaign import Campaign, Push, Single, Tally
from gateway.dispatch.changes import WHOLE, Row
from gateway.dispatch.controls import Early
from gateway.dispatch.partition import Partition
from gateway.dispatch.tags import Profile
from gateway.lanes import NORMAL
from protocol.schema import log_pb2

_META: Final = "meta"
_Lists = dict[str, bytes]
_Holders = dict[int, bytes]
_Profiles = dict[int, Profile]
_Maker = Callable[[], bytes]
_Rows = dict[int | str, Any]


class Meta(msgspec.Struct, frozen=True):
    order: int
    paused: list[int] = []
    early: dict[int, Early] = {}


class Frozen:
    """Pieces of a partition as they stand at `position`, while the fold goes on; a context manager.

    One at a time: a partition knows only the last one that was made.
    """

    def __init__(self, partition: Partition, wanted: Collection[str]) -> None:
        self.position = partition.position
        self._partition = partition
        self._unwritten = dict.fromkeys(wanted)
        """Those of which the partition's own state is still that of `position`."""
        self._copies: dict[str, _Maker | None] = {}
        """Of those that have changed since as a whole."""
        self._rows: dict[str, _Rows] = {}
        """piece -> rows that have changed since, as they were"""
        controls = partition.controls
        meta = Meta(partition.order, sorted(controls.paused), dict(controls.early))
        self._copies[_META] = lambda: msgspec.json.encode(meta)
        partition.changes.keeper = self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is copied any more; `pieces` has ended, or is not asked again."""
        if self._partition.changes.keeper is self:
            self._partition.changes.keeper = None

    def pieces(self) -> Iterator[tuple[str, bytes | None]]:
        """(name, blob), None where nothing is left of a piece. Records may be folded between two."""
        while self._copies or self._unwritten:
            if self._copies:  # first, so that their memory goes
                name, maker = self._copies.popitem()
            else:
                name, _ = self._unwritten.popitem()
                maker = _maker(self._partition, name, self._rows.pop(name, {}))
            yield name, None if maker is None else maker()
            if self._partition.changes.keeper is not self:
                raise RuntimeError("nobody has kept what these pieces were")

    def keep(self, piece: str, row: Row, old: Any) -> None:
        """For `gateway.dispatch.changes`."""
        if piece not in self._unwritten:
            return
        if row is WHOLE:
            del self._unwritten[piece]
            self._copies[piece] = _maker(self._partition, piece, {})
        else:
            self._rows.setdefault(piece, {}).setdefault(row, old)


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
    return found | partition.pieces_of_pushes()


def freeze(partition: Partition, wanted: Collection[str] | None = None) -> Frozen:
    """The wanted pieces (the dirty ones, if none are named) as they stand now; what gets dirty from here
    on is collected for the next snapshot."""
    frozen = Frozen(partition, partition.changes.dirty if wanted is None else wanted)
    partition.changes.dirty.clear()
    return frozen


def restore(partition: Partition, position: str, pieces: Mapping[str, bytes]) -> None:
    """`restoring` in one go."""
    for _ in restoring(partition, position, pieces):
        pass


def restoring(partition: Partition, position: str, pieces: Mapping[str, bytes]) -> Iterator[None]:
    """Put a freshly made partition into the state of a snapshot, in steps of a few milliseconds; it is
    of use after the last one. Any exception: the snapshot is unreadable."""
    meta = msgspec.json.decode(pieces[_META], type=Meta)
    partition.order = meta.order
    partition.controls.paused.update(meta.paused)
    partition.controls.early.update(meta.early)
    campaigns: list[Push] = []
    blocks: list[int] = []
    for name, blob in pieces.items():
        yield
        kind, _, rest = name.partition("/")
        if kind == "apps":
            partition.apps[int(rest)] = BitMap.deserialize(blob)
        elif kind == "online":
            partition.restore_online(int(rest), BitMap.deserialize(blob))
        elif kind == "bound":
            yield from partition.tags.restore_bound(rest, BitMap.deserialize(blob))
        elif kind == "seen":
            partition.seen[int(rest)] = BitMap.deserialize(blob)
        elif kind == "born":
            partition.born[int(rest)] = BitMap.deserialize(blob)
        elif kind == "profiles":
            yield from partition.tags.restore_profiles(_read_profiles(blob))
        elif kind == "accounts":
            partition.accounts.restore_lists(int(rest), msgspec.json.decode(blob, type=_Lists))
        elif kind == "holders":
            partition.accounts.restore_holders(int(rest), msgspec.json.decode(blob, type=_Holders))
        elif kind == "campaigns":
            campaigns.append(_read_campaign(blob))
        elif kind == "singles":
            blocks.append(int(rest))
    for block in sorted(blocks):
        yield
        for push in _read_singles(pieces[f"singles/{block}"]):
            partition.restore_push(push)
    for push in sorted(campaigns, key=lambda push: push.order):
        yield
        partition.restore_push(push)
    for devices in partition.apps.values():
        if devices:
            partition.reserve(devices.max())
    partition.position = position
    partition.changes.dirty.clear()


def _maker(partition: Partition, name: str, old: _Rows) -> _Maker | None:
    """Serialiser of a copy of one piece, with some rows as they were; None if nothing is left of it."""
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
    if kind == "singles":
        marked = {s.push_id: (s, s.marks) for s in partition.singles_of(int(rest))}
        singles = _as_they_were(marked, old)
        return (lambda: _write_singles(singles.values())) if singles else None
    if kind in ("profiles", "accounts", "holders"):
        rows = _as_they_were(_rows_of(partition, kind, int(rest)), old)
        return (lambda: msgspec.json.encode(rows)) if rows else None
    push = partition.pushes.get(int(rest))
    match push:
        case Campaign():
            return _campaign_maker(push)
        case Tally():
            return lambda: _write_tally(push)
    return None


def _rows_of(partition: Partition, kind: str, block: int) -> Mapping[Any, Any]:
    if kind == "profiles":
        return partition.tags.profiles.rows_of(block)
    if kind == "accounts":
        return partition.accounts.lists.get(block, {})
    return partition.accounts.holders.get(block, {})


def _as_they_were(rows: Mapping[Any, Any], old: _Rows) -> dict[Any, Any]:
    found = dict(rows)
    for row, before in old.items():
        if before is None:
            found.pop(row, None)  # it came later
        else:
            found[row] = before
    return found


def _bitmap_maker(devices: BitMap) -> _Maker:
    copy = devices.copy()
    return lambda: bytes(copy.serialize())


def _read_profiles(blob: bytes) -> _Profiles:
    if blob.startswith(b"{"):
        return msgspec.json.decode(blob, type=_Profiles)
    # Earlier builds wrote a columba.log.Record.
    profiles = log_pb2.Record.FromString(blob).profiles
    return {row.index: (row.change, tuple(row.tags)) for row in profiles}


def _write_singles(marked: Iterable[tuple[Single, int]]) -> bytes:
    rows = list(
        marked
    )  # in the order of the log, but for those that went meanwhile, which are final
    singles = [single for single, _ in rows]
    return log_pb2.SingleStates(
        push_id=[single.push_id for single in singles],
        app=[single.app for single in singles],
        ttl_s=[single.ttl_s for single in singles],
        accepted_ms=[single.accepted_ms for single in singles],
        order=[single.order for single in singles],
        index=[single.index for single in singles],
        marks=[marks for _, marks in rows],
        priority=[single.priority for single in singles],
        collapse_key=[single.collapse_key for single in singles],
    ).SerializeToString()


def _read_singles(blob: bytes) -> list[Push]:
    states = log_pb2.SingleStates.FromString(blob)
    singles: list[Push] = []
    count = len(states.push_id)
    for push_id, app, ttl_s, accepted_ms, order, index, marks, priority, collapse_key in zip(
        states.push_id,
        states.app,
        states.ttl_s,
        states.accepted_ms,
        states.order,
        states.index,
        states.marks,
        states.priority or [NORMAL] * count,  # an earlier build wrote none
        states.collapse_key or [""] * count,
        strict=True,
    ):
        single = Single(push_id, app, ttl_s, accepted_ms, order, index)
        single.marks, single.priority, single.collapse_key = marks, priority, collapse_key
        singles.append(single)
    return singles


def _campaign_maker(campaign: Campaign) -> _Maker:
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
            priority=campaign.priority,
            collapse_key=campaign.collapse_key,
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
    campaign.priority, campaign.collapse_key = state.priority, state.collapse_key
    if state.held_out:
        campaign.held_out = BitMap.deserialize(state.held_out)
    campaign.marks = {m: BitMap.deserialize(raw) for m, raw in state.marks.items()}
    return campaign
