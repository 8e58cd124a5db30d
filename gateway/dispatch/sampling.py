"""A stable random part of the devices: the same ones each time for the same salt.

Every index gets a number in [0, 1) from the salt; those below the fraction are in. So a larger
fraction contains a smaller one, and devices that register later change nothing for the others. The
numbers are drawn bit by bit for all indexes at once: bit k of all of them is a stream of SHAKE-128
(FIPS 202), and comparing with the fraction is 20 operations on long integers instead of a hash and
a comparison for each device.
"""

import hashlib
import struct
from typing import Final

from pyroaring import BitMap

PRECISION: Final = 20
"""Bits of the fraction: one in a million."""
_CHUNK: Final = 1 << 16
_CHUNK_BYTES: Final = _CHUNK // 8
_ARRAY_MAX: Final = 4096
"""Up to so many values a roaring container is an array, above it a bit set."""
_COOKIE: Final = 12346
"""Of a serialised roaring bitmap without run containers (RoaringFormatSpec)."""


def sample(fraction: float, salt: str, partition: int, size: int) -> BitMap:
    """Indexes below `size` of one partition that fall into `fraction` (0 to 1) under `salt`."""
    threshold = round(fraction * (1 << PRECISION))
    if threshold >= 1 << PRECISION:
        return BitMap(range(size)) if size else BitMap()
    chunks = -(-size // _CHUNK)
    bits = chunks * _CHUNK
    below, equal = 0, (1 << bits) - 1
    for k in range(PRECISION):
        rest = threshold & ((1 << (PRECISION - k)) - 1)
        if not equal or not rest:
            break  # nothing is left to be decided
        stream = _stream(salt, partition, k, chunks)
        if rest >> (PRECISION - 1 - k):
            below |= equal & ~stream
            equal &= stream
        else:
            equal &= ~stream
    found = bitmap(below.to_bytes(bits // 8, "little"))
    found.remove_range(size, bits)
    return found


def _stream(salt: str, partition: int, k: int, chunks: int) -> int:
    seed = f"columba sample v1 {partition} {k} ".encode() + salt.encode()
    return int.from_bytes(hashlib.shake_128(seed).digest(chunks * _CHUNK_BYTES), "little")


def bitmap(bits: bytes) -> BitMap:
    """A roaring bitmap of a plain bit string, through its serialised form."""
    keys, containers = [], []
    for key in range(len(bits) // _CHUNK_BYTES):
        chunk = bits[key * _CHUNK_BYTES : (key + 1) * _CHUNK_BYTES]
        count = int.from_bytes(chunk, "little").bit_count()
        if not count:
            continue
        keys.append((key, count - 1))
        containers.append(chunk if count > _ARRAY_MAX else _array(chunk))
    head = struct.pack("<II", _COOKIE, len(keys))
    head += b"".join(struct.pack("<HH", key, count) for key, count in keys)
    offset = len(head) + 4 * len(containers)
    offsets = b""
    for container in containers:
        offsets += struct.pack("<I", offset)
        offset += len(container)
    return BitMap.deserialize(head + offsets + b"".join(containers))


def _array(chunk: bytes) -> bytes:
    """The set bits of a chunk as u16 values."""
    values = []
    for at, byte in enumerate(chunk):
        if byte:
            values += [at * 8 + i for i in range(8) if byte >> i & 1]
    return struct.pack(f"<{len(values)}H", *values)
