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
_STORED: Final = struct.Struct("<QII")
_RECEIPT: Final = struct.Struct("<BQH")
_ACKED: Final = struct.Struct("<B")

ReceiptKey = tuple[int, int]
"""(push id, columba.device.ReceiptState): a device reports each at most once."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The message is on disk; from here on the device owes the receipt `received`."""

    push_id: int
    arrived_ms: int
    ttl_s: int
    """Seconds the message had left when it arrived."""
    content: bytes
    """An encoded columba.device.Content; empty once it is not needed any more."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The message goes to the app now: never again by itself."""

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
    reason: str = ""

    @property
    def key(self) -> ReceiptKey:
        return self.push_id, self.state


@dataclass(frozen=True, slots=True)
class Acked:
    """The service has that receipt."""

    push_id: int
    state: int


Entry = Stored | Begun | Done | Receipt | Acked
_KINDS: Final[tuple[type, ...]] = (Stored, Begun, Done, Receipt, Acked)


def record(entries: Iterable[Entry]) -> bytes:
    """One record of those entries."""
    body = b"".join(map(_encode, entries))
    return _HEADER.pack(MARKER, len(body), zlib.crc32(body)) + body


def _encode(entry: Entry) -> bytes:
    head = _ENTRY.pack(_KINDS.index(type(entry)), entry.push_id)
    match entry:
        case Stored(_, arrived_ms, ttl_s, content):
            return head + _STORED.pack(arrived_ms, ttl_s, len(content)) + content
        case Receipt(_, state, at_ms, reason):
            text = reason.encode()
            return head + _RECEIPT.pack(state, at_ms, len(text)) + text
        case Acked(_, state):
            return head + _ACKED.pack(state)
    return head


@dataclass(frozen=True, slots=True)
class Scan:
    """What a journal's bytes hold."""

    entries: list[Entry]
    end: int
    """Behind the last whole record; what follows is a torn tail."""
    damaged: bool
    """Something before `end` was not readable and is missing from `entries`."""


def scan(data: bytes) -> Scan:
    """Reads all whole records, past damaged places too.

    A bad record with a good one behind it is damage: a torn write is always the last one.
    """
    entries: list[Entry] = []
    at = end = 0
    damaged = False
    while (at := data.find(MARKER, at)) >= 0:
        found = _whole_record(data, at)
        if found is None:
            at += 1
            continue
        damaged = damaged or at != end
        entries += found[0]
        at = end = found[1]
    return Scan(entries, end, damaged)


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
    except (struct.error, IndexError, UnicodeDecodeError):
        return None  # a good checksum over entries of another build


def _decode(body: bytes) -> list[Entry]:
    entries: list[Entry] = []
    at = 0
    while at < len(body):
        number, push_id = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        kind = _KINDS[number]
        if kind is Stored:
            arrived_ms, ttl_s, size = _STORED.unpack_from(body, at)
            at += _STORED.size
            entries.append(Stored(push_id, arrived_ms, ttl_s, body[at : at + size]))
            at += size
        elif kind is Receipt:
            state, at_ms, size = _RECEIPT.unpack_from(body, at)
            at += _RECEIPT.size
            entries.append(Receipt(push_id, state, at_ms, body[at : at + size].decode()))
            at += size
        elif kind is Acked:
            entries.append(Acked(push_id, *_ACKED.unpack_from(body, at)))
            at += _ACKED.size
        else:
            entries.append(kind(push_id))
    return entries


def received(stored: Stored) -> Receipt:
    """The receipt that a stored message owes; it needs no entry of its own."""
    return Receipt(stored.push_id, RECEIVED, stored.arrived_ms)
