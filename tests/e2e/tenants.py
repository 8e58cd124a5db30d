"""An app of its own for each test: pushes to everybody then reach nobody else's devices."""

import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from gateway.store.apps import Apps
from gateway.store.client import Store
from protocol.codes import CloseCode
from tests.e2e.http import Answer, request
from tests.e2e.raw_device import RawDevice
from tests.e2e.service import Service
from tests.waiting import PATIENCE_S, until

STATES: Final = (
    "received",
    "failed",
    "recalled",
    "replaced",
    "overflowed",
    "stopped",
    "expired",
    "pending",
)


class Tenant(NamedTuple):
    """One app, as its server and its devices use it."""

    api: str
    app: str
    access_key: str
    api_key: str

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """`path` below the app's."""
        said = {"Authorization": f"Bearer {self.api_key}", **(headers or {})}
        return await request(self.api, method, f"/v1/apps/{self.app}{path}", body, said)

    async def try_push(
        self,
        devices: Sequence[object] | None,
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> Answer:
        """To these devices; None is everybody."""
        body.setdefault("notification", {"title": "a title", "body": "a body"})
        audience: object = "all" if devices is None else {"devices": [str(d) for d in devices]}
        return await self.call("POST", "/pushes", {"audience": audience, **body}, headers)

    async def push(self, *devices: object, everybody: bool = False, **body: Any) -> int:
        """Accepted; its id."""
        answer = await self.try_push(None if everybody else devices, **body)
        assert answer.status == HTTPStatus.ACCEPTED, answer
        return int(answer.body["push_id"])

    async def counts(self, push_id: int) -> dict[str, int]:
        """Asserts that every targeted device is in exactly one state. Waits out a 503."""

        async def ask() -> Answer | None:
            answer = await self.call("GET", f"/pushes/{push_id}")
            assert answer.status in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE), answer
            return answer if answer.status == HTTPStatus.OK else None

        answer = await until(ask, f"counts of push {push_id}")
        counts: dict[str, int] = answer.body["counts"]
        assert counts["targeted"] == sum(counts[state] for state in STATES), counts
        return counts

    async def reaches(
        self, push_id: int, wait_s: float = PATIENCE_S, **wanted: int
    ) -> dict[str, int]:
        """Waits until these counts are as wanted; returns all of them."""

        async def look() -> dict[str, int] | None:
            last.append(await self.counts(push_id))
            return last[-1] if last[-1].items() >= wanted.items() else None

        last: list[dict[str, int]] = []
        try:
            found: dict[str, int] = await until(look, f"push {push_id} reaches {wanted}", wait_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; counts: {last[-1:]}") from None
        return found

    async def device(self, device: int) -> dict[str, Any]:
        """What the service knows of a device. Waits out a 503."""

        async def ask() -> Answer | None:
            answer = await self.call("GET", f"/devices/{device}")
            assert answer.status in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE), answer
            return answer if answer.status == HTTPStatus.OK else None

        answer = await until(ask, f"state of device {device}")
        state: dict[str, Any] = answer.body
        return state

    async def seen(self, device: int, *, online: bool) -> dict[str, Any]:
        """Waits until the service sees the device online, or offline."""

        async def look() -> dict[str, Any] | None:
            state = await self.device(device)
            return state if state["online"] is online else None

        state: dict[str, Any] = await until(look, f"device {device} online: {online}")
        return state


_AT_ONCE: Final = 12


async def new_tenant(service: Service) -> Tenant:
    """An app that the API and every edge know. Made a dozen at a time: who asks for an unknown app
    is not looked up again for a second, and that wait is then one for all of them."""
    if not service.spare:
        service.spare += await _made(service)
    api, app, access_key, api_key = service.spare.pop()
    return Tenant(api, app, access_key, api_key)


async def _made(service: Service) -> list[tuple[str, str, str, str]]:
    store = await Store.connect(service.ready["store"])
    try:
        new = [await Apps(store).create(f"t-{secrets.token_hex(4)}") for _ in range(_AT_ONCE)]
    finally:
        await store.close()
    # Apps are always read all together: who knows the last one knows them all.
    last = Tenant(service.api, new[-1].app_id, new[-1].access_key, new[-1].api_key)

    async def api_knows() -> bool:
        # The key of an app that it does not know yet is nobody's.
        return (await last.call("GET", "/devices/0")).status != HTTPStatus.UNAUTHORIZED

    await until(api_knows, "the API knows the apps")
    for edge in (await service.edges()).values():

        async def edge_knows(own: str = edge.own) -> bool:
            async with RawDevice(own, last.app, last.access_key) as device:
                await device.hello(token=b"no token of anybody")
                return (await device.goaway()).code != CloseCode.UNKNOWN_APP

        await until(edge_knows, f"edge {edge.number} knows the apps")
    return [(service.api, app.app_id, app.access_key, app.api_key) for app in new]
