"""What a subscriber says and hears on each wire. Pure: bytes in, what they mean out.

Every greeting goes out as one write without waiting for an answer between its parts, which all of these
protocols allow, so a subscription costs each server one round trip of its own protocol.
"""

import hashlib
import itertools
import os
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from loadtest import resp
from loadtest.wire import RECEIVED, Greeting, parse_message, receipt, receipts_frame
from protocol.codes import INSTALLATION_ID_BYTES, MAX_BODY_DOWN, NONCE_BYTES, Kind
from protocol.frames import split

CHANNEL: Final = "bench"
_HEARTBEAT_S: Final = 600
"""So long that no heartbeat falls into a round; the others have theirs switched off or at that."""


class WireError(Exception):
    """The server said what a subscriber does not expect: a refusal, or another protocol."""


class Heard(NamedTuple):
    """What the complete parts at the front of a buffer say."""

    used: int
    """Bytes; what is left is the start of the next part."""
    ready: bool = False
    """Subscribed: what is published from now on arrives."""
    messages: int = 0
    reply: bytes = b""
    """To be sent back at once, such as the answer to a ping."""
    pushes: tuple[int, ...] = ()
    """What receipts are owed for."""
    acked: int = 0
    """Reports of this subscriber that the server has stored."""


class Wire(Protocol):
    def hello(self, row: int) -> bytes:
        """What subscriber `row` writes once it is connected; empty: connected is subscribed."""

    def hear(self, buffer: bytes) -> Heard:
        """Raises WireError. Without state of a connection: the same bytes mean the same."""

    def report(self, count: int, pushes: list[int]) -> bytes:
        """Receipts for `pushes`, the `count`th report on this connection, from 1."""


class _Silent:
    """No receipts: five of six wires have none."""

    def report(self, count: int, pushes: list[int]) -> bytes:
        raise AssertionError("nothing is owed on this wire")


class Bare(_Silent):
    """Messages of `size` bytes, nothing around them: the floor."""

    def __init__(self, size: int) -> None:
        self._size = size

    def hello(self, row: int) -> bytes:
        return b""

    def hear(self, buffer: bytes) -> Heard:
        count = len(buffer) // self._size
        return Heard(count * self._size, messages=count)


class Redis(_Silent):
    """RESP2 (https://redis.io/docs/latest/develop/interact/pubsub/)."""

    def hello(self, row: int) -> bytes:
        return resp.command("SUBSCRIBE", CHANNEL)

    def hear(self, buffer: bytes) -> Heard:
        at, ready, messages = 0, False, 0
        while at < len(buffer):
            try:
                said, at = resp.parse(buffer, at)
            except resp.Incomplete:
                break
            match said:
                case [b"message", _, _]:
                    messages += 1
                case [b"subscribe", _, _]:
                    ready = True
                case _:
                    raise WireError(f"Redis said {said!r}")
        return Heard(at, ready, messages)


class Mqtt(_Silent):
    """MQTT 3.1.1, QoS 0 (https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html)."""

    def hello(self, row: int) -> bytes:
        # Clean session; keep alive 0 switches it off (3.1.2.10).
        connect = mqtt_text("MQTT") + b"\x04\x02\x00\x00" + mqtt_text(f"bench{row}")
        # Packet id 1, one filter, QoS 0.
        subscribe = b"\x00\x01" + mqtt_text(CHANNEL) + b"\x00"
        return mqtt_packet(0x10, connect) + mqtt_packet(0x82, subscribe)

    def hear(self, buffer: bytes) -> Heard:
        at, ready, messages = 0, False, 0
        while (found := _mqtt_body(buffer, at)) is not None:
            start, stop = found
            match buffer[at] >> 4:
                case 2 if buffer[start + 1] == 0:  # CONNACK, accepted
                    pass
                case 9 if buffer[start + 2] <= 2:  # SUBACK with a granted QoS
                    ready = True
                case 3:  # PUBLISH
                    messages += 1
                case _:
                    raise WireError(f"the broker said {buffer[at:stop]!r}")
            at = stop
        return Heard(at, ready, messages)


def mqtt_text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def mqtt_packet(first: int, body: bytes) -> bytes:
    """`body` must be shorter than 16 KiB: its length takes one byte or two (2.2.3)."""
    length = len(body)
    size = bytes((length,)) if length < 0x80 else bytes((length & 0x7F | 0x80, length >> 7))
    return bytes((first,)) + size + body


def _mqtt_body(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Where the body of the packet at `at` begins and ends; None: it is not all there."""
    length = shift = 0
    for start in range(at + 1, min(at + 5, len(buffer))):
        length |= (buffer[start] & 0x7F) << shift
        shift += 7
        if buffer[start] < 0x80:
            stop = start + 1 + length
            return (start + 1, stop) if stop <= len(buffer) else None
    return None


class Nats(_Silent):
    """The client protocol (https://docs.nats.io/reference/reference-protocols/nats-protocol)."""

    HELLO: Final = b'CONNECT {"verbose":false,"pedantic":false}\r\n'

    def hello(self, row: int) -> bytes:
        # SUB has no answer of its own: PONG says that all before the PING is done.
        return self.HELLO + f"SUB {CHANNEL} 1\r\nPING\r\n".encode()

    def hear(self, buffer: bytes) -> Heard:
        at, ready, messages, reply = 0, False, 0, b""
        while (end := buffer.find(b"\r\n", at)) >= 0:
            word = buffer[at : at + 4].upper()
            if word == b"MSG ":
                stop = end + 2 + int(buffer[at:end].rpartition(b" ")[2]) + 2
                if stop > len(buffer):
                    break
                messages += 1
                at = stop
                continue
            if word == b"PONG":
                ready = True
            elif word == b"PING":
                reply += b"PONG\r\n"
            elif word not in (b"INFO", b"+OK"):
                raise WireError(f"NATS said {buffer[at:end]!r}")
            at = end + 2
        return Heard(at, ready, messages, reply)


class Nchan(_Silent):
    """A subscriber over WebSocket, the leanest that nchan has for one long connection (RFC 6455)."""

    def hello(self, row: int) -> bytes:
        # The key is the RFC's own example (1.3): nobody here checks that the answer matches it.
        return (
            b"GET /sub HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )

    def hear(self, buffer: bytes) -> Heard:
        at, ready, messages, reply = 0, False, 0, b""
        if buffer[:1] == b"H":  # no frame begins so: the reserved bit 0x40 would be set
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return Heard(0)
            if b" 101 " not in buffer[:16]:
                raise WireError(f"nginx said {buffer[:end]!r}")
            at, ready = end + 4, True
        while (found := _websocket_body(buffer, at)) is not None:
            match buffer[at] & 0x0F:
                case 1 | 2:
                    messages += 1
                case 9:
                    # An empty PONG under a mask of zeros; a client must mask (5.3).
                    reply += b"\x8a\x80\0\0\0\0"
                case _:
                    raise WireError(f"nginx said {buffer[at : found[1]]!r}")
            at = found[1]
        return Heard(at, ready, messages, reply)


def _websocket_body(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Where the payload of the frame at `at` begins and ends; None: it is not all there."""
    if at + 2 > len(buffer):
        return None
    length, start = buffer[at + 1], at + 2
    if length == 126:
        if at + 4 > len(buffer):
            return None
        length, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
    elif length == 127:
        raise WireError("a frame of 64 KiB or more")
    stop = start + length
    return (start, stop) if stop <= len(buffer) else None


class Columba:
    """The device protocol (docs/protocol.md): every subscriber registers, and owes receipts."""

    def __init__(self, app: str, access_key: str, seed: str) -> None:
        self._greeting = Greeting(app, access_key, _HEARTBEAT_S)
        self._seed = seed.encode()
        # One count for all rows: a device's own must only grow from connection to connection.
        self._connections = itertools.count(1)

    def hello(self, row: int) -> bytes:
        installation = hashlib.blake2b(
            row.to_bytes(8, "big"), key=self._seed[:64], digest_size=INSTALLATION_ID_BYTES
        ).digest()
        return self._greeting.with_proof(
            installation,
            next(self._connections),
            int(time.time() * 1e3),
            os.urandom(NONCE_BYTES),
        )

    def hear(self, buffer: bytes) -> Heard:
        frames, used = split(buffer, MAX_BODY_DOWN)
        ready, acked, pushes = False, 0, []
        for kind, body in frames:
            if kind == Kind.MESSAGE:
                pushes.append(parse_message(body).push_id)
            elif kind == Kind.RECEIPT_ACK:
                acked += 1
            elif kind == Kind.WELCOME:
                ready = True
            elif kind == Kind.GOAWAY:
                raise WireError(f"GOAWAY {body!r}")
        return Heard(used, ready, len(pushes), pushes=tuple(pushes), acked=acked)

    def report(self, count: int, pushes: list[int]) -> bytes:
        now_ms = int(time.time() * 1e3)
        return receipts_frame(count, b"".join(receipt(push, RECEIVED, now_ms) for push in pushes))


WIRES: Final[dict[str, Callable[..., Wire]]] = {
    "bare": Bare,
    "redis": Redis,
    "mqtt": Mqtt,
    "nats": Nats,
    "nchan": Nchan,
    "columba": Columba,
}


def make(name: str, **options: Any) -> Wire:
    """Raises KeyError for a wire that is not there."""
    return WIRES[name](**options)
