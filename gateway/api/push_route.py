"""POST /v1/apps/{app}/pushes: the hot route.

Plain ASGI under a Starlette route: no request object, no validation by FastAPI, one struct decoded,
one write answered.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from gateway.api.audiences import encoded, notes, refusal, settle
from gateway.api.bodies import Body
from gateway.api.credentials import opened
from gateway.api.errors import MEANINGS, ApiError, Errno
from gateway.api.order import Accepted
from gateway.api.push_body import Request, parse
from gateway.api.refused import Busy, Exceeded, IdempotencyConflict, LogIsFull, Unavailable
from gateway.api.service import Backend, Service
from gateway.audience import AudienceError
from gateway.store.errors import StoreUnavailable

_log = structlog.get_logger("columba.api")

PATH: Final = "/v1/apps/{app}/pushes"
_JSON: Final = (b"content-type", b"application/json")
_encode: Final = msgspec.json.Encoder().encode
_MALFORMED_BYTES: Final = 384
"""A malformed id as it is kept for the answer, at most."""


class Invalid(msgspec.Struct):
    target: str
    code: str


class PushAnswer(msgspec.Struct, omit_defaults=True):
    push_id: str | None
    accepted: int | None
    invalid: list[Invalid]
    trace_id: str
    notes: list[str] = []


class PushRoute:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extra: Mapping[str, str] = {}
        try:
            status, body = await self._answer(scope, receive)
        except ClientDisconnect:
            return
        except Exception as failure:  # whatever it is, the caller gets an answer of the usual shape
            error = as_api_error(failure)
            status, body, extra = error.code, error.body(), error.headers()
        self._service.requests.add(PATH, str(status))
        headers = [_JSON, (b"content-length", b"%d" % len(body))]
        headers += [(name.encode(), value.encode()) for name, value in extra.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        if scope["method"] != "POST":
            raise ApiError(Errno.METHOD, "this address takes POST")
        backend = self._service.backend
        if backend is None:
            raise ApiError(Errno.STARTING)
        limits = self._service.config.api
        authorization, key, length = _headers(scope)
        app = await opened(backend.apps, scope["path_params"]["app"], authorization)
        with Body(self._service.bodies, limits.max_body) as body:
            request = parse(await body.read(receive, length), key, app, limits)
            # In the budget for as long as a partition on the move is waited for.
            request = await _settled(request, backend, limits.max_devices)
        intake, beside = backend.intake, _MALFORMED_BYTES * len(request.malformed)
        if request.validate_only:
            return 200, _encode(_answered(await intake.check(request.order, beside), request))
        return 202, _encode(_answered(await intake.push(request.order, beside), request))


async def _settled(request: Request, backend: Backend, max_devices: int) -> Request:
    """With the segments of its audience put in, and its accounts looked up. Raises ApiError,
    StoreUnavailable."""
    if request.tree is None:
        return request
    app = request.order.app
    settled = await settle(backend.segments, backend.nodes, app, request.tree, max_devices)
    order = request.order._replace(
        audience=encoded(settled.tree),
        unknown_segments=settled.unknown_segments,
        unknown_accounts=settled.unknown_accounts,
        partitions=settled.partitions,
    )
    return request._replace(order=order)


def _headers(scope: Scope) -> tuple[str | None, str | None, bytes | None]:
    """(authorization, idempotency key, content length) as far as they are there."""
    authorization = key = length = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value.decode("latin-1")
        elif name == b"idempotency-key":
            key = value.decode("latin-1")
        elif name == b"content-length":
            length = value
    return authorization, key, length


def _answered(accepted: Accepted, request: Request) -> PushAnswer:
    invalid = [Invalid(str(device), "unknown_device") for device in accepted.unknown]
    invalid += [Invalid(text, "malformed") for text in request.malformed]
    invalid += [Invalid(name, "unknown_segment") for name in accepted.unknown_segments]
    invalid += [Invalid(name, "unknown_account") for name in accepted.unknown_accounts]
    push_id = str(accepted.push_id) if accepted.push_id else None
    said = notes(request.tree) if request.tree is not None else []
    return PushAnswer(push_id, accepted.accepted, invalid, push_id or "", said)


def as_api_error(failure: Exception) -> ApiError:
    """What the caller gets for any exception; a defect is logged under its trace id."""
    if isinstance(failure, ApiError):
        return failure
    if isinstance(failure, AudienceError):
        return refusal(failure)
    if isinstance(failure, IdempotencyConflict):
        return ApiError(Errno.CONFLICT, trace_id=str(failure.push_id))
    if isinstance(failure, Exceeded):
        quota, limit, retry_ms = failure.excess
        errno = Errno.APP_RATE if quota == "rate" else Errno.APP_QUOTA
        each = "second" if quota == "rate" else "day"
        said = f"{MEANINGS[errno].advice} ({limit} pushes a {each} are allowed)"
        return ApiError(errno, said, retry_ms=retry_ms)
    if isinstance(failure, Busy | Unavailable):
        errno = Errno.BUSY if isinstance(failure, Busy) else Errno.STORE_AWAY
        if isinstance(failure, LogIsFull):
            errno = Errno.LOG_FULL
        return ApiError(errno, trace_id=str(failure.push_id or ""))
    if isinstance(failure, StoreUnavailable):
        return ApiError(Errno.STORE_AWAY)
    error = ApiError(Errno.INTERNAL)
    _log.error("request failed", trace_id=error.trace_id, exc_info=failure)
    return error
