"""Accepting pushes in a real store: what stands in the logs, and what lost replies do to it."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.api import appending
from gateway.api import intake as intake_module
from gateway.api.order import Order, size_of
from gateway.api.refused import Busy, IdempotencyConflict, LogIsFull, Unavailable
from gateway.api.shape import Shape
from gateway.dispatch.fanouts import Overdue
from gateway.lanes import HIGH
from gateway.store import keys
from gateway.store.client import Store
from gateway.store.errors import ProducerFull, StoreError
from gateway.store.log import Pace, Producer
from gateway.store.pushes import (
    PushPart,
    PushRecord,
    accept,
    contents,
    overdue_fanouts,
    read_record,
)
from protocol.ids import device_id, push_place
from tests.gateway.api_stage import PARTITIONS, CuttingProxy, StoreServer, all_pushes, pushes_in
from tests.gateway.intake.desk import APP, OTHER, desk, to
from tests.waiting import until

FAR_MS = 2**50

ALL = Order(APP, b'"all"', (), b"\x12\x00", 60)


# One append.


async def test_one_device_is_one_append(server: StoreServer, store: Store) -> None:
    async with desk(server.url) as one:
        accepted = await one.intake.push(to([device_id(2, 1)]))
    assert accepted.accepted == 1 and not accepted.unknown
    assert push_place(accepted.push_id) == (False, 2)
    logs = await all_pushes(store)
    (push,) = logs.pop(2)
    assert not any(logs.values())
    assert (push.push_id, push.app, push.ttl_s) == (accepted.push_id, APP.number, 60)
    assert not push.audience and list(push.index) == [1]
    assert push.content == b"\x12\x00" and push.accepted_ms == 0
    assert await contents(store, 2, [push.push_id]) == [b"\x12\x00"]
    assert one.intake.results.value("accepted") == 1


async def test_several_devices_of_one_partition_are_one_append(
    server: StoreServer, store: Store
) -> None:
    theirs, nobodys, beyond = device_id(1, 3), device_id(1, 999), device_id(PARTITIONS, 0)
    async with desk(server.url) as one:
        accepted = await one.intake.push(
            to([device_id(1, 2), theirs, device_id(1, 0), nobodys, beyond])
        )
    assert accepted.accepted == 2
    assert list(accepted.unknown) == [theirs, nobodys, beyond]
    (push,) = await pushes_in(store, 1)
    assert list(push.index) == [2, 0]


@pytest.mark.parametrize("device", [device_id(1, 999), device_id(PARTITIONS + 3, 0)])
async def test_a_push_to_nobody_is_there_all_the_same(
    server: StoreServer, store: Store, device: int
) -> None:
    async with desk(server.url) as one:
        accepted = await one.intake.push(to([device]))
    assert accepted.accepted == 0 and list(accepted.unknown) == [device]
    p = push_place(accepted.push_id).partition
    (push,) = await pushes_in(store, p)
    assert push.push_id == accepted.push_id and not push.index and not push.audience
    assert await contents(store, p, [push.push_id]) == [None]


async def test_everybody_of_a_single_partition_is_one_append(
    server: StoreServer, store: Store
) -> None:
    async with desk(server.url, partitions=1) as one:
        accepted = await one.intake.push(ALL)
    assert accepted.accepted is None and push_place(accepted.push_id) == (False, 0)
    (push,) = await pushes_in(store, 0)
    assert push.audience == ALL.audience and push.content == b"\x12\x00"


async def test_pushes_at_once_share_appends_and_keep_their_order(
    server: StoreServer, store: Store
) -> None:
    async with desk(server.url) as one:
        orders = [to([device_id(n % 2, 0)]) for n in range(200)]
        accepted = await asyncio.gather(*map(one.intake.push, orders))
    ids = [a.push_id for a in accepted]
    assert len(set(ids)) == 200 and ids == sorted(ids)
    for p in (0, 1):
        assert [push.push_id for push in await pushes_in(store, p)] == ids[p::2]
        assert await store.call("XLEN", keys.log(p)) < 20


# A push record and its fan-out.


async def check_spread(store: Store, push_id: int, indexes: dict[int, list[int]]) -> None:
    home = push_place(push_id).partition
    found = await read_record(store, home, push_id)
    assert found is not None
    record, accepted_ms = found
    assert record.targets == {} and record.content == b"\x12\x00"
    assert await overdue_fanouts(store, home, FAR_MS) == []
    logs = await all_pushes(store)
    assert {p: [list(push.index) for push in pushes] for p, pushes in logs.items() if pushes} == {
        p: [of] for p, of in indexes.items()
    }
    for pushes in logs.values():
        for push in pushes:
            assert (push.push_id, push.home, push.accepted_ms) == (push_id, home, accepted_ms)
            assert push.ttl_s == 60 and push.app == APP.number and not push.content


async def test_several_partitions_are_a_record_and_a_part_for_each(
    server: StoreServer, store: Store
) -> None:
    nobodys, gone = device_id(0, 77), device_id(3, 3)
    async with desk(server.url) as one:
        accepted = await one.intake.push(
            to([device_id(0, 1), nobodys, device_id(2, 0), device_id(2, 2), gone])
        )
    assert push_place(accepted.push_id).several
    assert accepted.accepted == 3 and set(accepted.unknown) == {nobodys, gone}
    await check_spread(store, accepted.push_id, {0: [1], 2: [0, 2]})


async def test_nobody_of_several_partitions_is_one_part_at_home(
    server: StoreServer, store: Store
) -> None:
    async with desk(server.url) as one:
        accepted = await one.intake.push(to([device_id(0, 77), device_id(3, 77)]))
    assert accepted.accepted == 0
    await check_spread(store, accepted.push_id, {push_place(accepted.push_id).partition: []})


async def test_everybody_is_a_part_for_every_partition(server: StoreServer, store: Store) -> None:
    async with desk(server.url) as one:
        accepted = await one.intake.push(ALL)
    await check_spread(store, accepted.push_id, {p: [] for p in range(PARTITIONS)})
    assert all(push.audience == b'"all"' for (push,) in (await all_pushes(store)).values())


async def test_homes_take_turns(server: StoreServer, store: Store) -> None:
    async with desk(server.url) as one:
        homes = {push_place((await one.intake.push(ALL)).push_id).partition for _ in range(4)}
    assert homes == set(range(PARTITIONS))


async def test_a_fan_out_that_fails_is_left_to_the_dispatch_nodes(
    server: StoreServer, store: Store
) -> None:
    async with desk(server.url) as one:
        await fence_off(store, one.seat.number)
        accepted = await one.intake.push(ALL)
        assert one.intake.fanouts_left_total == 1
    home = push_place(accepted.push_id).partition
    assert [i for _, i in await overdue_fanouts(store, home, FAR_MS)] == [accepted.push_id]
    found = await read_record(store, home, accepted.push_id)
    assert found is not None and set(found[0].targets) == set(range(PARTITIONS))


async def test_parts_of_accepted_pushes_find_room_where_new_pushes_find_none(
    server: StoreServer, store: Store
) -> None:
    for _ in range(20):
        await store.call("XADD", keys.log(1), "*", "r", b"")
    async with desk(server.url, log_records=20) as one:
        with pytest.raises(LogIsFull):
            await one.intake.push(to([device_id(1, 1)]))
        accepted = []
        for _ in range(PARTITIONS):  # the homes take turns, and one has the full log
            with contextlib.suppress(LogIsFull):
                accepted.append((await one.intake.push(ALL)).push_id)
        assert len(accepted) == PARTITIONS - 1 and one.intake.fanouts_left_total == 0
    assert [push.push_id for push in await pushes_in(store, 1)] == accepted


# Idempotency keys.


def keyed(order: Order, key: str = "k", body: str = "a" * 64) -> Order:
    return order._replace(idempotency_key=key, body_digest=body)


@pytest.mark.parametrize("order", [to([device_id(2, 1), device_id(2, 9)]), ALL], ids=["one", "all"])
async def test_the_same_key_gives_the_same_answer(
    server: StoreServer, store: Store, order: Order
) -> None:
    async with desk(server.url) as one, desk(server.url) as two:
        assert one.seat.number != two.seat.number
        first = await one.intake.push(keyed(order))
        again = [await d.intake.push(keyed(order)) for d in (one, two)]
        assert again == [first, first]
        assert (one.intake.results.value("repeated"), two.intake.results.value("repeated")) == (
            1,
            1,
        )
        assert (await two.intake.push(keyed(order, "other"))).push_id != first.push_id
        elsewhere = keyed(order._replace(app=OTHER))
        assert (await two.intake.push(elsewhere)).push_id != first.push_id
    pushes = (await all_pushes(store))[2]
    assert sum(push.push_id == first.push_id for push in pushes) == 1


async def test_calls_that_race_with_one_key_are_one_push(server: StoreServer, store: Store) -> None:
    async with desk(server.url) as one, desk(server.url) as two:
        order = to([device_id(0, 1), device_id(1, 1)])
        for n in range(20):
            calls = [d.intake.push(keyed(order, f"k{n}")) for d in (one, two, one, two)]
            answers = await asyncio.gather(*calls)
            assert len({a.push_id for a in answers}) == 1
    assert [len(pushes) for pushes in (await all_pushes(store)).values()] == [20, 20, 0, 0]


async def test_the_same_key_with_another_body_is_refused(server: StoreServer, store: Store) -> None:
    async with desk(server.url) as one:
        first = await one.intake.push(keyed(ALL))
        with pytest.raises(IdempotencyConflict) as caught:
            await one.intake.push(keyed(ALL, body="b" * 64))
        assert caught.value.push_id == first.push_id
    assert [len(pushes) for pushes in (await all_pushes(store)).values()] == [1, 1, 1, 1]


# Lost replies, a store that is away, full queues.


@pytest.mark.parametrize(
    "order",
    [
        to([device_id(2, 1)]),
        keyed(to([device_id(2, 1)])),
        to([device_id(0, 1), device_id(2, 1)]),
        ALL,
    ],
    ids=["append", "key", "list", "all"],
)
@pytest.mark.parametrize("skipped", [0, 1, 2, 3])
async def test_a_lost_reply_makes_no_second_push(
    server: StoreServer, store: Store, tmp_path: Path, order: Order, skipped: int
) -> None:
    proxy = CuttingProxy(tmp_path, server)
    await proxy.start()
    async with desk(proxy.url) as one:
        proxy.cut_reply_after(skipped)
        accepted = await one.intake.push(order)
        await one.intake.drain(5)
    await proxy.stop()
    logs = await all_pushes(store)
    wanted = set(range(PARTITIONS)) if order.audience else {d >> 32 for d in order.devices}
    assert {p for p, pushes in logs.items() if pushes} == wanted
    for p in wanted:
        assert [push.push_id for push in logs[p]] == [accepted.push_id]
    assert await overdue_fanouts(store, push_place(accepted.push_id).partition, FAR_MS) == []


async def test_a_frozen_store_is_unavailable_and_what_waits_comes_later_once(
    server: StoreServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "APPEND_S", 0.2)
    monkeypatch.setattr(intake_module, "ACCEPT_S", 0.2)
    async with desk(server.url) as one:
        with server.frozen():
            with pytest.raises(Unavailable) as caught:
                await one.intake.push(to([device_id(1, 1)]))
            assert one.intake.waiting.used > 0
            with pytest.raises(Unavailable):
                await one.intake.push(ALL)
        await until(lambda: one.intake.waiting.used == 0)
        accepted = await one.intake.push(to([device_id(1, 1)]))
    ids = [push.push_id for push in await pushes_in(store, 1) if not push.audience]
    assert ids == [caught.value.push_id, accepted.push_id]
    assert one.intake.results.value("refused") == 2


async def test_a_full_queue_is_busy(server: StoreServer, store: Store) -> None:
    async with desk(server.url, queue_max=4) as one:
        with server.frozen():
            waiting = [
                asyncio.create_task(one.intake.push(to([device_id(0, n % 3)]))) for n in range(4)
            ]
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await one.intake.push(to([device_id(1, 0)]))
        answers = await asyncio.gather(*waiting)
        with server.frozen():
            later = asyncio.create_task(one.intake.push(to([device_id(0, 0)])))
            await asyncio.sleep(0)
            with pytest.raises(Busy):  # four parts beside the one that waits are too many
                await one.intake.push(ALL)
        last = await later
    ids = [push.push_id for push in await pushes_in(store, 0)]
    assert ids == [a.push_id for a in (*answers, last)]


LARGE = b"\x12" * 20_000


@pytest.mark.parametrize(
    "order",
    [
        to([device_id(0, 0)], content=LARGE),
        to([device_id(0, 0)], content=LARGE, idempotency_key="k", body_digest="a" * 64),
        to([device_id(0, 0), device_id(1, 0)], content=LARGE),
        ALL._replace(content=LARGE),
    ],
    ids=["append", "key", "list", "all"],
)
async def test_bytes_that_wait_are_bounded_whichever_way_they_take(
    server: StoreServer, store: Store, order: Order
) -> None:
    limit = 3 * size_of(order, PARTITIONS)
    async with desk(server.url, waiting_bytes=limit) as one:
        with server.frozen():
            calls = [
                asyncio.create_task(
                    one.intake.push(
                        order._replace(idempotency_key=order.idempotency_key and f"k{n}")
                    )
                )
                for n in range(20)
            ]
            await asyncio.sleep(0.05)
            refused = [call for call in calls if call.done()]
            assert len(refused) == 17, "at once, not after waiting"
            assert all(isinstance(call.exception(), Busy) for call in refused)
            assert one.intake.waiting.used == limit
            if not order.audience:
                with pytest.raises(Busy):
                    await one.intake.check(order)
        answers = await asyncio.gather(*(call for call in calls if call not in refused))
        await one.intake.drain(5)
        assert len({answer.push_id for answer in answers}) == 3
        assert one.intake.waiting.used == 0
    assert one.intake.results.value("refused") == 17


async def test_what_the_caller_keeps_is_counted_with_the_order(
    server: StoreServer, store: Store
) -> None:
    async with desk(server.url, waiting_bytes=10_000) as one:
        with server.frozen():
            first = asyncio.create_task(one.intake.push(to([device_id(0, 0)]), 9_000))
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await one.intake.push(to([device_id(0, 0)]), 9_000)
        await first
        assert one.intake.waiting.used == 0


async def test_what_alone_is_over_the_limit_is_taken_alone(
    server: StoreServer, store: Store
) -> None:
    async with desk(server.url, waiting_bytes=1) as one:
        await one.intake.push(keyed(ALL))
        await one.intake.push(to([device_id(0, 0)]))
        assert one.intake.waiting.used == 0


async def test_a_fan_out_that_outlasts_its_answer_still_counts(
    server: StoreServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "FANOUT_S", 0.05)

    async def accept_and_freeze(*args: Any) -> Any:
        done = await accept(*args)
        frozen.enter_context(server.frozen())
        return done

    monkeypatch.setattr(intake_module, "accept", accept_and_freeze)
    async with desk(server.url) as one:
        with contextlib.ExitStack() as frozen:
            await one.intake.push(ALL)
            assert one.intake.waiting.used == size_of(ALL, PARTITIONS)
        await one.intake.drain(5)
        assert one.intake.waiting.used == 0


# What a dispatch node completes.


async def test_a_dispatch_node_writes_what_intake_would_have_written(
    server: StoreServer, store: Store
) -> None:
    record = PushRecord(
        5, APP.number, 60, ALL.audience, b"\x12\x00", dict.fromkeys(range(PARTITIONS), b"")
    )
    async with desk(server.url) as one:
        await fence_off(store, one.seat.number)
        accepted = [await one.intake.push(ALL)]
        await until(lambda: one.seat.taken_total == 2)
        producer = (await one.seat.taken()).producer
        home = push_place(accepted[0].push_id).partition
        for n in range(20):
            await accept(store, home, record._replace(push_id=record.push_id + n), None)
        assert await Overdue(store, producer).complete(home, FAR_MS) == 21
        assert await overdue_fanouts(store, home, FAR_MS) == []
    await all_alike(store, {accepted[0].push_id, *range(5, 25)})
    found = await read_record(store, home, accepted[0].push_id)
    assert found is not None and not found[0].targets


async def all_alike(store: Store, push_ids: set[int]) -> None:
    logs = await all_pushes(store)
    for pushes in logs.values():
        assert {push.push_id for push in pushes} == push_ids
        assert all(push.audience and push.accepted_ms and not push.content for push in pushes)


async def test_a_dispatch_node_keeps_the_shape_of_a_push(server: StoreServer, store: Store) -> None:
    shape = Shape(500, 0.1, HIGH, "match")
    async with desk(server.url) as one:
        await fence_off(store, one.seat.number)
        accepted = await one.intake.push(ALL._replace(options=shape.options(9)))
        await until(lambda: one.seat.taken_total == 2)
        producer = (await one.seat.taken()).producer
        home = push_place(accepted.push_id).partition
        assert await Overdue(store, producer).complete(home, FAR_MS) == 1
    for (push,) in (await all_pushes(store)).values():
        assert push.push_id == accepted.push_id and push.inbox_cap == 9
        assert (push.speed, push.holdout, push.priority, push.collapse_key) == shape


async def test_no_partition_of_a_fan_out_waits_for_another(
    server: StoreServer, store: Store
) -> None:
    sent: set[int] = set()
    everywhere = asyncio.Event()

    async def send(p: int, _: int, items: Sequence[PushPart]) -> list[bytes]:
        sent.add(p)
        if len(sent) == PARTITIONS:
            everywhere.set()
        await everywhere.wait()
        return [b""] * len(items)

    targets = dict.fromkeys(range(PARTITIONS), b"")
    await accept(store, 2, PushRecord(5, APP.number, 60, ALL.audience, b"c", targets), None)
    async with asyncio.timeout(5):
        assert await Overdue(store, Producer(send, Pace(), store)).complete(2, FAR_MS) == 1


@pytest.mark.parametrize("room", [2, PARTITIONS])
async def test_partitions_that_were_reached_are_noted_though_another_failed(
    server: StoreServer, store: Store, room: int
) -> None:
    async def send(p: int, _: int, items: Sequence[PushPart]) -> list[bytes]:
        if p == 3:
            raise StoreError("this one cannot")
        return [b""] * len(items)

    targets = dict.fromkeys(range(PARTITIONS), b"")
    await accept(store, 2, PushRecord(5, APP.number, 60, ALL.audience, b"c", targets), None)
    producer = Producer(send, Pace(waiting=room), store)
    with pytest.raises(ProducerFull if room == 2 else StoreError):
        await Overdue(store, producer).complete(2, FAR_MS)
    found = await read_record(store, 2, 5)
    assert found is not None and set(found[0].targets) == set(range(min(room, 3), PARTITIONS))


# Leases.


async def fence_off(store: Store, number: int) -> None:
    """As a later start of the same number would, by appending."""
    for p in range(PARTITIONS):
        for channel in ("pa", "fa"):
            await store.call("HSET", keys.producers(p), f"{number}{channel}", f"{2**40} 1")


async def test_a_fenced_producer_takes_another_lease_and_tries_once_more(
    server: StoreServer, store: Store
) -> None:
    async with desk(server.url) as one:
        before = one.seat.number
        await fence_off(store, before)
        accepted = await one.intake.push(to([device_id(1, 1)]))
        assert one.seat.taken_total == 2 and one.seat.number != before
    assert [push.push_id for push in await pushes_in(store, 1)] == [accepted.push_id]


async def test_a_lost_lease_is_followed_by_another(server: StoreServer, store: Store) -> None:
    async with desk(server.url, lease_s=0.3) as one:
        await one.intake.push(to([device_id(1, 1)]))
        await store.call("DEL", keys.LEASES, keys.LEASE_INFO)
        await until(lambda: one.seat.taken_total == 2)
        await one.intake.push(to([device_id(1, 1)]))
    assert len(await pushes_in(store, 1)) == 2


async def test_without_a_standing_lease_nothing_is_drawn(server: StoreServer, store: Store) -> None:
    async with desk(server.url, lease_s=0.3) as one:
        one.keeping.cancel()
        await until(lambda: one.seat.current is None)
        with pytest.raises(Unavailable):
            await one.intake.push(to([device_id(1, 1)]))
    assert await pushes_in(store, 1) == []


async def test_leaving_frees_the_number(server: StoreServer, store: Store) -> None:
    async with desk(server.url) as one:
        assert await store.call("ZCARD", keys.LEASES) == 1
        assert one.seat.number == 1
    assert await store.call("ZCARD", keys.LEASES) == 0


async def test_check_looks_and_pushes_nothing(server: StoreServer, store: Store) -> None:
    async with desk(server.url) as one:
        checked = await one.intake.check(to([device_id(0, 1), device_id(1, 9), device_id(9, 9)]))
        assert (checked.push_id, checked.accepted) == (0, 1)
        assert list(checked.unknown) == [device_id(1, 9), device_id(9, 9)]
        assert (await one.intake.check(ALL)).accepted is None
    assert not any((await all_pushes(store)).values())
