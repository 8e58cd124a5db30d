"""Request bodies: read within a limit and a budget, decoded with one kind of error."""

import re
from typing import Final, Self, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from gateway.api.budget import Budget
from gateway.api.errors import ApiError, Errno

T = TypeVar("T")

_DIGITS: Final = re.compile(rb"[0-9]{1,18}")


class Body:
    """One request's body, in the budget from its first byte until the end of the block."""

    __slots__ = ("_budget", "_limit", "_size")

    def __init__(self, budget: Budget, limit: int) -> None:
        self._budget = budget
        self._limit = limit
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give(self._size)

    async def read(self, receive: Receive, length: bytes | None) -> bytes:
        """Raises ApiError before it is read, or as soon as it is longer than allowed or possible."""
        # What is sent beyond it is read and dropped by the server, so that the caller sees the answer.
        if length is not None and _DIGITS.fullmatch(length) and int(length) > self._limit:
            raise _too_large(self._limit)
        first, more = await self._chunk(receive)
        if not more:  # most pushes
            return first
        body = bytearray(first)
        while more:
            chunk, more = await self._chunk(receive)
            body += chunk
        return bytes(body)

    async def _chunk(self, receive: Receive) -> tuple[bytes, bool]:
        """(bytes, whether more follow), counted."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        if self._size + len(chunk) > self._limit:
            raise _too_large(self._limit)
        if not self._budget.take(len(chunk)):
            raise ApiError(Errno.BUSY)
        self._size += len(chunk)
        return chunk, message.get("more_body", False)


def _too_large(limit: int) -> ApiError:
    return ApiError(Errno.BODY_TOO_LARGE, f"the request body is over {limit} bytes")


def decoded(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """Raises ApiError that names the place."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise ApiError(Errno.FIELD, _placed(str(error))) from None
    except (ValueError, RecursionError) as error:  # msgspec.DecodeError and UnicodeDecodeError
        raise ApiError(Errno.NOT_JSON, f"the body is not JSON in UTF-8: {error}") from None


def _placed(said: str) -> str:
    """msgspec leaves the place out at the top level."""
    return said if " - at `" in said else f"{said} - at `$`"
