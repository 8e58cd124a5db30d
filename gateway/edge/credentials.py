"""Who may come in: HELLO checked without touching the store (apps are cached, tokens are sealed)."""

import hashlib
import hmac
from typing import NamedTuple

from gateway.store.apps import App
from gateway.tokens import BadToken, Sealer
from protocol.codes import (
    CLOCK_SKEW_MS,
    INSTALLATION_ID_BYTES,
    MAX_TEXT_BYTES,
    NONCE_BYTES,
    VERSION_MAX,
    VERSION_MIN,
    CloseCode,
)
from protocol.credentials import registration_proof
from protocol.ids import split_device_id
from protocol.schema import device_pb2

MAX_CONNECTION = 1 << 53
"""Connection counters are compared by the store's functions, whose numbers are doubles."""


class Refused(Exception):
    """The HELLO is not accepted; `code` is the close code."""

    def __init__(self, code: CloseCode, detail: str, *, server_time_ms: int = 0) -> None:
        super().__init__(detail)
        self.code = code
        self.server_time_ms = server_time_ms


class Admitted(NamedTuple):
    """A HELLO with valid credentials."""

    partition: int
    device: int
    """Index in the partition, where a token named it; else `installation` does."""
    installation: bytes
    nonce: bytes
    token_stale: bool
    """The token is past half of its life: give the device a new one."""


def check_version(hello: device_pb2.Hello) -> None:
    """Raises Refused unless a version is common to both sides, and the rest within its limits."""
    if not (hello.version_min <= VERSION_MAX and hello.version_max >= VERSION_MIN):
        raise Refused(
            CloseCode.UNSUPPORTED_VERSION,
            f"versions {VERSION_MIN} to {VERSION_MAX} are spoken here, "
            f"not {hello.version_min} to {hello.version_max}",
        )
    if not 0 < hello.connection < MAX_CONNECTION:
        raise Refused(CloseCode.PROTOCOL_ERROR, "connection must be 1 to 2^53 - 1")
    if max(len(hello.app.encode()), len(hello.sdk.encode())) > MAX_TEXT_BYTES:
        raise Refused(CloseCode.PROTOCOL_ERROR, f"a text has at most {MAX_TEXT_BYTES} bytes")


def admit(
    hello: device_pb2.Hello,
    app: App,
    sealer: Sealer,
    *,
    now_ms: int,
    token_days: int,
    partitions: int,
) -> Admitted:
    """Whatever the HELLO brings. Raises Refused."""
    check_version(hello)
    match hello.WhichOneof("credential"):
        case "token":
            admitted = check_token(hello, app, sealer, now_ms=now_ms, token_days=token_days)
            if admitted.partition >= partitions:
                raise Refused(CloseCode.BAD_TOKEN, "the token names a partition that is not here")
            return admitted
        case "registration":
            return check_registration(hello, app, now_ms=now_ms, partitions=partitions)
    raise Refused(CloseCode.PROTOCOL_ERROR, "HELLO carries neither token nor registration")


def check_token(
    hello: device_pb2.Hello, app: App, sealer: Sealer, *, now_ms: int, token_days: int
) -> Admitted:
    """Raises Refused with BAD_TOKEN or TOKEN_EXPIRED."""
    try:
        token = sealer.open(hello.token)
    except BadToken as error:
        raise Refused(CloseCode.BAD_TOKEN, str(error)) from None
    if token.app != app.number:
        raise Refused(CloseCode.BAD_TOKEN, "the token belongs to another app")
    age_s = now_ms / 1000 - token.issued_s
    if age_s > token_days * 86_400:
        raise Refused(CloseCode.TOKEN_EXPIRED, f"the token is older than {token_days} days")
    partition, index = split_device_id(token.device)
    return Admitted(partition, index, b"", b"", age_s > token_days * 43_200)


def check_registration(
    hello: device_pb2.Hello, app: App, *, now_ms: int, partitions: int
) -> Admitted:
    """Raises Refused with PROTOCOL_ERROR, WRONG_CLOCK or BAD_ACCESS_KEY."""
    r = hello.registration
    if len(r.installation_id) != INSTALLATION_ID_BYTES or len(r.nonce) != NONCE_BYTES:
        raise Refused(
            CloseCode.PROTOCOL_ERROR,
            f"installation_id has {INSTALLATION_ID_BYTES} bytes and nonce {NONCE_BYTES}",
        )
    proof = registration_proof(app.access_key, app.app_id, r.installation_id, r.time_ms, r.nonce)
    if not hmac.compare_digest(proof, r.proof):
        raise Refused(CloseCode.BAD_ACCESS_KEY, "the proof does not match the app's access key")
    if abs(r.time_ms - now_ms) > CLOCK_SKEW_MS:
        raise Refused(
            CloseCode.WRONG_CLOCK,
            f"time_ms is off by {abs(r.time_ms - now_ms) // 1000} s",
            server_time_ms=now_ms,
        )
    partition = partition_of(app.number, r.installation_id, partitions)
    return Admitted(partition, 0, r.installation_id, r.nonce, False)


def partition_of(app: int, installation_id: bytes, partitions: int) -> int:
    """Partition of an installation, the same for ever: a repeated registration finds its device."""
    digest = hashlib.blake2b(app.to_bytes(2, "big") + installation_id, digest_size=8).digest()
    return int.from_bytes(digest, "big") % partitions
