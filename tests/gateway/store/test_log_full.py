"""A log has a length beyond which it takes nothing: pushes first, registrations last, owners never."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.store import keys, log, ownership, pushes
from gateway.store.client import Store
from gateway.store.errors import LogFull, StoreUnavailable
from gateway.store.leases import Identity
from gateway.store.log import Pace, Producer, Room
from gateway.store.pushes import Claim, PushPart, PushRecord, Winner, push_producer
from tests.gateway.store.sessions_desk import SessionsDesk, registration
from tests.gateway.store.valkey import Valkey, log_of
from tests.waiting import until

LIMIT = 4
EDGE = Identity("edge", 1, 10)
API = Identity("api", 1, 5)
NODE = Identity("node", 1, 5)
PART = PushPart(7 << 11, 1, b"", b"", b"")


@pytest.fixture
async def small(store: Store, valkey: Valkey) -> AsyncIterator[Store]:
    """The same store, for processes whose limit is small."""
    small = await Store.connect(valkey.url, log_records=LIMIT)
    yield small
    await small.close()


async def fill(store: Store, entries: int) -> None:
    for _ in range(entries):
        await store.call("XADD", keys.log(0), "*", "r", b"")


async def shorten(store: Store) -> None:
    """As the commit of a snapshot does."""
    await store.call("XTRIM", keys.log(0), "MAXLEN", 0)


async def report(store: Store, seq: int) -> bytes:
    return await log.append(store, 0, EDGE, channel="u", seq=seq, record=b"r")


def test_pushes_stop_first_and_registrations_last(store: Store) -> None:
    store.log_records = 1_000
    assert [room.of(store) for room in Room] == [1_000, 1_250, 1_500]
    store.log_records = 0
    assert [room.of(store) for room in Room] == [0, 0, 0], "no limit"


async def test_who_finds_room_in_a_log_that_gets_longer(small: Store) -> None:
    fence = await ownership.take_fence(small, 0, NODE.number, NODE.start)
    desk = SessionsDesk(small)
    producer = push_producer(small, API, Pace(quiet_s=0))
    await fill(small, LIMIT - 1)
    await producer.submit(0, PART)  # the last that fits
    with pytest.raises(LogFull, match=f"{LIMIT} entries"):
        await producer.submit(0, PART)
    assert producer.full_total == 1
    await report(small, 1)
    with pytest.raises(LogFull):
        await report(small, 2)
    await desk.up(registration())
    with pytest.raises(TimeoutError):  # it waits, as its device does
        async with asyncio.timeout(0.2):
            await desk.down(0, 1)
    assert len(await log_of(small, 0)) == LIMIT + 2
    # What makes the state smaller, and in the end the log, is always taken.
    await ownership.append_as_owner(small, 0, NODE, fence=fence, seq=1, record=b"due")
    await ownership.declare_edge_down(small, 0, fence=fence, edge=1, start=10, record=b"r")
    with pytest.raises(LogFull):
        await ownership.append_as_owner(
            small, 0, NODE, fence=fence, seq=2, record=b"tags", room=Room.PUSHES
        )
    assert len(await log_of(small, 0)) == LIMIT + 4


async def test_a_call_that_was_refused_was_never_made(small: Store) -> None:
    await fill(small, LIMIT + 1)
    with pytest.raises(LogFull):
        await report(small, 1)
    await shorten(small)
    assert await report(small, 1), "the same seq, and new"
    assert await report(small, 1) == b""


async def test_a_call_that_was_made_is_answered_by_a_full_log_too(small: Store) -> None:
    assert await report(small, 1)
    await fill(small, 3 * LIMIT)
    assert await report(small, 1) == b"", "its reply had been lost"


async def test_what_its_senders_keep_waits_for_room(small: Store) -> None:
    async def send(p: int, seq: int, items: object) -> list[None]:
        await report(small, seq)
        return [None]

    done: list[int] = []
    producer: Producer[int, None] = Producer(
        send, Pace(quiet_s=0), small, done=lambda p, items, results: done.extend(items)
    )
    await fill(small, LIMIT + 1)
    producer.put(0, 77)
    await until(lambda: producer.full_total >= 2)
    assert not done and producer.waiting == 1
    await shorten(small)
    await producer.drain()
    assert done == [77] and len(await log_of(small, 0)) == 1


async def test_a_push_record_is_refused_with_the_log_of_its_home(small: Store) -> None:
    async def accepting(push_id: int, key: str) -> tuple[int | None, Winner | None]:
        record = PushRecord(push_id, 1, 60, b"", b"c", {0: b"\0\0\0\0", 1: b"\0\0\0\0"})
        return await pushes.accept(small, 0, record, Claim(key, "body", b"answer", 60))

    first = await accepting(7 << 11, "one")
    await fill(small, LIMIT)
    assert await accepting(7 << 11, "one") == first, "repeated after a lost reply"
    _, winner = await accepting(8 << 11, "one")
    assert winner == Winner(7 << 11, "body", b"answer"), "the key's answer is there as ever"
    with pytest.raises(LogFull):
        await accepting(9 << 11, "two")
    assert await small.call("EXISTS", keys.push_record(0, 9 << 11)) == 0
    assert await small.call("EXISTS", keys.idempotency(0, "two")) == 0
    await shorten(small)
    assert (await accepting(9 << 11, "two"))[1] is None


async def test_accepted_parts_that_wait_for_the_logs_of_others_are_bounded_too(
    small: Store,
) -> None:
    for number in range(LIMIT):
        record = PushRecord((number + 1) << 11, 1, 60, b"", b"c", {1: b"\0\0\0\0"})
        await pushes.accept(small, 0, record, None)
    with pytest.raises(LogFull):
        await pushes.accept(small, 0, PushRecord(99 << 11, 1, 60, b"", b"c", {1: b""}), None)
    await pushes.fanout_done(small, 0, 1 << 11, [1])
    await pushes.accept(small, 0, PushRecord(99 << 11, 1, 60, b"", b"c", {1: b""}), None)


@pytest.mark.parametrize("bringing", [API, NODE])
async def test_new_pushes_do_not_take_the_place_of_accepted_ones(
    small: Store, bringing: Identity
) -> None:
    await fill(small, LIMIT)
    with pytest.raises(LogFull):
        await push_producer(small, API, Pace(quiet_s=0)).submit(0, PART)
    parts = push_producer(small, bringing, Pace(quiet_s=0), accepted=True)
    await parts.submit(0, PART)
    with pytest.raises(LogFull):
        await parts.submit(0, PART)


async def test_a_full_log_behind_a_lost_reply_is_no_refusal(small: Store) -> None:
    """What was tried before may still be on its way to the store, and find room there."""
    tries: list[int] = []

    async def send(p: int, seq: int, items: object) -> list[None]:
        tries.append(seq)
        raise StoreUnavailable("the reply was lost") if len(tries) == 1 else LogFull("full")

    producer: Producer[int, None] = Producer(send, Pace(quiet_s=0), small, refusing=True)
    with pytest.raises(StoreUnavailable, match="outcome unknown") as raised:
        await producer.submit(0, 1)
    assert not isinstance(raised.value, LogFull) and tries == [1, 1]
