"""HTTP over one connection that is kept: the request and its answer apart, the standard library only."""

import http.client
import time
from typing import Final, NamedTuple

IDLE_S: Final = 2.0
"""A connection that rested longer is not used again: servers close idle ones (uvicorn after 5 s), and
a push that meets the close may or may not have been accepted."""


class Answer(NamedTuple):
    status: int
    body: bytes
    retry_after: str
    """That header; empty without it."""


class KeptConnection:
    """Made when it is first used, or with `connect`. One request at a time; not for several threads.

    All methods raise OSError or http.client.HTTPException when the other side does not do as it should; the
    connection is then closed, and the next request makes a new one.
    """

    def __init__(self, host: str, port: int, timeout_s: float, idle_s: float = IDLE_S) -> None:
        """`idle_s`: after a longer rest a request makes a new connection."""
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        self._used_at = time.monotonic()
        self._idle_s = idle_s

    def connect(self) -> None:
        """Now, and not with the first request."""
        self._connection.connect()
        self._used_at = time.monotonic()

    def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        """A request, to be followed by `answer`."""
        if time.monotonic() - self._used_at > self._idle_s:
            self._connection.close()
        self._used_at = time.monotonic()
        try:
            self._connection.request(method, path, body, headers)
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def answer(self) -> Answer:
        """To what was sent."""
        try:
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        return Answer(response.status, body, response.headers.get("Retry-After", ""))

    def close(self) -> None:
        self._connection.close()
