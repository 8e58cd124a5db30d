"""HTTP as an app server speaks it: one request a connection, and what its answers mean."""

import asyncio
import time
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from gateway.store.apps import NewApp
from tests.e2e.http import Answer, request

_ANSWER_S: Final = 8.0
_AGAIN_S: Final = 0.1
_GIVE_UP_S: Final = 60.0
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
"""A targeted device is in exactly one of these."""
LATER: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class Outcome(NamedTuple):
    """Of a request that was repeated or not."""

    answer: Answer | None
    """None: without one that says what became of it."""
    attempts: int
    refused: int
    unanswered: int
    doubtful_id: int | None
    """The push id in the last 503: it may have been accepted as that."""


class AppServer:
    """The caller's side of one app."""

    def __init__(self, api: tuple[str, int], app: NewApp) -> None:
        self._base = f"http://{api[0]}:{api[1]}"
        self._path = f"/v1/apps/{app.app_id}"
        self._headers = {"Authorization": f"Bearer {app.api_key}"}

    async def ask(
        self, method: str, path: str, body: object = None, wait_s: float = _ANSWER_S
    ) -> Answer:
        """Once. Raises OSError or TimeoutError when there is no whole answer."""
        try:
            return await request(self._base, method, self._path + path, body, self._headers, wait_s)
        except (ValueError, IndexError) as error:
            raise ConnectionResetError("half an answer") from error

    async def insist(self, method: str, path: str, body: object, *, again: bool) -> Outcome:
        """Until it is known. `again`: also after a request that got no answer.

        Raises AssertionError for an answer that the interface does not promise.
        """
        deadline = time.monotonic() + _GIVE_UP_S
        attempts = refused = unanswered = 0
        doubtful: int | None = None
        while time.monotonic() < deadline:
            attempts += 1
            try:
                answer = await self.ask(method, path, body)
            except (OSError, TimeoutError):
                unanswered += 1
                if not again:
                    break
            else:
                if answer.status in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
                    return Outcome(answer, attempts, refused, unanswered, None)
                if answer.status not in LATER:
                    raise AssertionError(f"{method} {path} {body}: {answer}")
                refused += 1
                doubtful = _push_id_in(answer) or doubtful
                # It may have been taken after all: without a key it is not asked for twice.
                if not again and doubtful is not None:
                    break
            await asyncio.sleep(_AGAIN_S)
        return Outcome(None, attempts, refused, unanswered, doubtful)

    async def counts(self, push_id: int) -> dict[str, int] | None:
        """None when the service cannot say now. Raises OSError, TimeoutError, AssertionError."""
        answer = await self.ask("GET", f"/pushes/{push_id}")
        if answer.status == HTTPStatus.OK:
            counts: dict[str, int] = answer.body["counts"]
            return counts
        assert answer.status in (*LATER, HTTPStatus.NOT_FOUND), f"counts of {push_id}: {answer}"
        return None

    async def device(self, device: int) -> dict[str, Any]:
        """What the service knows of a device; waits out a 503."""
        outcome = await self.insist("GET", f"/devices/{device}", None, again=True)
        assert outcome.answer is not None, f"nothing is known of device {device}"
        known: dict[str, Any] = outcome.answer.body
        return known

    async def status(self) -> Any:
        """What the processes say of themselves."""
        return (await request(self._base, "GET", "/v1/status", None, self._headers)).body


def _push_id_in(refusal: Answer) -> int | None:
    """Where a 503 left open whether the push was accepted, its trace id is the push's."""
    said = str(refusal.body["error"]["trace_id"])
    return int(said) if said.isdigit() else None


def unlawful(push_id: int, counts: dict[str, int]) -> str | None:
    """What is wrong with counts, whenever they are asked for."""
    total = sum(counts[state] for state in STATES)
    if counts["targeted"] == total:
        return None
    return f"push {push_id}: targeted {counts['targeted']}, states {total}: {counts}"
