"""Accepting: one append or one record, one winner of an idempotency key, unknown devices named."""

import asyncio
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.store import keys, pushes
from gateway.store.client import Store
from gateway.store.leases import Identity
from gateway.store.log import Pace
from gateway.store.pushes import Claim, PushPart, PushRecord, Winner, push_producer
from protocol.schema import log_pb2
from tests.gateway.store.sessions_desk import APP, SessionsDesk, registration
from tests.gateway.store.valkey import LossyProxy, Valkey, log_of

API = Identity("api", 1, 7)


def packed(*indexes: int) -> bytes:
    return struct.pack(f"<{len(indexes)}I", *indexes)


async def add_devices(store: Store, count: int) -> None:
    ups = [registration(n, installation=bytes((n,)) * 16) for n in range(1, count + 1)]
    await SessionsDesk(store).call(*ups)
    await store.call("DEL", keys.log(0))


def part(push_id: int, *indexes: int, content: bytes = b"c", app: int = APP) -> PushPart:
    head = log_pb2.Push(push_id=push_id, app=app, ttl_s=60).SerializeToString()
    return PushPart(push_id, app, head, packed(*indexes), content)


async def pushes_in_log(store: Store) -> list[log_pb2.Push]:
    return [
        push
        for _, record in await log_of(store, 0)
        for push in log_pb2.Record.FromString(record).pushes
    ]


# One partition: one append is the accept.


async def test_devices_the_app_does_not_have_are_named_and_the_rest_is_accepted(
    store: Store,
) -> None:
    await add_devices(store, 3)
    producer = push_producer(store, API, Pace(quiet_s=0))
    assert await producer.submit(0, part(1, 0, 7, 2, 2**31)) == packed(7, 2**31)
    assert await producer.submit(0, part(2, 0, 1, app=APP + 1)) == packed(0, 1)
    first, second = await pushes_in_log(store)
    assert (list(first.index), first.content, first.ttl_s) == ([0, 2], b"c", 60)
    assert list(second.index) == []


async def test_content_is_kept_for_who_gets_it_and_not_for_nobody(store: Store) -> None:
    await add_devices(store, 1)
    producer = push_producer(store, API, Pace(quiet_s=0))
    head = log_pb2.Push(push_id=3, app=APP, audience=b'"all"').SerializeToString()
    await asyncio.gather(
        producer.submit(0, part(1, 0, content=b"one")),
        producer.submit(0, part(2, 9, content=b"nobody's")),
        producer.submit(0, PushPart(3, APP, head, b"", b"all")),
        producer.submit(0, PushPart(4, APP, part(4).push, packed(0), b"")),
    )
    assert await pushes.contents(store, 0, [1, 2, 3, 4]) == [b"one", None, b"all", None]
    assert sorted(await pushes.content_ids(store, 0)) == [1, 3]
    await pushes.drop_contents(store, 0, [1])
    assert await pushes.content_ids(store, 0) == [3]


async def test_u64_push_ids_keep_every_bit(store: Store) -> None:
    await add_devices(store, 1)
    push_id = 2**64 - 1
    await push_producer(store, API, Pace(quiet_s=0)).submit(0, part(push_id, 0))
    assert await pushes.contents(store, 0, [push_id]) == [b"c"]
    assert [p.push_id for p in await pushes_in_log(store)] == [push_id]


async def test_a_push_whose_reply_is_lost_is_accepted_once_and_answered_the_same(
    valkey: Valkey, store: Store, short_path: Path
) -> None:
    await add_devices(store, 1)
    proxy = LossyProxy(short_path, valkey)
    await proxy.start()
    client = await Store.connect(proxy.url)
    proxy.lose_replies()
    assert await push_producer(client, API, Pace(quiet_s=0)).submit(0, part(1, 0, 9)) == packed(9)
    assert len(await pushes_in_log(store)) == 1
    await client.close()
    await proxy.stop()


async def test_asking_for_unknown_devices_appends_nothing(store: Store) -> None:
    await add_devices(store, 2)
    assert await pushes.unknown_devices(store, 0, APP, packed(0, 1, 2)) == packed(2)
    assert await log_of(store, 0) == []


# Several partitions, or a key: the record is claim and accept.


def record(push_id: int, targets: Mapping[int, bytes] | None = None, ttl_s: int = 60) -> PushRecord:
    found = {0: packed(1), 5: packed(2, 3)} if targets is None else targets
    return PushRecord(push_id, APP, ttl_s, b"", b"content", found)


def claim(push_id: int, body: str = "body") -> Claim:
    return Claim(pushes.claim_digest(APP, "key"), body, b"answer %d\x00 x" % push_id, 3600)


async def test_an_accepted_record_reads_back_and_is_open_until_every_partition_is_reached(
    store: Store,
) -> None:
    accepted_ms, _ = await pushes.accept(store, 3, record(7), None)
    assert accepted_ms is not None
    assert await pushes.read_record(store, 3, 7) == (record(7), accepted_ms)
    assert await pushes.record_content(store, 3, 7) == b"content"
    assert await pushes.overdue_fanouts(store, 3, accepted_ms) == [(accepted_ms, 7)]
    assert await pushes.overdue_fanouts(store, 3, accepted_ms - 1) == []
    assert await pushes.fanout_done(store, 3, 7, [5]) == 1
    assert await pushes.fanout_done(store, 3, 7, [5]) == 1, "reached once, counted once"
    assert await pushes.read_record(store, 3, 7) == (record(7, {0: packed(1)}), accepted_ms)
    assert await pushes.overdue_fanouts(store, 3, accepted_ms) == [(accepted_ms, 7)]
    assert await pushes.fanout_done(store, 3, 7, [0]) == 0
    assert await pushes.overdue_fanouts(store, 3, accepted_ms) == []
    assert await pushes.record_content(store, 3, 7) == b"content", "kept until it expires"


async def test_overdue_fan_outs_are_read_slice_after_slice_also_within_a_millisecond(
    store: Store,
) -> None:
    rows = [(1, 30), (2, 9), (2, 10), (2, 8), (2, 100), (3, 4), (4, 5)]
    for ms, push_id in rows:
        await store.call("ZADD", keys.fanouts(3), ms, push_id)
    whole = await pushes.overdue_fanouts(store, 3, 3)
    assert sorted(whole) == sorted(rows[:-1]) and [ms for ms, _ in whole] == [1, 2, 2, 2, 2, 3]
    for size in range(1, 7):
        found: list[pushes.Fanout] = []
        while got := await pushes.overdue_fanouts(store, 3, 3, found[-1] if found else None, size):
            assert len(got) <= size
            found += got
        assert found == whole, f"in slices of {size}"
    await store.call("ZREM", keys.fanouts(3), whole[2].push_id)
    assert await pushes.overdue_fanouts(store, 3, 3, whole[2]) == whole[3:], "finished meanwhile"


async def test_a_repetition_after_a_lost_reply_gives_the_first_ones_time(store: Store) -> None:
    for its_claim in (None, claim(7)):
        await store.call("FLUSHALL")
        first = await pushes.accept(store, 3, record(7), its_claim)
        await pushes.fanout_done(store, 3, 7, [0])
        again = await pushes.accept(store, 3, record(7), its_claim)
        assert again == first
        found = await pushes.read_record(store, 3, 7)
        assert found is not None and set(found[0].targets) == {5}, "what was reached stays reached"


async def test_of_two_at_once_with_one_key_one_wins_and_the_other_gets_its_answer(
    store: Store,
) -> None:
    others = [await store.another() for _ in range(4)]
    results = await asyncio.gather(
        *[
            pushes.accept(connection, 3, record(push_id), claim(push_id))
            for push_id, connection in enumerate(others, 100)
        ]
    )
    won = [push_id for push_id, (ms, _) in enumerate(results, 100) if ms is not None]
    assert len(won) == 1
    (winner,) = won
    losers = [result[1] for result in results if result[1] is not None]
    assert losers == [Winner(winner, "body", b"answer %d\x00 x" % winner)] * 3
    assert [i for _, i in await pushes.overdue_fanouts(store, 3, 2**60)] == [winner], (
        "the others left nothing"
    )
    for connection in others:
        await connection.close()


async def test_the_same_key_with_another_body_can_be_seen(store: Store) -> None:
    await pushes.accept(store, 3, record(7), claim(7))
    _, winner = await pushes.accept(store, 3, record(8), claim(8, "other body"))
    assert winner is not None and winner.body_digest == "body"


async def test_keys_are_named_within_their_app(store: Store) -> None:
    assert pushes.claim_digest(1, "k") != pushes.claim_digest(2, "k")
    assert pushes.claim_digest(1, "k") != pushes.claim_digest(1, "l")


async def test_records_and_keys_expire_after_the_push(store: Store) -> None:
    await pushes.accept(store, 3, record(7, ttl_s=100), claim(7))
    record_ms = await store.call("PTTL", keys.push_record(3, 7))
    assert 100_000 < record_ms <= 100_000 + 3_600_000
    key_ms = await store.call("PTTL", keys.idempotency(3, claim(7).key_digest))
    assert 3_590_000 < key_ms <= 3_600_000
    await store.call("DEL", keys.push_record(3, 7))
    assert await pushes.read_record(store, 3, 7) is None
    assert await pushes.fanout_done(store, 3, 7, []) == 0
    assert await pushes.overdue_fanouts(store, 3, 2**60) == []


@pytest.mark.parametrize("count", [1, 500, 1023, 1024])
async def test_a_push_to_every_partition_there_can_be(store: Store, count: int) -> None:
    targets = {p: packed(p) for p in range(count)}
    await pushes.accept(store, 3, record(7, targets), None)
    found = await pushes.read_record(store, 3, 7)
    assert found is not None and found[0].targets == targets
    assert await pushes.fanout_done(store, 3, 7, list(targets)) == 0
