"""The app server's side: pushes over HTTP, one keep-alive connection, the standard library only."""

import http.client
import json
import time
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from loadtest.service import Service

_TIMEOUT_S: Final = 30.0
_RETRIES: Final = 20
_LONGEST_WAIT_S: Final = 2.0
IDLE_S: Final = 2.0
"""A connection that rested longer is not used again: servers close idle ones (uvicorn after 5 s), and
a push that meets the close may or may not have been accepted."""

STATES: Final = (
    "received",
    "failed",
    "recalled",
    "replaced",
    "overflowed",
    "stopped",
    "expired",
    "pending",
)
"""Every targeted device of a push is in exactly one of these."""


class ApiFailed(Exception):
    """The API answered with an error, or not at all. `status` is 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def push_body(audience: Any, data: dict[str, str], title: str = "Columba") -> bytes:
    """`audience`: "all", or device ids."""
    wanted = audience if audience == "all" else {"devices": [str(device) for device in audience]}
    body = {
        "audience": wanted,
        # Some 100 bytes on the wire, what the floors of others are told for.
        "notification": {"title": title, "body": "coo, said the dove, and brought the olive leaf"},
        "data": data,
        "ttl": 3600,
    }
    return json.dumps(body).encode()


def stamped(**data: str) -> dict[str, str]:
    """Data of a push with the time now, which the fleet's latencies are measured from."""
    return {"sent_ns": str(time.monotonic_ns()), **data}


def law_holds(counts: dict[str, int]) -> bool:
    """The conservation law: the states sum up to what was targeted."""
    return counts["targeted"] == sum(counts[state] for state in STATES)


class ApiClient:
    """One connection, made when it is first used. Not for several threads."""

    def __init__(self, service: Service) -> None:
        url = urlsplit(service.api)
        assert url.hostname is not None, "the ready line gives a whole address"
        self._connection = http.client.HTTPConnection(
            url.hostname, url.port or 80, timeout=_TIMEOUT_S
        )
        self._used_at = time.monotonic()
        self._path = f"/v1/apps/{service.app}/pushes"
        self._headers = {
            "Authorization": f"Bearer {service.api_key}",
            "Content-Type": "application/json",
        }

    def push(self, audience: Any, **data: str) -> int:
        """The id of the accepted push. Raises ApiFailed.

        Told to wait (429, 503) it waits and tries again: such an answer accepts nothing. Without
        an answer it does not, since the push may have been accepted.
        """
        for _ in range(_RETRIES):
            try:
                answer = self._request("POST", self._path, push_body(audience, stamped(**data)))
                return int(answer["push_id"])
            except _Wait as wait:
                time.sleep(wait.seconds)
        raise ApiFailed(f"the API told us to wait {_RETRIES} times", 503)

    def counts(self, push_id: int) -> dict[str, int]:
        """Counts by state, and `targeted`, `displayed`, `clicked`, `dismissed`. Raises ApiFailed."""
        for _ in range(_RETRIES):
            try:
                answer = self._request("GET", f"{self._path}/{push_id}", None)
                counts = answer.get("counts", answer)
                return {name: int(n) for name, n in counts.items() if isinstance(n, int)}
            except _Wait as wait:
                time.sleep(wait.seconds)
        raise ApiFailed(f"the API told us to wait {_RETRIES} times", 503)

    def _request(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        if time.monotonic() - self._used_at > IDLE_S:
            self._connection.close()
        self._used_at = time.monotonic()
        try:
            self._connection.request(method, path, body, self._headers)
            response = self._connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ApiFailed(f"{method} {path}: {error!r}") from error
        if response.status in (429, 503):
            told = response.headers.get("Retry-After", "")
            raise _Wait(min(_LONGEST_WAIT_S, float(told) if told.isdecimal() else 0.25))
        if response.status not in (200, 202):
            said = raw[:500].decode(errors="replace")
            raise ApiFailed(f"{method} {path}: {response.status} {said}", response.status)
        answer: dict[str, Any] = json.loads(raw)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()


class _Wait(Exception):
    """429 or 503: try again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds
