"""How many devices an audience means, and what became of a push in parts of its audience."""

import time
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request, Response

from gateway.api.answers import Key, backend_of, body_of, check_name, id_of, json_answer, takes
from gateway.api.audiences import (
    AudienceBody,
    encoded,
    invalid,
    notes,
    read_audience,
    settle,
)
from gateway.api.credentials import opened
from gateway.api.errors import ApiError, Errno
from gateway.api.nodes import COUNTED, Looked, NodesAway
from gateway.api.reading import push_cuts
from gateway.api.service import Service
from gateway.api.views import AudienceCount, AudienceExplained, PushCuts, responses

SAMPLE: Final = 10
"""Device ids shown of an audience."""
MAX_CUTS: Final = 5
"""Names by which one request may cut: each is a pass over all tags."""
BODY: Final = takes({"$ref": "#/components/schemas/AudienceBody"}, {"audience": "city:gz & !vip"})

_decoder: Final = msgspec.json.Decoder(AudienceBody)


def audience_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/apps/{app}/audience:count",
        summary="How many devices an audience means now",
        responses=responses(AudienceCount, 400, 401, 404, 413, 503),
        openapi_extra=BODY,
    )
    async def count(app: str, request: Request, authorization: Key = None) -> Response:
        return json_answer(await _looked_at(service, app, request, authorization, explain=False))

    @app.post(
        "/v1/apps/{app}/audience:explain",
        summary="The same, with the count and the cost of each term",
        responses=responses(AudienceExplained, 400, 401, 404, 413, 503),
        openapi_extra=BODY,
    )
    async def explain(app: str, request: Request, authorization: Key = None) -> Response:
        return json_answer(await _looked_at(service, app, request, authorization, explain=True))

    @app.get(
        "/v1/apps/{app}/pushes/{push_id}/stats",
        summary="What became of a push, cut by tags",
        responses=responses(PushCuts, 400, 401, 404, 503),
    )
    async def get_stats(
        app: str, push_id: str, by: str = "", authorization: Key = None
    ) -> Response:
        backend = backend_of(service)
        known = await opened(backend.apps, app, authorization)
        number = id_of(push_id)
        names = _cut_names(by)
        try:
            found = await push_cuts(backend.nodes, known, number, names)
        except NodesAway:
            raise ApiError(Errno.DISPATCH_AWAY) from None
        cut: dict[str, dict[str, dict[str, int]]] = {name: {} for name in names}
        for one in sorted(found.cuts, key=lambda cut: cut.tag):
            tags = cut.get(one.tag.partition(":")[0])
            if tags is not None:
                counts = tags.setdefault(one.tag, dict.fromkeys(COUNTED, 0))
                for state in COUNTED:
                    counts[state] += one.counts.get(state, 0)
        return json_answer({"push_id": str(number), "by": cut})


def _cut_names(by: str) -> list[str]:
    names = list(dict.fromkeys(by.split(","))) if by else []
    if not 1 <= len(names) <= MAX_CUTS:
        raise ApiError(
            Errno.NAME, f"by names {len(names)} tags, 1 to {MAX_CUTS} are allowed: by=city,platform"
        )
    for name in names:
        check_name(name)
        if ":" in name:
            raise ApiError(Errno.NAME, f"by takes what stands before the colon, got {name}")
    return names


async def _looked_at(
    service: Service, app: str, request: Request, authorization: str | None, *, explain: bool
) -> dict[str, Any]:
    backend = backend_of(service)
    known = await opened(backend.apps, app, authorization)
    tree = read_audience(await body_of(service, request, _decoder))
    limit = service.config.api.max_devices
    settled = await settle(backend.segments, backend.nodes, known, tree, limit)
    begun = time.monotonic()
    try:
        found = await backend.nodes.audience(known.number, encoded(settled.tree), explain=explain)
    except NodesAway:
        raise ApiError(Errno.DISPATCH_AWAY) from None
    answer: dict[str, Any] = {
        "count": sum(part.devices for one in found for part in one.partitions),
        "ms": _ms(time.monotonic() - begun),
        "notes": notes(tree),
    }
    nobody = invalid(settled.unknown_segments, settled.unknown_accounts)
    if nobody:
        answer["invalid"] = nobody
    if explain:
        answer |= _explained(found)
    return answer


def _explained(found: list[Looked]) -> dict[str, Any]:
    devices: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for term in (term for one in found for term in one.terms):
        devices[term.term] = devices.get(term.term, 0) + term.devices
        seconds[term.term] = seconds.get(term.term, 0.0) + term.seconds
    partitions = sorted((p for one in found for p in one.partitions), key=lambda p: p.partition)
    sample = [device for one in found for device in one.sample]
    return {
        "terms": [
            {"term": term, "devices": devices[term], "ms": _ms(seconds[term])} for term in devices
        ],
        "partitions": [
            {"partition": p.partition, "devices": p.devices, "ms": _ms(p.seconds)}
            for p in partitions
        ],
        "sample": [str(device) for device in sample[:SAMPLE]],
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
