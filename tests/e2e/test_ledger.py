"""Why a device has a push, or not: asked of the running service."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.e2e.listeners import listening
from tests.e2e.raw_device import RawDevice
from tests.e2e.service import Service
from tests.e2e.tenants import Tenant
from tests.waiting import until


async def explain(tenant: Tenant, push: int, device: int) -> dict[str, Any]:
    """Waits out a 503."""

    async def ask() -> dict[str, Any] | None:
        answer = await tenant.call("GET", f"/pushes/{push}:explain?device={device}")
        assert answer.status in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE), answer
        return answer.body if answer.status == HTTPStatus.OK else None

    ledger: dict[str, Any] = await until(ask, f"ledger of push {push} at device {device}")
    return ledger


def events(ledger: dict[str, Any]) -> list[str]:
    return [step["event"] for step in ledger["steps"]]


async def push_to(tenant: Tenant, audience: Any, **body: Any) -> int:
    said = {"audience": audience, "notification": {"title": "for you"}, **body}
    answer = await tenant.call("POST", "/pushes", said)
    assert answer.status == HTTPStatus.ACCEPTED, answer
    return int(answer.body["push_id"])


async def test_a_device_that_is_online_gets_it(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    async with listening(tenant, service.devices, tmp_path / "device") as listener:
        for push in (await tenant.push(listener.id), await push_to(tenant, "all")):
            await tenant.reaches(push, displayed=1)
            ledger = await explain(tenant, push, listener.id)
            assert ledger["state"] == "received" and ledger["online"] and ledger["edge"] > 0
            assert ledger["why"] == "the device has it and displayed it"
            assert events(ledger) == ["accepted", "targeted", "received", "displayed"]
            times = [step["at"] for step in ledger["steps"]]
            assert all(times) and times == sorted(times)


async def test_a_device_that_is_offline_waits_for_it(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    folder = tmp_path / "device"
    async with listening(tenant, service.devices, folder) as listener:
        device = listener.id
        online = await push_to(tenant, "all")
        await listener.gets(online)
    await tenant.seen(device, online=False)
    push = await tenant.push(device)
    ledger = await explain(tenant, push, device)
    assert ledger["state"] == "pending" and not ledger["online"] and ledger["edge"] == 0
    assert ledger["why"].startswith("the device is offline since ")
    assert events(ledger) == ["accepted", "targeted"]
    async with listening(tenant, service.devices, folder) as listener:
        await listener.gets(push)
        await tenant.reaches(push, displayed=1)
        ledger = await explain(tenant, push, device)
        assert events(ledger) == ["accepted", "targeted", "session_up", "received", "displayed"]


async def test_one_that_is_sent_to_and_does_not_answer(service: Service, tenant: Tenant) -> None:
    async with RawDevice(service.devices, tenant.app, tenant.access_key) as device:
        await device.join()
        push = await tenant.push(device.device_id)
        await device.message()
        ledger = await explain(tenant, push, device.device_id)
        assert ledger["why"].startswith("sent once, ") and "no receipt yet" in ledger["why"]
        assert events(ledger) == ["accepted", "targeted", "sent"]
        assert ledger["steps"][2]["attempt"] == 1
        assert ledger["steps"][2]["edge"] == ledger["edge"]


async def test_tags_that_do_not_match(service: Service, tenant: Tenant, tmp_path: Path) -> None:
    async with listening(tenant, service.devices, tmp_path / "device") as listener:
        await tenant.call(
            "POST", "/tags:bind", {"items": [{"device": str(listener.id), "tags": ["vip"]}]}
        )
        push = await push_to(tenant, "vip & city:gz & !muted")
        ledger = await explain(tenant, push, listener.id)
        assert ledger["state"] == "not_targeted"
        assert ledger["why"] == (
            "not meant by the audience: city:gz did not match (as it stands now)"
        )
        assert ledger["terms"] == [
            {"term": "vip", "matches": True},
            {"term": "city:gz", "matches": False},
            {"term": "!muted", "matches": True},
        ]
        assert events(ledger) == ["accepted", "not_targeted"]
        answer = await tenant.call("GET", f"/pushes/{push}:explain?device={2**31}")
        assert answer.status == HTTPStatus.NOT_FOUND, answer


async def test_a_push_that_was_stopped(service: Service, tenant: Tenant, tmp_path: Path) -> None:
    folder = tmp_path / "device"
    async with listening(tenant, service.devices, folder) as listener:
        device = listener.id
    await tenant.seen(device, online=False)
    push = await push_to(tenant, "all")
    for verb in ("pause", "stop"):
        answer = await tenant.call("POST", f"/pushes/{push}:{verb}")
        assert answer.status == HTTPStatus.OK, answer
        if verb == "pause":
            why = (await explain(tenant, push, device))["why"]
            assert why.startswith("the push is paused; besides, the device is offline since ")
    ledger = await explain(tenant, push, device)
    assert ledger["state"] == "stopped"
    assert ledger["why"] == "the push was stopped before the device had received it"
    assert events(ledger) == ["accepted", "targeted", "paused", "stopped"]


async def test_pushes_to_others_and_devices_of_others(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    demo = Tenant(service.api, "demo", service.ready["access_key"], service.ready["api_key"])
    async with (
        listening(tenant, service.devices, tmp_path / "one") as one,
        listening(tenant, service.devices, tmp_path / "two") as two,
    ):
        push = await tenant.push(one.id)
        ledger = await explain(tenant, push, two.id)
        assert ledger["state"] == "not_targeted" and not ledger["terms"]
        assert (
            ledger["why"] == "the push names devices or accounts, and this device is not among them"
        )
        path = f"/pushes/{push}:explain?device={one.id}"
        assert (await demo.call("POST", path)).status == HTTPStatus.NOT_FOUND
        assert (await tenant.call("POST", path)).status == HTTPStatus.OK
        theirs = await demo.push(77)
        answer = await tenant.call("GET", f"/pushes/{theirs}:explain?device={one.id}")
        assert answer.status == HTTPStatus.NOT_FOUND, answer
