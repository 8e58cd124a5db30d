"""Tags that app servers set on devices, or take from them."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from fastapi import FastAPI, Request, Response
from msgspec import Struct

from gateway.api.answers import Key, backend_of, body_of, json_answer, takes
from gateway.api.credentials import opened
from gateway.api.errors import ApiError, Errno
from gateway.api.nodes import Nodes, NodesAway
from gateway.api.push_body import parse_u64
from gateway.api.service import Service
from gateway.api.views import TagResults, responses
from gateway.audience import MAX_ID, flaw
from gateway.store.apps import App
from gateway.systemtags import is_system
from protocol.codes import MAX_TAGS
from protocol.ids import split_device_id
from protocol.schema import rpc_pb2

MAX_ITEMS: Final = 10_000
SLICE: Final = 500
"""Items in one call: its owner answers when they are durable, and others wait behind them."""
CODES: Final = (
    "unknown_device", "malformed", "too_many_tags", "too_many_names", "bad_tag", "unavailable",
)  # fmt: skip
"""What can be wrong with an item."""
_SHOWN: Final = 64


class Item(Struct, frozen=True, forbid_unknown_fields=True):
    device: int | str
    tags: list[str]


class TagBody(Struct, frozen=True, forbid_unknown_fields=True):
    items: list[Item]


_decoder: Final = msgspec.json.Decoder(TagBody)
_BODY: Final = takes(
    {"$ref": "#/components/schemas/TagBody"},
    {"items": [{"device": "4294967296", "tags": ["city:gz", "vip"]}]},
)


def tag_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/apps/{app}/tags:bind",
        summary="Set tags on devices",
        responses=responses(TagResults, 400, 401, 404, 413, 503),
        openapi_extra=_BODY,
    )
    async def bind(app: str, request: Request, authorization: Key = None) -> Response:
        return await _changed(service, app, request, authorization, bind=True)

    @app.post(
        "/v1/apps/{app}/tags:unbind",
        summary="Take tags from devices",
        responses=responses(TagResults, 400, 401, 404, 413, 503),
        openapi_extra=_BODY,
    )
    async def unbind(app: str, request: Request, authorization: Key = None) -> Response:
        return await _changed(service, app, request, authorization, bind=False)


async def _changed(
    service: Service, app: str, request: Request, authorization: str | None, *, bind: bool
) -> Response:
    backend = backend_of(service)
    known = await opened(backend.apps, app, authorization)
    items = (await body_of(service, request, _decoder)).items
    if not 1 <= len(items) <= MAX_ITEMS:
        raise ApiError(
            Errno.ITEMS,
            f"{len(items)} items are given, 1 to {MAX_ITEMS} are allowed - at `$.items`",
        )
    codes, parts = _sorted_out(items, backend.nodes, bind=bind)
    done = await asyncio.gather(
        *(_change(backend.nodes, known, p, changes) for p, changes in parts.items())
    )
    for p, errors in zip(parts, done, strict=True):
        for change, error in zip(parts[p], errors, strict=True):
            codes[change.place] = error
    results = [_result(item, code) for item, code in zip(items, codes, strict=True)]
    return json_answer({"results": results})


class Change(NamedTuple):
    place: int
    """Of its item in the request."""
    item: rpc_pb2.TagItem


def _sorted_out(
    items: Sequence[Item], nodes: Nodes, *, bind: bool
) -> tuple[list[str], dict[int, list[Change]]]:
    """(what is wrong with each item, partition -> changes to ask its owner for)"""
    codes: list[str] = []
    parts: dict[int, list[Change]] = {}
    for place, item in enumerate(items):
        device = parse_u64(item.device) if isinstance(item.device, str) else item.device
        code = ""
        if device is None or not 0 <= device <= MAX_ID:
            code = "malformed"
        elif len(item.tags) > MAX_TAGS:
            code = "too_many_tags"
        elif any(flaw(tag) is not None or is_system(tag) for tag in item.tags):
            code = "bad_tag"
        else:
            p, index = split_device_id(device)
            if nodes.exists(p):
                tags = list(dict.fromkeys(item.tags))
                add, remove = (tags, []) if bind else ([], tags)
                change = rpc_pb2.TagItem(index=index, add=add, remove=remove)
                parts.setdefault(p, []).append(Change(place, change))
            else:
                code = "unknown_device"
        codes.append(code)
    return codes, parts


async def _change(nodes: Nodes, app: App, p: int, changes: Sequence[Change]) -> list[str]:
    """What is wrong with each. One slice after the other: a device may be there twice."""
    errors: list[str] = []
    for at in range(0, len(changes), SLICE):
        items = [change.item for change in changes[at : at + SLICE]]
        try:
            told = await nodes.tag(app.number, p, items)
        except NodesAway:
            break
        errors += [error if not error or error in CODES else "unavailable" for error in told]
    return errors + ["unavailable"] * (len(changes) - len(errors))


def _result(item: Item, code: str) -> dict[str, Any]:
    device = str(item.device)[:_SHOWN]
    return {"device": device, "ok": False, "code": code} if code else {"device": device, "ok": True}
