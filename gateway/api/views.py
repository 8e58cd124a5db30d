"""Shapes of answers, for the API's own description; the routes build the JSON themselves."""

from typing import Any

from pydantic import BaseModel, Field


class Counts(BaseModel):
    """`targeted` is the sum of the states from `received` to `pending`; the last three are events."""

    targeted: int
    received: int = Field(description="Safely in the device's own store.")
    failed: int = Field(description="Can never be handed out there.")
    recalled: int
    replaced: int
    overflowed: int
    stopped: int
    expired: int = Field(description="The ttl was over first.")
    pending: int = Field(description="Not there yet.")
    displayed: int
    clicked: int
    dismissed: int


class PushState(BaseModel):
    push_id: str
    counts: Counts
    accepted_at: str = Field(description="RFC 3339, UTC, by the store's clock.")
    ttl: int = Field(description="Seconds.")


class DeviceView(BaseModel):
    device_id: str
    online: bool
    edge: int = Field(description="Number of the edge that keeps the connection; 0 = offline.")
    pending: int = Field(description="Messages not yet received.")
    tags: list[str]
    epoch: str = Field(description="Of the latest session; a later session has a greater one.")


class Problem(BaseModel):
    code: int = Field(description="The HTTP status.")
    errno: int = Field(description="What exactly; stable.")
    status: str
    message: str = Field(description="What to do, for people.")
    retry: dict[str, int] | None = Field(
        default=None, description="`after_ms`; only where trying again helps."
    )
    trace_id: str


class ErrorBody(BaseModel):
    error: Problem


class ProcessView(BaseModel):
    number: int
    start: int
    lease_ms: int = Field(description="Until the lease runs out, unless it is renewed.")
    answered: bool
    stats: dict[str, float]


class Status(BaseModel):
    version: str
    time_ms: int
    partitions: int
    ready: bool
    processes: dict[str, list[ProcessView]]


class Health(BaseModel):
    status: str
    parts: dict[str, bool] | None = None


class Version(BaseModel):
    name: str
    version: str


Responses = dict[int | str, dict[str, Any]]


def responses(model: type[BaseModel], *errors: int) -> Responses:
    """For FastAPI's `responses`: the model for 200 and the error body for the others."""
    found: Responses = {200: {"model": model}}
    for code in errors:
        found[code] = {"model": ErrorBody}
    return found
