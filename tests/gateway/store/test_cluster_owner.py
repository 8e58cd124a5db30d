"""A dispatch node: what it has folded is what the log says of the server that answers now."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.dispatch.campaign import RECEIVED
from gateway.dispatch.partition import Partition
from gateway.store import keys, ownership
from gateway.store.client import Store
from gateway.store.errors import StoreUnavailable
from gateway.store.fence import Fence
from tests.gateway.dispatch import records
from tests.gateway.dispatch.nodes import Running, config, running
from tests.gateway.dispatch.records import known
from tests.gateway.dispatch.scripted_edge import ScriptedEdge
from tests.gateway.dispatch.test_node import FIRST, SECOND, folded_by, push, quick_periods
from tests.gateway.store.cluster import ValkeyCluster
from tests.gateway.store.valkey import Valkey, log_of
from tests.waiting import until

__all__ = ["quick_periods"]

PATIENCE_S = 40.0


@pytest.fixture
async def edge(wide_store: Store, short_path: Path) -> AsyncIterator[ScriptedEdge]:
    edge = ScriptedEdge(wide_store, short_path)
    await edge.start()
    yield edge
    await edge.stop()


async def test_an_owner_forgets_what_its_primary_took_to_the_grave(
    cluster: ValkeyCluster, wide_store: Store, edge: ScriptedEdge
) -> None:
    """The end of the log that no replica had was read and folded. Its heir's entries have lower ids
    than that, and are read all the same."""
    async with running(wide_store) as owner:
        await edge.connect(0, 1)
        await push(wide_store, FIRST, 0)
        await folded_by(wide_store, owner)
        before = owner.node.owned[0]
        cluster.cut_off(cluster.primary_of(keys.log(0)))
        lost = records.push(SECOND, [1], content=b"")
        await wide_store.call("XADD", keys.log(0), "9999999999999-0", "r", lost)
        await until(lambda: SECOND in owner.partition.pushes)

        dead, _ = await asyncio.to_thread(cluster.fail_over, keys.log(0))
        await asyncio.to_thread(dead.start)
        await until(lambda: owner.node.owned.get(0) not in (None, before), wait_s=PATIENCE_S)
        await owner.live()
        assert SECOND not in owner.partition.pushes and FIRST in owner.partition.pushes
        await asyncio.to_thread(cluster.heal)
        await edge.sessions.down(1, 2)
        state = await folded_by(wide_store, owner)
        fresh = Partition(0)
        for position, record in await log_of(wide_store, 0):
            assert position < "9999999999999"
            fresh.fold(position, record)
        assert known(fresh) == state


async def test_an_owner_loads_again_from_a_store_that_started_again(
    own_valkey: Valkey, short_path: Path
) -> None:
    """What it appends then, it appends under its next numbers."""
    store = await Store.connect(own_valkey.url)
    edge = ScriptedEdge(store, short_path)
    await edge.start()
    async with running(store, config(partitions=2)) as owner:
        await edge.connect(0)
        await push(store, FIRST, 0)
        await until(lambda: edge.got)
        state = await folded_by_all(store, owner)
        before = dict(owner.node.owned)
        own_valkey.kill()
        own_valkey.start()
        await until(lambda: len(owner.node.owned) == 2 and owner.node.owned[0] is not before[0])
        await until(lambda: owner.node.owned[1] is not before[1])
        assert await folded_by_all(store, owner) == state
        await push(store, SECOND, 0)
        await until(lambda: edge.devices_of(SECOND))
        assert owner.node.owned[0].seq >= before[0].seq
        await owner.node.owned[0].append_and_fold(records.receipts(SECOND, RECEIVED, [0]))
        assert (await owner.counts(SECOND)).received == 1
    await edge.stop()
    await store.close()


async def folded_by_all(store: Store, owner: Running) -> dict[str, Any]:
    await owner.live(2)
    end = (await log_of(store, 0))[-1][0]
    await until(lambda: owner.partition.position == end)
    return known(owner.partition)


async def test_a_partition_whose_server_is_away_keeps_no_other_from_being_taken(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = True
    take_fence = ownership.take_fence

    async def take(store: Store, p: int, node: int, start: int) -> Fence:
        if p == 1 and away:
            raise StoreUnavailable("its primary is dead")
        return await take_fence(store, p, node, start)

    monkeypatch.setattr(ownership, "take_fence", take)
    async with running(store, config(partitions=4)) as owner:
        await until(lambda: owner.node.owned.keys() == {0, 2, 3})
        away = False
        await until(lambda: len(owner.node.owned) == 4)
