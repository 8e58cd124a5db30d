"""Every error an app server can get: one table, which docs/http-api.md repeats for its readers.

An errno is the HTTP status followed by two digits. Numbers are never reused: callers compare them.
"""

import random
import secrets
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec


class Errno(IntEnum):
    NOT_JSON = 40001
    FIELD = 40002
    NO_CONTENT = 40003
    TTL = 40004
    DEVICES = 40005
    IDEMPOTENCY_KEY = 40006
    ID = 40007
    AUDIENCE = 40008
    ACCOUNTS = 40009
    ITEMS = 40010
    NAME = 40011
    SHAPE = 40012
    NOT_HTTP = 40013
    NO_KEY = 40101
    WRONG_KEY = 40102
    NO_ROUTE = 40400
    NO_APP = 40401
    NO_PUSH = 40402
    NO_DEVICE = 40403
    NO_SEGMENT = 40404
    NO_ACCOUNT = 40405
    METHOD = 40501
    SLOW_BODY = 40801
    SLOW_HEAD = 40802
    CONFLICT = 40901
    BODY_TOO_LARGE = 41301
    CONTENT_TOO_LARGE = 41302
    APP_RATE = 42901
    APP_QUOTA = 42902
    HEAD_TOO_LARGE = 43101
    INTERNAL = 50001
    BUSY = 50301
    STORE_AWAY = 50302
    DISPATCH_AWAY = 50303
    NOT_COUNTED_YET = 50304
    STARTING = 50305
    EDGES_AWAY = 50306
    LOG_FULL = 50307
    CONNECTIONS = 50308


class Meaning(NamedTuple):
    status: str
    """The word of google.rpc.Code."""
    advice: str
    """What happened and what the caller does next."""
    retry_ms: int = 0
    """About when it is worth trying again; 0 = not as it stands."""


MEANINGS: Final[dict[Errno, Meaning]] = {
    Errno.NOT_JSON: Meaning("INVALID_ARGUMENT", "the body is not JSON in UTF-8"),
    Errno.FIELD: Meaning(
        "INVALID_ARGUMENT", "a field is missing, unknown or of another type; the message names it"
    ),
    Errno.NO_CONTENT: Meaning(
        "INVALID_ARGUMENT", "give a notification with some text, or data, or both"
    ),
    Errno.TTL: Meaning(
        "INVALID_ARGUMENT", "ttl is in seconds, from 0 to the limit the message names"
    ),
    Errno.DEVICES: Meaning(
        "INVALID_ARGUMENT", "name at least one device and at most as many as the message says"
    ),
    Errno.IDEMPOTENCY_KEY: Meaning(
        "INVALID_ARGUMENT",
        "an idempotency key has 1 to 128 characters; give it in the body or the header, or the "
        "same in both",
    ),
    Errno.ID: Meaning("INVALID_ARGUMENT", "the id in the path is not a decimal number"),
    Errno.AUDIENCE: Meaning(
        "INVALID_ARGUMENT",
        "the audience cannot be read or is over a limit; the message says where and what was expected",
    ),
    Errno.ACCOUNTS: Meaning(
        "INVALID_ARGUMENT",
        "the accounts of the audience have too many devices together; send to some of them at a time",
    ),
    Errno.ITEMS: Meaning("INVALID_ARGUMENT", "give 1 to 10,000 items in one request"),
    Errno.NAME: Meaning(
        "INVALID_ARGUMENT", "a name is not allowed; the message says which and why"
    ),
    Errno.SHAPE: Meaning(
        "INVALID_ARGUMENT",
        "the push cannot have this speed, holdout or collapse key; the message says what is allowed",
    ),
    Errno.NOT_HTTP: Meaning(
        "INVALID_ARGUMENT", "what came is no HTTP/1.1 request; the connection is closed"
    ),
    Errno.NO_KEY: Meaning("UNAUTHENTICATED", "send the header Authorization: Bearer <API key>"),
    Errno.WRONG_KEY: Meaning("UNAUTHENTICATED", "this API key is not known here; check it"),
    Errno.NO_ROUTE: Meaning("NOT_FOUND", "there is no such address; /docs lists them"),
    Errno.NO_APP: Meaning("NOT_FOUND", "the app does not exist, or this key is not one of its"),
    Errno.NO_PUSH: Meaning("NOT_FOUND", "this app has no such push, or it is no longer kept"),
    Errno.NO_DEVICE: Meaning("NOT_FOUND", "this app has no such device"),
    Errno.NO_SEGMENT: Meaning("NOT_FOUND", "this app has no segment of this name"),
    Errno.NO_ACCOUNT: Meaning("NOT_FOUND", "this app has no device of this account"),
    Errno.METHOD: Meaning("UNIMPLEMENTED", "this address does not take this method"),
    Errno.SLOW_BODY: Meaning(
        "DEADLINE_EXCEEDED", "the request body did not arrive in time; send it again"
    ),
    Errno.SLOW_HEAD: Meaning(
        "DEADLINE_EXCEEDED",
        "request line and headers did not arrive in time; the connection is closed",
    ),
    Errno.CONFLICT: Meaning(
        "ALREADY_EXISTS",
        "another push was made with this idempotency key; use a new key for a new push",
    ),
    Errno.BODY_TOO_LARGE: Meaning("OUT_OF_RANGE", "the request body is over the limit"),
    Errno.CONTENT_TOO_LARGE: Meaning(
        "OUT_OF_RANGE", "notification and data are over the limit; put large data behind a link"
    ),
    Errno.APP_RATE: Meaning(
        "RESOURCE_EXHAUSTED",
        "the app pushes faster than it may; nothing was taken, push again after the time given",
        1000,
    ),
    Errno.APP_QUOTA: Meaning(
        "RESOURCE_EXHAUSTED",
        "the app has had its pushes of this day (UTC); nothing was taken, push again tomorrow",
        1000,
    ),
    Errno.HEAD_TOO_LARGE: Meaning(
        "OUT_OF_RANGE",
        "request line and headers are over 32 KiB; the connection is closed",
    ),
    Errno.INTERNAL: Meaning("INTERNAL", "a defect of the service; its log has the trace id"),
    Errno.BUSY: Meaning("UNAVAILABLE", "too many pushes wait for the store; send slower", 1000),
    Errno.STORE_AWAY: Meaning("UNAVAILABLE", "the store does not answer; try again", 1000),
    Errno.DISPATCH_AWAY: Meaning(
        "UNAVAILABLE", "not all partitions have a dispatch node that answers; try again", 1000
    ),
    Errno.NOT_COUNTED_YET: Meaning(
        "UNAVAILABLE", "the push is so new that it may not have been counted yet; try again", 500
    ),
    Errno.LOG_FULL: Meaning(
        "UNAVAILABLE",
        "the log of a partition is full, since no dispatch node writes snapshots that shorten it; try again",
        5000,
    ),
    Errno.CONNECTIONS: Meaning(
        "UNAVAILABLE",
        "too many connections are open; keep few of them and use them again",
        1000,
    ),
    Errno.EDGES_AWAY: Meaning(
        "UNAVAILABLE",
        "not all edges have confirmed the recall; say it again, which is harmless",
        1000,
    ),
    Errno.STARTING: Meaning("UNAVAILABLE", "the service is starting; try again", 1000),
}


_SPREAD_MS: Final = 60_000
"""Callers who must wait for long come back spread over this time."""


class ApiError(Exception):
    """An answer other than the wanted one. `message` replaces the table's advice, `retry_ms` its time:
    no caller is told to come earlier."""

    def __init__(
        self, errno: Errno, message: str = "", trace_id: str = "", retry_ms: int = 0
    ) -> None:
        meaning = MEANINGS[errno]
        super().__init__(message or meaning.advice)
        self.errno = errno
        self.code = errno // 100
        self.message = message or meaning.advice
        self.trace_id = trace_id or secrets.token_hex(8)
        # Callers that were refused together come back spread out.
        self.retry_ms = (
            retry_ms + int(random.uniform(0, min(0.4 * retry_ms, _SPREAD_MS)))
            if retry_ms
            else int(meaning.retry_ms * random.uniform(0.6, 1.4))
        )

    def body(self) -> bytes:
        error: dict[str, object] = {
            "code": self.code,
            "errno": int(self.errno),
            "status": MEANINGS[self.errno].status,
            "message": self.message,
            "trace_id": self.trace_id,
        }
        if self.retry_ms:
            error["retry"] = {"after_ms": self.retry_ms}
        return msgspec.json.encode({"error": error})

    def headers(self) -> dict[str, str]:
        """Beside content type and length. Retry-After counts whole seconds (RFC 9110, 10.2.3)."""
        if self.retry_ms:
            return {"retry-after": str(-(-self.retry_ms // 1000))}
        return {"www-authenticate": "Bearer"} if self.code == 401 else {}
