"""Rates and quotas of apps."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api import intake as intake_module
from gateway.api import quota as module
from gateway.api.errors import Errno
from gateway.api.quota import DAY_MS, Buckets, Quotas
from gateway.config import Api
from gateway.rpc import RpcError
from gateway.store import quotas as stored
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import ProducerFull, StoreUnavailable
from gateway.store.log import Producer
from protocol.ids import device_id
from protocol.schema import device_pb2, rpc_pb2
from tests.gateway.api_scene import Scene, error_of, played
from tests.gateway.api_stage import bearer


@given(
    rate=st.floats(0.5, 500),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=200),
)
def test_never_more_than_the_rate_and_one_burst(rate: float, gaps: list[float]) -> None:
    buckets, now, taken = Buckets(), 100.0, 0
    for gap in gaps:
        now += gap
        wait_s = buckets.take(1, rate, now)
        taken += not wait_s
        if wait_s:
            assert not buckets.take(1, rate, now + wait_s + 1e-6), "after that time there is one"
            now += wait_s + 1e-6
            taken += 1
    assert taken <= (now - 100.0) * rate + max(1.0, rate) + 1e-6


def test_apps_do_not_share_a_bucket() -> None:
    buckets = Buckets()
    assert buckets.take(1, 1.0, 0.0) == 0
    assert buckets.take(1, 1.0, 0.5) == pytest.approx(0.5)
    assert buckets.take(2, 1.0, 0.5) == 0


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_APPS", 3)
    buckets = Buckets()
    for app in range(10):
        buckets.take(app, 1.0, 0.0)
    assert len(buckets._tokens) == 3


class Clock(StoreClock):
    """Set by hand."""

    at_ms = 20_000 * DAY_MS

    def now_ms(self) -> int:
        return self.at_ms


def limits(**values: int) -> Api:
    return msgspec.structs.replace(Api(), **values)


async def test_a_days_quota_is_shared_by_all_processes_and_begins_anew(store: Store) -> None:
    clock = Clock()
    allowed = limits(app_pushes_per_day=250)
    both = [Quotas(store, clock, allowed, lambda: 2) for _ in range(2)]
    asked = [await each.excess(7, 0.0) for _ in range(150) for each in both]
    assert asked.count(None) == 250
    refused = next(excess for excess in asked if excess is not None)
    assert (refused.quota, refused.limit, refused.retry_ms) == ("day", 250, DAY_MS)
    clock.at_ms += DAY_MS
    assert await both[0].excess(7, 0.0) is None
    assert sum(each.refused_total["day"] for each in both) == 50


async def test_the_rate_is_divided_among_the_processes(store: Store) -> None:
    quotas = Quotas(store, Clock(), limits(app_pushes_per_s=100), lambda: 4)
    asked = [await quotas.excess(7, 0.0) for _ in range(100)]
    assert asked.count(None) == 25
    refused = asked[-1]
    assert refused is not None and refused.quota == "rate" and 0 < refused.retry_ms <= 40


async def test_without_limits_nothing_is_asked(store: Store) -> None:
    quotas = Quotas(store, Clock(), Api(), lambda: 1)
    assert await asyncio.gather(*(quotas.excess(7, 0.0) for _ in range(100))) == [None] * 100


async def test_pushes_that_come_together_share_a_portion(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each taking one for itself, a hundred of them would use up the day."""
    taken = 0
    take = stored.take

    async def counted(*args: Any) -> int:
        nonlocal taken
        taken += 1
        return await take(*args)

    monkeypatch.setattr(stored, "take", counted)
    quotas = Quotas(store, Clock(), limits(app_pushes_per_day=1_000), lambda: 1)
    asked = await asyncio.gather(*(quotas.excess(7, 0.0) for _ in range(1_200)))
    assert asked.count(None) == 1_000
    assert taken == 101, "one for each portion, and the one that was refused"
    assert await quotas.excess(7, 0.0) is not None
    assert taken == 101, "the store is not asked again once the day is used up"
    assert await quotas.excess(8, 0.0) is None, "another app has its own"


async def test_what_was_given_back_may_be_pushed(store: Store) -> None:
    clock = Clock()
    quotas = Quotas(store, clock, limits(app_pushes_per_day=3, app_pushes_per_s=5), lambda: 1)
    assert [await quotas.excess(7, 0.0) for _ in range(3)] == [None] * 3
    quotas.give_back(7)
    assert await quotas.excess(7, 0.0) is None
    quotas.give_back(7)
    clock.at_ms += DAY_MS
    quotas.give_back(7)  # of a day that is over
    assert [await quotas.excess(7, 9.0) for _ in range(4)].count(None) == 3
    quotas.give_back(9)  # of an app that has nothing


async def test_who_is_beyond_the_day_spends_none_of_the_rate(store: Store) -> None:
    quotas = Quotas(store, Clock(), limits(app_pushes_per_day=1, app_pushes_per_s=2), lambda: 1)
    assert await quotas.excess(7, 0.0) is None
    for _ in range(10):
        excess = await quotas.excess(7, 0.0)
        assert excess is not None and excess.quota == "day"


async def test_a_quota_that_cannot_be_asked_costs_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    quotas = Quotas(store, Clock(), limits(app_pushes_per_day=9, app_pushes_per_s=1), lambda: 1)
    with monkeypatch.context() as patch:

        async def away(*_: object) -> int:
            raise StoreUnavailable("away")

        patch.setattr(stored, "take", away)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await quotas.excess(7, 0.0)
    assert await quotas.excess(7, 0.0) is None


async def test_the_processes_are_counted_once_a_second(store: Store) -> None:
    looked = 0

    def processes() -> int:
        nonlocal looked
        looked += 1
        return 1

    quotas = Quotas(store, Clock(), limits(app_pushes_per_s=1_000), processes)
    for n in range(200):
        await quotas.excess(7, n / 100)
    assert looked == 2


async def test_portions_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_APPS", 3)
    quotas = Quotas(store, Clock(), limits(app_pushes_per_day=100_000), lambda: 1)
    for app in range(1, 10):
        assert await quotas.excess(app, 0.0) is None
    assert len(quotas._portions) == 3


# Over HTTP and RPC.

DAILY = 150


@pytest.fixture(scope="module")
def whole_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with played(tmp_path_factory.mktemp("quota"), app_pushes_per_day=DAILY) as scene:
        yield scene


@pytest.fixture
def scene(whole_scene: Scene) -> Scene:
    """On a new day: all quotas are whole."""
    backend = whole_scene.stage.service.backend
    assert backend is not None
    backend.quotas._portions.clear()
    backend.quotas._buckets = Buckets()
    whole_scene.stage.with_store(lambda store: store.call("EVAL", _FORGET, 0))
    return whole_scene


_FORGET = """for _, key in ipairs(redis.call('KEYS', '*:quota:*')) do redis.call('DEL', key) end"""
BODY = {"audience": {"devices": [str(device_id(1, 5))]}, "data": {"a": "b"}}


def set_limits(scene: Scene, monkeypatch: pytest.MonkeyPatch, **values: int) -> None:
    backend = scene.stage.service.backend
    assert backend is not None
    monkeypatch.setattr(backend.quotas, "_limits", limits(**values))


def refused(scene: Scene) -> dict[str, float]:
    backend = scene.stage.service.backend
    assert backend is not None
    return dict(backend.quotas.refused_total)


def test_beyond_the_day_it_is_429_until_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_limits(scene, monkeypatch, app_pushes_per_day=2)
    before = refused(scene)
    for _ in range(2):
        assert scene.push({**BODY, "validate_only": True})[0] == 200
        assert scene.push(BODY)[0] == 202
    status, headers, body = scene.push(BODY)
    error = error_of((status, headers, body))
    assert (status, error["errno"]) == (429, Errno.APP_QUOTA)
    assert "(2 pushes a day are allowed)" in error["message"]
    left_ms = DAY_MS - time.time() * 1000 % DAY_MS
    assert left_ms - 30_000 < error["retry"]["after_ms"] < left_ms + 90_000
    assert refused(scene)["day"] == before["day"] + 1
    assert scene.push({**BODY, "validate_only": True})[0] == 200
    other = scene.stage.request("POST", "/v1/apps/other/pushes", BODY, bearer(scene.other_key))
    assert other[0] == 202, "another app does not notice"
    text = scene.stage.get("/metrics")[2]
    assert f'columba_app_refused_total{{process="api:1",quota="day"}} {before["day"] + 1:g}' in text


def test_beyond_the_rate_it_is_429_for_a_moment(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_limits(scene, monkeypatch, app_pushes_per_s=1)
    assert scene.push(BODY)[0] == 202
    error = error_of(scene.push(BODY))
    assert (
        error["errno"] == Errno.APP_RATE and "(1 pushes a second are allowed)" in error["message"]
    )
    assert 0 < error["retry"]["after_ms"] <= 1_400
    other = scene.stage.request("POST", "/v1/apps/other/pushes", BODY, bearer(scene.other_key))
    assert other[0] == 202
    time.sleep(error["retry"]["after_ms"] / 1000)
    assert scene.push(BODY)[0] == 202


def test_a_repetition_has_its_answer_beyond_the_quota(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And makes no push, so it does not count; nor does a key that belongs to another push."""
    set_limits(scene, monkeypatch, app_pushes_per_day=3)
    key = {"Idempotency-Key": f"k-{time.time_ns()}"}
    first = scene.push(BODY, key)
    for _ in range(5):
        assert scene.push(BODY, key)[2] == first[2]
        assert error_of(scene.push({**BODY, "ttl": 7}, key))["errno"] == Errno.CONFLICT
    assert [scene.push(BODY)[0] for _ in range(3)] == [202, 202, 429]
    assert scene.push(BODY, key)[2] == first[2]
    assert error_of(scene.push({**BODY, "ttl": 7}, key))["errno"] == Errno.CONFLICT
    unused = {"Idempotency-Key": f"l-{time.time_ns()}"}
    assert error_of(scene.push(BODY, unused))["errno"] == Errno.APP_QUOTA
    set_limits(scene, monkeypatch)
    again = scene.push(BODY, unused)
    assert again[0] == 202 and again[2] != first[2], "the refusal has not used up the key"


def test_a_full_queue_costs_no_quota(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits(scene, monkeypatch, app_pushes_per_day=1)

    def full(*_: object) -> None:
        raise ProducerFull

    with monkeypatch.context() as patch:
        patch.setattr(Producer, "submit", full)
        for _ in range(3):
            assert error_of(scene.push(BODY))["errno"] == Errno.BUSY
    assert scene.push(BODY)[0] == 202


def test_orders_that_wait_for_the_quota_are_in_the_memory_budget(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = scene.stage.service.backend
    assert backend is not None
    used: list[int] = []

    async def hanging(*_: object) -> int:
        used.append(backend.intake.waiting.used)
        await asyncio.sleep(3600)
        return 0

    monkeypatch.setattr(intake_module, "APPEND_S", 0.2)
    monkeypatch.setattr(stored, "take", hanging)
    assert error_of(scene.push({**BODY, "data": {"a": "x" * 5_000}}))["errno"] == Errno.STORE_AWAY
    assert used and used[0] > 5_000 and backend.intake.waiting.used == 0


def test_over_rpc(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits(scene, monkeypatch, app_pushes_per_day=1)
    request = rpc_pb2.PushRequest(
        app="shop",
        devices=[device_id(1, 5)],
        content=device_pb2.Content(data={"a": "b"}).SerializeToString(),
        ttl_s=60,
    )
    body = request.SerializeToString()

    async def push(body: bytes) -> bytes:
        return await scene.stage.service.push(body)

    assert rpc_pb2.PushReply.FromString(scene.stage.do(push(body))).push_id
    with pytest.raises(RpcError) as caught:
        scene.stage.do(push(body))
    assert (
        caught.value.code == "exceeded" and "day quota: beyond 1, again after" in caught.value.text
    )
    request.app = "other"
    scene.stage.do(push(request.SerializeToString()))
