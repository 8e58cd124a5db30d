"""Dispatch nodes at work: the real store, real RPC, an edge that does as it is told."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.dispatch.campaign import RECEIVED
from gateway.rpc import RpcError
from gateway.store import keys, leases, ownership, pushes
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.leases import Identity, Lease
from gateway.store.log import Entry
from gateway.store.pushes import PushRecord
from protocol.ids import SEVERAL, device_id
from protocol.schema import log_pb2, rpc_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.nodes import (
    DISPATCH,
    SHORT_LEASE_S,
    Running,
    config,
    content,
    hasten,
    running,
)
from tests.gateway.dispatch.records import app_of, known
from tests.gateway.dispatch.scripted_edge import Got, ScriptedEdge
from tests.gateway.store.valkey import log_of
from tests.waiting import until

API = Identity("api", 9, 1)
# Push ids name the partition they live in: these are of partition 0.
FIRST, SECOND, THIRD, FOURTH = (n << 11 for n in range(1, 5))


@pytest.fixture(autouse=True)
def quick_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest.fixture
async def edge(store: Store, short_path: Path) -> AsyncIterator[ScriptedEdge]:
    edge = ScriptedEdge(store, short_path)
    await edge.start()
    yield edge
    await edge.stop()


async def push(store: Store, push_id: int, *devices: int, ttl_s: int = 60, p: int = 0) -> None:
    """Accepted as the API does it, where one partition is concerned."""
    app = app_of(devices[0])
    head = log_pb2.Push(push_id=push_id, app=app, ttl_s=ttl_s).SerializeToString()
    packed = struct.pack(f"<{len(devices)}I", *devices)
    seq = await store.call("INCR", "test:seq")
    await store.run(
        "push",
        [keys.log(p), keys.producers(p), keys.apps(p), keys.content(p)],
        [
            API.number,
            "pa",
            API.start,
            seq,
            0,
            str(push_id),
            app,
            head,
            packed,
            content(str(push_id >> 11)),
        ],
    )


async def log(store: Store, record: bytes) -> None:
    await store.call("XADD", keys.log(0), "*", "r", record)


async def folded_by(store: Store, owner: Running) -> dict[str, Any]:
    """What the owner knows once it has read the whole log."""
    await owner.live()
    end = (await log_of(store, 0))[-1][0]
    await until(lambda: owner.partition.position == end)
    return known(owner.partition)


# Delivery.


async def test_live_messages_and_a_backlog_reach_the_edge_in_order(
    store: Store, edge: ScriptedEdge
) -> None:
    async with running(store) as owner:
        await edge.connect(0)
        await push(store, FIRST, 0)
        await until(lambda: edge.got)
        await edge.sessions.down(0, 1)
        await push(store, SECOND, 0)
        await push(store, THIRD, 0)
        await log(store, records.receipts(FIRST, RECEIVED, [0]))
        await edge.connect(0, connection=2)
        await until(lambda: len(edge.got) >= 3)
        assert edge.got[:3] == [Got(0, FIRST, "1"), Got(0, SECOND, "2"), Got(0, THIRD, "3")]
        counts = await owner.counts(FIRST)
        assert (counts.targeted, counts.received, counts.pending) == (1, 1, 0)


async def test_a_receipt_that_is_not_read_yet_is_not_missing(
    store: Store, edge: ScriptedEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(store) as owner:
        await edge.connect(0)
        await push(store, FIRST, 0)
        await until(lambda: edge.got)
        fold = owner.node._fold

        async def late(entries: Iterable[Entry]) -> None:
            await asyncio.sleep(2.5 * DISPATCH.resend_s)
            await fold(entries)

        monkeypatch.setattr(owner.node, "_fold", late)
        await log(store, records.receipts(FIRST, RECEIVED, [0]))
        await until(lambda: not owner.partition.pushes[FIRST].pending())
        assert len(edge.got) == 1


async def test_an_early_refusal_is_retried_soon(store: Store, edge: ScriptedEdge) -> None:
    """The owner's deliver often reaches the edge before its own registration's reply does."""
    async with running(store, config(resend_s=60.0)) as owner:
        await owner.live()
        edge.not_here = {0}
        await edge.connect(0)
        await push(store, FIRST, 0)
        await until(lambda: edge.refusals >= 2)
        edge.not_here = set()
        await until(lambda: edge.got == [Got(0, FIRST, "1")])


async def test_what_is_not_receipted_is_sent_again(store: Store, edge: ScriptedEdge) -> None:
    async with running(store):
        await edge.connect(0)
        await push(store, FIRST, 0)
        await until(lambda: len(edge.devices_of(FIRST)) >= 2)
        await log(store, records.receipts(FIRST, RECEIVED, [0]))
        assert edge.devices_of(FIRST)[:2] == [0, 0]


async def test_the_edge_of_an_earlier_session_hears_that_it_was_replaced(
    store: Store, edge: ScriptedEdge, short_path: Path
) -> None:
    other = ScriptedEdge(store, short_path, "e2")
    await other.start()
    async with running(store) as owner:
        await edge.connect(0)
        await until(lambda: len(owner.node.links.up) == 2)
        await owner.live()
        (later,) = await other.connect(0, connection=2)
        await until(lambda: edge.replaced == [(0, later.value)])
    await other.stop()


async def test_an_edge_that_ends_is_declared_swept_and_its_number_freed_and_what_pends_goes_on(
    store: Store, edge: ScriptedEdge, short_path: Path
) -> None:
    other = ScriptedEdge(store, short_path, "e2")
    await other.start()
    async with running(store, config(partitions=2)) as owner:
        await edge.connect(0, 1)
        await push(store, FIRST, 0)
        await until(lambda: edge.got)
        await edge.stop()
        await edge.lease.end()
        await until(lambda: all(h.identity != edge.identity for h in owner.node.roster.holders))
        assert await store.call("EXISTS", keys.sessions(0)) == 0
        assert known(owner.partition)["online"] == {}
        for p in (0, 1):
            told = [
                r for _, r in await log_of(store, p) if r == records.edge_down(*edge.identity[1:])
            ]
            assert len(told) == 1
        await other.connect(0, connection=2)
        await until(lambda: other.got == [Got(0, FIRST, "1")])
        assert (await Lease.take(store, StoreClock(), "edge", 60.0, {})).identity.number == 1
    await other.stop()


async def test_a_half_done_fan_out_is_completed(store: Store, edge: ScriptedEdge) -> None:
    """The API process accepted it, reached one partition and died."""
    push_id = 5 | SEVERAL
    async with running(store, config(partitions=3)) as owner:
        await edge.connect(0)
        await owner.live(3)
        record = PushRecord(push_id, 1, 60, b'"all"', content("all"), {0: b"", 1: b"", 2: b""})
        accepted_ms, _ = await pushes.accept(store, 2, record, None)
        await pushes.fanout_done(store, 2, push_id, [1])
        await until(lambda: edge.devices_of(push_id) == [0] * len(edge.got) != [])
        assert edge.got[0].text == "all"

        async def reached() -> list[bool]:
            return [bool(await log_of(store, p)) for p in range(3)]

        assert await reached() == [True, False, True], "1 was reached before"
        async with asyncio.timeout(5):
            while await pushes.overdue_fanouts(store, 2, 2**60):
                await asyncio.sleep(0.01)
        found = owner.partition.pushes[push_id]
        assert found.accepted_ms == accepted_ms, (
            "expiry counts from the accept, not from the fan-out"
        )


async def test_expiry_enters_the_log_and_contents_of_finished_pushes_go(
    store: Store, edge: ScriptedEdge
) -> None:
    async with running(store) as owner:
        await edge.connect(0)
        await edge.sessions.down(0, 1)
        await push(store, FIRST, 0)
        await push(store, SECOND, 0)
        past = records.push(THIRD, [0], accepted_ms=1, ttl_s=60)
        await log(store, past)
        await log(store, records.receipts(FIRST, RECEIVED, [0]))
        async with asyncio.timeout(5):
            while await pushes.content_ids(store, 0) != [SECOND]:
                await asyncio.sleep(0.01)
        await until(lambda: owner.partition.pushes[THIRD].final)
        due = [log_pb2.Record.FromString(r).due for _, r in await log_of(store, 0)]
        assert [list(d.expired) for d in due if d.expired] == [[THIRD]]
        counts = await owner.counts(THIRD)
        assert (counts.targeted, counts.expired, counts.pending) == (1, 1, 0)


# Taking over.


async def test_the_next_owner_knows_the_same_from_snapshot_and_log(
    store: Store, edge: ScriptedEdge
) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(store))
        await edge.connect(0, 1, 2)
        await push(store, FIRST, 0)
        await push(store, SECOND, 0, 2)
        await folded_by(store, first)
        await first.node.owned[0].snapshot()
        await push(store, THIRD, 1)
        await log(store, records.receipts(FIRST, RECEIVED, [0]))
        await first.node.owned[0].snapshot()
        await edge.sessions.down(0, 1)
        await push(store, FOURTH, 0)
        known_by_first = await folded_by(store, first)
        await first.crash()

        second = await stack.enter_async_context(running(store))
        await second.live()
        assert second.node.owned[0].fence > first.node.owned[0].fence
        assert await folded_by(store, second) == known_by_first
        assert second.partition.records < len(await log_of(store, 0)) + 4, "not from the beginning"


async def test_a_node_whose_lease_ran_out_answers_and_sends_nothing_and_another_takes_over(
    store: Store, edge: ScriptedEdge
) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(store, config(lease_s=SHORT_LEASE_S)))
        await edge.connect(0)
        await push(store, FIRST, 0)
        await until(lambda: edge.got)
        await first.crash()  # frozen, say: its objects stand, its lease is not renewed
        await until(lambda: not first.lease.valid)
        assert not (await first.counts(FIRST)).partitions
        device = rpc_pb2.DeviceRequest(device_id=device_id(0, 0)).SerializeToString()
        with pytest.raises(RpcError, match="not_owner"):
            await first.node.queries.device(device)

        fences = len(edge.fences)
        unsent = records.push(7, [0], content=content("7"))
        first.node.owned[0].on_entry(Entry(0, "9999999999999-0", unsent))
        assert first.node.owned[0].queued
        second = await stack.enter_async_context(running(store))
        await second.live()
        assert list((await second.counts(FIRST)).partitions) == [0]
        await push(store, SECOND, 0)
        await until(lambda: edge.devices_of(SECOND))
        assert set(edge.fences[fences:]) == {second.node.owned[0].fence}
        assert edge.devices_of(7) == []

        # And what the first still tries to write is refused.
        before = await log_of(store, 0)
        old = first.node.owned[0]
        await old.snapshot()
        assert old.deposed
        with pytest.raises(Exception, match="FENCED"):
            await ownership.append_as_owner(
                store, 0, first.lease.identity, fence=old.fence, seq=99, record=b"x"
            )
        assert await store.call("EXISTS", keys.manifest(0)) == 0
        assert await log_of(store, 0) == before


async def test_an_owner_that_an_edge_calls_deposed_lets_go_and_comes_back_with_a_newer_fence(
    store: Store, edge: ScriptedEdge
) -> None:
    async with running(store) as owner:
        await owner.live()
        old = owner.node.owned[0]
        edge.deposes = True
        await edge.connect(0)
        await push(store, FIRST, 0)
        await until(lambda: old.deposed)
        edge.deposes = False
        await until(lambda: edge.got == [Got(0, FIRST, "1")] * len(edge.got) != [])
        assert owner.node.owned[0] is not old and edge.fences[0] > old.fence


async def test_partitions_go_to_a_node_that_joins_and_back_when_it_leaves(store: Store) -> None:
    settings = config(partitions=8)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(store, settings))
        await first.live(8)
        async with running(store, settings) as second:
            await until(lambda: first.node.owned and second.node.owned)
            await until(lambda: len(first.node.owned) + len(second.node.owned) == 8)
            assert not first.node.owned.keys() & second.node.owned.keys()
            await second.lease.end()
            await until(lambda: len(first.node.owned) == 8)


async def test_a_dead_nodes_number_is_freed_by_those_who_may_judge(store: Store) -> None:
    for role in ("node", "api"):
        await Lease.take(store, StoreClock(), role, 0.01, {})
    async with running(store, config(lease_s=SHORT_LEASE_S)) as owner:
        assert owner.lease.identity.number == 2
        await until(
            lambda: {h.identity for h in owner.node.roster.holders} == {owner.lease.identity}
        )


async def test_a_partition_whose_log_was_trimmed_past_the_reader_is_loaded_again(
    store: Store, edge: ScriptedEdge
) -> None:
    async with running(store) as owner:
        await edge.connect(0)
        await push(store, FIRST, 0)
        state = await folded_by(store, owner)
        before = owner.node.owned[0]
        await before.snapshot()
        # As if this node had been slow and another had trimmed.
        await store.call("SET", keys.trimmed(0), "9999999999999-0")
        await until(lambda: owner.node.owned.get(0) not in (None, before))
        await store.call("SET", keys.trimmed(0), "0-0")
        await owner.live()
        assert known(owner.partition) == state


async def test_an_end_of_an_edge_that_was_declared_before_a_reload_is_cleaned_up_after_it(
    store: Store, edge: ScriptedEdge
) -> None:
    await edge.connect(0)
    async with running(store) as owner:
        await owner.live()
        await owner.crash()
        node = owner.node
        await edge.lease.end()
        await node.roster.poll()
        await node._declare_dead_edges(0)  # in the log; nobody has folded it yet
        node._let_go(0)
        await node._take(0)
        for position, record in await log_of(store, 0):
            node.owned[0].on_entry(Entry(0, position, record))
        await node._declare_dead_edges(0)
        assert await store.call("EXISTS", keys.sessions(0)) == 0
        assert not await leases.folded(store, *edge.identity[1:], 0, 1), (
            "the number is free already"
        )


async def test_a_snapshot_that_passes_its_checksum_but_makes_no_sense_is_set_aside(
    store: Store, edge: ScriptedEdge
) -> None:
    await edge.connect(0)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(store))
        await first.live()
        state = await folded_by(store, first)
        owned = first.node.owned[0]
        await owned.snapshot()
        await owned.snapshots.write("9-9", [("meta", b"not a meta")])
        await first.crash()
        second = await stack.enter_async_context(running(store))
        await second.live()
        assert await folded_by(store, second) == state
        assert await store.call("EXISTS", keys.corrupt_manifest(0)) == 1


async def test_counts_of_a_push_accepted_a_moment_ago_are_found(
    store: Store, edge: ScriptedEdge
) -> None:
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0)
        for push_id in range(1024, 1024 * 20, 1024 * 2):
            await push(store, push_id, 0)
            assert (await owner.counts(push_id)).known
