"""Tags set by devices and by app servers, and pushes to an expression of them."""

from contextlib import AsyncExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.e2e.listeners import listening
from tests.e2e.service import Service
from tests.e2e.tenants import Tenant
from tests.waiting import until


async def count(tenant: Tenant, audience: Any) -> int:
    answer = await tenant.call("POST", "/audience:count", {"audience": audience})
    assert answer.status == HTTPStatus.OK, answer
    return int(answer.body["count"])


async def push_to(tenant: Tenant, audience: Any) -> int:
    body = {"audience": audience, "notification": {"title": "for you"}}
    answer = await tenant.call("POST", "/pushes", body)
    assert answer.status == HTTPStatus.ACCEPTED, answer
    return int(answer.body["push_id"])


async def test_a_push_reaches_whom_its_expression_means(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        one, two, three = [
            await stack.enter_async_context(
                listening(tenant, service.devices, tmp_path / f"device-{n}")
            )
            for n in range(3)
        ]
        await one.device.tags.add("city:gz", "sex:male")
        await two.device.tags.add("city:gz")
        await two.device.set_profile(
            tags=["city:gz"], attributes={"platform": "android", "lang": "zh"}
        )

        async def tags_are_in() -> bool:
            return await count(tenant, "city:gz") == 2 and await count(tenant, "lang:zh") == 1

        await until(tags_are_in, "the devices' own tags")

        bound = await tenant.call(
            "POST",
            "/tags:bind",
            {
                "items": [
                    {"device": str(three.id), "tags": ["city:gz", "vip"]},
                    {"device": "77", "tags": ["vip"]},
                ]
            },
        )
        assert bound.status == HTTPStatus.OK, bound
        assert [r["ok"] for r in bound.body["results"]] == [True, False]
        assert bound.body["results"][1]["code"] == "unknown_device"

        # What was set is found at once, in every spelling of the same audience.
        for spelling in (
            "city:gz & !vip",
            {"and": [{"tag": "city:gz"}, {"not": {"tag": "vip"}}]},
            {"tag": ["city:gz"], "tag_not": ["vip"]},
        ):
            assert await count(tenant, spelling) == 2
        assert await count(tenant, "active:1d & new:1d") == 3

        some = await push_to(tenant, "city:gz & !vip")
        everyone = await push_to(tenant, "all")
        await tenant.reaches(some, targeted=2, received=2, displayed=2)
        await tenant.reaches(everyone, targeted=3, displayed=3)
        await one.gets(some, everyone)
        await two.gets(some, everyone)
        await three.gets(everyone)

        # A state of a push is an audience, too.
        assert await count(tenant, {"push": str(some), "state": "displayed"}) == 2
        rest = {"not": {"push": str(some), "state": "received"}}
        assert await count(tenant, rest) == 1

        unbound = await tenant.call(
            "POST", "/tags:unbind", {"items": [{"device": str(three.id), "tags": ["vip"]}]}
        )
        assert unbound.status == HTTPStatus.OK, unbound
        assert await count(tenant, "vip") == 0
        assert await count(tenant, "city:gz") == 3


async def test_an_audience_of_nobody_is_accepted_and_finished(
    service: Service, tenant: Tenant
) -> None:
    push = await push_to(tenant, "nobody:here")
    await tenant.reaches(push, targeted=0, pending=0)


async def test_a_wrong_expression_is_answered_with_its_place(tenant: Tenant) -> None:
    answer = await tenant.call("POST", "/audience:count", {"audience": "city:gz & & vip"})
    assert answer.status == HTTPStatus.BAD_REQUEST, answer
    assert "position 10" in answer.body["error"]["message"]
