"""The app server's side: pushes over HTTP, one keep-alive connection."""

import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from http.client import HTTPException
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from loadtest.kept_http import Answer, KeptConnection
from loadtest.service import Service

_TIMEOUT_S: Final = 30.0
_RETRIES: Final = 20
_LONGEST_WAIT_S: Final = 2.0
_AWAY_S: Final = 0.25
"""Until what was unavailable is tried again."""

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


def push_body(
    audience: Any, data: dict[str, str], title: str = "Columba", priority: str = "normal"
) -> bytes:
    """`audience`: device ids, or an expression as JSON or as text."""
    if not isinstance(audience, str | dict):
        audience = {"devices": [str(device) for device in audience]}
    body = {
        "audience": audience,
        # Some 100 bytes on the wire, what the floors of others are told for.
        "notification": {"title": title, "body": "coo, said the dove, and brought the olive leaf"},
        "data": data,
        "ttl": 3600,
        "priority": priority,
    }
    return json.dumps(body).encode()


def stamped(**data: str) -> dict[str, str]:
    """Data of a push with the time now, which the fleet's latencies are measured from."""
    return {"sent_ns": str(time.monotonic_ns()), **data}


def law_holds(counts: dict[str, int]) -> bool:
    """The conservation law: the states sum up to what was targeted."""
    return counts["targeted"] == sum(counts[state] for state in STATES)


class Metrics:
    """Samples of all processes, in Prometheus' text format."""

    AGE_S: Final = 0.5
    """Questions within this time share one answer."""

    def __init__(self, text: str) -> None:
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        self._samples = [(sample, float(value)) for sample, _, value in lines if sample]

    def of(self, name: str) -> list[float]:
        """The samples of that name."""
        return [value for sample, value in self._samples if sample.partition("{")[0] == name]

    @property
    def whole(self) -> bool:
        """Every live process has answered."""
        answered = self.of("columba_process_answered")
        return bool(answered) and all(answered)


class ApiClient:
    """One connection, made when it is first used. Not for several threads."""

    def __init__(self, service: Service) -> None:
        url = urlsplit(service.api)
        assert url.hostname is not None, "the ready line gives a whole address"
        self._connection = KeptConnection(url.hostname, url.port or 80, _TIMEOUT_S)
        self._path = f"/v1/apps/{service.app}/"
        self._headers = {
            "Authorization": f"Bearer {service.api_key}",
            "Content-Type": "application/json",
        }

    def push(self, audience: Any, **data: str) -> int:
        """The id of the accepted push. Raises ApiFailed.

        Told to wait (429, 503) it waits and tries again: such an answer accepts nothing. Without
        an answer it does not, since the push may have been accepted.
        """
        # The body is made for each try: it carries the time.
        answer = self._patiently("POST", "pushes", lambda: push_body(audience, stamped(**data)))
        return int(answer["push_id"])

    def counts(self, push_id: int) -> dict[str, int]:
        """Counts by state, and `targeted`, `displayed`, `clicked`, `dismissed`. Raises ApiFailed."""
        answer = self._patiently("GET", f"pushes/{push_id}")
        counts = answer.get("counts", answer)
        return {name: int(n) for name, n in counts.items() if isinstance(n, int)}

    def cuts(self, push_id: int, by: Iterable[str]) -> dict[str, dict[str, dict[str, int]]]:
        """Name -> tag -> those counts of the devices that have the tag. Raises ApiFailed."""
        answer = self._patiently("GET", f"pushes/{push_id}/stats?by={','.join(by)}")
        cuts: dict[str, dict[str, dict[str, int]]] = answer["by"]
        return cuts

    def count(self, audience: Any) -> int:
        """How many devices an expression means now. Raises ApiFailed."""
        body = json.dumps({"audience": audience}).encode()
        return int(self._patiently("POST", "audience:count", lambda: body)["count"])

    def tag(self, devices: Iterable[int], *tags: str, bind: bool) -> None:
        """Set tags on devices, or take them away. Raises ApiFailed, also if only some failed.

        What is `unavailable` is sent again, as doing it twice changes nothing.
        """
        action = "tags:bind" if bind else "tags:unbind"
        items = [{"device": str(device), "tags": tags} for device in devices]
        for _ in range(_RETRIES):
            body = partial(str.encode, json.dumps({"items": items}))
            results = self._patiently("POST", action, body)["results"]
            failed = [result for result in results if not result["ok"]]
            if not failed:
                return
            if any(result["code"] != "unavailable" for result in failed):
                break
            items = [item for item, r in zip(items, results, strict=True) if not r["ok"]]
            time.sleep(_AWAY_S)
        raise ApiFailed(f"{action}: {len(failed)} of {len(results)} failed, first {failed[0]}")

    def metrics(self) -> Metrics:
        """GET /metrics, whose answer may be `Metrics.AGE_S` old. Raises ApiFailed."""
        return Metrics(self._answered("GET", "/metrics").body.decode())

    def _patiently(
        self, method: str, path: str, body: Callable[[], bytes] | None = None
    ) -> dict[str, Any]:
        """`path` below the app's. Told to wait it does, some times. Raises ApiFailed."""
        told_us: dict[str, Any] = json.loads(self._answered(method, self._path + path, body).body)
        return told_us

    def _answered(self, method: str, path: str, body: Callable[[], bytes] | None = None) -> Answer:
        for _ in range(_RETRIES):
            try:
                return self._ask(method, path, body() if body else None)
            except _Wait as wait:
                time.sleep(wait.seconds)
        raise ApiFailed(f"the API told us to wait {_RETRIES} times", 503)

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        try:
            self._connection.send(method, path, body, self._headers)
            answer = self._connection.answer()
        except (OSError, HTTPException) as error:
            raise ApiFailed(f"{method} {path}: {error!r}") from error
        if answer.status in (429, 503):
            told = answer.retry_after
            raise _Wait(min(_LONGEST_WAIT_S, float(told) if told.isdecimal() else 0.25))
        if answer.status not in (200, 202):
            said = answer.body[:500].decode(errors="replace")
            raise ApiFailed(f"{method} {path}: {answer.status} {said}", answer.status)
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
