"""The store is killed, or stands still, under a service at work."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from tests.e2e.http import Answer
from tests.e2e.listeners import Listener, listening, several
from tests.e2e.processes import send
from tests.e2e.service import Service
from tests.e2e.tenants import Tenant
from tests.waiting import until

HURTS = True


class Outage:
    """Devices and pushes over a time without a store, and what must be true of them."""

    def __init__(self, tenant: Tenant, listeners: list[Listener], offline: int) -> None:
        self.tenant = tenant
        self.listeners = listeners
        self.offline = offline
        self.answers: list[Answer] = []
        self.accepted: dict[int, list[int]] = {x.id: [] for x in listeners}
        self.accepted[offline] = []
        self._go_on = True

    async def push(self, device: int) -> None:
        answer = await self.tenant.try_push([device])
        self.answers.append(answer)
        if answer.status == HTTPStatus.ACCEPTED:
            self.accepted[device].append(int(answer.body["push_id"]))

    async def push_on(self) -> None:
        """To everyone at once, again and again: an answer may take as long as the store does."""
        self._go_on = True
        while self._go_on:
            await asyncio.gather(*(self.push(device) for device in self.accepted))

    @asynccontextmanager
    async def pushing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.push_on())
        try:
            yield
        finally:
            self._go_on = False
            await task

    def refused(self) -> list[Answer]:
        return [a for a in self.answers if a.status == HTTPStatus.SERVICE_UNAVAILABLE]


@asynccontextmanager
async def outage_of(service: Service, tenant: Tenant, folder: Path) -> AsyncIterator[Outage]:
    """The block makes the outage. After it: answers were 202, or 503 with Retry-After; sessions
    stand; all that was accepted arrives; receipts of the meantime are acknowledged."""
    async with listening(tenant, service.devices, folder / "offline") as gone:
        offline = gone.id
    await tenant.seen(offline, online=False)
    async with several(tenant, service.devices, folder, 4) as listeners:
        outage = Outage(tenant, listeners, offline)
        for device in outage.accepted:
            await outage.push(device)
        for listener in listeners:
            await listener.gets(*outage.accepted[listener.id])
        edges = await service.edges()
        yield outage

        for answer in outage.answers:
            assert answer.status in (HTTPStatus.ACCEPTED, HTTPStatus.SERVICE_UNAVAILABLE), answer
        for answer in outage.refused():
            assert int(answer.headers["retry-after"]) > 0
            assert answer.body["error"]["retry"]["after_ms"] > 0
        for listener in listeners:
            await _accepted_arrives(listener, outage)
            assert listener.device.stats.connects == 1, "sessions stand without the store"
            await tenant.reaches(outage.accepted[listener.id][0], received=1, clicked=1)
            assert (await tenant.device(listener.id))["online"]
        assert await service.edges() == edges, "no edge is taken for dead after it"
        async with listening(tenant, service.devices, folder / "offline") as back:
            await _accepted_arrives(back, outage)


async def _accepted_arrives(listener: Listener, outage: Outage) -> None:
    """Each once; one that was refused may arrive as well, since its outcome was not known."""
    wanted = set(outage.accepted[listener.id])
    await until(lambda: listener.handed.keys() >= wanted, "what was accepted arrives")
    await listener.device.flush(15)
    assert set(listener.handed.values()) == {1}
    refused = {answer.body["error"]["trace_id"] for answer in outage.refused()}
    assert {str(push) for push in listener.handed.keys() - wanted} <= refused


async def _click_without_store(outage: Outage) -> None:
    """The app goes on: what it says is kept by the device until there is a store."""
    for listener in outage.listeners:
        assert listener.last is not None
        await listener.last.clicked()
        assert listener.device.stats.receipts_pending > 0


async def test_the_store_is_killed_again_and_again(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    service.log.expect("ended by itself, starting again", "the embedded store ended with signal")
    async with outage_of(service, tenant, tmp_path) as outage:
        pid = service.pid_of("store")
        async with outage.pushing():
            # The supervisor waits longer each time; together it is longer than a lease.
            while not outage.refused():
                send(pid, signal.SIGKILL)
                if not outage.refused() and all(x.last for x in outage.listeners):
                    await _click_without_store(outage)
                pid = await service.restarted("store", pid)
            await until(lambda: outage.answers[-1].status == HTTPStatus.ACCEPTED, "accepts again")


async def test_the_store_stands_still(service: Service, tenant: Tenant, tmp_path: Path) -> None:
    """Longer than a lease and than the time-out of its clients: what they sent before they gave up
    is carried out later, and repeated by them; it counts once."""
    async with outage_of(service, tenant, tmp_path) as outage, outage.pushing():
        with service.frozen(service.pid_of("store")):
            await _click_without_store(outage)
            await until(outage.refused, "pushes are refused")
        await until(lambda: outage.answers[-1].status == HTTPStatus.ACCEPTED, "accepts again")
