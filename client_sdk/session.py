"""One connection's conversation with the edge, without I/O: bytes and times in, events and bytes out."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Body

from client_sdk.entries import Receipt, ReceiptKey
from client_sdk.heartbeat import PONG_TIMEOUT_S, Prober, Probing
from client_sdk.journal import Arrival
from client_sdk.state import Profile
from protocol import frames
from protocol.codes import (
    MAX_BODY_DOWN,
    MAX_BODY_UP,
    MAX_COLLAPSE_KEY_BYTES,
    MAX_RECEIPTS,
    WELCOME_TIMEOUT_S,
    CloseCode,
    Kind,
)
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.schema import device_pb2
from protocol.states import Side, State, on_received, on_sent

NEVER: Final = float("inf")
_Parsed = TypeVar("_Parsed", bound=Body)


@dataclass(frozen=True, slots=True)
class Opened:
    """The session is registered."""

    welcome: device_pb2.Welcome


@dataclass(frozen=True, slots=True)
class ReceiptsAcked:
    """The service has these; they may be forgotten."""

    keys: list[ReceiptKey]


@dataclass(frozen=True, slots=True)
class ProfileAcked:
    change: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The edge closes the connection, and says why."""

    goaway: device_pb2.GoAway


@dataclass(frozen=True, slots=True)
class Recalls:
    """Ids of pushes that were taken back."""

    push_ids: list[int]


Event = Opened | Arrival | Recalls | ReceiptsAcked | ProfileAcked | GoneAway


class Dead(Exception):
    """The peer was silent for too long: give the connection up and dial again."""


class Session:
    """Times are seconds of one monotonic clock; `wall_ms` is the time of day at `now`."""

    def __init__(
        self,
        prober: Prober,
        *,
        now: float,
        wall_ms: int,
        welcome_timeout_s: float = WELCOME_TIMEOUT_S,
    ) -> None:
        self.state = State.CONNECTED
        self._prober = prober
        self._wall_offset_ms = wall_ms - now * 1000
        self._welcome_timeout_s = welcome_timeout_s
        self._frames = frames.FrameBuffer(MAX_BODY_DOWN)
        self._interval_s = prober.interval_s
        self._lowest_s = 0
        self._highest_s = self._interval_s
        self._sent_at = now
        self._heard_at = now
        self._reading = True
        self._unanswered_since: float | None = None
        self._silent_s: int | None = None
        """Silence that the unanswered PING ended; None: other traffic spoilt the measurement."""
        self._max_body = MAX_BODY_UP
        self._max_receipts = MAX_RECEIPTS
        self._receipts_seq = 0
        self._in_flight: deque[tuple[int, list[ReceiptKey]]] = deque()

    # What arrives.

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """What `data` completed, in order. Raises RemoteProtocolError: close and dial again."""
        self._heard_at = now
        events: list[Event] = []
        for kind, body in self._frames.feed(data):
            after = on_received(Side.DEVICE, self.state, kind)
            if after is None:
                continue  # an optional kind of a later version
            self.state = after
            if kind == Kind.PONG:
                self._on_pong(now)
            elif (event := self._event(kind, body)) is not None:
                events.append(event)
        return events

    def _event(self, kind: int, body: bytes) -> Event | None:
        match kind:
            case Kind.MESSAGE:
                return _arrival(_parse(device_pb2.Message, body))
            case Kind.RECALL:
                return Recalls(list(_parse(device_pb2.Recall, body).push_id))
            case Kind.RECEIPT_ACK:
                return self._on_ack(_parse(device_pb2.ReceiptAck, body).seq)
            case Kind.PROFILE_ACK:
                return ProfileAcked(_parse(device_pb2.ProfileAck, body).change)
            case Kind.WELCOME:
                return self._on_welcome(_parse(device_pb2.Welcome, body))
            case Kind.GOAWAY:
                return GoneAway(_parse(device_pb2.GoAway, body))
        return None

    def _on_welcome(self, welcome: device_pb2.Welcome) -> Event:
        limits = welcome.limits
        self._max_body = min(limits.max_body_up or MAX_BODY_UP, MAX_BODY_UP)
        self._max_receipts = min(limits.max_receipts or MAX_RECEIPTS, MAX_RECEIPTS)
        declared, in_force = self._interval_s, welcome.heartbeat_s or self._interval_s
        # Another interval than the one asked for is the server's bound, for this connection.
        self._lowest_s = in_force if in_force > declared else 0
        self._highest_s = in_force if in_force < declared else 1 << 32
        self._interval_s = in_force
        self._prober.retune(Probing.from_wire(welcome.probing))
        return Opened(welcome)

    def _on_ack(self, seq: int) -> Event:
        if seq > self._receipts_seq:
            raise RemoteProtocolError(
                f"RECEIPT_ACK for {seq}, only {self._receipts_seq} were sent",
                CloseCode.PROTOCOL_ERROR,
            )
        keys: list[ReceiptKey] = []
        while self._in_flight and self._in_flight[0][0] <= seq:
            keys += self._in_flight.popleft()[1]
        return ReceiptsAcked(keys)

    def _on_pong(self, now: float) -> None:
        if self._unanswered_since is not None:
            self._unanswered_since = None
            self._prober.on_pong(self._silent_s, self._wall_ms(now))

    def stop_reading(self) -> None:
        """The app is slow, nothing is read for a while: silence now says nothing of the peer."""
        self._reading = False

    def resume_reading(self, now: float) -> None:
        self._reading = True
        self._heard_at = now

    def on_reset(self, now: float) -> None:
        """The connection broke. Under a PING that is how a network shows that it had forgotten
        the connection; a regular end by the peer is not reported here."""
        if self._unanswered_since is not None:
            self._prober.on_dead(self._silent_s, self._wall_ms(now))

    # What is sent.

    def hello(self, hello: device_pb2.Hello, now: float) -> bytes:
        """The first frame; the declared interval is filled in."""
        hello.heartbeat_s = self._interval_s
        return self._send(Kind.HELLO, hello.SerializeToString(), now)

    def receipts(self, owed: Iterable[Receipt], now: float) -> bytes:
        """RECEIPTS frames for all of them, each within the server's limits."""
        out = bytearray()
        batch = device_pb2.Receipts()
        keys: list[ReceiptKey] = []
        # The seq takes up to 11 bytes, and each receipt a tag and a length of up to 3 beside it.
        size = 11
        for item in owed:
            receipt = device_pb2.Receipt(
                push_id=item.push_id,
                state=device_pb2.ReceiptState.Name(item.state),
                at_ms=item.at_ms,
                reason=item.reason,
                clock_offset_ms=item.clock_offset_ms,
            )
            needed = receipt.ByteSize() + 4
            if keys and (len(keys) >= self._max_receipts or size + needed > self._max_body):
                out += self._receipts_frame(batch, keys, now)
                batch, keys, size = device_pb2.Receipts(), [], 11
            batch.receipts.append(receipt)
            keys.append(item.key)
            size += needed
        if keys:
            out += self._receipts_frame(batch, keys, now)
        return bytes(out)

    def _receipts_frame(
        self, batch: device_pb2.Receipts, keys: list[ReceiptKey], now: float
    ) -> bytes:
        self._receipts_seq += 1
        batch.seq = self._receipts_seq
        self._in_flight.append((batch.seq, keys))
        return self._send(Kind.RECEIPTS, batch.SerializeToString(), now)

    def profile(self, profile: Profile, now: float) -> bytes:
        return self._send(Kind.PROFILE, profile.to_wire().SerializeToString(), now)

    def bye(self, now: float) -> bytes:
        """Nothing, where the session never stood: closing the connection says as much then."""
        if self.state not in (State.OPEN, State.LEAVING):
            return b""
        return self._send(Kind.BYE, b"", now)

    def deadline(self) -> float:
        """When `on_deadline` is to be called next."""
        if self.state is State.GREETED:
            return self._sent_at + self._welcome_timeout_s
        if self.state is not State.OPEN:
            return NEVER
        ping_at = self._sent_at + min(self._interval_s, self._kept_interval_s())
        return min(ping_at, self._dead_at())

    def on_deadline(self, now: float) -> bytes:
        """What the time asks for: PING, and HEARTBEAT in front of it when the interval changes.

        May be called early. Raises Dead when the peer has been silent for too long.
        """
        if self.state is State.GREETED and now >= self._sent_at + self._welcome_timeout_s:
            raise Dead(f"no WELCOME within {self._welcome_timeout_s:g} s")
        if self.state is not State.OPEN:
            return b""
        if now >= self._dead_at():
            self._prober.on_dead(self._silent_s, self._wall_ms(now))
            raise Dead(f"no PONG within {PONG_TIMEOUT_S:g} s")
        if now < self._sent_at + self._interval_s:
            return self._changed_interval(now)
        if self._unanswered_since is None:
            self._unanswered_since = now
            self._silent_s = self._interval_s if self._was_silent(now) else None
        ping = self._send(Kind.PING, b"", now)
        return self._changed_interval(now) + ping

    def _changed_interval(self, now: float) -> bytes:
        wanted = self._kept_interval_s()
        if wanted == self._interval_s:
            return b""
        self._interval_s = wanted
        body = device_pb2.Heartbeat(heartbeat_s=wanted)
        return self._send(Kind.HEARTBEAT, body.SerializeToString(), now)

    def _kept_interval_s(self) -> int:
        return max(self._lowest_s, min(self._prober.interval_s, self._highest_s))

    def _was_silent(self, now: float) -> bool:
        """Did nothing but an answer cross the network since the last frame went out, for about one
        interval? Answers come as fast as PONGs; what comes later keeps the network's memory fresh
        by itself. And a device that slept through its timer was silent for longer than declared."""
        return (
            self._reading
            and self._heard_at - self._sent_at <= PONG_TIMEOUT_S
            and now - self._sent_at <= self._interval_s + PONG_TIMEOUT_S
        )

    def _dead_at(self) -> float:
        if self._unanswered_since is None or not self._reading:
            return NEVER
        # Any frame is life: a PONG may stand behind a long backlog on a slow line.
        return max(self._unanswered_since, self._heard_at) + PONG_TIMEOUT_S

    def _wall_ms(self, now: float) -> int:
        return int(self._wall_offset_ms + now * 1000)

    def _send(self, kind: Kind, body: bytes, now: float) -> bytes:
        if len(body) > self._max_body:
            raise LocalProtocolError(f"{kind.name} of {len(body)} bytes, {self._max_body} allowed")
        self.state = on_sent(Side.DEVICE, self.state, kind)
        self._sent_at = now
        return frames.encode(kind, body)


def _arrival(message: device_pb2.Message) -> Arrival:
    key = message.collapse_key
    if len(key.encode()) > MAX_COLLAPSE_KEY_BYTES:
        key = ""  # to show both messages is the smaller mistake than to cut two keys to the same
    return Arrival(message.push_id, message.ttl_s, message.content.SerializeToString(), key)


def _parse(kind: type[_Parsed], body: bytes) -> _Parsed:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise RemoteProtocolError(
            f"a body that is no {kind.DESCRIPTOR.name}", CloseCode.PROTOCOL_ERROR
        ) from error
