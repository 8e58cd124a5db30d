"""One store on several servers: who gets what, and nothing lost or twice when they change."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from gateway.config import Config
from gateway.store import deployment, keys
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import Fenced, Replaced, StoreError, StoreUnavailable
from gateway.store.leases import Identity, Lease, Roster
from gateway.store.log import LogReader, Pace, append
from gateway.store.ownership import append_as_owner, take_fence
from gateway.store.slots import slot_of
from gateway.store.snapshots import Snapshots
from tests.gateway.store.cluster import ValkeyCluster
from tests.gateway.store.test_keys import live_through_everything
from tests.gateway.store.test_log import EDGE, record_producer
from tests.gateway.store.valkey import log_of
from tests.waiting import until

PATIENCE_S = 40.0
"""For a failover and what follows: machines that run tests are busy ones."""
ONE_A_SERVER = (14, 1, 0)
"""Partitions that lie, at first, on one primary each."""


class Appending:
    """Appends numbers to some partitions, one after the other, as long as the block lasts."""

    def __init__(self, store: Store, partitions: tuple[int, ...]) -> None:
        self.producer = record_producer(store, EDGE, "u", Pace(quiet_s=0, items=4))
        self.done: dict[int, list[bytes]] = {p: [] for p in partitions}
        """What was acknowledged."""
        self._tasks = [asyncio.create_task(self._go_on(p)) for p in partitions]
        self._enough = False

    async def _go_on(self, p: int) -> None:
        n = 0
        while not self._enough:
            n += 1
            record = b"%d," % n
            await self.producer.submit(p, record)
            self.done[p].append(record)

    async def more(self, count: int = 20) -> None:
        """Until so many more have been acknowledged everywhere."""
        before = {p: len(done) for p, done in self.done.items()}
        await until(
            lambda: all(len(done) >= before[p] + count for p, done in self.done.items()),
            wait_s=PATIENCE_S,
        )

    async def stop(self) -> None:
        self._enough = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), PATIENCE_S)


@asynccontextmanager
async def appending(store: Store, *partitions: int) -> AsyncIterator[Appending]:
    """Afterwards every log has what was acknowledged, in order, each once, and nothing else."""
    work = Appending(store, partitions)
    try:
        yield work
    finally:
        await work.stop()
    for p, done in work.done.items():
        assert b"".join(record for _, record in await log_of(store, p)) == b"".join(done)


# Who gets what.


async def test_every_function_works_on_the_server_that_has_its_partition(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    await live_through_everything(wide_store)
    producer = record_producer(wide_store, EDGE, "u", Pace())
    await asyncio.gather(*[producer.submit(p, b"x") for p in range(16)])
    kept = [server.ask("KEYS", "*") for server in cluster.primaries()]
    assert all(kept)
    for server, names in zip(cluster.primaries(), kept, strict=True):
        assert all(cluster.primary_of(name) is server for name in names)
        assert all(server.ask("CLUSTER KEYSLOT", name) == slot_of(name) for name in names)


async def test_a_command_that_names_no_key_is_refused_and_each_asks_everybody(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    with pytest.raises(StoreError, match="names no key"):
        await wide_store.call("FLUSHALL")
    told = await wide_store.each("PING")
    assert [reply for _, reply in told] == [b"PONG"] * 3
    assert {address.port for address, _ in told} == {s.port for s in cluster.primaries()}


async def test_any_one_of_its_servers_is_enough_to_find_the_others(
    cluster: ValkeyCluster,
) -> None:
    down, up = cluster.replica_of(cluster.primaries()[0]), cluster.primaries()[1]
    down.kill()
    for url in (
        f"redis://127.0.0.1:{up.port}",
        f"redis://127.0.0.1:{down.port},127.0.0.1:{up.port}",
    ):
        store = await Store.connect(url)
        for p in ONE_A_SERVER:
            assert await store.call("INCR", f"{{{p}}}:n")
        await store.close()
    with pytest.raises(StoreUnavailable, match="Connect call failed"):
        await Store.connect(f"redis://127.0.0.1:{down.port}", timeout_s=0.3)


# Slots that move.


async def test_a_producer_appends_each_once_while_its_slot_moves(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    async with appending(wide_store, *ONE_A_SERVER) as work:
        await work.more()
        key = keys.log(1)
        source, target = await asyncio.to_thread(cluster.begin_move, key)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(cluster.end_move, key, source, target)
        await work.more()
        assert cluster.primary_of(key) is target
    assert wide_store.losses == 1 and wide_store.up


async def test_a_key_that_has_moved_already_is_asked_for_where_it_is(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    await wide_store.call("SET", "{1}:moved", "a")
    await wide_store.call("SET", "{1}:stays", "b")
    move = cluster.begin_move("{1}:moved")
    replies = [wide_store.call("GET", key) for key in ("{1}:moved", "{1}:stays", "{1}:none")]
    assert await asyncio.gather(*replies) == [b"a", b"b", None]
    await wide_store.write("APPEND", "{1}:moved", "c")
    with pytest.raises(StoreUnavailable):  # one here, one there: time mends it
        await wide_store.call("MGET", "{1}:moved", "{1}:stays")
    assert wide_store.losses == 0, "the slot is still where it was"
    cluster.end_move("{1}:moved", *move)
    assert await wide_store.call("MGET", "{1}:moved", "{1}:stays") == [b"ac", b"b"]
    assert wide_store.losses == 1


async def test_commands_for_a_slot_that_has_moved_keep_their_order(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    await wide_store.call("DEL", "{1}:list")
    cluster.end_move("{1}:list", *cluster.begin_move("{1}:list"))
    calls = [wide_store.call("RPUSH", "{1}:list", n) for n in range(200)]
    assert await asyncio.gather(*calls) == list(range(1, 201))
    kept = await wide_store.call("LRANGE", "{1}:list", 0, -1)
    assert kept == [b"%d" % n for n in range(200)]


# A primary that dies.


async def test_what_was_acknowledged_survives_a_primary_and_stands_once(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    """And a reader that loads again where a partition has another primary sees all of it."""
    reader = FollowingReader(wide_store)
    async with appending(wide_store, *ONE_A_SERVER) as work:
        for p in ONE_A_SERVER:
            await reader.take(p)
        reading = asyncio.create_task(reader.run())
        await work.more()
        losses = wide_store.losses
        servers = {p: cluster.primary_of(keys.log(p)) for p in ONE_A_SERVER}
        retries = work.producer.retries_total
        cluster.cut_off(servers[1])
        # Executed by one that will not live to tell: the heir gets it from the producer.
        await until(lambda: work.producer.retries_total > retries)
        dead, heir = await asyncio.to_thread(cluster.fail_over, keys.log(1))
        # Until the heir has a replica it acknowledges nothing.
        await asyncio.to_thread(dead.start)
        await work.more()
        assert cluster.primary_of(keys.log(1)) is heir
    assert wide_store.losses > losses
    await reader.reach_the_ends()
    reading.cancel()
    assert sorted(reader.replaced) == sorted(p for p, server in servers.items() if server is dead)
    for p in ONE_A_SERVER:
        assert reader.got[p] == [record for _, record in await log_of(wide_store, p)]


async def test_a_primary_that_stood_still_and_comes_back_has_nothing_to_say(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    """What it had been sent it executes now, as a primary that it is no more."""
    reader = FollowingReader(wide_store)
    async with appending(wide_store, *ONE_A_SERVER) as work:
        await reader.take(1)
        reading = asyncio.create_task(reader.run())
        await work.more()
        primary = cluster.primary_of(keys.log(1))
        heir = cluster.replica_of(primary)
        with primary.frozen():
            await until(lambda: heir.replication()["role"] == "master", wait_s=PATIENCE_S)
        await work.more()
        assert cluster.primary_of(keys.log(1)) is heir
    await reader.reach_the_ends()
    reading.cancel()
    assert reader.replaced == [1]
    assert reader.got[1] == [record for _, record in await log_of(wide_store, 1)]


class FollowingReader:
    """Reads as an owner does: from the server that gave it its token, all over again from another."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reader = LogReader(store)
        self.got: dict[int, list[bytes]] = {}
        self.replaced: list[int] = []

    async def take(self, p: int) -> None:
        while True:
            try:
                fence = await take_fence(self._store, p, 1, 1)
            except (Fenced, StoreUnavailable):
                await asyncio.sleep(0.05)
            else:
                self.got[p] = []
                return self._reader.follow(p, "0-0", fence.given_by)

    async def run(self) -> None:
        while True:
            try:
                for entry in await self._reader.read():
                    self.got[entry.partition].append(entry.record)
            except Replaced as replaced:
                self.replaced.append(replaced.args[0])
                await self.take(replaced.args[0])

    async def reach_the_ends(self) -> None:
        for p, got in self.got.items():
            length = await self._store.call("XLEN", keys.log(p))
            await until(
                partial(lambda got, length: len(got) >= length, got, length), wait_s=PATIENCE_S
            )
        await self._reader.close()


async def test_without_its_replica_a_primary_acknowledges_nothing_but_leases_go_on(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    """What it has executed meanwhile counts once, when a replica has it."""
    replica = cluster.replica_of(cluster.primary_of(keys.LEASES))
    lease = await Lease.take(wide_store, StoreClock(), "node", 60.0, {})
    producer = record_producer(wide_store, EDGE, "u", Pace())
    with replica.frozen():
        waiting = producer.submit(0, b"x")
        await until(lambda: producer.retries_total >= 2)
        assert len(await log_of(wide_store, 0)) == 1, "it is there, but on one server only"
        assert not waiting.done()
        began = time.monotonic()
        await lease.renew()
        assert time.monotonic() - began < 0.5
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            await Lease.take(wide_store, StoreClock(), "node", 1.0, {})  # asked again for as long
    await asyncio.wait_for(waiting, PATIENCE_S)
    assert [record for _, record in await log_of(wide_store, 0)] == [b"x"]


async def test_what_gathers_shares_one_wait_and_a_refusal_disturbs_none(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    server = cluster.primary_of("{0}:n")
    await wide_store.write("SET", "{0}:text", "x")
    server.ask("CONFIG RESETSTAT")
    calls = [wide_store.write("INCR", "{0}:text" if n % 10 == 5 else "{0}:n") for n in range(100)]
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(r for r in replies if isinstance(r, int)) == list(range(1, 91))
    refused = [r for r in replies if isinstance(r, StoreError)]
    assert len(refused) == 10 and not any(isinstance(r, StoreUnavailable) for r in refused)
    assert server.client.info("commandstats")["cmdstat_wait"]["calls"] < 5


async def test_one_server_with_replicas_is_waited_for_as_well(store: Store) -> None:
    """It has none here."""
    careful = await Store.connect(store.url, timeout_s=3.0, replicas=1)
    assert await careful.call("SET", "{0}:n", 1) == b"OK"
    with pytest.raises(StoreUnavailable, match=r"0 of 1 replicas .*store\.replicas"):
        await careful.write("INCR", "{0}:n")
    with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
        await append(careful, 0, EDGE, channel="u", seq=1, record=b"x")
    with pytest.raises(
        StoreUnavailable, match="0 of 1 replicas"
    ):  # it is there; by whom is unknown
        await append(careful, 0, EDGE, channel="u", seq=1, record=b"x")
    assert await append(store, 0, EDGE, channel="u", seq=1, record=b"x") == b""
    await careful.close()


async def test_each_primary_has_to_keep_what_it_answers(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    config = Config()
    await deployment.establish(wide_store, config)
    careless = cluster.primary_of("{14}")
    careless.ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(deployment.DeploymentError, match=f"at 127.0.0.1:{careless.port}"):
            await deployment.establish(wide_store, config)
    finally:
        careless.ask("CONFIG SET", "maxmemory-policy", "noeviction")
    await deployment.establish(wide_store, config)


async def test_leases_stand_and_nobody_is_judged_through_a_failover(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    lease_s = 1.0
    clock = StoreClock()
    held = [await Lease.take(wide_store, clock, "edge", lease_s, {}) for _ in range(3)]
    keeping = [asyncio.create_task(lease.keep()) for lease in held]
    roster = Roster(wide_store, clock, lease_s)
    await roster.poll()
    dead, _ = await asyncio.to_thread(cluster.fail_over, keys.LEASES)
    await until(lambda: not any(lease.valid for lease in held))
    began = time.monotonic()
    while not (all(lease.valid for lease in held) and roster.may_judge(time.monotonic())):
        try:
            await roster.poll()
        except StoreUnavailable:
            pass
        assert roster.dead_edges(clock.now_ms()) == []
        await asyncio.sleep(0.02)
        assert time.monotonic() - began < PATIENCE_S
    await roster.poll()
    assert len(roster.live("edge", clock.now_ms())) == 3
    await asyncio.to_thread(dead.start)
    await asyncio.to_thread(cluster.heal)
    another = await Lease.take(wide_store, clock, "edge", lease_s, {})
    assert another.identity.number == 4
    assert another.identity.start > max(lease.identity.start for lease in held)
    for task in keeping:
        task.cancel()
    await asyncio.gather(*keeping, return_exceptions=True)


async def test_a_primary_that_hands_over_in_peace_is_followed_and_counts_as_a_break(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    """No connection is lost then."""
    async with appending(wide_store, 1) as work:
        await work.more()
        losses = wide_store.losses
        primary = cluster.primary_of(keys.log(1))
        heir = cluster.replica_of(primary)
        heir.ask("CLUSTER FAILOVER")
        await until(lambda: wide_store.losses > losses, wait_s=PATIENCE_S)
        await work.more()
        assert cluster.primary_of(keys.log(1)) is heir


# The owner of a partition.


async def test_an_owner_writes_only_to_the_server_that_gave_it_its_token(
    cluster: ValkeyCluster, wide_store: Store
) -> None:
    """The heir knows the token, but perhaps not all that the owner has folded."""
    node = Identity("node", 1, 1)
    fence = await take_fence(wide_store, 1, 1, 1)
    await append_as_owner(wide_store, 1, node, fence=fence, seq=1, record=b"before")
    dead, _ = await asyncio.to_thread(cluster.fail_over, keys.owner(1))
    await asyncio.to_thread(dead.start)
    await asyncio.to_thread(cluster.heal)
    await asyncio.wait_for(wide_store.wait_up(keys.owner(1)), PATIENCE_S)
    assert int(await wide_store.call("HGET", keys.owner(1), "fence")) == fence
    with pytest.raises(Fenced, match="another server"):
        await append_as_owner(wide_store, 1, node, fence=fence, seq=2, record=b"after")
    with pytest.raises(Fenced, match="another server"):
        await Snapshots(wide_store, 1, fence).write("9-0", [("a", b"a")])
    newer = await take_fence(wide_store, 1, 1, 1)
    assert newer > fence and newer.given_by != fence.given_by
    await append_as_owner(wide_store, 1, node, fence=newer, seq=3, record=b"again")
    assert [record for _, record in await log_of(wide_store, 1)] == [b"before", b"again"]
