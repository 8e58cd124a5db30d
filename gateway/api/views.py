"""Shapes of answers, for the API's own description; the routes build the JSON themselves."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from gateway.api.nodes import COUNTED

_MEANT: Final = {
    "received": "Safely in the device's own store.",
    "failed": "Can never be handed out there.",
    "expired": "The ttl was over first.",
    "pending": "Not there yet.",
}
_COUNTS: Final[dict[str, Any]] = {
    "type": "object",
    "description": "`targeted` is the sum of the states from `received` to `pending`; what follows "
    "is beside the law.",
    "properties": {
        name: {"type": "integer"} | ({"description": _MEANT[name]} if name in _MEANT else {})
        for name in COUNTED
    },
    "required": list(COUNTED),
}


State = Literal["running", "paused", "stopped", "recalled", "finished"]
"""What a push as a whole is doing."""


class PushDecided(BaseModel):
    push_id: str
    state: State
    counts: Annotated[dict[str, int], WithJsonSchema(_COUNTS)]


class PushState(PushDecided):
    accepted_at: str = Field(description="RFC 3339, UTC, by the store's clock.")
    ttl: int = Field(description="Seconds.")


class DeviceView(BaseModel):
    device_id: str
    online: bool
    edge: int = Field(description="Number of the edge that keeps the connection; 0 = offline.")
    pending: int = Field(description="Messages not yet received.")
    tags: list[str]
    account: str | None = Field(description="Whose it is; null: nobody's.")
    epoch: str = Field(description="Of the latest session; a later session has a greater one.")


class InvalidTarget(BaseModel):
    target: str
    code: str


class AudienceCount(BaseModel):
    count: int = Field(description="Devices that it means now.")
    ms: float = Field(description="From the question to the last answer.")
    notes: list[str] = Field(description="What is allowed but may not be what was meant.")
    invalid: list[InvalidTarget] | None = Field(
        default=None, description="Segments that are not saved; they count as nobody."
    )


class Term(BaseModel):
    term: str
    devices: int
    ms: float


class PartitionPart(BaseModel):
    partition: int
    devices: int
    ms: float


class AudienceExplained(AudienceCount):
    terms: list[Term] = Field(description="In the order in which they were looked at.")
    partitions: list[PartitionPart]
    sample: list[str] = Field(description="A few device ids.")


class PushCuts(BaseModel):
    push_id: str
    by: dict[str, dict[str, dict[str, int]]] = Field(description="Name, tag, state: devices.")


class LedgerTerm(BaseModel):
    term: str
    matches: bool


class LedgerStep(BaseModel):
    at: str | None = Field(
        description="RFC 3339, UTC, by the store's clock; null: the log no longer says when."
    )
    event: str
    edge: int | None = None
    attempt: int | None = Field(default=None, description="With `sent`: how often so far.")


class PushLedger(BaseModel):
    push_id: str
    device_id: str
    state: str = Field(
        description="received, failed, recalled, replaced, overflowed, stopped, expired, pending; "
        "held_out; not_targeted; forgotten (only counts are kept)."
    )
    why: str = Field(description="One sentence, for people.")
    online: bool
    edge: int = Field(description="Number of the edge that keeps the connection; 0 = offline.")
    terms: list[LedgerTerm] = Field(description="Of the audience, as they stand now.")
    steps: list[LedgerStep] = Field(description="In the order in which they happened.")
    notes: list[str] | None = Field(default=None, description="What could not be told.")


class TagResult(BaseModel):
    device: str
    ok: bool
    code: str | None = Field(default=None, description="What is wrong, if not ok.")


class TagResults(BaseModel):
    results: list[TagResult] = Field(description="In the order of the items.")


class AccountResult(BaseModel):
    account: str
    device: str | None = Field(default=None, description="Left out where all devices are meant.")
    ok: bool
    code: str | None = Field(default=None, description="What is wrong, if not ok.")


class AccountResults(BaseModel):
    results: list[AccountResult] = Field(description="In the order of the items.")


class AccountView(BaseModel):
    account: str
    devices: list[str] = Field(description="The one that was bound last stands last.")


class SegmentView(BaseModel):
    name: str
    audience: Any = Field(description="JSON form.")
    text: str = Field(description="The same as an expression.")
    notes: list[str]


class SegmentList(BaseModel):
    segments: list[SegmentView]


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
