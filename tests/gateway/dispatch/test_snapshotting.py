"""Snapshots written beside the fold, to the real store; and loaded again."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from gateway import slices
from gateway.config import Dispatch
from gateway.dispatch import owned, pieces
from gateway.dispatch.campaign import RECEIVED
from gateway.dispatch.contents import Contents
from gateway.dispatch.footprint import Footprint
from gateway.dispatch.links import Links
from gateway.dispatch.owned import Owned, Surroundings
from gateway.dispatch.partition import Partition
from gateway.dispatch.snapshotting import Snapshotting
from gateway.dispatch.unanswered import Unanswered
from gateway.lanes import WEIGHTS
from gateway.store.client import Store
from gateway.store.errors import StoreUnavailable
from gateway.store.leases import Identity
from gateway.store.log import Entry
from gateway.store.ownership import take_fence
from gateway.store.snapshots import Snapshots
from tests.gateway.dispatch import records
from tests.gateway.dispatch.nodes import config, hasten, running
from tests.gateway.dispatch.records import Log, known
from tests.gateway.store.valkey import log_of
from tests.waiting import until

SECONDS = 60.0


async def written_by(store: Store, partition: Partition) -> Snapshotting:
    """As an owner that has just taken the partition over."""
    snapshots = Snapshots(store, 0, await take_fence(store, 0, 1, 1))
    return Snapshotting(
        partition, snapshots, Dispatch(snapshot_records=1000, snapshot_s=int(SECONDS))
    )


async def loaded(store: Store, entries: Sequence[tuple[str, bytes]] = ()) -> dict[str, Any]:
    """What the next owner knows: the snapshot, and the log from there on."""
    snapshot = await Snapshots(store, 0, 0).load()
    assert snapshot is not None
    partition = Partition(0)
    pieces.restore(partition, snapshot.position, snapshot.pieces)
    after = [position for position, _ in entries].index(snapshot.position) + 1 if entries else 0
    for position, record in entries[after:]:
        partition.fold(position, record)
    return known(partition)


@contextmanager
def stuck(store: Store, script: str, after: int = 0) -> Iterator[asyncio.Event]:
    """Calls of a script never return, after so many that do; the event: it is stuck."""
    at, calls, run = asyncio.Event(), 0, store.run

    async def hanging(name: str, *arguments: Any, **place: Any) -> Any:
        nonlocal calls
        calls += name == script
        if name == script and calls > after:
            at.set()
            await asyncio.Event().wait()
        return await run(name, *arguments, **place)

    store.run = hanging  # type: ignore[method-assign]
    yield at
    store.run = run  # type: ignore[method-assign]


def filled() -> Log:
    """A partition of many pieces."""
    log = Log()
    log.fold(records.sessions(1, range(0, 400, 2)), records.sessions(2, range(1, 400, 2)))
    log.fold(*[records.tagging(f"t{n}", range(0, 2 * n, 2)) for n in range(100)])
    log.fold(*[records.push(n, [n % 400], app=n % 400 % 2 + 1) for n in range(1, 3000)])
    log.fold(*[records.push(5000 + n, everybody=True, accepted_ms=9) for n in range(20)])
    return log


def changes(n: int) -> list[bytes]:
    """A little of everything."""
    return [
        records.sessions(3, [n % 400, 500 + n]),
        records.profile(n % 400, n + 1, [f"p{n % 7}"]),
        records.tagging(f"t{n % 100}", [n % 400], remove=n % 3 == 0),
        records.receipts(1 + n % 3000, RECEIVED, [(1 + n % 3000) % 400]),
        records.receipts(5000 + n % 20, RECEIVED, [2 * n % 400]),
        records.holder(f"u{n % 5}", [(n % 400, n)]),
        records.push(10_000 + n, [n % 400 - n % 2]),
        records.due(forgotten=[1 + n % 3000, 5000 + n % 20], expired=[5000 + n % 20]),
    ]


async def test_while_it_is_written_the_fold_goes_on_and_each_is_of_one_position(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)  # a turn of the loop for each piece
    log = filled()
    snapshotting = await written_by(store, log.partition)
    folded = 0

    async def fold() -> None:
        nonlocal folded
        while True:
            log.fold(*changes(folded))
            folded += 1
            await asyncio.sleep(0)

    folding = asyncio.create_task(fold())
    for n in range(4):
        before = folded
        await snapshotting.write()
        assert folded - before > 20, "the fold had its turns"
        assert await loaded(store, log.entries) == known(log.partition), f"snapshot {n}"
    folding.cancel()


@pytest.mark.parametrize("script", ["snapshot_chunk", "snapshot_commit", "snapshot_drop"])
async def test_one_that_is_stopped_half_way_is_still_to_do(store: Store, script: str) -> None:
    """A node that ends while it writes one writes another as its last word."""
    log = filled()
    snapshotting = await written_by(store, log.partition)
    for n in range(2):
        await snapshotting.write()
        log.fold(*changes(n))
    with stuck(store, script) as at:
        writing = asyncio.create_task(snapshotting.write())
        await at.wait()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    assert log.partition.changes.keeper is None
    log.fold(*changes(70))
    await snapshotting.write()
    assert await loaded(store) == known(log.partition)


async def test_one_that_the_store_did_not_take_is_still_to_do_later_and_does_not_count_as_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled()
    snapshotting = await written_by(store, log.partition)
    await snapshotting.write()
    log.fold(*changes(1))
    written_at = snapshotting._snapshots.written_at = time.monotonic() - 10 * SECONDS
    run = store.run

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "run", away)
    with pytest.raises(StoreUnavailable):
        await snapshotting.write()
    assert snapshotting.written_at == written_at and snapshotting.replay_records == len(changes(1))
    now = time.monotonic()
    assert not snapshotting.due(now + SECONDS - 1) and snapshotting.due(now + SECONDS + 1)
    monkeypatch.setattr(store, "run", run)
    log.fold(*changes(2))
    await snapshotting.write()
    assert await loaded(store) == known(log.partition)


async def test_it_is_due_after_so_many_records_or_so_long_if_there_is_anything_to_write(
    store: Store,
) -> None:
    log = Log()
    snapshotting = await written_by(store, log.partition)
    now = time.monotonic()
    assert not snapshotting.due(now + 10 * SECONDS)
    log.fold(records.sessions(1, [0]))
    assert not snapshotting.due(now + SECONDS - 1) and snapshotting.due(now + SECONDS + 1)
    log.fold(*[records.profile(0, n, []) for n in range(1, 1000)])
    assert snapshotting.due(now) and snapshotting.replay_records == 1000
    await snapshotting.write()
    assert snapshotting.replay_records == 0 and not snapshotting.due(now + 10 * SECONDS)


async def owner_of(store: Store) -> Owned:
    """Has folded the whole log."""
    around = Surroundings(
        Dispatch(snapshot_records=1000, snapshot_s=int(SECONDS)),
        store,
        Identity("node", 1, 1),
        lambda: 0,
        lambda: True,
        Links(b"", lambda _: None, lambda _: None),
        {priority: Unanswered() for priority in WEIGHTS},
        Contents(store, 1 << 20),
    )
    owner = Owned(0, await take_fence(store, 0, 1, 1), 0, around)
    await owner.load()
    for position, record in await log_of(store, 0):
        owner.on_entry(Entry(0, position, record))
    owner.log_length = len(await log_of(store, 0))
    return owner


@pytest.mark.parametrize(
    ("long", "waits"), [(True, [1, 2, 4, 5, 5]), (False, [1, 2, 4, 8, 16, 32, 60, 60])]
)
async def test_what_the_store_does_not_take_is_tried_less_and_less_often(
    store: Store, monkeypatch: pytest.MonkeyPatch, long: bool, waits: list[int]
) -> None:
    """With a long log not that seldom: pushes may be refused until one has succeeded."""
    for n in range(10):
        await store.call("XADD", "{0}:log", "*", "r", records.sessions(1, [n]))
    store.log_records = 10 if long else 0
    owner = await owner_of(store)
    assert owner.snapshot_due(time.monotonic() + 2) == long
    run = store.run

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "run", away)
    for failures, wait_s in enumerate(waits, 1):
        before = time.monotonic()
        await owner.snapshot()
        may = owner.snapshot_due if long else owner.snapshotting.may_try
        assert not may(before + wait_s - 0.01)
        assert may(time.monotonic() + wait_s)
        assert owner.snapshotting.failures_total == failures
    monkeypatch.setattr(store, "run", run)
    await owner.snapshot()
    for n in range(10):
        owner.on_entry(Entry(0, f"{2**50 + n}-0", records.sessions(1, [n])))
    assert owner.snapshot_due(time.monotonic() + 1) == long, (
        "a log that stays long waits no longer than ever"
    )
    owner.stop()


async def test_a_node_takes_a_large_partition_step_by_step(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two steps of its load the others of its partitions have their turn."""
    hasten(monkeypatch)
    log = filled()
    await (await written_by(store, log.partition)).write()
    steps: list[int] = []

    async def counting(work: Iterable[object]) -> None:
        steps.append(0)
        for _ in work:
            steps[-1] += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(owned, "in_slices", counting)
    async with running(store) as owner:
        await owner.live()
        assert known(owner.partition) | {"position": ""} == known(log.partition) | {"position": ""}
    restored, watched, looked_at = steps
    assert restored > len(pieces.names(log.partition))
    assert watched == sum(1 for _ in log.partition.singles()) > 2000
    assert looked_at > 5


async def test_singles_are_watched_after_a_takeover_whether_restored_or_replayed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    log = Log()
    past = partial(records.push, ttl_s=1)
    log.fold(records.sessions(1, [0]), past(1, [0]), past(2, [0]))
    for position, record in log.entries:
        await store.call("XADD", "{0}:log", position, "r", record)
    await (await written_by(store, log.partition)).write()
    await store.call("XADD", "{0}:log", "2000000-0", "r", past(3, [0]))
    everybody = past(4, everybody=True, accepted_ms=5)
    await store.call("XADD", "{0}:log", "2000001-0", "r", everybody)
    async with running(store, config(keep_s=3600.0)) as owner:
        await owner.live()
        await until(lambda: all(push.final for push in owner.partition.pushes.values()))
        assert set(owner.partition.pushes) <= {1, 2, 3, 4}
        assert len(await log_of(store, 0)) > 5, "they expired by way of the log"


# What a partition takes.


async def test_its_cost_and_its_log_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)
    async with running(store) as owner:
        await owner.live()
        for n in range(20):
            await store.call("XADD", "{0}:log", "*", "r", records.sessions(1, [2 * n]))
        await until(lambda: owner.partition.records >= 20)
        await owner.node.owned[0].snapshot()

        def told() -> dict[str, float]:
            return {
                name: value
                for name, labels, value in owner.node.samples()
                if labels in ({}, {"partition": "0"})
            }

        await until(lambda: told()["columba_partition_log_length"] == 20)
        found = told()
        assert found["columba_partition_devices"] == found["columba_partition_online"] == 20
        assert found["columba_partition_snapshot_bytes"] > 50
        assert 0 < found["columba_partition_snapshot_seconds"] < 10
        assert found["columba_partition_replay_records"] == 0
        assert found["columba_partition_bytes"] > 2 * 20
        assert found["columba_loop_stall_seconds"] > 0


def test_the_estimate_grows_with_everything_that_takes_memory() -> None:
    def grown(*logged: bytes) -> int:
        log = Log()
        log.fold(records.sessions(1, range(0, 2000, 2)))
        before = _looked_at(log.partition)
        log.fold(*logged)
        return _looked_at(log.partition) - before

    thousand = range(0, 2000, 2)
    assert grown() == 0
    assert grown(*[records.profile(i, 1, ["a", "b"]) for i in thousand]) > 1000 * 150
    assert grown(*[records.tagging(f"t{n}", [0, 2]) for n in range(100)]) > 100 * 300
    assert grown(*[records.account(f"user {n}", [(n, 1)]) for n in range(100)]) > 100 * 100
    assert grown(*[records.holder("user", [(n, 1)]) for n in thousand]) > 1000 * 100
    assert grown(*[records.push(n, [n * 2 % 2000]) for n in range(1, 1001)]) > 1000 * 200
    assert grown(records.push(1, everybody=True)) > 1000
    assert grown(records.sessions(1, [100_000])) > 2 * 90_000


def _looked_at(partition: Partition) -> int:
    footprint = Footprint(partition)
    for _ in footprint.look():
        pass
    return footprint.bytes
