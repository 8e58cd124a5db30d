"""Segments of an app: audiences saved under a name."""

from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request, Response

from gateway.api.answers import Key, backend_of, body_of, check_name, json_answer
from gateway.api.audience_routes import BODY
from gateway.api.audiences import AudienceBody, notes, read_audience, save
from gateway.api.credentials import opened
from gateway.api.errors import ApiError, Errno
from gateway.api.service import Service
from gateway.api.views import SegmentList, SegmentView, responses
from gateway.audience import Audience
from gateway.audience_json import to_json
from gateway.audience_text import to_text

# A name may have a slash in it.
_ONE: Final = "/v1/apps/{app}/segments/{name:path}"

_decoder: Final = msgspec.json.Decoder(AudienceBody)


def segment_routes(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/apps/{app}/segments",
        summary="All segments of the app",
        responses=responses(SegmentList, 401, 404, 503),
    )
    async def list_segments(app: str, authorization: Key = None) -> Response:
        backend = backend_of(service)
        known = await opened(backend.apps, app, authorization)
        saved = await backend.segments.all(known.number)
        return json_answer({"segments": [_view(name, tree) for name, tree in saved.items()]})

    @app.put(
        _ONE,
        summary="Save an audience under a name",
        responses=responses(SegmentView, 400, 401, 404, 413, 503),
        openapi_extra=BODY,
    )
    async def put_segment(
        app: str, name: str, request: Request, authorization: Key = None
    ) -> Response:
        backend = backend_of(service)
        known = await opened(backend.apps, app, authorization)
        check_name(name)
        tree = read_audience(await body_of(service, request, _decoder))
        await save(backend.segments, known, name, tree, service.config.api.max_devices)
        return json_answer(_view(name, tree))

    @app.get(_ONE, summary="One segment", responses=responses(SegmentView, 400, 401, 404, 503))
    async def get_segment(app: str, name: str, authorization: Key = None) -> Response:
        backend = backend_of(service)
        known = await opened(backend.apps, app, authorization)
        check_name(name)
        tree = await backend.segments.read(known.number, name)
        if tree is None:
            raise ApiError(Errno.NO_SEGMENT)
        return json_answer(_view(name, tree))

    @app.delete(
        _ONE,
        summary="Forget a segment; what refers to it is left as it is",
        responses=responses(SegmentView, 400, 401, 404, 503),
    )
    async def delete_segment(app: str, name: str, authorization: Key = None) -> Response:
        backend = backend_of(service)
        known = await opened(backend.apps, app, authorization)
        check_name(name)
        tree = await backend.segments.read(known.number, name)
        if tree is None or not await backend.segments.delete(known.number, name):
            raise ApiError(Errno.NO_SEGMENT)
        return json_answer(_view(name, tree))


def _view(name: str, tree: Audience) -> dict[str, Any]:
    return {"name": name, "audience": to_json(tree), "text": to_text(tree), "notes": notes(tree)}
