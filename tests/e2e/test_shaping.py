"""How a push is dealt out: at a speed, with a pause, stopped, and with a part of its audience held out."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

from loadtest.fleet import Fleet, Plan
from protocol.codes import Kind
from protocol.schema import device_pb2
from tests.e2e.raw_device import RawDevice
from tests.e2e.service import Service
from tests.e2e.tenants import STATES, Tenant
from tests.waiting import until

SPEED: Final = 200
DEVICES: Final = 3 * SPEED
_TURN_S: Final = 0.02


class Crowd:
    """Simulated devices on a thread of their own, and when how many of them had been shown something."""

    def __init__(self, tenant: Tenant, address: str, devices: int) -> None:
        host, _, port = address.rpartition(":")
        self.fleet = Fleet(
            Plan(
                address=(host, int(port)),
                devices=devices,
                app=tenant.app,
                access_key=tenant.access_key,
                seed=tenant.app,
                think_s=None,
            )
        )
        self.fleet.dial(range(devices))
        self.shown: list[tuple[float, int]] = []
        """(time.monotonic(), shown so far by all devices together)"""
        self.end = False

    def run(self) -> None:
        counters = self.fleet.counters
        while not self.end:
            self.fleet.turn(_TURN_S)
            if counters.shown != (self.shown[-1][1] if self.shown else 0):
                self.shown.append((time.monotonic(), counters.shown))
        self.fleet.close()

    def shown_by(self, at: float) -> int:
        return max((count for when, count in self.shown if when < at), default=0)

    def device_ids(self, push_id: int) -> set[int]:
        """Who has been shown a push."""
        rows = self.fleet.ledger.of(push_id).rows()
        return {self.fleet.table.device_id[row] for row in rows}

    def all_ids(self) -> set[int]:
        return set(self.fleet.table.device_id)


@asynccontextmanager
async def crowd_of(tenant: Tenant, service: Service, devices: int) -> AsyncIterator[Crowd]:
    """So many connected devices until the end of the block."""
    crowd = Crowd(tenant, service.devices, devices)
    thread = threading.Thread(target=crowd.run)
    thread.start()
    try:
        await until(
            lambda: crowd.fleet.counters.open == devices, f"{devices} devices are connected"
        )
        yield crowd
    finally:
        crowd.end = True
        thread.join()
    assert not crowd.fleet.counters.protocol_errors


async def push_to(tenant: Tenant, audience: Any, **said: Any) -> int:
    body = {"audience": audience, "notification": {"title": "for you"}, **said}
    answer = await tenant.call("POST", "/pushes", body)
    assert answer.status == HTTPStatus.ACCEPTED, answer
    return int(answer.body["push_id"])


async def decide(tenant: Tenant, push_id: int, verb: str) -> dict[str, Any]:
    """State and counts after it. Asserts that the law holds."""
    answer = await tenant.call("POST", f"/pushes/{push_id}:{verb}")
    assert answer.status == HTTPStatus.OK, answer
    assert answer.body["push_id"] == str(push_id)
    counts = answer.body["counts"]
    assert counts["targeted"] == sum(counts[state] for state in STATES), counts
    decided: dict[str, Any] = answer.body
    return decided


async def state_of(tenant: Tenant, push_id: int) -> str:
    return str((await tenant.call("GET", f"/pushes/{push_id}")).body["state"])


async def count(tenant: Tenant, audience: Any) -> int:
    answer = await tenant.call("POST", "/audience:count", {"audience": audience})
    assert answer.status == HTTPStatus.OK, answer
    return int(answer.body["count"])


async def everybody_is_counted(tenant: Tenant, push_id: int, named: int) -> dict[str, int]:
    """Waits until all partitions know the push and all that it is sent to have it."""

    async def look() -> dict[str, int] | None:
        counts = await tenant.counts(push_id)
        done = counts["received"] + counts["held_out"] == named
        return counts if done else None

    counts: dict[str, int] = await until(look, f"push {push_id} is through")
    return counts


async def at_speed(crowd: Crowd, tenant: Tenant) -> tuple[list[int], float]:
    """A push to everybody: how many had it shown in each of its first seconds, and the seconds that it took."""
    earlier = len(crowd.shown)
    push = await push_to(tenant, "all", speed=SPEED)
    await until(lambda: len(crowd.shown) > earlier, "it has begun")
    begun = crowd.shown[earlier][0] - _TURN_S  # what comes at once is seen so much later
    assert await state_of(tenant, push) == "running"
    await tenant.reaches(push, targeted=DEVICES, received=DEVICES)
    assert await state_of(tenant, push) == "finished"
    assert crowd.device_ids(push) == crowd.all_ids()
    marks = [crowd.shown_by(begun + second) for second in range(4)]
    seconds = [after - before for before, after in itertools.pairwise(marks)]
    return seconds, crowd.shown[-1][0] - begun


async def test_speed_is_kept_second_by_second(service: Service, tenant: Tenant) -> None:
    """Over all partitions together; and a push without speed beside it does not wait."""
    async with crowd_of(tenant, service, DEVICES) as crowd:
        kept = False
        for _ in range(3):  # a machine that stands still for a moment spoils one of them
            seconds, took = await at_speed(crowd, tenant)
            print(f"speed {SPEED}: {seconds} in the first seconds, {took:.2f} s in all")
            kept = all(abs(shown - SPEED) <= 0.1 * SPEED for shown in seconds[:2])
            kept = kept and abs(took - DEVICES / SPEED) < 0.1 * DEVICES / SPEED
            if kept:
                break
        assert kept

        listed = [str(device) for device in sorted(crowd.all_ids())[: DEVICES // 2]]
        slow = await push_to(tenant, {"devices": listed}, speed=SPEED)
        quick = await push_to(tenant, "all")
        await until(lambda: len(crowd.device_ids(quick)) == DEVICES, "the quick one is done")
        assert len(crowd.device_ids(slow)) < len(listed)
        await tenant.reaches(slow, targeted=len(listed), received=len(listed))
        assert crowd.fleet.counters.redelivered == 0


async def test_pause_and_resume(service: Service, tenant: Tenant) -> None:
    async with (
        crowd_of(tenant, service, DEVICES) as crowd,
        RawDevice(service.devices, tenant.app, tenant.access_key) as late,
    ):
        push = await push_to(tenant, "all", speed=SPEED)
        await until(lambda: len(crowd.device_ids(push)) > SPEED // 4, "a part has it")
        paused = await decide(tenant, push, "pause")
        assert paused["state"] == "paused" == await state_of(tenant, push)
        await asyncio.sleep(0.3)  # what was on its way when it was paused
        before = crowd.device_ids(push)
        assert SPEED // 4 < len(before) < DEVICES // 2
        await late.join()  # not in the audience, which was fixed before it registered
        await asyncio.sleep(1.0)
        again = await decide(tenant, push, "pause")
        assert crowd.device_ids(push) == before
        assert again["state"] == "paused" and again["counts"]["received"] == len(before)
        assert again["counts"]["pending"] == DEVICES - len(before)

        resumed = await decide(tenant, push, "resume")
        assert resumed["state"] == "running"
        await tenant.reaches(push, targeted=DEVICES, received=DEVICES)
        assert await state_of(tenant, push) == "finished"
        assert crowd.device_ids(push) == crowd.all_ids()
        assert crowd.fleet.counters.redelivered == 0


async def test_a_device_that_comes_during_a_pause_gets_it_after(
    service: Service, tenant: Tenant
) -> None:
    """Also one push to one device, paused before it was ever sent."""
    async with RawDevice(service.devices, tenant.app, tenant.access_key) as first:
        await first.join()
    await tenant.seen(first.device_id, online=False)
    single = await tenant.push(first.device_id)
    everybody = await tenant.push(everybody=True)
    assert (await decide(tenant, single, "pause"))["state"] == "paused"
    assert (await decide(tenant, everybody, "pause"))["state"] == "paused"
    async with RawDevice(service.devices, tenant.app, tenant.access_key) as device:
        await device.join(token=first.token, connection=2)
        last = await tenant.push(device.device_id)
        assert (await device.message()).push_id == last
        assert not device.arrived(Kind.MESSAGE), "what is paused is not sent"
        await decide(tenant, single, "resume")
        assert (await device.message()).push_id == single
        await decide(tenant, everybody, "resume")
        assert (await device.message()).push_id == everybody


async def test_stop(service: Service, tenant: Tenant) -> None:
    """Who has it, has it; the others are stopped and never sent to. A late receipt wins."""
    async with RawDevice(service.devices, tenant.app, tenant.access_key) as silent:
        await silent.join()
        async with crowd_of(tenant, service, DEVICES) as crowd:
            push = await push_to(tenant, "all", speed=SPEED)
            # It has the lowest index, so it is among the first.
            assert (await silent.message()).push_id == push
            stopped = await decide(tenant, push, "stop")
            assert stopped["state"] == "stopped"
            assert stopped["counts"]["pending"] == 0 and stopped["counts"]["stopped"] > 1
            await asyncio.sleep(1.0)
            counts = await tenant.counts(push)
            assert counts["received"] == len(crowd.device_ids(push)) < DEVICES // 2
            assert counts["received"] + counts["stopped"] == counts["targeted"] == DEVICES + 1
            for verb in ("resume", "pause", "stop"):
                again = await decide(tenant, push, verb)
                assert (again["state"], again["counts"]) == ("stopped", counts)
            assert await state_of(tenant, push) == "stopped"
            await silent.receipt(push, device_pb2.RECEIVED)
            won = {"received": counts["received"] + 1, "stopped": counts["stopped"] - 1}
            await tenant.reaches(push, **won)
            last = await push_to(tenant, "all")
            assert (await silent.message()).push_id == last
            await until(lambda: len(crowd.device_ids(last)) == DEVICES, "all have the next one")
            assert len(crowd.device_ids(push)) == counts["received"]


async def test_a_push_stopped_before_it_could_be_sent(service: Service, tenant: Tenant) -> None:
    """The very moment its id is known, to one device and to all."""
    async with RawDevice(service.devices, tenant.app, tenant.access_key) as first:
        await first.join()
    await tenant.seen(first.device_id, online=False)
    single = await tenant.push(first.device_id)
    assert (await decide(tenant, single, "stop"))["counts"]["stopped"] == 1
    everybody = await tenant.push(everybody=True)
    assert (await decide(tenant, everybody, "stop"))["counts"]["stopped"] == 1
    async with RawDevice(service.devices, tenant.app, tenant.access_key) as device:
        await device.join(token=first.token, connection=2)
        last = await tenant.push(device.device_id)
        assert (await device.message()).push_id == last
        assert (await tenant.device(device.device_id))["pending"] == 1


async def test_a_part_is_held_out(service: Service, tenant: Tenant) -> None:
    """It gets nothing, is counted, can be meant, and is another part for each push."""
    holdout = 0.3
    async with crowd_of(tenant, service, DEVICES) as crowd:
        ids = [str(device) for device in sorted(crowd.all_ids())]
        left_out = []
        for audience in ("all", {"devices": ids[:99]}):
            named = DEVICES if audience == "all" else 99
            push = await push_to(tenant, audience, holdout=holdout)
            counts = await everybody_is_counted(tenant, push, named)
            held_out = counts["held_out"]
            assert counts["targeted"] == counts["received"] == named - held_out
            # Four standard deviations of so many throws.
            assert abs(held_out - holdout * named) < 4 * (named * holdout * (1 - holdout)) ** 0.5
            assert await count(tenant, {"push": str(push), "state": "held_out"}) == held_out
            got = crowd.device_ids(push)
            assert len(got) == named - held_out
            left_out.append({int(device) for device in ids[:99]} - got)
        first, second = left_out
        assert first != second and first & second, "by lot, anew for each push"

        # The others, later: nobody gets it twice, and all have it in the end.
        rest = await push_to(tenant, {"push": str(push), "state": "held_out"})
        await tenant.reaches(rest, targeted=held_out, received=held_out)
        assert crowd.device_ids(rest) == second
        assert crowd.fleet.counters.redelivered == 0


async def test_a_single_device_may_be_held_out(service: Service, tenant: Tenant) -> None:
    async with RawDevice(service.devices, tenant.app, tenant.access_key) as device:
        await device.join()
        pushes = [await tenant.push(device.device_id, holdout=0.5) for _ in range(16)]
        all_counts = [await tenant.counts(push) for push in pushes]
        assert {counts["targeted"] + counts["held_out"] for counts in all_counts} == {1}
        sent = [p for p, c in zip(pushes, all_counts, strict=True) if c["targeted"]]
        assert 0 < len(sent) < len(pushes)  # else one throw in 32,768
        assert [(await device.message()).push_id for _ in sent] == sent
        last = await tenant.push(device.device_id)
        assert (await device.message()).push_id == last
