"""Frame kinds, close codes and limits of the device protocol, each with its reason.

The bytes of this page are the contract with devices in the field: values are never reused.
"""

from enum import IntEnum
from typing import Final

VERSION_MIN: Final = 1
VERSION_MAX: Final = 1
"""Versions of the device protocol this build speaks, both ends included."""


class Kind(IntEnum):
    """First byte of a frame.

    The first byte of a connection also tells the door (native, TLS, WebSocket, PROXY, MQTT), so no
    kind may be 0x0D or 'P' (PROXY v2 and v1), 0x10 (MQTT CONNECT), 0x16 (TLS) or 'G' (HTTP GET).
    Kinds with the high bit set are optional: a peer that does not know one skips it.
    """

    HELLO = 0x01
    WELCOME = 0x02
    PING = 0x03
    PONG = 0x04
    MESSAGE = 0x05
    RECEIPTS = 0x06
    RECEIPT_ACK = 0x07
    PROFILE = 0x08
    PROFILE_ACK = 0x09
    HEARTBEAT = 0x0A
    GOAWAY = 0x0B
    BYE = 0x0C
    RECALL = 0x0E


DOOR_BYTES: Final = frozenset({0x0D, 0x10, 0x16, ord("G"), ord("P")})
OPTIONAL_BIT: Final = 0x80


class Verdict(IntEnum):
    """What a device does after a close code."""

    NOW = 1
    """Reconnect at once, with full jitter over the base delay (or over retry_after_ms if given)."""
    LATER = 2
    """Reconnect after retry_after_ms if given, else after the next backoff delay; jittered."""
    NEVER = 3
    """Do not come back with the same credentials; the code's text says what has to change."""


class CloseCode(IntEnum):
    """Why a connection ends. 40xx: reconnect now. 41xx: later. 42xx: never, as it stands.

    The same numbers are WebSocket close codes, which leave 4000-4999 to applications
    (RFC 6455, 7.4.2).
    """

    GOING_AWAY = 4000
    HEARTBEAT_TIMEOUT = 4001
    WRONG_CLOCK = 4002
    STALE_CONNECTION = 4003
    OVERLOADED = 4100
    STORE_UNAVAILABLE = 4101
    TOO_SLOW = 4102
    HELLO_TIMEOUT = 4103
    EDGE_FULL = 4104
    PROTOCOL_ERROR = 4105
    FRAME_TOO_LARGE = 4106
    UNSUPPORTED_VERSION = 4200
    BAD_TOKEN = 4201
    TOKEN_EXPIRED = 4202
    UNKNOWN_APP = 4203
    BAD_ACCESS_KEY = 4204
    REPLACED = 4205

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.value // 100 - 39)


ADVICE: Final[dict[CloseCode, str]] = {
    CloseCode.GOING_AWAY: "the edge shuts down or sheds load; reconnect, to `address` if one is given",
    CloseCode.HEARTBEAT_TIMEOUT: "nothing was heard within the declared interval; reconnect",
    CloseCode.WRONG_CLOCK: "the registration's time is off; take server_time_ms and try once more",
    CloseCode.STALE_CONNECTION: "a later connection of this device is registered; raise the "
    "connection counter above `connection` and reconnect if this attempt is the current one",
    CloseCode.OVERLOADED: "too many connections arrive at once; reconnect after retry_after_ms",
    CloseCode.STORE_UNAVAILABLE: "sessions cannot be registered now; reconnect after retry_after_ms",
    CloseCode.TOO_SLOW: "the device did not read what was sent to it; reconnect and read faster",
    CloseCode.HELLO_TIMEOUT: "no complete HELLO within the limit; send it right after connecting",
    CloseCode.EDGE_FULL: "this edge holds all the connections it may; reconnect later or elsewhere",
    CloseCode.PROTOCOL_ERROR: "a frame was malformed or not allowed in this state; mend the client",
    CloseCode.FRAME_TOO_LARGE: "a frame was announced over the limit; send smaller ones",
    CloseCode.UNSUPPORTED_VERSION: "no common version; update to one within the versions named",
    CloseCode.BAD_TOKEN: "the token is not one of this service; drop it and register anew",
    CloseCode.TOKEN_EXPIRED: "the token is too old; drop it and register anew",
    CloseCode.UNKNOWN_APP: "the app is not known here; check the app id",
    CloseCode.BAD_ACCESS_KEY: "the proof does not match the app's access key; check the key",
    CloseCode.REPLACED: "a later connection of this device took over; leave this one closed",
}
"""One sentence for each close code: what happened and what the device should do."""

# Limits. Each is part of the protocol: a peer may rely on it.
MAX_LENGTH_BYTES: Final = 4
"""A length is a varint of at most 4 bytes (28 bits): more cannot be meant, the limits are lower."""
MAX_BODY_UP: Final = 64 * 1024
"""Device to edge. A device sends receipts and its profile: 64 KiB is some 2,000 receipts at once."""
MAX_BODY_DOWN: Final = 256 * 1024
"""Edge to device. Leaves room for a message of MAX_CONTENT and for later frames with several."""
MAX_CONTENT: Final = 64 * 1024
"""Encoded notification and data of one push. APNs and FCM stop at 4 KiB; large data belongs behind a link."""
MAX_RECEIPTS: Final = 1_000
"""Receipts in one RECEIPTS frame: bounds what one frame can cost the edge."""
MAX_RECALLS: Final = 1_000
"""Push ids in one RECALL and in a WELCOME: 8 KB of it, written once to a device's disk."""
MAX_COLLAPSE_KEY_BYTES: Final = 64
"""Length of a collapse key, UTF-8 encoded (APNs: apns-collapse-id has 64 bytes)."""
MAX_TAGS: Final = 100
"""Tags in one PROFILE (TPNS allows 100 a device)."""
MAX_TAG_BYTES: Final = 128
"""Length of one tag, UTF-8 encoded."""
MAX_TEXT_BYTES: Final = 256
"""Length of any other text of a device: app id, SDK build, reason, attribute."""
HELLO_TIMEOUT_S: Final = 8.0
"""From accept to a complete HELLO. goim and Zuul close silent connections at 8 s too."""
WELCOME_TIMEOUT_S: Final = 10.0
"""How long a device waits for WELCOME before it dials again: longer than any edge holds a HELLO."""
HEARTBEAT_MIN_S: Final = 1
HEARTBEAT_MAX_S: Final = 600
"""Bounds of the declared interval. Tencent mars probes up to 580 s."""
CLOCK_SKEW_MS: Final = 300_000
"""How far a registration's time may be from the server's, either way. A time may be that far ahead and
is good until it is that far behind, so a nonce is remembered for twice as long."""
INSTALLATION_ID_BYTES: Final = 16
NONCE_BYTES: Final = 16
ACCESS_KEY_CONTEXT: Final = b"columba registration v1"
"""Prefix of the registration HMAC's input, so that the key cannot be tricked into other signatures."""


def server_timeout_s(interval_s: float) -> float:
    """Silence after which the server gives a device up: 1.5 intervals (the MQTT rule) and 10 s slack."""
    return interval_s * 1.5 + 10.0
