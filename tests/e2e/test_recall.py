"""Pushes that are taken back, replaced by newer ones, pushed out by too many, or served first."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from client_sdk import Device, DeviceError, Event, Recalled, Replaced
from gateway.store import keys
from tests.e2e.http import Answer
from tests.e2e.listeners import listening, several
from tests.e2e.processes import send
from tests.e2e.service import Service, serving
from tests.e2e.tenants import STATES, Tenant, new_tenant
from tests.waiting import until

HURTS = True


@asynccontextmanager
async def watched(device: Device) -> AsyncIterator[list[Event]]:
    """The events that its app is told until the end of the block."""
    told: list[Event] = []

    async def watch() -> None:
        async for event in device.events():
            told.append(event)

    task = asyncio.create_task(watch())
    try:
        yield told
    finally:
        task.cancel()
        ends = await asyncio.gather(task, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, DeviceError):
            raise end


async def try_recall(tenant: Tenant, push_id: int) -> Answer:
    return await tenant.call("POST", f"/pushes/{push_id}:recall")


async def recall(tenant: Tenant, push_id: int) -> dict[str, Any]:
    """State and counts after it. Asserts that the first call does it, and that the law holds."""
    answer = await try_recall(tenant, push_id)
    assert answer.status == 200, answer
    assert answer.body["push_id"] == str(push_id)
    counts = answer.body["counts"]
    assert counts["targeted"] == sum(counts[state] for state in STATES), counts
    recalled: dict[str, Any] = answer.body
    return recalled


async def gone_offline(tenant: Tenant, service: Service, folder: Path) -> int:
    """A device that was there; its id."""
    async with listening(tenant, service.devices, folder) as listener:
        device = listener.id
    await tenant.seen(device, online=False)
    return device


async def test_recalled_before_it_was_delivered(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """To one device, to listed ones and to everybody: it is never handed out and counts as recalled."""
    async with listening(tenant, service.devices, tmp_path / "there") as there:
        away = await gone_offline(tenant, service, tmp_path / "away")
        single = await tenant.push(away)
        listed = await tenant.push(away, there.id)
        everybody = await tenant.push(everybody=True)
        await there.gets(listed, everybody)
        answer = await recall(tenant, single)
        assert (answer["state"], answer["counts"]["recalled"]) == ("recalled", 1)
        for push in (listed, everybody):
            await tenant.reaches(push, received=1)
            answer = await recall(tenant, push)
            assert answer["state"] == "recalled"
            assert (answer["counts"]["recalled"], answer["counts"]["received"]) == (1, 1)
            again = await recall(tenant, push)
            assert again == answer
        last = await tenant.push(everybody=True)
        async with (
            listening(tenant, service.devices, tmp_path / "away") as listener,
            watched(listener.device) as told,
        ):
            await listener.gets(last)
            assert not told, "the app never had them"
        await there.gets(listed, everybody, last)


async def test_recalled_after_it_was_shown(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """Who has it is told at once, or when it connects the next time; it stays received."""
    async with several(tenant, service.devices, tmp_path, 3) as listeners:
        push, kept = await tenant.push(everybody=True), await tenant.push(everybody=True)
        for listener in listeners:
            await listener.gets(push, kept)
        away = listeners[0].id
        await listeners[0].device.close()
        await tenant.seen(away, online=False)
        async with watched(listeners[1].device) as one, watched(listeners[2].device) as other:
            answer = await recall(tenant, push)
            assert (answer["counts"]["received"], answer["counts"]["recalled"]) == (3, 0)
            await until(lambda: one and other, "both are told")
            await recall(tenant, push)
            last = await tenant.push(everybody=True)
            await listeners[1].gets(push, kept, last)
            assert one == other == [Recalled(push, handed_out=True)]
    async with (
        listening(tenant, service.devices, tmp_path / "d0") as back,
        watched(back.device) as told,
    ):
        await back.gets(last)
        await until(lambda: told, "it is told after all")
        assert told == [Recalled(push, handed_out=True)]


async def test_another_app_recalls_nothing(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    away = await gone_offline(tenant, service, tmp_path / "away")
    push = await tenant.push(away)
    assert (await try_recall(await new_tenant(service), push)).status == 404
    async with listening(tenant, service.devices, tmp_path / "away") as listener:
        await listener.gets(push)


async def test_a_newer_one_takes_the_place_of_an_older_one(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """In the inbox the older one is never handed out; on the screen the app is told."""
    async with listening(tenant, service.devices, tmp_path / "there") as there:
        away = await gone_offline(tenant, service, tmp_path / "away")
        other = await tenant.push(away, collapse_key="another match")
        single = await tenant.push(away, collapse_key="match")
        async with watched(there.device) as told:
            everybody = await tenant.push(everybody=True, collapse_key="match")
            await there.gets(everybody)
            assert not told
            newest = await tenant.push(everybody=True, collapse_key="match")
            await there.gets(everybody, newest)
            await until(lambda: told, "the app is told")
            assert told == [Replaced(everybody, by=newest)]
        await tenant.reaches(single, targeted=1, replaced=1)
        await tenant.reaches(everybody, targeted=2, received=1, replaced=1)
        async with listening(tenant, service.devices, tmp_path / "away") as listener:
            await listener.gets(other, newest)
        await tenant.reaches(newest, targeted=2, received=2)


async def test_high_goes_first(service: Service, tenant: Tenant, tmp_path: Path) -> None:
    """For a device that comes back to a backlog; within a priority the order is kept."""
    away = await gone_offline(tenant, service, tmp_path / "away")
    pushed: dict[str, list[int]] = {"low": [], "normal": [], "high": []}
    for priority, pushes in pushed.items():
        for _ in range(3):
            pushes.append(await tenant.push(away, priority=priority))
    async with listening(tenant, service.devices, tmp_path / "away") as listener:
        await listener.gets(*(push for pushes in pushed.values() for push in pushes))
        handed = list(listener.handed)
    for pushes in pushed.values():
        assert [push for push in handed if push in pushes] == pushes
    for low, high in zip(pushed["low"], pushed["high"], strict=True):
        assert handed.index(high) < handed.index(low), handed
    assert handed[0] == pushed["high"][0]


async def test_too_many_for_one_device(data_dir: Path, tmp_path: Path) -> None:
    """Beyond the cap the oldest of the lowest priority goes; campaigns have no part in it."""
    with serving(data_dir, {"api.inbox_cap": 3}) as service:
        tenant = await new_tenant(service)
        away = await gone_offline(tenant, service, tmp_path / "away")
        everybody = await tenant.push(everybody=True)
        high = await tenant.push(away, priority="high")
        singles = [await tenant.push(away) for _ in range(4)]
        low = await tenant.push(away, priority="low")
        for push in (*singles[:2], low):
            await tenant.reaches(push, targeted=1, overflowed=1)
        for push in (everybody, high, *singles[2:]):
            await tenant.reaches(push, targeted=1, pending=1)
        assert (await tenant.device(away))["pending"] == 4
        async with listening(tenant, service.devices, tmp_path / "away") as listener:
            await listener.gets(everybody, high, *singles[2:])


async def test_a_recall_while_the_node_is_killed(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """The app server does not notice: it is answered when the next node has folded it."""
    service.log.expect("ended, starting again")
    async with listening(tenant, service.devices, tmp_path / "there") as there:
        away = await gone_offline(tenant, service, tmp_path / "away")
        single, everybody = await tenant.push(away), await tenant.push(everybody=True)
        await there.gets(everybody)
        node = service.pid_of("dispatch")
        async with watched(there.device) as told:
            send(node, signal.SIGKILL)
            answers = await asyncio.gather(recall(tenant, single), recall(tenant, everybody))
            assert [answer["counts"]["recalled"] for answer in answers] == [1, 1]
            await until(lambda: told, "who has it is told")
            assert told == [Recalled(everybody, handed_out=True)]
        last = await tenant.push(everybody=True)
        async with listening(tenant, service.devices, tmp_path / "away") as listener:
            await listener.gets(last)
        await tenant.reaches(everybody, targeted=2, received=1, recalled=1)
    assert service.pid_of("dispatch") != node


async def test_a_recall_while_an_edge_is_killed(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """It stands still with messages for its devices, and dies: they come back elsewhere and do not get
    what was recalled meanwhile, but hear of what they had."""
    service.log.expect("edge ended")
    victim, other = (await service.edges()).values()
    async with (
        several(tenant, [victim.own, service.devices], tmp_path / "hit", 3) as hit,
        listening(tenant, other.own, tmp_path / "safe") as safe,
        watched(hit[0].device) as told,
    ):
        shown = await tenant.push(everybody=True)
        for listener in (*hit, safe):
            await listener.gets(shown)
        with service.frozen(victim.pid):
            under_way = [await tenant.push(listener.id) for listener in hit]
            to_all = await tenant.push(everybody=True)
            await safe.gets(shown, to_all)
            recalling = [
                asyncio.create_task(recall(tenant, p)) for p in (*under_way, to_all, shown)
            ]
            await asyncio.sleep(0.3)
            assert not any(task.done() for task in recalling), "a frozen edge has not confirmed"
            send(victim.pid, signal.SIGKILL)
        answers = await asyncio.gather(*recalling)
        recalled = [answer["counts"]["recalled"] for answer in answers]
        assert recalled == [1, 1, 1, 3, 0]
        last = await tenant.push(everybody=True)
        for listener in hit:
            await listener.gets(shown, last)
        await safe.gets(shown, to_all, last)
        await until(lambda: told, "it hears of what it had")
        assert told == [Recalled(shown, handed_out=True)]


async def test_a_frozen_edge_is_waited_for_no_longer_than_its_lease(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    away = await gone_offline(tenant, service, tmp_path / "away")
    push = await tenant.push(away)
    victim, *_ = (await service.edges()).values()
    with service.frozen(victim.pid):
        answer = await recall(tenant, push)
    assert answer["counts"]["recalled"] == 1
    await until(lambda: _two_edges(service), "it has come back under another number")


async def test_a_recall_outlives_everybody(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """All edges and the node die after it; who comes then is told from what the store knows."""
    service.log.expect("edge ended", "ended, starting again")
    away = await gone_offline(tenant, service, tmp_path / "away")
    async with listening(tenant, service.devices, tmp_path / "away") as listener:
        shown = await tenant.push(away)
        await listener.gets(shown)
    await tenant.seen(away, online=False)
    pending = await tenant.push(away)
    await recall(tenant, shown)
    await recall(tenant, pending)
    async with service.store() as store:
        members = {row.split()[1] for row in await store.zrange(keys.RECALLS, 0, -1)}
        assert {str(shown).encode(), str(pending).encode()} <= members
    edges = (await service.edges()).values()
    for pid in (service.pid_of("dispatch"), *(edge.pid for edge in edges)):
        send(pid, signal.SIGKILL)
    last = await tenant.push(away)
    async with (
        listening(tenant, service.devices, tmp_path / "away") as listener,
        watched(listener.device) as told,
    ):
        await listener.gets(last)
        await until(lambda: told, "it is told")
        assert told == [Recalled(shown, handed_out=True)]
    await tenant.reaches(pending, targeted=1, recalled=1)


async def _two_edges(service: Service) -> bool:
    return len(await service.edges()) == 2
