"""What the routes on FastAPI share: who calls, what they send, how they are answered."""

from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Header, Request, Response
from starlette.requests import ClientDisconnect

from gateway.api.bodies import Body, decoded
from gateway.api.errors import ApiError, Errno
from gateway.api.push_body import parse_u64
from gateway.api.service import Backend, Service
from gateway.audience import flaw, got

T = TypeVar("T")

Key = Annotated[str | None, Header(alias="Authorization", include_in_schema=False)]


def problem(error: ApiError) -> Response:
    return Response(error.body(), error.code, error.headers(), "application/json")


def json_answer(value: object, status_code: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code, media_type="application/json")


def backend_of(service: Service) -> Backend:
    """Raises ApiError."""
    if service.backend is None:
        raise ApiError(Errno.STARTING)
    return service.backend


def id_of(text: str) -> int:
    """Raises ApiError."""
    number = parse_u64(text)
    if number is None:
        raise ApiError(Errno.ID)
    return number


def check_name(name: str) -> None:
    """Raises ApiError."""
    wrong = flaw(name)
    if wrong is not None:
        raise ApiError(Errno.NAME, f"the name {got(name)}: expected {wrong}")


async def body_of(service: Service, request: Request, decoder: msgspec.json.Decoder[T]) -> T:
    """Within the limits that pushes have. Raises ApiError."""
    length = request.headers.get("content-length")
    try:
        with Body(service.bodies, service.config.api.max_body) as body:
            raw = await body.read(request.receive, length.encode() if length else None)
            return decoded(decoder, raw)
    except ClientDisconnect:
        raise ApiError(Errno.SLOW_BODY) from None  # nobody reads it


def takes(schema: dict[str, Any], example: object) -> dict[str, Any]:
    """For FastAPI's `openapi_extra`: the body that `body_of` reads."""
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}
