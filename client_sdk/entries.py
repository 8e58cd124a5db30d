"""What the journal says, and its bytes.

A record is one batch of entries that was written and synced together:

    marker "CLJ1" (4 bytes), length of the body (u32), CRC32 of the body (u32), body

all little endian; the body is entries, one after the other: kind (u8), push id (u64), then what
the kind has. Only the last record of a file can be torn, since each is synced before the next.
"""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.schema.device_pb2 import RECEIVED

MARKER: Final = b"CLJ1"
_HEADER: Final = struct.Struct("<4sII")
_ENTRY: Final = struct.Struct("<BQ")
_STORED: Final = struct.Struct("<QIqHI")
_RECEIPT: Final = struct.Struct("<BQqH")
_ACKED: Final = struct.Struct("<B")
_REPLACED: Final = struct.Struct("<Q")
_TOLD: Final = struct.Struct("<?")
_OLD_STORED: Final = struct.Struct("<QII")
_OLD_RECEIPT: Final = struct.Struct("<BQH")

ReceiptKey = tuple[int, int]
"""(push id, columba.device.ReceiptState): a device reports each at most once."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The message is on disk; from here on the device owes the receipt `received`."""

    push_id: int
    arrived_ms: int
    """By the service's clock, as far as it was known."""
    ttl_s: int
    """Seconds the message had left when it arrived."""
    content: bytes
    """An encoded columba.device.Content; empty once it is not needed any more."""
    collapse_key: str = ""
    clock_offset_ms: int = 0
    """The service's clock less the device's, when it arrived."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The message goes to the app now: never again by itself. Without effect on one that was
    recalled or replaced before: the app is not given that."""

    push_id: int


@dataclass(frozen=True, slots=True)
class Done:
    """The app is through with the message, or it will not be handed out."""

    push_id: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """Owed to the service until it acknowledges it. All but `received` also finish the message."""

    push_id: int
    state: int
    at_ms: int
    """By the device's own clock."""
    reason: str = ""
    clock_offset_ms: int = 0
    """The service's clock less the device's."""

    @property
    def key(self) -> ReceiptKey:
        return self.push_id, self.state


@dataclass(frozen=True, slots=True)
class Acked:
    """The service has that receipt."""

    push_id: int
    state: int


@dataclass(frozen=True, slots=True)
class Recall:
    """The push was taken back: never handed out from here on, and not stored if it comes yet."""

    push_id: int


@dataclass(frozen=True, slots=True)
class Replacement:
    """A newer message of the same collapse key is there: this one is not handed out any more."""

    push_id: int
    by: int
    """Push id of the newer one."""


@dataclass(frozen=True, slots=True)
class Told:
    """The app has taken the event of a recall (or else of a replacement): it is not told again."""

    push_id: int
    recalled: bool


Entry = Stored | Begun | Done | Receipt | Acked | Recall | Replacement | Told

# Numbers of kinds are never used again. 0 and 3 are `Stored` and `Receipt` of earlier builds, whose
# journals are still read: those receipts have times of the service's clock, so their offset is 0.
_NUMBERS: Final[dict[type, int]] = {
    **{Begun: 1, Done: 2, Acked: 4, Stored: 5, Receipt: 6, Recall: 7, Replacement: 8, Told: 9}
}
_OLD_STORED_NUMBER: Final = 0
_OLD_RECEIPT_NUMBER: Final = 3
_BY_NUMBER: Final = {number: kind for kind, number in _NUMBERS.items()}


def record(entries: Iterable[Entry]) -> bytes:
    """One record of those entries."""
    body = b"".join(map(_encode, entries))
    return _HEADER.pack(MARKER, len(body), zlib.crc32(body)) + body


def _encode(entry: Entry) -> bytes:
    head = _ENTRY.pack(_NUMBERS[type(entry)], entry.push_id)
    match entry:
        case Stored(_, arrived_ms, ttl_s, content, collapse_key, offset_ms):
            key = collapse_key.encode()
            sizes = _STORED.pack(arrived_ms, ttl_s, offset_ms, len(key), len(content))
            return head + sizes + key + content
        case Receipt(_, state, at_ms, reason, offset_ms):
            text = reason.encode()
            return head + _RECEIPT.pack(state, at_ms, offset_ms, len(text)) + text
        case Acked(_, state):
            return head + _ACKED.pack(state)
        case Replacement(_, by):
            return head + _REPLACED.pack(by)
        case Told(_, recalled):
            return head + _TOLD.pack(recalled)
    return head


@dataclass(frozen=True, slots=True)
class Scan:
    """What a journal's bytes hold."""

    entries: list[Entry]
    end: int
    """Behind the last whole record; what follows is a torn tail."""
    damaged: bool
    """Something before `end` was not readable and is missing from `entries`."""
    sealed: int = 0
    """Behind the last record without entries: what is before it was written in one go."""


def scan(data: bytes) -> Scan:
    """Reads all whole records, past damaged places too.

    A bad record with a good one behind it is damage: a torn write is always the last one.
    """
    entries: list[Entry] = []
    at = end = sealed = 0
    damaged = False
    while (at := data.find(MARKER, at)) >= 0:
        found = _whole_record(data, at)
        if found is None:
            at += 1
            continue
        damaged = damaged or at != end
        entries += found[0]
        at = end = found[1]
        if not found[0]:
            sealed = end
    return Scan(entries, end, damaged, sealed)


def _whole_record(data: bytes, at: int) -> tuple[list[Entry], int] | None:
    start = at + _HEADER.size
    if start > len(data):
        return None
    _, length, crc = _HEADER.unpack_from(data, at)
    body = data[start : start + length]
    if len(body) < length or zlib.crc32(body) != crc:
        return None
    try:
        return _decode(body), start + length
    except (struct.error, KeyError, UnicodeDecodeError):
        return None  # a good checksum over entries of another build


def _decode(body: bytes) -> list[Entry]:
    entries: list[Entry] = []
    at = 0
    while at < len(body):
        number, push_id = _ENTRY.unpack_from(body, at)
        entry, at = _decode_one(number, push_id, body, at + _ENTRY.size)
        entries.append(entry)
    return entries


def _decode_one(number: int, push_id: int, body: bytes, at: int) -> tuple[Entry, int]:
    """(entry, position behind it). Raises KeyError for a kind that this build does not know."""
    if number == _OLD_STORED_NUMBER:
        arrived_ms, ttl_s, size = _OLD_STORED.unpack_from(body, at)
        at += _OLD_STORED.size
        return Stored(push_id, arrived_ms, ttl_s, body[at : at + size]), at + size
    if number == _OLD_RECEIPT_NUMBER:
        state, at_ms, size = _OLD_RECEIPT.unpack_from(body, at)
        at += _OLD_RECEIPT.size
        return Receipt(push_id, state, at_ms, body[at : at + size].decode()), at + size
    kind = _BY_NUMBER[number]
    if kind is Stored:
        arrived_ms, ttl_s, offset_ms, key_size, size = _STORED.unpack_from(body, at)
        at += _STORED.size
        key = body[at : at + key_size].decode()
        at += key_size
        content = body[at : at + size]
        return Stored(push_id, arrived_ms, ttl_s, content, key, offset_ms), at + size
    if kind is Receipt:
        state, at_ms, offset_ms, size = _RECEIPT.unpack_from(body, at)
        at += _RECEIPT.size
        reason = body[at : at + size].decode()
        return Receipt(push_id, state, at_ms, reason, offset_ms), at + size
    if kind is Acked:
        return Acked(push_id, *_ACKED.unpack_from(body, at)), at + _ACKED.size
    if kind is Replacement:
        return Replacement(push_id, *_REPLACED.unpack_from(body, at)), at + _REPLACED.size
    if kind is Told:
        return Told(push_id, *_TOLD.unpack_from(body, at)), at + _TOLD.size
    mark: Entry = kind(push_id)
    return mark, at


def received(stored: Stored) -> Receipt:
    """The receipt that a stored message owes; it needs no entry of its own."""
    own_ms = max(0, stored.arrived_ms - stored.clock_offset_ms)
    return Receipt(stored.push_id, RECEIVED, own_ms, clock_offset_ms=stored.clock_offset_ms)
