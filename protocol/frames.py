"""Frames: kind (1 byte), length (varint, at most 4 bytes), body.

`encode` makes one, `split` cuts a buffer into the complete ones it holds. The same frames carry
the device protocol and the RPC between processes.
"""

from typing import Final

from protocol.codes import MAX_LENGTH_BYTES, CloseCode, Kind
from protocol.errors import LocalProtocolError, RemoteProtocolError

Frame = tuple[int, bytes]
"""(kind, body)"""

_MAX_LENGTH: Final = (1 << (7 * MAX_LENGTH_BYTES)) - 1


def varint(value: int) -> bytes:
    """`value` (>= 0) in base 128, least significant group first, as protobuf writes it."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(kind: int, body: bytes = b"") -> bytes:
    """One frame. Raises LocalProtocolError for a kind or length the header cannot carry."""
    length = len(body)
    if length > _MAX_LENGTH or not 0 <= kind <= 0xFF:
        raise LocalProtocolError(f"frame kind {kind} with {length} bytes does not fit the header")
    if length < 0x80:
        return bytes((kind, length)) + body
    return bytes((kind,)) + varint(length) + body


PING: Final = encode(Kind.PING)
PONG: Final = encode(Kind.PONG)


def split(buffer: bytes, limit: int) -> tuple[list[Frame], int]:
    """All complete frames at the front of `buffer`, and how many bytes they took.

    What is left behind them is the start of the next frame: keep it and put the next bytes after
    it. A length over `limit`, or of more than four bytes, raises RemoteProtocolError as soon as
    the header is there, before any of the body is waited for; the frames before it are lost with
    the connection.
    """
    frames: list[Frame] = []
    end = len(buffer)
    at = 0
    while at + 2 <= end:
        length = buffer[at + 1]
        start = at + 2
        if length >= 0x80:
            parsed = _long_length(buffer, at + 1, end)
            if parsed is None:
                break
            length, start = parsed
        if length > limit:
            raise RemoteProtocolError(
                f"frame of {length} bytes, at most {limit} are allowed", CloseCode.FRAME_TOO_LARGE
            )
        stop = start + length
        if stop > end:
            break
        frames.append((buffer[at], buffer[start:stop]))
        at = stop
    return frames, at


def _long_length(buffer: bytes | bytearray, at: int, end: int) -> tuple[int, int] | None:
    """(length, position behind it) of a varint of two to four bytes, or None if it is incomplete."""
    length = 0
    for i in range(MAX_LENGTH_BYTES):
        if at + i >= end:
            return None
        byte = buffer[at + i]
        length |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return length, at + i + 1
    raise RemoteProtocolError(
        f"frame length of more than {MAX_LENGTH_BYTES} bytes", CloseCode.FRAME_TOO_LARGE
    )


def needed(buffer: bytes | bytearray) -> int:
    """How many bytes the frame that begins `buffer` has in all; one more than there are if its header is cut.

    For a reader that wants to wait for a whole frame without parsing again at every chunk.
    """
    end = len(buffer)
    if end < 2:
        return end + 1
    length = buffer[1]
    start = 2
    if length >= 0x80:
        parsed = _long_length(buffer, 1, end)
        if parsed is None:
            return end + 1
        length, start = parsed
    return start + length


class FrameBuffer:
    """Puts a stream of chunks together again: `feed` each chunk, get the frames it completed.

    Holds at most one incomplete frame, so never more than `limit` bytes and a header.
    """

    __slots__ = ("_rest", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes of a body; may be changed for what is fed from then on."""
        self._rest = b""

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes, in order; see `split` for errors."""
        buffer = self._rest + chunk if self._rest else chunk
        frames, used = split(buffer, self.limit)
        self._rest = buffer[used:]
        return frames
