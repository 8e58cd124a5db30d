"""The device's frames, built and read with as little work as a fleet can do with. Pure.

What every device sends alike is built once; RECEIPTS are put together by hand (building a protobuf
message costs 4.4 us, these bytes 0.5 us); a broadcast's MESSAGE is byte for byte the same on every
connection, so its parse is kept under its bytes.
"""

from typing import Final, NamedTuple

from protocol.codes import VERSION_MAX, VERSION_MIN, Kind
from protocol.credentials import registration_proof
from protocol.frames import encode, varint
from protocol.schema import device_pb2

SDK: Final = "columba-fleet/0.1.0"
RECEIVED: Final = 1
DISPLAYED: Final = 2
SENT_NS: Final = "sent_ns"
"""Key in a push's data: time.monotonic_ns() of its sender, on the same machine."""


class Greeting(NamedTuple):
    """What all devices of a fleet put into their HELLO alike."""

    app: str
    access_key: str
    heartbeat_s: int

    def with_token(self, token: bytes, connection: int) -> bytes:
        return encode(Kind.HELLO, self._hello(connection, token=token).SerializeToString())

    def with_proof(
        self, installation_id: bytes, connection: int, time_ms: int, nonce: bytes
    ) -> bytes:
        proof = registration_proof(self.access_key, self.app, installation_id, time_ms, nonce)
        registration = device_pb2.Registration(
            installation_id=installation_id, time_ms=time_ms, nonce=nonce, proof=proof
        )
        hello = self._hello(connection, registration=registration)
        return encode(Kind.HELLO, hello.SerializeToString())

    def _hello(
        self,
        connection: int,
        token: bytes | None = None,
        registration: device_pb2.Registration | None = None,
    ) -> device_pb2.Hello:
        return device_pb2.Hello(
            version_min=VERSION_MIN,
            version_max=VERSION_MAX,
            app=self.app,
            token=token,
            registration=registration,
            heartbeat_s=self.heartbeat_s,
            connection=connection,
            permission=device_pb2.PERMISSION_GRANTED,
            sdk=SDK,
        )


def receipt(push_id: int, state: int, at_ms: int) -> bytes:
    """One entry of `Receipts.receipts`, tag and length included."""
    body = b"\x09" + push_id.to_bytes(8, "little") + bytes((0x10, state, 0x18)) + varint(at_ms)
    return bytes((0x12, len(body))) + body


def receipts_frame(seq: int, receipts: bytes) -> bytes:
    """RECEIPTS of the entries in `receipts`, one behind the other as `receipt` made them."""
    return encode(Kind.RECEIPTS, b"\x08" + varint(seq) + receipts)


class Parsed(NamedTuple):
    push_id: int
    sent_ns: int
    """0: the push carries no time."""


def parse_message(body: bytes) -> Parsed:
    """Raises google.protobuf.message.DecodeError for what is no Message."""
    message = device_pb2.Message.FromString(body)
    sent = message.content.data.get(SENT_NS, "")
    return Parsed(message.push_id, int(sent) if sent.isdecimal() else 0)


def message_frame(push_id: int, data: dict[str, str], title: str = "", body: str = "") -> bytes:
    """MESSAGE as an edge sends it; for the floor and for scripted edges."""
    content = device_pb2.Content(
        notification=device_pb2.Notification(title=title, body=body), data=data
    )
    message = device_pb2.Message(push_id=push_id, ttl_s=3600, content=content)
    return encode(Kind.MESSAGE, message.SerializeToString())
