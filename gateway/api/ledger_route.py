"""What became of one push at one device, and why."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import FastAPI, Response

from gateway.api.answers import Key, backend_of, id_of, json_answer
from gateway.api.credentials import opened
from gateway.api.errors import ApiError, Errno
from gateway.api.nodes import Nodes, NodesAway
from gateway.api.push_body import parse_u64
from gateway.api.service import Service
from gateway.api.views import PushLedger, responses
from gateway.audience import got
from gateway.store.apps import App
from protocol.ids import push_place, split_device_id
from protocol.schema import rpc_pb2

_PATH: Final = "/v1/apps/{app}/pushes/{push_id}:explain"
_RESPONSES: Final = responses(PushLedger, 400, 401, 404, 503)
_SUMMARY: Final = "Why one device has a push, or not"
_FOLDED_S: Final = 0.5
"""A push whose part is on its way to the device's partition is waited for this long."""
_LOOK_S: Final = 0.02


def ledger_route(app: FastAPI, service: Service) -> None:
    """To be added before the route of a push, whose path matches these addresses as well."""

    @app.get(_PATH, summary=_SUMMARY, responses=_RESPONSES)
    async def get_ledger(
        app: str, push_id: str, device: str | None = None, authorization: Key = None
    ) -> Response:
        return await _explained(service, app, push_id, device, authorization)

    @app.post(_PATH, summary=_SUMMARY, responses=_RESPONSES)
    async def post_ledger(
        app: str, push_id: str, device: str | None = None, authorization: Key = None
    ) -> Response:
        return await _explained(service, app, push_id, device, authorization)


async def _explained(
    service: Service, app: str, push_id: str, device: str | None, authorization: str | None
) -> Response:
    backend = backend_of(service)
    known = await opened(backend.apps, app, authorization)
    push_number, device_number = id_of(push_id), _device_of(device)
    try:
        ledger = await _ledger(backend.nodes, known, push_number, device_number)
    except NodesAway:
        raise ApiError(Errno.DISPATCH_AWAY) from None
    return json_answer(_told(push_number, device_number, ledger))


def _device_of(text: str | None) -> int:
    """Raises ApiError."""
    if text is None:
        raise ApiError(Errno.FIELD, "name the device: expected `?device=` with its id")
    number = parse_u64(text)
    if number is None:
        raise ApiError(Errno.ID, f"device: expected a device id (decimal), got {got(text)}")
    return number


async def _ledger(nodes: Nodes, app: App, push_id: int, device: int) -> rpc_pb2.LedgerReply:
    """Raises ApiError where this app has no such push or device (yet), NodesAway."""
    if not nodes.exists(split_device_id(device)[0]):
        raise ApiError(Errno.NO_DEVICE)
    if not nodes.exists(push_place(push_id).partition):
        raise ApiError(Errno.NO_PUSH)
    deadline = time.monotonic() + _FOLDED_S
    while True:
        ledger = await nodes.ledger(push_id, device)
        if not ledger.device_known or ledger.app != app.number:
            raise ApiError(Errno.NO_DEVICE)
        if not ledger.push_known:
            found = await _found_elsewhere(nodes, app, push_id, ledger)
        else:
            found = bool(ledger.state)  # without one it is on its way to the device's partition
        if found:
            return ledger
        if time.monotonic() > deadline:
            raise ApiError(Errno.NOT_COUNTED_YET)
        await asyncio.sleep(_LOOK_S)


async def _found_elsewhere(
    nodes: Nodes, app: App, push_id: int, ledger: rpc_pb2.LedgerReply
) -> bool:
    """Completes the ledger of a push that the device's partition does not know, if others do.

    A push to listed devices or accounts is in the logs of their partitions only. False if nobody knows it and
    it is so new that this may change. Raises ApiError, NodesAway.
    """
    counts = await nodes.counts(push_id)
    if not counts.known and nodes.young(push_id):
        return False
    if not counts.known or counts.app != app.number:
        raise ApiError(Errno.NO_PUSH)
    ledger.state = "not_targeted"
    ledger.why = "the push names devices or accounts, and this device is not among them"
    ledger.steps.add(at_ms=counts.accepted_ms, event="accepted")
    return True


def _told(push_id: int, device: int, ledger: rpc_pb2.LedgerReply) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "push_id": str(push_id),
        "device_id": str(device),
        "state": ledger.state,
        "why": ledger.why,
        "online": ledger.edge != 0,
        "edge": ledger.edge,
        "terms": [{"term": term.term, "matches": term.matches} for term in ledger.terms],
        "steps": [_step(step) for step in ledger.steps],
    }
    if ledger.notes:
        answer["notes"] = ledger.notes.split("\n")
    return answer


def _step(step: rpc_pb2.LedgerStep) -> dict[str, Any]:
    at = datetime.fromtimestamp(step.at_ms / 1000, UTC) if step.at_ms else None
    told: dict[str, Any] = {
        "at": at.isoformat(timespec="milliseconds") if at else None,
        "event": step.event,
    }
    if step.edge:
        told["edge"] = step.edge
    if step.attempt:
        told["attempt"] = step.attempt
    return told
