"""Completes the description that FastAPI makes: the hot route, keys, examples."""

from typing import Any, Final

import msgspec

from gateway.api.account_routes import BindBody, UnbindBody
from gateway.api.audiences import AudienceBody
from gateway.api.errors import ApiError, Errno
from gateway.api.push_body import PushBody
from gateway.api.push_route import PATH, PushAnswer
from gateway.api.tag_routes import TagBody

_KEYED: Final = "/v1/apps/"
"""Paths below it need an API key."""

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "devices": {
        "summary": "To two devices",
        "value": {
            "audience": {"devices": ["4294967296", "8589934595"]},
            "notification": {
                "title": "Parcel",
                "body": "It is at the door",
                "url": "app://parcel/7",
            },
            "data": {"parcel": "7"},
            "ttl": 3600,
        },
    },
    "everybody": {
        "summary": "To every device of the app, once",
        "value": {
            "audience": "all",
            "notification": {"title": "8 pm", "body": "The sale begins"},
            "idempotency_key": "sale-2026-11-11",
        },
    },
    "expression": {
        "summary": "To whom an expression means",
        "value": {
            "audience": "city:gz & !vip",
            "notification": {"title": "Rain", "body": "Take an umbrella"},
        },
    },
    "shaped": {
        "summary": "At 500 devices a second; one in ten does not get it",
        "value": {
            "audience": "all",
            "notification": {"title": "Sale", "body": "Today only"},
            "speed": 500,
            "holdout": 0.1,
        },
    },
    "newest": {
        "summary": "Before others, and in place of the last one with the same key",
        "value": {
            "audience": {"devices": ["4294967296"]},
            "notification": {"title": "2:1", "body": "Goal in the 89th minute"},
            "priority": "high",
            "collapse_key": "match-7",
        },
    },
    "live": {
        "summary": "Only to whoever is connected now",
        "value": {"audience": "all", "data": {"score": "2:1"}, "ttl": 0},
    },
}
ANSWER: Final = {
    "push_id": "33456789012345867",
    "accepted": 1,
    "invalid": [{"target": "8589934595", "code": "unknown_device"}],
    "trace_id": "33456789012345867",
}
ERRORS: Final[dict[int, tuple[Errno, str]]] = {
    400: (Errno.TTL, "Something in the request is not allowed"),
    401: (Errno.NO_KEY, "No API key, or an unknown one"),
    404: (Errno.NO_APP, "No such app for this key"),
    405: (Errno.METHOD, "Not a POST"),
    408: (Errno.SLOW_BODY, "The body took too long to arrive"),
    409: (Errno.CONFLICT, "The idempotency key belongs to another push"),
    413: (Errno.CONTENT_TOO_LARGE, "Body or content too large"),
    429: (Errno.APP_RATE, "The app pushes more than it may"),
    503: (Errno.BUSY, "Not now; retry after the time given"),
}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with what FastAPI does not know. Changes it in place; repeatable."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    (body, answer, *_), defined = msgspec.json.schema_components(
        [PushBody, PushAnswer, AudienceBody, TagBody, BindBody, UnbindBody],
        ref_template="#/components/schemas/{name}",
    )
    schemas.update(defined)
    document["components"]["securitySchemes"] = {
        "api_key": {"type": "http", "scheme": "bearer", "description": "An API key of the app."}
    }
    document["paths"] = {PATH: {"post": _push(body, answer)}, **document["paths"]}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            # FastAPI describes its own error body for path parameters; ours never come to that.
            operation["responses"].pop("422", None)
            if path.startswith(_KEYED):
                operation["security"] = [{"api_key": []}]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document


def _push(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    answers = {
        "202": _described("Durably accepted", answer, ANSWER),
        "200": _described("validate_only: nothing was pushed", answer, {**ANSWER, "push_id": None}),
    }
    problem = {"$ref": "#/components/schemas/ErrorBody"}
    for code, (errno, text) in ERRORS.items():
        example = msgspec.json.decode(ApiError(errno, trace_id="4f1c2a9be0d35a77").body())
        answers[str(code)] = _described(text, problem, example)
    return {
        "summary": "Push",
        "description": "The answer 202 is given when the push is durable.",
        "operationId": "push",
        "parameters": [
            _parameter("app", "path", "The app's id."),
            _parameter("Idempotency-Key", "header", "As idempotency_key in the body."),
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "examples": EXAMPLES}},
        },
        "responses": answers,
    }


def _parameter(name: str, place: str, text: str) -> dict[str, Any]:
    required = place == "path"
    schema = {"type": "string"}
    return {"name": name, "in": place, "required": required, "description": text, "schema": schema}


def _described(text: str, schema: dict[str, Any], example: object) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/json": {"schema": schema, "example": example}},
    }
