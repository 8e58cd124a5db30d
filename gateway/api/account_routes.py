"""Accounts: app servers bind devices to them. Devices cannot: whoever holds an access key could claim
to be anybody."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from fastapi import FastAPI, Request, Response
from msgspec import Meta, Struct

from gateway.api.account_lookup import latest_last
from gateway.api.answers import Key, backend_of, body_of, json_answer, takes
from gateway.api.binding import AWAY, WAVE, Bind, Binder, Unbind
from gateway.api.credentials import opened
from gateway.api.errors import ApiError, Errno
from gateway.api.nodes import Nodes, NodesAway
from gateway.api.push_body import parse_u64
from gateway.api.service import Service
from gateway.api.views import AccountResults, AccountView, responses
from gateway.audience import MAX_ACCOUNT_BYTES, MAX_ID, flaw, got
from protocol.ids import split_device_id

MAX_ITEMS: Final = 10_000
CODES: Final = ("unknown_device", "malformed", "bad_account", "too_many_devices", AWAY)
"""What can be wrong with an item."""
_SHOWN: Final = 64


class BindItem(Struct, frozen=True, forbid_unknown_fields=True):
    account: str
    device: int | str
    only: Annotated[bool, Meta(description="The account leaves its other devices.")] = False


class UnbindItem(Struct, frozen=True, forbid_unknown_fields=True):
    account: str
    device: Annotated[
        int | str | None, Meta(description="All devices of the account, if left out.")
    ] = None


class BindBody(Struct, frozen=True, forbid_unknown_fields=True):
    items: list[BindItem]


class UnbindBody(Struct, frozen=True, forbid_unknown_fields=True):
    items: list[UnbindItem]


_bind_decoder: Final = msgspec.json.Decoder(BindBody)
_unbind_decoder: Final = msgspec.json.Decoder(UnbindBody)
# A name may have a slash in it.
_ONE: Final = "/v1/apps/{app}/accounts/{account:path}"


def account_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/apps/{app}/accounts:bind",
        summary="Bind devices to accounts",
        responses=responses(AccountResults, 400, 401, 404, 413, 503),
        openapi_extra=takes(
            {"$ref": "#/components/schemas/BindBody"},
            {"items": [{"account": "u1", "device": "4294967296", "only": True}]},
        ),
    )
    async def bind(app: str, request: Request, authorization: Key = None) -> Response:
        backend = backend_of(service)
        known = await opened(backend.apps, app, authorization)
        items = (await body_of(service, request, _bind_decoder)).items
        devices, codes = _checked(backend.nodes, items)
        binder = Binder(backend.nodes, known)
        with backend.nodes.one_patience():
            for wave in _waves(codes):
                binds = [Bind(items[i].account, devices[i] or 0, items[i].only) for i in wave]
                done = await _whole(backend.nodes, partial(binder.bind, binds))
                for i, code in zip(wave, done, strict=True):
                    codes[i] = code
        return _answered(items, codes)

    @app.post(
        "/v1/apps/{app}/accounts:unbind",
        summary="Take devices from accounts",
        responses=responses(AccountResults, 400, 401, 404, 413, 503),
        openapi_extra=takes(
            {"$ref": "#/components/schemas/UnbindBody"},
            {"items": [{"account": "u1", "device": "4294967296"}, {"account": "u2"}]},
        ),
    )
    async def unbind(app: str, request: Request, authorization: Key = None) -> Response:
        backend = backend_of(service)
        known = await opened(backend.apps, app, authorization)
        items = (await body_of(service, request, _unbind_decoder)).items
        devices, codes = _checked(backend.nodes, items)
        binder = Binder(backend.nodes, known)
        with backend.nodes.one_patience():
            for wave in _waves(codes):
                unbinds = [Unbind(items[i].account, devices[i]) for i in wave]
                done = await _whole(backend.nodes, partial(binder.unbind, unbinds))
                for i, code in zip(wave, done, strict=True):
                    codes[i] = code
        return _answered(items, codes)

    _reading(app, service)


def _reading(app: FastAPI, service: Service) -> None:
    @app.get(
        _ONE,
        summary="Devices of an account",
        responses=responses(AccountView, 400, 401, 404, 503),
    )
    async def get_account(app: str, account: str, authorization: Key = None) -> Response:
        backend = backend_of(service)
        known = await opened(backend.apps, app, authorization)
        wrong = flaw(account, MAX_ACCOUNT_BYTES)
        if wrong is not None:
            raise ApiError(Errno.NAME, f"the account {got(account)}: expected {wrong}")
        (entries,) = await Binder(backend.nodes, known).lists([account])
        if entries is None:
            raise ApiError(Errno.DISPATCH_AWAY)
        if not entries:
            raise ApiError(Errno.NO_ACCOUNT)
        devices = latest_last(device for device, _ in entries)
        return json_answer({"account": account, "devices": list(map(str, devices))})


def _checked(
    nodes: Nodes, items: Sequence[BindItem | UnbindItem]
) -> tuple[list[int | None], list[str]]:
    """(device of each item, what is wrong with it). Raises ApiError."""
    if not 1 <= len(items) <= MAX_ITEMS:
        raise ApiError(
            Errno.ITEMS,
            f"{len(items)} items are given, 1 to {MAX_ITEMS} are allowed - at `$.items`",
        )
    devices: list[int | None] = []
    codes: list[str] = []
    for item in items:
        device = parse_u64(item.device) if isinstance(item.device, str) else item.device
        code = ""
        if item.device is not None and (device is None or not 0 <= device <= MAX_ID):
            code = "malformed"
        elif flaw(item.account, MAX_ACCOUNT_BYTES) is not None:
            code = "bad_account"
        elif device is not None and not nodes.exists(split_device_id(device)[0]):
            code = "unknown_device"
        devices.append(device)
        codes.append(code)
    return devices, codes


async def _whole(nodes: Nodes, call: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """The call's codes; made again from its first step on while an owner does not answer."""
    codes: list[str] = []

    async def once() -> None:
        nonlocal codes
        codes = await call()
        if AWAY in codes:
            raise NodesAway

    with suppress(NodesAway):
        await nodes.patiently(once)
    return codes


def _waves(codes: Sequence[str]) -> Iterator[list[int]]:
    """Places of the items that stand, some at a time."""
    good = [place for place, code in enumerate(codes) if not code]
    for at in range(0, len(good), WAVE):
        yield good[at : at + WAVE]


def _answered(items: Sequence[BindItem | UnbindItem], codes: Sequence[str]) -> Response:
    results = []
    for item, code in zip(items, codes, strict=True):
        result: dict[str, Any] = {"account": item.account[:MAX_ACCOUNT_BYTES]}
        if item.device is not None:
            result["device"] = str(item.device)[:_SHOWN]
        result["ok"] = not code
        if code:
            result["code"] = code
        results.append(result)
    return json_answer({"results": results})
