"""Accounts: whose phones are, whom a push to an account reaches, and phones that change hands while
processes are killed."""

import asyncio
import json
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from gateway.store import keys
from protocol.schema import log_pb2
from tests.e2e.http import Answer
from tests.e2e.listeners import Listener, listening, several
from tests.e2e.processes import send
from tests.e2e.service import PARTITIONS, Service
from tests.e2e.tenants import Tenant
from tests.waiting import PATIENCE_S, until

HURTS = True

ROUNDS = 4
"""Changes of hands for each process that is killed meanwhile."""


async def changed(tenant: Tenant, verb: str, items: Sequence[Any]) -> list[str]:
    """What is wrong with each item, "" = done."""
    answer = await tenant.call("POST", f"/accounts:{verb}", {"items": list(items)})
    assert answer.status == HTTPStatus.OK, answer
    return [result.get("code", "") for result in answer.body["results"]]


async def bind(tenant: Tenant, account: str, *devices: int, only: bool = False) -> None:
    """Waits until it is done."""
    items = [{"account": account, "device": str(d), "only": only} for d in devices]

    async def done() -> bool:
        codes = await changed(tenant, "bind", items)
        assert set(codes) <= {"", "unavailable"}, codes
        return set(codes) == {""}

    await until(done, f"bound to {account}")


async def try_push(tenant: Tenant, audience: Any, title: str = "for you") -> Answer:
    body = {"audience": audience, "notification": {"title": title}}
    return await tenant.call("POST", "/pushes", body)


async def push_to(tenant: Tenant, audience: Any, title: str = "for you") -> int:
    """Waits out a 503."""

    async def accepted() -> Answer | None:
        answer = await try_push(tenant, audience, title)
        assert answer.status in (HTTPStatus.ACCEPTED, HTTPStatus.SERVICE_UNAVAILABLE), answer
        return answer if answer.status == HTTPStatus.ACCEPTED else None

    answer = await until(accepted, "the push is accepted")
    return int(answer.body["push_id"])


async def test_a_push_reaches_the_account_s_phones(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    async with several(tenant, service.devices, tmp_path, 3) as (one, two, three):
        await bind(tenant, "u/1", one.id, two.id)
        await bind(tenant, "u2", three.id)
        assert (await tenant.device(two.id))["account"] == "u/1"
        answer = await tenant.call("GET", "/accounts/u%2F1")
        assert answer.body == {"account": "u/1", "devices": [str(one.id), str(two.id)]}

        # What is bound is found at once.
        to_all = await push_to(tenant, {"account": "u/1"})
        latest = await push_to(tenant, "account(u/1, latest)")
        both = await push_to(tenant, {"alias": ["u/1", "u2"]})
        await one.gets(to_all, both)
        await two.gets(to_all, latest, both)
        await three.gets(both)
        await tenant.reaches(to_all, targeted=2, received=2, displayed=2)
        await tenant.reaches(latest, targeted=1, received=1, displayed=1)
        await tenant.reaches(both, targeted=3, received=3, displayed=3)

        await bind(tenant, "u/1", one.id)
        latest_now = await push_to(tenant, "account(u/1, latest)")
        but = await push_to(tenant, "account(u/1) & !account(u/1, latest)")
        await tenant.reaches(latest_now, targeted=1, displayed=1)
        await tenant.reaches(but, targeted=1, displayed=1)
        await one.gets(to_all, both, latest_now)
        await two.gets(to_all, latest, both, but)

        counted = await tenant.call("POST", "/audience:count", {"audience": "account(u/1)"})
        assert counted.body["count"] == 2
        body = {"audience": "account(u/1) & !account(u2)"}
        explained = await tenant.call("POST", "/audience:explain", body)
        terms = {term["term"]: term["devices"] for term in explained.body["terms"]}
        assert terms["account(u/1)"] == 2 and terms["account(u2)"] == 1


async def test_unknown_accounts_are_named_and_are_nobody(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    async with listening(tenant, service.devices, tmp_path / "d") as one:
        await bind(tenant, "u1", one.id)
        answer = await try_push(tenant, "account(u1) | account(x)")
        assert answer.status == HTTPStatus.ACCEPTED
        assert answer.body["invalid"] == [{"target": "x", "code": "unknown_account"}]
        await one.gets(int(answer.body["push_id"]))
        nobody = await push_to(tenant, "account(x)")
        await tenant.reaches(nobody, targeted=0, pending=0)
        items = [
            {"account": "u1", "device": "77"},
            {"account": "u1", "device": "x"},
            {"account": "", "device": str(one.id)},
            {"account": "u1", "device": str(one.id)},
        ]
        codes = ["unknown_device", "malformed", "bad_account", ""]
        assert await changed(tenant, "bind", items) == codes
        assert await changed(tenant, "unbind", items) == codes
        assert await changed(tenant, "unbind", items[3:]) == [""]
        assert (await tenant.device(one.id))["account"] is None
        gone = await push_to(tenant, "account(u1)")
        await tenant.reaches(gone, targeted=0)


async def test_the_lost_phone_gets_nothing_more_once_the_account_is_on_the_new_one_only(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """Not even what was pending for it as the account's; what was pending for it as a device stays."""
    async with AsyncExitStack() as stack:
        new = await stack.enter_async_context(listening(tenant, service.devices, tmp_path / "new"))
        async with listening(tenant, service.devices, tmp_path / "lost") as lost:
            lost_id = lost.id
            await bind(tenant, "u1", lost_id)
        await tenant.seen(lost_id, online=False)
        single = await push_to(tenant, "account(u1)")
        plain = await tenant.push(lost_id)
        several_ = await push_to(tenant, {"alias": ["u1", "u2"]})
        await tenant.reaches(single, targeted=1, pending=1)
        await tenant.reaches(several_, targeted=1, pending=1)

        await bind(tenant, "u1", new.id, only=True)
        assert await tenant.counts(single) | {"stopped": 1, "pending": 0} == await tenant.counts(
            single
        )
        await tenant.reaches(several_, targeted=1, stopped=1)
        answer = await tenant.call("GET", "/accounts/u1")
        assert answer.body["devices"] == [str(new.id)]
        later = await push_to(tenant, "account(u1)")
        await new.gets(later)
        async with listening(tenant, service.devices, tmp_path / "lost") as lost:
            assert lost.id == lost_id
            last = await tenant.push(lost_id)
            await lost.gets(plain, last)
            assert (await tenant.device(lost_id))["account"] is None


async def test_an_entry_that_was_left_behind_in_a_list_reaches_nobody(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """As it stays when the account's partition is away at the moment in which a phone changes hands."""
    async with several(tenant, service.devices, tmp_path, 2) as (phone, other):
        await bind(tenant, "b", other.id)
        await bind(tenant, "a", phone.id)
        async with service.store() as store:
            app = json.loads(await store.hget(keys.APPS, tenant.app))["number"]
            change = log_pb2.AccountChange(app=app, account="b", device=[phone.id], binding=[7])
            home = keys.account_home(app, "b", PARTITIONS)
            record = log_pb2.Record(accounts=[change]).SerializeToString()
            await store.xadd(keys.log(home), {"r": record})

        async def is_listed() -> bool:
            answer = await tenant.call("GET", "/accounts/b")
            return bool(answer.body["devices"] == [str(other.id), str(phone.id)])

        await until(is_listed, "the entry is there")
        to_all = await push_to(tenant, "account(b)")
        latest = await push_to(tenant, "account(b, latest)")
        both = await push_to(tenant, "account(a) | account(b)")
        await other.gets(to_all, latest, both)
        await phone.gets(both)
        await tenant.reaches(to_all, targeted=1, displayed=1)
        await tenant.reaches(latest, targeted=1, displayed=1)
        assert await changed(tenant, "unbind", [{"account": "b", "device": str(phone.id)}]) == [""]
        answer = await tenant.call("GET", "/accounts/b")
        assert answer.body["devices"] == [str(other.id)]
        assert (await tenant.device(phone.id))["account"] == "a"


class Chatter:
    """Pushes to account `b` all the time, each with a title of its own."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self.begun = 0
        """Number of the push that was begun last."""
        self.accepted: list[int] = []
        self.last: Answer | None = None
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.begun += 1
            number = self.begun
            try:
                answer = await try_push(self._tenant, "account(b)", f"b {number}")
            except OSError:
                await asyncio.sleep(0.02)  # the API is being started again
                continue
            self.last = answer
            if answer.status == HTTPStatus.ACCEPTED:
                self.accepted.append(number)
            await asyncio.sleep(0.005)

    async def goes_on(self, count: int = 3) -> None:
        wanted = len(self.accepted) + count

        def enough() -> bool:
            if self._task.done():
                self._task.result()  # it only ends by an error
            return len(self.accepted) >= wanted

        await until(enough, f"pushes to b are accepted; last: {self.last}", 2 * PATIENCE_S)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def numbers(listener: Listener) -> set[int]:
    """Of b's pushes that were handed out there."""
    return {int(title.split()[1]) for title in listener.titles if title.startswith("b ")}


async def insisting(tenant: Tenant, account: str, device: int) -> None:
    """Bind until that is acknowledged, as an app server would."""
    while True:
        try:
            items = [{"account": account, "device": str(device)}]
            answer = await tenant.call("POST", "/accounts:bind", {"items": items})
        except OSError:
            await asyncio.sleep(0.02)
            continue
        if answer.status == HTTPStatus.OK and answer.body["results"][0]["ok"]:
            return
        assert answer.status in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE), answer
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("role", ["api", "dispatch"])
async def test_a_phone_that_changed_hands_gets_nothing_of_the_account_before_though_processes_die(
    service: Service, tenant: Tenant, tmp_path: Path, role: str
) -> None:
    """Killed at another moment of the call each time. From the answer on nothing that is pushed to b
    reaches the phone, while b's other phone gets all of it; and a's messages do reach it."""
    service.log.expect("ended, starting again")
    async with several(tenant, service.devices, tmp_path, 2) as (phone, other):
        await bind(tenant, "b", phone.id, other.id)
        chatter = Chatter(tenant)
        mine = []
        for number in range(ROUNDS):
            await chatter.goes_on()
            pid = service.pid_of(role)
            moving = asyncio.create_task(insisting(tenant, "a", phone.id))
            await asyncio.sleep(0.003 * number)
            send(pid, signal.SIGKILL)
            await moving
            last = chatter.begun
            await service.restarted(role, pid)
            await chatter.goes_on()
            title = f"a {number}"
            mine.append(title)
            await push_to(tenant, "account(a)", title)
            await until(partial(lambda title: title in phone.titles, title), "a's message is there")
            assert max(numbers(phone)) <= last, "b's message came to a's phone"
            assert (await tenant.device(phone.id))["account"] == "a"
            handed = max(numbers(phone))
            await insisting(tenant, "b", phone.id)
            await until(
                partial(lambda handed: max(numbers(phone)) > handed, handed), "it is b's again"
            )
        await chatter.end()
        wanted = set(chatter.accepted)
        await until(lambda: wanted <= numbers(other), "b's other phone has them all")
        assert [title for title in phone.titles if title.startswith("a ")] == mine
        assert [t for t in other.titles if t.startswith("a ")] == []
        assert len(other.titles) == len(set(other.titles))


async def test_pushes_to_accounts_wait_for_a_node_that_answers(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    async with listening(tenant, service.devices, tmp_path / "d") as one:
        await bind(tenant, "u1", one.id)
        with service.frozen(service.pid_of("dispatch")):
            answer = await try_push(tenant, "account(u1)")
            assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            assert answer.body["error"]["errno"] == 50303 and "retry-after" in answer.headers
        push = await push_to(tenant, "account(u1)")
        await one.gets(push)


async def test_ten_thousand_items_in_one_call(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """All of them move devices on, the worst there is: what a device had before is cleaned up, too."""
    async with several(tenant, service.devices, tmp_path, 4) as listeners:
        ids = [listener.id for listener in listeners]
        items = [{"account": f"u{n}", "device": str(ids[n % 4])} for n in range(10_000)]
        for n in range(0, 10_000, 1000):
            items[n]["device"] = "77"
        began = time.monotonic()
        codes = await changed(tenant, "bind", items)
        took = time.monotonic() - began
        print(f"10,000 items in {took:.2f} s")
        assert codes == ["unknown_device" if n % 1000 == 0 else "" for n in range(10_000)]
        assert took < 15
        for n, device in zip(range(9996, 10_000), (ids[k % 4] for k in range(4)), strict=True):
            assert (await tenant.device(device))["account"] == f"u{n}"
        missing = await tenant.call("GET", "/accounts/u5")
        assert missing.status == HTTPStatus.NOT_FOUND, "it was cleaned up"
        everybody = {"alias": [f"u{n}" for n in range(9_001, 10_000)]}
        answer = await try_push(tenant, everybody)
        assert answer.status == HTTPStatus.ACCEPTED
        assert len(answer.body["invalid"]) == 995
        for listener in listeners:
            await listener.gets(int(answer.body["push_id"]))
