"""The HTTP application: the hot route in front, everything else FastAPI."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.account_routes import account_routes
from gateway.api.answers import Key, backend_of, id_of, json_answer, problem
from gateway.api.audience_routes import audience_routes
from gateway.api.census import exposition, status
from gateway.api.control_routes import control_routes
from gateway.api.credentials import opened
from gateway.api.errors import ApiError, Errno
from gateway.api.ledger_route import ledger_route
from gateway.api.nodes import COUNTED, NodesAway, law_holds
from gateway.api.openapi import complete
from gateway.api.page import CONTENT_SECURITY_POLICY, PAGE
from gateway.api.push_route import PATH, PushRoute, as_api_error
from gateway.api.reading import device_state, push_counts, state_of
from gateway.api.segment_routes import segment_routes
from gateway.api.service import Service
from gateway.api.tag_routes import tag_routes
from gateway.api.views import DeviceView, Health, PushState, Status, Version, responses

_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


def build(service: Service) -> ASGIApp:
    """Routes over a service. The hot route takes every method: no other route has its path."""
    cold = _Cold(_fastapi(service), service)
    return Router(routes=[Route(PATH, PushRoute(service))], redirect_slashes=False, default=cold)


class _Cold:
    """Counts what FastAPI answers, by route; and ends what Starlette raises after its answer."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = 0

        async def counted(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:  # answered and logged by our handler; Starlette raises it once more
            if not answered:
                raise
        finally:
            # Of unknown addresses there may be any number, and a label must not.
            route = getattr(scope.get("route"), "path", "unknown")
            self._service.requests.add(route, str(answered))


def _fastapi(service: Service) -> FastAPI:
    app = FastAPI(
        title="Columba",
        version=our_version(),
        summary="Push to devices and follow what became of it",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _errors(app)
    ledger_route(app, service)
    _app_routes(app, service)
    control_routes(app, service)
    audience_routes(app, service)
    tag_routes(app, service)
    account_routes(app, service)
    segment_routes(app, service)
    _service_routes(app, service)
    _pages(app)
    generated = app.openapi
    # FastAPI offers no other way to add to its description than to stand in for this method.
    app.openapi = lambda: complete(generated())  # type: ignore[method-assign]
    return app


def our_version() -> str:
    try:
        return version("columba")
    except PackageNotFoundError:
        return "unknown"


def _errors(app: FastAPI) -> None:
    """All errors in our shape."""

    async def on_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == HTTPStatus.NOT_FOUND:
            return problem(ApiError(Errno.NO_ROUTE))
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return problem(ApiError(Errno.METHOD))
        return problem(ApiError(Errno.FIELD, str(error.detail)))

    async def on_any(_: Request, error: Exception) -> Response:
        return problem(as_api_error(error))

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return problem(ApiError(Errno.FIELD, f"{first['msg']} - at {place}"))

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        HTTPException: on_http,
        RequestValidationError: on_invalid,
        ApiError: on_any,
        Exception: on_any,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _app_routes(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/apps/{app}/pushes/{push_id}",
        summary="What became of a push",
        responses=responses(PushState, 400, 401, 404, 503),
    )
    async def get_push(app: str, push_id: str, authorization: Key = None) -> Response:
        backend = backend_of(service)
        known = await opened(backend.apps, app, authorization)
        number = id_of(push_id)
        try:
            counts = await push_counts(backend.nodes, known, number)
        except NodesAway:
            raise ApiError(Errno.DISPATCH_AWAY) from None
        if not law_holds(counts):
            service.law_broken_total += 1
        accepted_at = datetime.fromtimestamp(counts.accepted_ms / 1000, UTC)
        return json_answer(
            {
                "push_id": str(number),
                "state": state_of(counts),
                "counts": {name: getattr(counts, name) for name in COUNTED},
                "accepted_at": accepted_at.isoformat(timespec="milliseconds"),
                "ttl": counts.ttl_s,
            }
        )

    @app.get(
        "/v1/apps/{app}/devices/{device_id}",
        summary="One device as the service sees it",
        responses=responses(DeviceView, 400, 401, 404, 503),
    )
    async def get_device(app: str, device_id: str, authorization: Key = None) -> Response:
        backend = backend_of(service)
        known = await opened(backend.apps, app, authorization)
        number = id_of(device_id)
        try:
            state = await device_state(backend.nodes, known, number)
        except NodesAway:
            raise ApiError(Errno.DISPATCH_AWAY) from None
        return json_answer(
            {
                "device_id": str(number),
                "online": state.edge != 0,
                "edge": state.edge,
                "pending": state.pending,
                "tags": sorted(state.tags),
                "account": state.account or None,
                "epoch": str(state.epoch),
            }
        )


def _service_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/status", summary="Who is alive, in numbers", responses=responses(Status, 503))
    async def get_status() -> Response:
        backend = backend_of(service)
        now_ms = backend.clock.now_ms()
        return json_answer(
            {
                "version": our_version(),
                "time_ms": now_ms,
                "partitions": service.config.service.partitions,
                "ready": service.ready,
                "processes": status(await backend.census.take(), now_ms),
            }
        )

    @app.get("/healthz", summary="Does this process run?", responses=responses(Health))
    async def healthz() -> Response:
        return json_answer({"status": "ok"})

    @app.get("/readyz", summary="Should requests be sent here?", responses=responses(Health, 503))
    async def readyz(request: Request) -> Response:
        ready = service.ready
        answer: dict[str, Any] = {"status": "ready" if ready else "not ready"}
        if service.draining:
            answer["status"] = "draining"
        if "verbose" in request.query_params:
            answer["parts"] = service.parts()
        return json_answer(answer, 200 if ready else 503)

    @app.get("/version", summary="Which build is this?", responses=responses(Version))
    async def get_version() -> Response:
        return json_answer({"name": "columba", "version": our_version()})

    @app.get(
        "/metrics",
        summary="Numbers of all processes, for Prometheus",
        responses={200: {"content": {"text/plain": {}}}},
        response_class=Response,
    )
    async def metrics() -> Response:
        return Response(exposition(await service.entries()), media_type=_PROMETHEUS)


def _pages(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(PAGE, headers={"content-security-policy": CONTENT_SECURITY_POLICY})
