"""Two connections of one device, and a device that does not read."""

import asyncio
from http import HTTPStatus
from pathlib import Path

from protocol.codes import CloseCode, Kind
from protocol.schema import device_pb2
from tests.e2e.listeners import listening
from tests.e2e.raw_device import RawDevice
from tests.e2e.service import Service
from tests.e2e.tenants import Tenant
from tests.waiting import until


async def test_the_later_connection_wins_across_edges(service: Service, tenant: Tenant) -> None:
    """The older one is closed with REPLACED, pushes go to the later one. An attempt with a lower
    counter, delayed on its way, is refused with the counter that stands, and harms nobody."""
    one, two = list((await service.edges()).values())[:2]
    async with (
        RawDevice(one.own, tenant.app, tenant.access_key) as older,
        RawDevice(two.own, tenant.app, tenant.access_key) as later,
        RawDevice(one.own, tenant.app, tenant.access_key) as delayed,
        RawDevice(two.own, tenant.app, tenant.access_key) as twin,
    ):
        first = await older.join(connection=5)
        device = older.device_id
        assert (await tenant.seen(device, online=True))["edge"] == one.number
        second = await later.join(connection=7, token=older.token)
        assert second.epoch > first.epoch
        assert (await older.goaway()).code == CloseCode.REPLACED
        await older.ended()

        for late, counter in ((delayed, 6), (twin, 7)):
            await late.hello(connection=counter, token=older.token)
            goaway = await late.goaway()
            assert goaway.code == CloseCode.STALE_CONNECTION and goaway.connection == 7
            await late.ended()

        state = await tenant.device(device)
        assert state["edge"] == two.number and int(state["epoch"]) == second.epoch
        push = await tenant.push(device)
        assert (await later.message()).push_id == push
        await later.receipt(push, device_pb2.RECEIVED)
        await tenant.reaches(push, targeted=1, received=1)
        # The end of the older connection, however late it is told, does not end the later one.
        assert (await tenant.device(device))["online"]
        assert older.arrived(Kind.MESSAGE) == 0


async def test_the_later_connection_wins_at_one_edge(service: Service, tenant: Tenant) -> None:
    edge = next(iter((await service.edges()).values()))
    async with (
        RawDevice(edge.own, tenant.app, tenant.access_key) as older,
        RawDevice(edge.own, tenant.app, tenant.access_key) as later,
    ):
        await older.join(connection=1)
        await later.join(connection=2, token=older.token)
        assert (await older.goaway()).code == CloseCode.REPLACED
        await older.ended()
        push = await tenant.push(older.device_id)
        assert (await later.message()).push_id == push
        assert (await tenant.device(older.device_id))["online"]


async def test_a_device_that_does_not_read_is_closed_and_hurts_nobody(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """Its output is bounded: it counts as slow, then it is closed. Another device of the same edge
    gets everything meanwhile. When the slow one comes back and reads, nothing is lost."""
    edge = next(iter((await service.edges()).values()))
    filler = {"filler": "x" * 60_000}
    installation = bytes(range(16))
    async with (
        RawDevice(edge.own, tenant.app, tenant.access_key, receive_buffer=4096) as slow,
        listening(tenant, edge.own, tmp_path / "quick") as quick,
    ):
        await slow.join(installation=installation)
        before = await _stats(service, edge.number)
        pushes: list[int] = []

        async def grown(name: str) -> bool:
            return (await _stats(service, edge.number)).get(name, 0) > before.get(name, 0)

        async with asyncio.timeout(60):
            # The kernel's buffers fill up first.
            while not await grown("columba_refused_total{reason=slow}"):
                pushes.append(await tenant.push(slow.device_id, quick.id, data=filler))
        await until(
            lambda: grown("columba_closes_total{reason=too_slow}"), "the slow one is closed"
        )
        await quick.gets(*pushes)
        assert quick.device.stats.connects == 1
        await tenant.seen(slow.device_id, online=False)
        for push in pushes:
            await tenant.reaches(push, targeted=2, received=1, pending=1)

    async with RawDevice(service.devices, tenant.app, tenant.access_key) as reading:
        await reading.join(installation=installation, connection=2)
        assert reading.device_id == slow.device_id
        missing = set(pushes)
        while missing:
            message = await reading.message()
            await reading.receipt(message.push_id, device_pb2.RECEIVED)
            missing.discard(message.push_id)
        for push in pushes:
            await tenant.reaches(push, targeted=2, received=2)


async def _stats(service: Service, edge: int) -> dict[str, float]:
    """Of one edge, as the API tells them."""

    async def ask() -> dict[str, float] | None:
        answer = await service.get("/v1/status")
        assert answer.status == HTTPStatus.OK
        for process in answer.body["processes"]["edge"]:
            if process["number"] == edge and process["answered"]:
                found: dict[str, float] = process["stats"]
                return found
        return None

    found: dict[str, float] = await until(ask, f"edge {edge} tells its numbers")
    return found
