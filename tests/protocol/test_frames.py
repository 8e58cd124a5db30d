"""Frames: every case whole, byte by byte and with a tail; then random streams, whole and damaged."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codes import MAX_BODY_DOWN, MAX_BODY_UP, MAX_LENGTH_BYTES, CloseCode, Kind
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import PING, PONG, Frame, FrameBuffer, encode, split, varint

LIMIT = 1 << 20
"""Above every body of the cases below."""

CASES: dict[str, tuple[bytes, list[Frame]]] = {
    "nothing": (b"", []),
    "no body": (b"\x03\x00", [(0x03, b"")]),
    "one byte": (b"\x05\x01x", [(0x05, b"x")]),
    "longest length of one byte": (b"\x05\x7f" + b"a" * 127, [(0x05, b"a" * 127)]),
    "shortest length of two bytes": (b"\x05\x80\x01" + b"a" * 128, [(0x05, b"a" * 128)]),
    "longest length of two bytes": (b"\x05\xff\x7f" + b"a" * 16_383, [(0x05, b"a" * 16_383)]),
    "shortest length of three bytes": (
        b"\x05\x80\x80\x01" + b"a" * 16_384,
        [(0x05, b"a" * 16_384)],
    ),
    "several": (b"\x03\x00\x05\x02ab\x04\x00", [(0x03, b""), (0x05, b"ab"), (0x04, b"")]),
    "body that looks like frames": (b"\x05\x04\x03\x00\x03\x00", [(0x05, b"\x03\x00\x03\x00")]),
    "optional kind": (b"\xff\x01z", [(0xFF, b"z")]),
    "kind zero": (b"\x00\x00", [(0x00, b"")]),
    # A sender writes the shortest form; a receiver takes any of up to four bytes.
    "zero in four bytes": (b"\x03\x80\x80\x80\x00", [(0x03, b"")]),
    "one in two bytes": (b"\x05\x81\x00x", [(0x05, b"x")]),
}

TAILS = {
    "kind only": b"\x05",
    "half a length": b"\x05\x80",
    "three quarters of a length": b"\x05\x80\x80\x80",
    "header without body": b"\x05\x02",
    "half a body": b"\x05\x02a",
}

# (bytes up to the one that decides, limit)
REFUSED: dict[str, tuple[bytes, int]] = {
    "one over a short limit": (b"\x05\x0b", 10),
    "one over the limit up": (b"\x06\x81\x80\x04", MAX_BODY_UP),
    "one over the limit down": (b"\x05\x81\x80\x10", MAX_BODY_DOWN),
    "most that four bytes can say": (b"\x05\xff\xff\xff\x7f", MAX_BODY_DOWN),
    "a fifth byte": (b"\x05\x80\x80\x80\x80", LIMIT),
    "a fifth byte of a small number": (b"\x05\x81\x80\x80\x80", LIMIT),
    "a fifth byte, no limit at all": (b"\x05\xff\xff\xff\xff", 1 << 40),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[bytes, list[Frame]]:
    return CASES[request.param]


@pytest.fixture(params=REFUSED)
def refused(request: pytest.FixtureRequest) -> tuple[bytes, int]:
    return REFUSED[request.param]


def test_whole(case: tuple[bytes, list[Frame]]) -> None:
    data, frames = case
    assert split(data, LIMIT) == (frames, len(data))


def test_byte_by_byte(case: tuple[bytes, list[Frame]]) -> None:
    data, frames = case
    buffer = FrameBuffer(LIMIT)
    assert [frame for byte in data for frame in buffer.feed(bytes((byte,)))] == frames


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_with_a_tail(case: tuple[bytes, list[Frame]], tail: bytes) -> None:
    data, frames = case
    assert split(data + tail, LIMIT) == (frames, len(data))


def test_refused_whole(refused: tuple[bytes, int]) -> None:
    data, limit = refused
    with pytest.raises(RemoteProtocolError) as error:
        split(data, limit)
    assert error.value.code is CloseCode.FRAME_TOO_LARGE


def test_refused_at_the_last_byte_of_the_header_and_not_before(refused: tuple[bytes, int]) -> None:
    data, limit = refused
    buffer = FrameBuffer(limit)
    for byte in data[:-1]:
        assert buffer.feed(bytes((byte,))) == []
    with pytest.raises(RemoteProtocolError):
        buffer.feed(data[-1:])


def test_refused_behind_a_good_frame_and_with_a_body(refused: tuple[bytes, int]) -> None:
    data, limit = refused
    with pytest.raises(RemoteProtocolError):
        split(PING + data + b"body", limit)


@pytest.mark.parametrize("limit", [0, 127, 128, MAX_BODY_UP, MAX_BODY_DOWN])
def test_the_limit_itself_is_allowed(limit: int) -> None:
    frame = encode(Kind.MESSAGE, b"a" * limit)
    assert split(frame, limit) == ([(Kind.MESSAGE, b"a" * limit)], len(frame))


def test_heartbeats_are_two_bytes() -> None:
    assert PING == b"\x03\x00"
    assert PONG == b"\x04\x00"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "00"),
        (1, "01"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (2_097_151, "ffff7f"),
        (2_097_152, "80808001"),
        (268_435_455, "ffffff7f"),
    ],
)
def test_varint(value: int, written: str) -> None:
    assert varint(value).hex() == written


@pytest.mark.parametrize("kind", [-1, 256])
def test_a_kind_is_one_byte(kind: int) -> None:
    with pytest.raises(LocalProtocolError):
        encode(kind)


class Long(bytes):
    """Says a length of its own, so that no test has to allocate a quarter of a gigabyte."""

    def __new__(cls, length: int) -> "Long":
        made = super().__new__(cls)
        made.length = length
        return made

    length: int

    def __len__(self) -> int:
        return self.length


def test_a_length_is_at_most_four_bytes() -> None:
    longest = (1 << 7 * MAX_LENGTH_BYTES) - 1
    assert encode(0x05, Long(longest)) == b"\x05\xff\xff\xff\x7f"
    with pytest.raises(LocalProtocolError):
        encode(0x05, Long(longest + 1))


# Random streams. No deadline: the machine that runs this may be busy with other tests.
free = settings(deadline=None)
FRAMES = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=20)


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(marks)]


@free
@given(FRAMES)
def test_round_trip(frames: list[Frame]) -> None:
    data = b"".join(encode(*frame) for frame in frames)
    assert split(data, LIMIT) == (frames, len(data))


@free
@given(FRAMES, st.lists(st.integers(0, 10_000), max_size=30))
def test_any_chunks_give_the_same_frames(frames: list[Frame], cuts: list[int]) -> None:
    data = b"".join(encode(*frame) for frame in frames)
    buffer = FrameBuffer(LIMIT)
    assert [frame for chunk in chunks(data, cuts) for frame in buffer.feed(chunk)] == frames


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good stream with bytes changed, put in, taken out or repeated; or just any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=2_000))
    data = bytearray(b"".join(encode(*frame) for frame in draw(FRAMES)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("set", "insert", "delete", "repeat"))):
            case "set":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "delete":
                del data[at : at + draw(st.integers(1, 8))]
            case "repeat":
                data[at:at] = data[at : at + 16]
    return bytes(data)


@settings(free, max_examples=500)
@given(damaged(), st.sampled_from((0, 10, 200, 400, MAX_BODY_UP)))
def test_damage_never_breaks_the_splitter(data: bytes, limit: int) -> None:
    """Whatever the bytes:

    - `split` returns, or raises RemoteProtocolError with FRAME_TOO_LARGE, and nothing else;
    - it consumes no more than there is, and what it leaves is less than one largest frame;
    - no body is over the limit;
    - the consumed bytes alone give the same frames again;
    - the frames written anew take at most the bytes that were consumed, and exactly those bytes
      where every length had its shortest form.
    """
    try:
        frames, used = split(data, limit)
    except RemoteProtocolError as error:
        assert error.code is CloseCode.FRAME_TOO_LARGE
        return
    assert 0 <= used <= len(data)
    assert len(data) - used < 1 + MAX_LENGTH_BYTES + limit
    assert all(len(body) <= limit for _, body in frames)
    assert split(data[:used], limit) == (frames, used)
    anew = b"".join(encode(*frame) for frame in frames)
    assert len(anew) <= used
    assert len(anew) < used or anew == data[:used]


@settings(free, max_examples=300)
@given(damaged(), st.lists(st.integers(0, 10_000), max_size=30))
def test_damage_reads_the_same_in_chunks(data: bytes, cuts: list[int]) -> None:
    """The same frames, or the same refusal; in chunks, frames before the refusal are seen first."""
    limit = 200
    buffer = FrameBuffer(limit)
    got: list[Frame] = []
    refused = False
    try:
        for chunk in chunks(data, cuts):
            got += buffer.feed(chunk)
    except RemoteProtocolError:
        refused = True
    try:
        frames, _ = split(data, limit)
    except RemoteProtocolError:
        assert refused
    else:
        assert not refused
        assert got == frames
