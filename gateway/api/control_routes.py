"""Decisions about a push that is under way: pause, resume, stop, recall."""

from typing import Final

from fastapi import FastAPI, Response

from gateway.api.answers import Key, backend_of, id_of, json_answer
from gateway.api.credentials import opened
from gateway.api.errors import ApiError, Errno
from gateway.api.nodes import COUNTED, NodesAway, drawn_ms
from gateway.api.reading import check_theirs, push_counts, state_of
from gateway.api.recalls import EdgesAway, RecallsBusy
from gateway.api.service import Service
from gateway.api.views import PushDecided, responses
from gateway.store.recalls import StoredRecall
from protocol.schema import log_pb2, rpc_pb2

_PUSH: Final = "/v1/apps/{app}/pushes/{push_id}"
_RESPONSES: Final = responses(PushDecided, 400, 401, 404, 503)


def control_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        f"{_PUSH}:pause",
        summary="Send nothing more of a push for now",
        responses=_RESPONSES,
    )
    async def pause(app: str, push_id: str, authorization: Key = None) -> Response:
        return await _decide(service, app, push_id, authorization, log_pb2.PAUSE)

    @app.post(f"{_PUSH}:resume", summary="Go on with a paused push", responses=_RESPONSES)
    async def resume(app: str, push_id: str, authorization: Key = None) -> Response:
        return await _decide(service, app, push_id, authorization, log_pb2.RESUME)

    @app.post(
        f"{_PUSH}:stop",
        summary="End a push for good: what is pending is not sent any more",
        responses=_RESPONSES,
    )
    async def stop(app: str, push_id: str, authorization: Key = None) -> Response:
        return await _decide(service, app, push_id, authorization, log_pb2.STOP)

    @app.post(
        f"{_PUSH}:recall",
        summary="Take a push back: pending ones vanish, devices that have it are told",
        responses=_RESPONSES,
    )
    async def recall(app: str, push_id: str, authorization: Key = None) -> Response:
        return await _decide(service, app, push_id, authorization, log_pb2.RECALL)


async def _decide(
    service: Service, app: str, push_id: str, authorization: str | None, action: log_pb2.Action
) -> Response:
    """Answered when every partition concerned has folded it; saying it again changes nothing."""
    backend = backend_of(service)
    known = await opened(backend.apps, app, authorization)
    number = id_of(push_id)
    # A partition that its fan-out has yet to reach remembers the decision as long as it may come.
    until_ms = drawn_ms(number) + service.config.api.max_ttl_s * 1000
    request = rpc_pb2.ControlRequest(
        push_id=number, app=known.number, action=action, until_ms=until_ms
    )
    try:
        await check_theirs(backend, known, number)
        if action == log_pb2.RECALL:
            await backend.recalling.recall(StoredRecall(number, known.number, until_ms))
        else:
            await backend.nodes.control(request)
        counts = await push_counts(backend.nodes, known, number)
    except NodesAway:
        raise ApiError(Errno.DISPATCH_AWAY) from None
    except EdgesAway:
        raise ApiError(Errno.EDGES_AWAY) from None
    except RecallsBusy:
        raise ApiError(Errno.BUSY, "too many recalls are under way; try again") from None
    return json_answer(
        {
            "push_id": str(number),
            "state": state_of(counts),
            "counts": {name: getattr(counts, name) for name in COUNTED},
        }
    )
