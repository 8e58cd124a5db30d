"""What an app server asks for, and what becomes of it."""

import asyncio
import json
import secrets
import struct
import time
from http import HTTPStatus
from pathlib import Path

from gateway.store import keys, pushes
from gateway.store.client import Store
from gateway.store.leases import Identity
from gateway.store.log import Pace
from gateway.store.pushes import PushPart, PushRecord, push_producer
from protocol.ids import PushIds, device_id, split_device_id
from protocol.schema import device_pb2, log_pb2
from tests.e2e.listeners import listening, several
from tests.e2e.raw_device import RawDevice
from tests.e2e.service import PARTITIONS, Service
from tests.e2e.tenants import Tenant


async def test_one_a_list_and_everybody(service: Service, tenant: Tenant, tmp_path: Path) -> None:
    """Unknown and malformed devices of a list are named, the others get the push."""
    async with several(tenant, service.devices, tmp_path, 4) as listeners:
        first, *others = listeners
        one = await tenant.push(first.id, notification={"title": "one"}, data={"k": "v"})
        await first.gets(one)
        assert first.titles == ["one"]
        assert first.last is not None and first.last.data == {"k": "v"}
        counts = await tenant.reaches(one, targeted=1, received=1, displayed=1)
        assert counts["pending"] == counts["clicked"] == 0
        await first.last.clicked()
        await tenant.reaches(one, received=1, displayed=1, clicked=1)

        unknown, beyond = device_id(0, 2**31), device_id(PARTITIONS + 1, 0)
        named = [unknown, beyond, "12x", *(other.id for other in others)]
        answer = await tenant.try_push(named)
        assert answer.status == HTTPStatus.ACCEPTED and answer.body["accepted"] == 3
        assert sorted((bad["target"], bad["code"]) for bad in answer.body["invalid"]) == sorted(
            [
                (str(unknown), "unknown_device"),
                (str(beyond), "unknown_device"),
                ("12x", "malformed"),
            ]
        )
        some = int(answer.body["push_id"])
        for other in others:
            await other.gets(some)
        await tenant.reaches(some, targeted=3, received=3, displayed=3)

        everybody = await tenant.push(everybody=True)
        await first.gets(one, everybody)
        for other in others:
            await other.gets(some, everybody)
        await tenant.reaches(everybody, targeted=4, received=4, displayed=4)

        edges = await service.edges()
        for listener in listeners:
            state = await tenant.device(listener.id)
            assert state["online"] and state["edge"] in edges and state["pending"] == 0
            assert int(state["epoch"]) > 0
    for listener in listeners:
        state = await tenant.seen(listener.id, online=False)
        assert state["edge"] == 0 and state["epoch"] == "0"


async def test_a_profile_is_seen(service: Service, tenant: Tenant, tmp_path: Path) -> None:
    async with listening(tenant, service.devices, tmp_path / "device") as listener:
        await listener.device.set_profile(tags=["news", "city:turku"])
        deadline = time.monotonic() + 10
        while not (tags := (await tenant.device(listener.id))["tags"]):
            assert time.monotonic() < deadline
        assert {"news", "city:turku"} <= set(tags)


async def test_apps_do_not_see_each_other(service: Service, tenant: Tenant, tmp_path: Path) -> None:
    """A device of one app is unknown to another, and so are its pushes."""
    demo = Tenant(service.api, "demo", service.ready["access_key"], service.ready["api_key"])
    async with listening(tenant, service.devices, tmp_path / "device") as listener:
        answer = await demo.try_push([listener.id])
        assert answer.status == HTTPStatus.ACCEPTED and answer.body["accepted"] == 0
        assert [bad["code"] for bad in answer.body["invalid"]] == ["unknown_device"]
        assert (await demo.call("GET", f"/devices/{listener.id}")).status == HTTPStatus.NOT_FOUND
        own = await tenant.push(listener.id)
        assert (await demo.call("GET", f"/pushes/{own}")).status == HTTPStatus.NOT_FOUND
        intruder = tenant._replace(api_key=demo.api_key)
        assert (await intruder.try_push(None)).status == HTTPStatus.NOT_FOUND
        await listener.gets(own)


async def test_a_push_to_who_is_offline_waits(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """It is handed out once, at the next connect, and not again at the one after it; in the order
    in which pushes were made."""
    folder = tmp_path / "device"
    async with listening(tenant, service.devices, folder) as listener:
        device = listener.id
    await tenant.seen(device, online=False)
    titles = [f"number {n}" for n in range(5)]
    waiting = [await tenant.push(device, notification={"title": title}) for title in titles]
    waiting.append(await tenant.push(everybody=True, notification={"title": "all"}))
    await tenant.reaches(waiting[0], targeted=1, pending=1)
    assert (await tenant.device(device))["pending"] == 6
    async with listening(tenant, service.devices, folder) as listener:
        await listener.gets(*waiting)
        assert listener.titles == [*titles, "all"]
        for push in waiting:
            await tenant.reaches(push, targeted=1, received=1, displayed=1)
    async with listening(tenant, service.devices, folder) as listener:
        last = await tenant.push(device)
        await listener.gets(last)
        assert listener.device.stats.duplicates == 0


async def test_a_push_of_the_moment_only_concerns_who_is_there(
    service: Service, tenant: Tenant
) -> None:
    """With a ttl of 0 devices that are offline are not targeted. One that is there and says
    nothing counts as expired after a while, and as received when it says so after all."""
    async with (
        RawDevice(service.devices, tenant.app, tenant.access_key) as gone,
        RawDevice(service.devices, tenant.app, tenant.access_key) as silent,
    ):
        await gone.join()
        await silent.join()
        gone.close()
        await tenant.seen(gone.device_id, online=False)
        alone = await tenant.push(gone.device_id, ttl=0)
        assert (await tenant.counts(alone))["targeted"] == 0
        both = await tenant.push(everybody=True, ttl=0)
        counts = await tenant.counts(both)
        assert counts["targeted"] == 1
        message = await silent.message()
        assert message.push_id == both and message.ttl_s == 0
        await tenant.reaches(both, targeted=1, expired=1, pending=0)
        await silent.receipt(both, device_pb2.RECEIVED)
        await tenant.reaches(both, targeted=1, expired=0, received=1)


async def test_a_push_whose_time_is_over_is_expired(service: Service, tenant: Tenant) -> None:
    """It is not sent any more. A receipt that comes late moves it to received."""
    async with RawDevice(service.devices, tenant.app, tenant.access_key) as device:
        await device.join()
        seen = await tenant.push(device.device_id, ttl=1)
        assert (await device.message()).push_id == seen
        device.close()
    await tenant.seen(device.device_id, online=False)
    unseen = await tenant.push(device.device_id, ttl=1)
    await tenant.reaches(unseen, targeted=1, expired=1)
    await tenant.reaches(seen, targeted=1, expired=1)
    async with RawDevice(service.devices, tenant.app, tenant.access_key) as again:
        await again.join(token=device.token, connection=2)
        last = await tenant.push(device.device_id)
        assert (await again.message()).push_id == last, "what has expired is not sent"
        await again.receipt(seen, device_pb2.RECEIVED)
        await tenant.reaches(seen, targeted=1, expired=0, received=1)
        # Of a push that nobody knows: acknowledged like any other.
        await again.receipt(12345, device_pb2.RECEIVED)
        assert (await tenant.counts(unseen))["expired"] == 1


async def test_an_idempotency_key_makes_one_push_of_many_requests(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """Twenty requests race: all get the same answer, the device one message. With another body the
    key is refused."""
    async with listening(tenant, service.devices, tmp_path / "device") as listener:
        key = {"Idempotency-Key": secrets.token_hex(8)}
        answers = await asyncio.gather(
            *(tenant.try_push([listener.id, device_id(0, 2**31)], key) for _ in range(20))
        )
        assert {answer.status for answer in answers} == {HTTPStatus.ACCEPTED}
        assert len({str(answer.body) for answer in answers}) == 1
        assert answers[0].body["accepted"] == 1 and len(answers[0].body["invalid"]) == 1
        push = int(answers[0].body["push_id"])
        await listener.gets(push)
        other = await tenant.try_push([listener.id], key)
        assert other.status == HTTPStatus.CONFLICT
        assert other.body["error"]["trace_id"] == str(push)
        in_body = await tenant.try_push(
            [listener.id, device_id(0, 2**31)], idempotency_key=key["Idempotency-Key"]
        )
        assert in_body.body == answers[0].body
        last = await tenant.push(listener.id)
        await listener.gets(push, last)


async def test_a_push_that_was_left_half_done_is_completed(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """An API that dies after the accept, with some of the logs written and none noted, costs a
    moment: a dispatch node finishes its work, and nobody gets the push twice."""
    async with several(tenant, service.devices, tmp_path, 6) as listeners:
        by_partition: dict[int, list[int]] = {}
        for listener in listeners:
            p, index = split_device_id(listener.id)
            by_partition.setdefault(p, []).append(index)
        targets = {p: struct.pack(f"<{len(i)}I", *i) for p, i in by_partition.items()}
        home, app = 2, (await _app_number(service, tenant.app))
        content = device_pb2.Content(notification=device_pb2.Notification(title="half"))
        push_id = PushIds(250).draw(time.time() * 1000, several=True, partition=home)
        record = PushRecord(push_id, app, 600, b"", content.SerializeToString(), targets)
        store = await Store.connect(service.ready["store"])
        try:
            accepted_ms, _ = await pushes.accept(store, home, record, None)
            assert accepted_ms is not None
            reached, indexes = next(iter(targets.items()))
            pushed = log_pb2.Push(
                push_id=push_id, app=app, ttl_s=600, accepted_ms=accepted_ms, home=home
            )
            part = PushPart(push_id, app, pushed.SerializeToString(), indexes, b"")
            producer = push_producer(store, Identity("api", 250, 1), Pace())
            assert await producer.submit(reached, part) == b""
            producer.close()
        finally:
            await store.close()
        for listener in listeners:
            await listener.gets(push_id)
        await tenant.reaches(push_id, targeted=6, received=6, displayed=6)
        async with service.store() as raw:
            assert await raw.zscore(keys.fanouts(home), str(push_id)) is None
        assert service.log.events("fan-out completed", push_id=str(push_id))


async def _app_number(service: Service, app: str) -> int:
    async with service.store() as raw:
        number: int = json.loads(await raw.hget(keys.APPS, app))["number"]
        return number
