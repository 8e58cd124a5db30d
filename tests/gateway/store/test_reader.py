"""Reading logs without gaps, from whom they are to be read."""

import asyncio
import time

import pytest

from gateway.store import keys
from gateway.store.client import Store
from gateway.store.errors import Replaced, StoreUnavailable, Trimmed
from gateway.store.log import LogReader, tail
from gateway.store.ownership import take_fence
from gateway.store.snapshots import Snapshots
from tests.gateway.store.valkey import Valkey


async def stat(store: Store, name: str) -> int:
    """A number of INFO."""
    lines = (await store.call("INFO", "stats", "clients")).decode().splitlines()
    return int(dict(line.split(":", 1) for line in lines if ":" in line)[name])


async def blocked(store: Store) -> None:
    """Until somebody's read blocks."""
    async with asyncio.timeout(5):
        while not await stat(store, "blocked_clients"):
            await asyncio.sleep(0.002)


async def test_a_reader_gets_every_entry_once_and_in_order(store: Store) -> None:
    reader = LogReader(store, count=3, block_ms=20)
    reader.cursors = {0: "0-0", 1: "0-0"}
    wanted = {p: [b"%d/%d" % (p, n) for n in range(10)] for p in (0, 1)}
    got: dict[int, list[bytes]] = {0: [], 1: []}
    for n in range(10):
        for p in (0, 1):
            await store.call("XADD", keys.log(p), "*", "r", wanted[p][n])
    async with asyncio.timeout(5):
        while entries := await reader.read():
            for entry in entries:
                got[entry.partition].append(entry.record)
    assert got == wanted
    assert reader.cursors[1] == await tail(store, 1)
    await reader.close()


async def test_a_reader_knows_when_it_stood_at_the_end_of_a_log(own_valkey: Valkey) -> None:
    store = await Store.connect(own_valkey.url)
    reader = LogReader(store, count=2, block_ms=20)
    reader.cursors = {0: "0-0", 1: "0-0"}
    for p in (0, 0, 0, 1):
        await store.call("XADD", keys.log(p), "*", "r", "x")
    began = time.monotonic()
    assert len(await reader.read()) == 3
    assert reader.at_end.keys() == {1}, "there may be more than two of the other"
    assert len(await reader.read()) == 1
    at_end = reader.at_end
    assert at_end.keys() == {0, 1} and began <= at_end[0] <= time.monotonic()
    assert await reader.read() == []
    assert reader.at_end[0] >= at_end[0] and reader.at_end.keys() == {0, 1}
    own_valkey.kill()
    for _ in range(3):
        await reader.read()
    assert reader.at_end == {}, "nobody has answered"
    await reader.close()
    await store.close()


async def test_entries_of_a_partition_given_up_meanwhile_are_dropped(store: Store) -> None:
    reader = LogReader(store, block_ms=5000)
    reader.cursors = {0: "0-0"}
    reading = asyncio.create_task(reader.read())
    await blocked(store)
    del reader.cursors[0]
    await store.call("XADD", keys.log(0), "*", "r", "x")
    assert await reading == []
    assert reader.cursors == {}
    await reader.close()


async def snapshots_that_trim(store: Store, upto: str) -> None:
    """Two snapshots: the log is trimmed up to the first of them."""
    snapshots = Snapshots(store, 0, await take_fence(store, 0, 1, 1))
    await snapshots.write(upto, [])
    await snapshots.write(await tail(store, 0), [])


async def test_a_reader_behind_the_trim_hears_of_it_though_the_store_says_nothing(
    store: Store,
) -> None:
    positions = [(await store.call("XADD", keys.log(0), "*", "r", n)).decode() for n in range(10)]
    await snapshots_that_trim(store, positions[5])

    silent = await store.call("XREAD", "STREAMS", keys.log(0), positions[2])
    first_id, fields = silent[0][1][0]
    assert (first_id.decode(), fields[1]) == (positions[5], b"5"), "3 and 4 are gone, no error"

    reader = LogReader(store, block_ms=20)
    reader.cursors = {0: positions[2]}
    with pytest.raises(Trimmed) as trimmed:
        await reader.read()
    assert trimmed.value.args == (0,)
    # One that stands exactly at the trim misses nothing.
    reader.cursors = {0: positions[5]}
    assert [entry.record for entry in await reader.read()] == [b"6", b"7", b"8", b"9"]
    await reader.close()


async def test_a_reader_behind_an_emptied_log_hears_of_it_too(store: Store) -> None:
    await store.call("XADD", keys.log(0), "5-0", "r", "x")
    await store.call("SET", keys.trimmed(0), "6-0")
    await store.call("XTRIM", keys.log(0), "MAXLEN", 0)
    assert await tail(store, 0) == "6-0"
    reader = LogReader(store, block_ms=10)
    reader.cursors = {0: "5-0"}
    with pytest.raises(Trimmed):
        await reader.read()
    await reader.close()


async def test_a_blocking_read_ends_before_its_connection_is_given_up(store: Store) -> None:
    hasty = await Store.connect(store.url, timeout_s=3.0)
    reader = LogReader(hasty, block_ms=60_000)
    reader.cursors = {0: "0-0"}
    connections = await stat(store, "total_connections_received")
    async with asyncio.timeout(10):
        assert await reader.read() == []
    assert await stat(store, "total_connections_received") == connections + 1, "its own"
    await hasty.close()


# Partitions that come, and servers that change.


@pytest.fixture
async def both_stores(store: Store, wide_store: Store) -> tuple[Store, Store]:
    return store, wide_store


async def some(reader: LogReader) -> list[tuple[int, bytes]]:
    """The next entries, however long they take."""
    async with asyncio.timeout(10):
        while not (entries := await reader.read()):
            pass
    return [(entry.partition, entry.record) for entry in entries]


async def test_a_partition_that_is_added_is_read_at_once(
    both_stores: tuple[Store, Store],
) -> None:
    """Though the read under way would block for longer."""
    for store in both_stores:
        reader = LogReader(store, block_ms=2000)
        reader.follow(0, "0-0")
        await store.call("XADD", keys.log(1), "*", "r", "x")
        reading = asyncio.create_task(some(reader))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        reader.follow(1, "0-0")
        assert await reading == [(1, b"x")]
        assert time.monotonic() - began < 0.5
        # The one that was being read misses nothing by it.
        await store.call("XADD", keys.log(0), "*", "r", "y")
        assert await some(reader) == [(0, b"y")]
        await reader.close()


async def test_a_server_that_started_again_is_another_one(own_valkey: Valkey) -> None:
    store = await Store.connect(own_valkey.url)
    reader = LogReader(store, block_ms=1000)
    await store.call("XADD", keys.log(0), "*", "r", "x")
    for p in (0, 1):
        reader.follow(p, "0-0", (await take_fence(store, p, 1, 1)).given_by)
    assert [entry.record for entry in await reader.read()] == [b"x"]
    own_valkey.kill()
    own_valkey.start()
    replaced = set()
    for _ in range(2):
        with pytest.raises(Replaced) as told:
            await some(reader)
        (p,) = told.value.args
        replaced.add(p)
        await store.wait_up()
        reader.follow(p, "0-0", (await take_fence(store, p, 1, 1)).given_by)
    assert replaced == {0, 1}
    assert [entry.record for entry in await reader.read()] == [b"x"]
    await store.call("XADD", keys.log(1), "*", "r", "y")
    assert [entry.record for entry in await reader.read()] == [b"y"]
    await store.close()


async def test_a_server_that_was_a_replica_meanwhile_is_another_one(own_valkey: Valkey) -> None:
    """The process is the same; what it had not passed on is gone."""
    store = await Store.connect(own_valkey.url)
    reader = LogReader(store, block_ms=1000)
    reader.follow(0, "0-0", (await take_fence(store, 0, 1, 1)).given_by)
    reading = asyncio.create_task(some(reader))
    await blocked(store)
    await store.call("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StoreUnavailable):
        await take_fence(store, 0, 1, 1)
    with pytest.raises(StoreUnavailable, match="replica"):
        await Store.connect(own_valkey.url, timeout_s=0.2)
    own_valkey.ask(b"REPLICAOF NO ONE")
    with pytest.raises(Replaced):
        await asyncio.wait_for(reading, 10)
    await asyncio.wait_for(store.wait_up(), 10)
    assert await take_fence(store, 0, 1, 1)
    await reader.close()
    await store.close()


async def test_a_history_that_only_gets_another_name_is_taken_anew_once(
    valkey: Valkey, store: Store
) -> None:
    """As when a server gets its first replica: it is the same server to those who ask it now."""
    reader = LogReader(store, block_ms=50)
    await store.call("XADD", keys.log(0), "*", "r", "x")
    first = await take_fence(store, 0, 1, 1)
    reader.follow(0, "0-0", first.given_by)
    assert [entry.record for entry in await reader.read()] == [b"x"]
    await store.call("DEBUG", "CHANGE-REPL-ID")
    second = await take_fence(store, 1, 1, 1)
    assert second.given_by != first.given_by
    reader.follow(1, "0-0", second.given_by)
    await store.call("XADD", keys.log(1), "*", "r", "y")
    with pytest.raises(Replaced) as told:
        await some(reader)
    assert told.value.args == (0,)
    reader.follow(0, "0-0", (await take_fence(store, 0, 1, 1)).given_by)
    got: list[tuple[int, bytes]] = []
    while len(got) < 2:
        got += await some(reader)
    assert sorted(got) == [(0, b"x"), (1, b"y")]
    await reader.close()
