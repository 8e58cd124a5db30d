"""Appending once and in order."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.partition import Partition
from gateway.store import log
from gateway.store.client import Store
from gateway.store.errors import Fenced, ProducerFull, StoreError, StoreUnavailable
from gateway.store.leases import Identity
from gateway.store.log import Pace, Producer, position_key
from protocol.schema import log_pb2
from tests.gateway.store.valkey import LossyProxy, Valkey, log_of
from tests.waiting import until

EDGE = Identity("edge", 1, 10)


def record_producer(
    store: Store, identity: Identity, channel: str, pace: Pace
) -> Producer[bytes, bytes]:
    """Its items are encoded parts of a record; the result is the entry's id."""

    async def send(p: int, seq: int, items: Sequence[bytes]) -> list[bytes]:
        record = b"".join(items)
        entry_id = await log.append(store, p, identity, channel=channel, seq=seq, record=record)
        return [entry_id] * len(items)

    return Producer(send, pace, store)


def tagged(change: int, *tags: str) -> bytes:
    profile = log_pb2.Profile(index=0, change=change, tags=tags)
    return log_pb2.Record(profiles=[profile]).SerializeToString()


async def append(store: Store, seq: int, record: bytes, identity: Identity = EDGE) -> bytes:
    """One call of the store function, as a producer makes it."""
    return await log.append(store, 0, identity, channel="u", seq=seq, record=record)


# Appending once.


@pytest.mark.parametrize("losses", [1, 3])
async def test_an_append_whose_reply_is_lost_stands_once_in_the_log(
    valkey: Valkey, store: Store, short_path: Path, losses: int
) -> None:
    proxy = LossyProxy(short_path, valkey)
    await proxy.start()
    client = await Store.connect(proxy.url)
    producer = record_producer(client, EDGE, "u", Pace())
    await producer.submit(0, b"first")
    proxy.lose_replies(losses)
    await asyncio.wait_for(producer.submit(0, b"second"), 10)
    await producer.submit(0, b"third")
    assert [record for _, record in await log_of(store, 0)] == [b"first", b"second", b"third"]
    assert proxy.lost == losses and producer.retries_total >= losses
    await client.close()
    await proxy.stop()


async def test_a_repeated_add_after_a_remove_does_not_turn_history(store: Store) -> None:
    await append(store, 1, tagged(1, "vip"))
    await append(store, 2, tagged(2))
    assert await append(store, 1, tagged(1, "vip")) == b"", "dropped: its seq was there before"
    assert await append(store, 2, tagged(2)) == b""
    assert [record for _, record in await log_of(store, 0)] == [tagged(1, "vip"), tagged(2)]


async def test_an_older_start_of_a_producer_can_append_no_more(store: Store) -> None:
    await append(store, 1, b"new", Identity("edge", 1, 11))
    with pytest.raises(Fenced):
        await append(store, 99, b"old", Identity("edge", 1, 10))
    # The new start counts its own seqs, from 1; other channels and numbers are others' affair.
    assert await append(store, 2, b"new", Identity("edge", 1, 11))
    assert await append(store, 1, b"other", Identity("edge", 2, 10))


async def test_seqs_beyond_a_signed_32_bit_number_are_compared_as_numbers(store: Store) -> None:
    await append(store, 9, b"a")
    assert await append(store, 10, b"b"), "10 comes after 9, though not as text"
    await append(store, 2**40, b"c")
    assert await append(store, 2**40, b"c") == b""
    assert await append(store, 2**40 + 1, b"d")


# The producer.


class Desk:
    """What a producer sends, kept here; `open` holds its calls back."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, list[int]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.open: dict[int, int] = {}
        self.most_open = 0

    async def send(self, p: int, seq: int, items: Sequence[int]) -> list[int]:
        self.open[p] = self.open.get(p, 0) + 1
        self.most_open = max(self.most_open, self.open[p])
        self.calls.append((p, seq, list(items)))
        await self.gate.wait()
        self.open[p] -= 1
        return [item * 10 for item in items]


async def test_one_call_is_open_for_each_partition_numbered_and_in_order(store: Store) -> None:
    desk = Desk()
    desk.gate.clear()
    producer = Producer(desk.send, Pace(quiet_s=0, items=4), store)
    futures = [producer.submit(p, n) for n in range(10) for p in (0, 1)]
    await until(lambda: len(desk.calls) == 2)
    desk.gate.set()
    results = await asyncio.gather(*futures)
    assert results == [n * 10 for n in range(10) for _ in (0, 1)]
    assert desk.most_open == 1
    for p in (0, 1):
        mine = [(seq, items) for q, seq, items in desk.calls if q == p]
        assert [seq for seq, _ in mine] == list(range(1, len(mine) + 1))
        assert [item for _, items in mine for item in items] == list(range(10))
        assert all(len(items) <= 4 for _, items in mine)
    assert producer.waiting == 0


async def test_a_full_queue_refuses_and_takes_nothing(store: Store) -> None:
    desk = Desk()
    producer = Producer(desk.send, Pace(quiet_s=0, waiting=3), store)
    kept = [producer.submit(p, p) for p in range(3)]
    with pytest.raises(ProducerFull):
        producer.submit(0, 99)
    await asyncio.gather(*kept)
    assert await producer.submit(0, 4) == 40, "room again"
    assert 99 not in [item for _, _, items in desk.calls for item in items]


async def test_a_call_holds_at_most_its_bytes_and_one_larger_item_goes_alone(store: Store) -> None:
    desk = Desk()
    producer = Producer(desk.send, Pace(quiet_s=0, bytes=100), store)
    sizes = [60, 60, 40, 500, 1]
    await asyncio.gather(*[producer.submit(0, n, size) for n, size in enumerate(sizes)])
    assert [items for _, _, items in desk.calls] == [[0], [1, 2], [3], [4]]


async def test_what_nobody_waits_for_any_more_leaves_its_batch(store: Store) -> None:
    desk = Desk()
    told: list[int] = []
    gone = {1, 3}
    producer = Producer(
        desk.send,
        Pace(quiet_s=0),
        store,
        wanted=lambda item: item not in gone,
        done=lambda _p, items, _results: told.extend(items),
    )
    for n in range(5):
        producer.put(0, n)
    await producer.drain()
    assert told == [0, 2, 4] == [item for _, _, items in desk.calls for item in items]
    assert producer.waiting == 0


async def test_gathering_grows_under_load_and_shrinks_when_quiet(store: Store) -> None:
    """What the store pays for is calls: many partitions must not become many calls a second."""
    loop = asyncio.get_running_loop()
    desk = Desk()
    producer = Producer(desk.send, Pace(quiet_s=0.001, busy_s=0.1), store)
    began = loop.time()
    while loop.time() < began + 0.4:  # 16 partitions, always something to say
        for p in range(16):
            producer.put(p, 0)
        await asyncio.sleep(0.001)
    before, at = producer.calls_total, loop.time()
    while loop.time() < at + 0.3:
        for p in range(16):
            producer.put(p, 0)
        await asyncio.sleep(0.001)
    assert (producer.calls_total - before) / 0.3 < 1000
    await producer.drain()

    async def latency() -> float:
        asked = loop.time()
        await producer.submit(0, 1)
        return loop.time() - asked

    async with asyncio.timeout(5):
        while await latency() > 0.01:
            pass


async def test_a_fenced_producer_keeps_what_it_has_not_sent_for_the_next_incarnation(
    store: Store,
) -> None:
    calls = 0

    async def send(_p: int, _seq: int, _items: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        raise Fenced("FENCED")

    producer = Producer(send, Pace(quiet_s=0, items=2), store)
    for n in range(5):
        producer.put(0, n)
    await until(lambda: producer.fenced is not None)
    for _ in range(20):  # time enough for it to go on, which it must not
        await asyncio.sleep(0.001)
    assert [item for _, item in producer.leftovers()] == [0, 1, 2, 3, 4]
    assert calls == 1
    with pytest.raises(Fenced):
        await producer.submit(0, 6)
    await asyncio.wait_for(producer.drain(), 1)
    producer.close()


async def test_a_refusal_fails_its_own_batch_only(store: Store) -> None:
    async def send(p: int, _seq: int, items: Sequence[int]) -> list[int]:
        if p == 1:
            raise StoreError("WRONGTYPE")
        return list(items)

    producer = Producer(send, Pace(quiet_s=0), store)
    bad, good = producer.submit(1, 1), producer.submit(0, 7)
    with pytest.raises(StoreError):
        await bad
    assert await good == 7 and await producer.submit(0, 8) == 8
    assert producer.waiting == 0


# Reading.


@given(st.lists(st.tuples(st.integers(0, 2**48), st.integers(0, 2**32)), min_size=2, max_size=2))
def test_positions_compare_in_log_order(pair: list[tuple[int, int]]) -> None:
    first, second = pair
    text = [f"{ms}-{seq}" for ms, seq in pair]
    assert (position_key(text[0]) < position_key(text[1])) == (first < second)


async def test_folding_what_a_producer_wrote_gives_what_it_was_told(store: Store) -> None:
    """Records are built by concatenating encoded parts."""
    producer = record_producer(store, EDGE, "u", Pace(quiet_s=0))
    receipts = log_pb2.Record(
        receipts=[log_pb2.Receipts(push_id=7, state=1, index=[0])]
    ).SerializeToString()
    await asyncio.gather(producer.submit(0, tagged(1, "a")), producer.submit(0, receipts))
    ((position, record),) = await log_of(store, 0)
    partition = Partition(0)
    effects = partition.fold(position, record)
    assert effects.receipted == {0}
    assert len(log_pb2.Record.FromString(record).profiles) == 1


async def test_a_store_that_is_away_stops_nothing_but_time(own_valkey: Valkey) -> None:
    """What waits for the store when it dies is appended once when it is back."""
    client = await Store.connect(own_valkey.url)
    producer = record_producer(client, EDGE, "u", Pace(quiet_s=0))
    await producer.submit(0, b"before")
    own_valkey.kill()
    waiting = producer.submit(0, b"while it was down")
    with pytest.raises(StoreUnavailable):
        await client.call("PING")
    own_valkey.start()
    await asyncio.wait_for(waiting, 10)
    assert [r for _, r in await log_of(client, 0)] == [b"before", b"while it was down"]
    await client.close()
