"""A push as it was ordered, and what is decided about it before anything is written. No I/O."""

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from gateway.api.shape import Shape
from gateway.audience import Audience
from gateway.audience_json import Json, to_json
from gateway.store.apps import App
from protocol.ids import device_id


class Order(NamedTuple):
    """One push of an app server, checked."""

    app: App
    audience: bytes
    """JSON form of a tree, segments put in; empty where devices are listed."""
    devices: Sequence[int]
    """Each once; empty with an audience."""
    content: bytes
    """columba.device.Content, encoded."""
    ttl_s: int
    idempotency_key: str = ""
    body_digest: str = ""
    """Equal for orders that mean the same; needed with an idempotency key."""
    unknown_segments: Sequence[str] = ()
    """Named in the audience and not saved."""
    options: bytes = b""
    """Fields of columba.log.Push that say how it is dealt out, encoded."""
    unknown_accounts: Sequence[str] = ()
    """Named in the audience and of no device."""
    partitions: Sequence[int] | None = None
    """In which alone the audience can mean somebody; None: in any."""


class Accepted(NamedTuple):
    push_id: int
    accepted: int | None
    """Devices named and known; None for an audience."""
    unknown: Sequence[int]
    """Devices named that the app does not have."""
    unknown_segments: Sequence[str] = ()
    unknown_accounts: Sequence[str] = ()


Targets = dict[int, bytes]
"""partition -> device indexes, u32 LE each; empty with an audience, or for nobody."""


class Split(NamedTuple):
    targets: Targets
    beyond: list[int]
    """Devices of partitions that the deployment does not have: unknown without asking."""


_DEVICE_BYTES: Final = 128
"""An id as a number in the order and among the unknown, its index, its place in a stored answer."""
_PART_BYTES: Final = 256
"""What a waiting part costs beside its indexes and its content, roughly."""
_PLAIN: Final = Shape()
_HIGHEST_INDEX: Final = 0xFFFF_FFFF
_U32: Final = struct.Struct("<I")


def size_of(order: Order, partitions: int) -> int:
    """Bytes that an order occupies until it is answered, and its parts until they are stored."""
    parts = (
        len(reached(order, partitions)) if order.audience else min(len(order.devices), partitions)
    )
    each = (_PART_BYTES + len(order.audience)) * (parts + 1)
    return len(order.content) + _DEVICE_BYTES * len(order.devices) + each


def reached(order: Order, partitions: int) -> Sequence[int]:
    """Partitions that a push to an audience goes to."""
    if order.partitions is None:
        return range(partitions)
    return [p for p in order.partitions if p < partitions]


def split(devices: Sequence[int], partitions: int) -> Split:
    """Sort devices by partition."""
    if len(devices) == 1 and devices[0] >> 32 < partitions:  # most pushes
        return Split({devices[0] >> 32: _U32.pack(devices[0] & _HIGHEST_INDEX)}, [])
    by_partition: dict[int, list[int]] = {}
    beyond = []
    for device in devices:
        p = device >> 32
        if p < partitions:
            by_partition.setdefault(p, []).append(device & _HIGHEST_INDEX)
        else:
            beyond.append(device)
    return Split({p: _pack(indexes) for p, indexes in by_partition.items()}, beyond)


def devices_of(p: int, indexes: bytes) -> list[int]:
    """The reverse for one partition."""
    return [device_id(p, index) for index in _unpack(indexes)]


def without(indexes: bytes, unknown: bytes) -> bytes:
    """`indexes` less `unknown` (u32 LE each), order kept."""
    if not unknown:
        return indexes
    gone = set(_unpack(unknown))
    return _pack([index for index in _unpack(indexes) if index not in gone])


def _pack(indexes: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(indexes)}I", *indexes)


def _unpack(indexes: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(indexes) // 4}I", indexes)


def home_of(digest: str, partitions: int) -> int:
    """Partition that keeps the push record of an idempotency key (a hex digest)."""
    return int(digest[:8], 16) % partitions


def digest_of(
    *,
    audience: Audience | None,
    devices: Iterable[int],
    malformed: Iterable[str],
    content: bytes,
    ttl_s: int,
    shape: Shape = _PLAIN,
) -> str:
    """SHA-256, hex, over what a push means: spelling and order in the body make no difference.

    `audience` is as it was written: a push that is sent again is the same one even if a segment of
    its has been changed in the meantime. `content` must have been serialised deterministically.
    """
    whom = None if audience is None else _unordered(to_json(audience))
    said: list[object] = [whom, sorted(devices), sorted(malformed), ttl_s]
    said += shape.meaning()
    meaning = msgspec.json.encode(said)
    return hashlib.sha256(len(meaning).to_bytes(4, "big") + meaning + content).hexdigest()


def _unordered(said: Json) -> Json:
    """The same for trees that differ in the order of terms or devices only."""
    if isinstance(said, str):
        return said
    for join in ("and", "or"):
        if join in said:
            return {join: sorted(map(_unordered, said[join]), key=msgspec.json.encode)}
    if "not" in said:
        return {"not": _unordered(said["not"])}
    return {"devices": sorted(said["devices"])} if "devices" in said else said


class StoredAnswer(msgspec.Struct):
    """What stands beside an idempotency key, for whoever comes with it again."""

    push_id: str
    accepted: int | None
    unknown: list[str]
    unknown_segments: list[str] = []
    unknown_accounts: list[str] = []


def encode_answer(accepted: Accepted) -> bytes:
    unknown = [str(device) for device in accepted.unknown]
    stored = StoredAnswer(
        str(accepted.push_id),
        accepted.accepted,
        unknown,
        list(accepted.unknown_segments),
        list(accepted.unknown_accounts),
    )
    return msgspec.json.encode(stored)


def decode_answer(answer: bytes) -> Accepted:
    stored = msgspec.json.decode(answer, type=StoredAnswer)
    unknown = [int(device) for device in stored.unknown]
    return Accepted(
        int(stored.push_id),
        stored.accepted,
        unknown,
        tuple(stored.unknown_segments),
        tuple(stored.unknown_accounts),
    )


def known_targets(targets: Mapping[int, bytes], unknown: Mapping[int, bytes], home: int) -> Targets:
    """Targets without the unknown devices. A push to nobody is still one record: at its home."""
    left = {p: without(indexes, unknown[p]) for p, indexes in targets.items()}
    left = {p: indexes for p, indexes in left.items() if indexes}
    return left or {home: b""}
