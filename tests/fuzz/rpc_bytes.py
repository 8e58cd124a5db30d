"""RPC conversations, and what a bad peer makes of them."""

import itertools
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from hypothesis import strategies as st

from gateway.rpc import Method
from protocol.errors import RemoteProtocolError
from protocol.frames import Frame, encode, split, varint

REQUEST: Final = 0x21
RESPONSE: Final = 0x22
ERROR: Final = 0x23
SMALL_BODY: Final = 4096
"""The limit of a frame in these tests, in place of 16 MiB: going over it must be cheap to try."""


class Whole(NamedTuple):
    """What a receiver can make of some bytes: frames, and whether what follows them is one at all."""

    frames: list[Frame]
    good: bool


def whole(data: bytes) -> Whole:
    """By the reference parser, one byte more at a time where it refuses the whole."""
    try:
        return Whole(split(data, SMALL_BODY)[0], True)
    except RemoteProtocolError:
        pass
    low, high = 0, len(data)  # the longest part that is still good
    while high - low > 1:
        middle = (low + high) // 2
        try:
            split(data[:middle], SMALL_BODY)
            low = middle
        except RemoteProtocolError:
            high = middle
    return Whole(split(data[:low], SMALL_BODY)[0], False)


def request(call: int, method: int, body: bytes) -> bytes:
    return encode(REQUEST, struct.pack("<IB", call, method) + body)


def response(call: int, body: bytes) -> bytes:
    return encode(RESPONSE, struct.pack("<I", call) + body)


def refusal(call: int, code: str) -> bytes:
    return encode(ERROR, struct.pack("<I", call) + code.encode() + b":of the test")


methods = st.sampled_from((*Method, 0, 99, 255))
sizes = st.one_of(st.integers(0, 300), st.sampled_from((SMALL_BODY - 5, SMALL_BODY - 4)))


@st.composite
def requests(draw: st.DrawFn) -> list[bytes]:
    """Frames of a client; the same id may come twice, which no client of ours does."""
    count = draw(st.integers(0, 12))
    return [
        request(draw(st.integers(0, 20)), draw(methods), bytes(draw(sizes))) for _ in range(count)
    ]


@st.composite
def damaged(draw: st.DrawFn, frames: Sequence[bytes]) -> bytes:
    """The frames in another order, some twice, some not at all; then bytes changed, put in, cut out."""
    chosen = draw(st.lists(st.sampled_from(frames), max_size=16)) if frames else []
    data = bytearray(b"".join(draw(st.sampled_from((frames, chosen)))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("change", "insert", "cut", "header"))):
            case "change" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "header":
                data[at:at] = bytes((draw(st.integers(0, 255)),)) + varint(
                    draw(st.integers(0, 2**28 - 1))
                )
            case _:
                del data[at : at + draw(st.integers(1, 40))]
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


cuts = st.lists(st.integers(0, 1 << 20), max_size=8)
