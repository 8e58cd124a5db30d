"""Paced pushes, and decisions about pushes, with real nodes: the store, RPC between nodes, an edge."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.dispatch import permits as permits_module
from gateway.dispatch.assignment import owner_of
from gateway.dispatch.campaign import RECEIVED, Campaign
from gateway.dispatch.speed import depth
from gateway.rpc import Method, RpcError
from gateway.store import keys, ownership
from gateway.store.client import Store
from protocol.ids import SEVERAL
from protocol.schema import log_pb2, rpc_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.nodes import SHORT_LEASE_S, Running, config, content, hasten, running
from tests.gateway.dispatch.scripted_edge import ScriptedEdge
from tests.gateway.store.valkey import log_of
from tests.waiting import until

ALL, OTHER = (n << 11 | SEVERAL for n in (1, 2))
ONE = 3 << 11
"""Pushes whose speed is dealt out in partition 0; the last one is in that partition alone."""
PAUSE, RESUME, STOP = log_pb2.PAUSE, log_pb2.RESUME, log_pb2.STOP


@pytest.fixture(autouse=True)
def quick_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest.fixture
async def edge(store: Store, short_path: Path) -> AsyncIterator[ScriptedEdge]:
    edge = ScriptedEdge(store, short_path)
    await edge.start()
    yield edge
    await edge.stop()


async def write(store: Store, partitions: Iterable[int], record: bytes) -> None:
    for p in partitions:
        await store.call("XADD", keys.log(p), "*", "r", record)


async def connect(store: Store, edge: ScriptedEdge, partitions: int, devices: int) -> None:
    """So many in each partition, all of app 1."""
    up = records.sessions(edge.identity.number, range(devices), app=1)
    await write(store, range(partitions), up)


def to_all(push_id: int, speed: int = 0) -> bytes:
    text = content(f"{push_id}")
    return records.push(push_id, everybody=True, ttl_s=600, content=text, speed=speed)


async def control(owner: Running, push_id: int, action: int, app: int = 1) -> list[int]:
    request = rpc_pb2.ControlRequest(push_id=push_id, app=app, action=action, until_ms=2**50)
    reply = await owner.node.controlling.control(request.SerializeToString())
    return sorted(rpc_pb2.ControlReply.FromString(reply).partitions)


def not_faster(times: list[float], speed: int) -> None:
    """In every stretch of time. A stall of this process may bring deliveries a little closer together."""
    stall_s = 0.15
    for first, last in itertools.combinations(range(0, len(times), 5), 2):
        passed = times[last] - times[first] + stall_s
        assert last - first <= speed * passed + depth(speed)


async def two_nodes(
    stack: AsyncExitStack, store: Store, folder: Path, partitions: int, **dispatch: Any
) -> tuple[Running, Running]:
    """Together they own all partitions, each some of them."""
    both = tuple(
        [
            await stack.enter_async_context(running(store, config(partitions, **dispatch), folder))
            for _ in range(2)
        ]
    )
    first, second = both

    def shared_out() -> bool:
        owned = [p for node in both for p, o in node.node.owned.items() if o.live]
        return sorted(owned) == list(range(partitions)) and all(n.node.owned for n in both)

    await until(shared_out)
    return first, second


# Speed.


async def test_two_nodes_together_keep_to_the_speed_of_a_push(
    store: Store, edge: ScriptedEdge, short_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        await two_nodes(stack, store, short_path, 8, resend_s=60.0)
        await connect(store, edge, 8, 50)
        await write(store, range(8), to_all(ALL, speed=200))
        await until(lambda: len(edge.got) >= 400)
        assert len(edge.got) == 400, "each once"
        span_s = edge.got_at[-1] - edge.got_at[0]
        assert 1.7 < span_s < 5.0
        not_faster(edge.got_at, 200)


async def test_one_device_a_second_over_all_partitions_and_nodes(
    store: Store, edge: ScriptedEdge, short_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        await two_nodes(stack, store, short_path, 16, resend_s=60.0)
        await connect(store, edge, 16, 3)
        began = asyncio.get_running_loop().time()
        await write(store, range(16), to_all(ALL, speed=1))
        await until(lambda: len(edge.got) >= 3)
        assert asyncio.get_running_loop().time() - began > 2.9


async def test_pushes_with_and_without_speed_do_not_slow_each_other_down(
    store: Store, edge: ScriptedEdge
) -> None:
    async with running(store, config(2, resend_s=60.0)) as owner:
        await owner.live(2)
        await connect(store, edge, 2, 40)
        await write(store, range(2), to_all(ALL, speed=10))
        await write(store, range(2), to_all(OTHER, speed=1_000_000))
        await write(store, [0], to_all(ONE))
        await until(lambda: len(edge.devices_of(OTHER)) == 80 and len(edge.devices_of(ONE)) == 40)
        assert len(edge.devices_of(ALL)) < 20
        samples = {name: value for name, _, value in owner.node.samples()}
        assert 60 < samples["columba_paced_devices"] <= 80


async def test_when_the_node_that_deals_dies_another_does_and_the_push_is_never_faster(
    store: Store, edge: ScriptedEdge, short_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        first, second = await two_nodes(stack, store, short_path, 8, resend_s=60.0)
        await connect(store, edge, 8, 40)
        await write(store, range(8), to_all(ALL, speed=200))
        await until(lambda: len(edge.got) >= 100)
        dealer, other = (first, second) if 0 in first.node.owned else (second, first)
        await dealer.lease.end()
        await dealer.crash()
        await until(lambda: len(set(other.node.owned)) == 8)
        pending = [o.partition for o in other.node.owned.values()]
        await until(lambda: len(edge.got) >= 320)
        assert all(len(p.campaigns[ALL].targeted) == 40 for p in pending)
        await until(lambda: not any(o.sending.held for o in other.node.owned.values()))
        not_faster(edge.got_at, 200)


async def test_an_owner_that_was_deposed_deals_no_more_though_it_does_not_know_it_yet(
    store: Store, edge: ScriptedEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = rpc_pb2.PermitRequest(push_id=ALL, speed=1000, wanted=10, asker=7).SerializeToString()
    async with running(store) as owner:
        await owner.live()
        await owner.crash()  # it follows the roster no more, its lease stands for a while
        assert await owner.node.permits.permit(body) == b"", "an empty bucket"
        await ownership.take_fence(store, 0, 99, 99)
        monkeypatch.setattr(permits_module, "_CONFIRMED_S", 0.0)
        with pytest.raises(RpcError, match="not_owner"):
            await owner.node.permits.permit(body)
        assert owner.node.owned[0].deposed


async def test_a_new_owner_deals_only_when_no_earlier_one_can(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = rpc_pb2.PermitRequest(push_id=ALL, speed=1000, wanted=10, asker=7).SerializeToString()
    assert permits_module._HANDOVER_S > permits_module._CONFIRMED_S
    await ownership.take_fence(store, 0, 99, 99)
    async with running(store) as owner:
        await owner.live()
        monkeypatch.setattr(permits_module, "_HANDOVER_S", 1e9)
        with pytest.raises(RpcError, match="not_owner"):
            await owner.node.permits.permit(body)
        monkeypatch.setattr(permits_module, "_HANDOVER_S", 0.0)
        assert await owner.node.permits.permit(body) == b""


async def test_who_owns_nothing_or_has_lost_its_lease_grants_nothing(store: Store) -> None:
    async with running(store, config(lease_s=SHORT_LEASE_S)) as owner:
        await owner.live()
        await owner.crash()
        for place in (1, 0):
            request = rpc_pb2.PermitRequest(push_id=ALL + place, speed=9, wanted=1, asker=7)
            if place == 0:
                await until(lambda: not owner.lease.valid)
            with pytest.raises(RpcError, match="not_owner"):
                await owner.node.permits.permit(request.SerializeToString())


async def test_a_connection_to_another_node_ends_with_that_node(
    store: Store, edge: ScriptedEdge, short_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        first, second = await two_nodes(stack, store, short_path, 8)
        await connect(store, edge, 8, 1)
        await write(store, range(8), to_all(ALL, speed=2))
        asker = second if 0 in first.node.owned else first
        await until(lambda: len(asker.node.peers) == 1)
        other = first if asker is second else second
        await other.lease.end()
        await until(lambda: len(asker.node.peers) == 0)
        assert owner_of(0, asker.node.peers.live) == asker.lease.identity


# Decisions.


async def test_pause_resume_and_stop_of_a_paced_push_in_all_partitions(
    store: Store, edge: ScriptedEdge
) -> None:
    async with running(store, config(4, resend_s=60.0)) as owner:
        await owner.live(4)
        await connect(store, edge, 4, 100)
        await write(store, range(4), to_all(ALL, speed=200))
        await until(lambda: len(edge.got) >= 30)
        assert await control(owner, ALL, PAUSE) == [0, 1, 2, 3]
        await owner_is_quiet(owner)
        sent = len(edge.got)
        await asyncio.sleep(0.3)
        assert len(edge.got) == sent < 200
        assert await control(owner, ALL, RESUME) == [0, 1, 2, 3]
        await until(lambda: len(edge.got) >= sent + 30)
        assert await control(owner, ALL, STOP) == [0, 1, 2, 3]
        await owner_is_quiet(owner)
        sent = len(edge.got)
        await asyncio.sleep(0.3)
        assert len(edge.got) == sent < 400
        counts = await owner.counts(ALL)
        assert (counts.pending, counts.stopped) == (0, 400)
        assert not any(o.sending.held for o in owner.node.owned.values())
        await write(store, [0], records.receipts(ALL, RECEIVED, [0]))
        stopped = owner.partition.pushes[ALL]
        assert isinstance(stopped, Campaign)
        await until(lambda: RECEIVED in stopped.marks)
        assert (await owner.counts(ALL)).received == 1, "a late receipt wins"


async def owner_is_quiet(owner: Running) -> None:
    """What has been handed to the edge has come there."""
    await until(lambda: not any(o.queued for o in owner.node.owned.values()))
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("action", [PAUSE, STOP])
async def test_what_waits_in_the_queue_when_the_decision_is_folded_is_not_sent(
    store: Store, edge: ScriptedEdge, monkeypatch: pytest.MonkeyPatch, action: int
) -> None:
    async with running(store, config(resend_s=60.0)) as owner:
        await owner.live()
        await connect(store, edge, 1, 2)
        gate = asyncio.Event()
        load = owner.node.contents.load
        waiting = []

        async def slow(*args: Any) -> dict[int, bytes]:
            waiting.append(args)
            await gate.wait()
            return await load(*args) | {ALL: content("a"), OTHER: content("b")}

        monkeypatch.setattr(owner.node.contents, "load", slow)
        without = records.push(ALL, everybody=True, ttl_s=600)
        await write(store, [0], without + records.push(OTHER, everybody=True, ttl_s=600))
        await until(lambda: waiting)
        await control(owner, ALL, action)
        gate.set()
        await until(lambda: edge.devices_of(OTHER) == [0, 1])
        await owner_is_quiet(owner)
        assert edge.devices_of(ALL) == []
        await control(owner, ALL, RESUME)
        if action == PAUSE:
            await until(lambda: edge.devices_of(ALL) == [0, 1])


async def test_a_push_in_one_partition_is_decided_about_there_alone(store: Store) -> None:
    async with running(store, config(3)) as owner:
        await owner.live(3)
        assert await control(owner, ONE + 1, PAUSE) == [1]
        assert await control(owner, ONE + 1, PAUSE) == [1], "again"
        found = [len(await log_of(store, p)) for p in range(3)]
        assert found == [0, 2, 0]
        assert owner.node.owned[1].partition.controls.early[ONE + 1].paused


async def test_decisions_that_make_no_sense_or_come_to_the_wrong_node_are_refused(
    store: Store,
) -> None:
    async with running(store, config(lease_s=SHORT_LEASE_S)) as owner:
        await owner.live()
        for action in (0, 9):
            with pytest.raises(RpcError, match="invalid"):
                await control(owner, ALL, action)
        with pytest.raises(RpcError, match="not_owner"):
            await control(owner, ONE + 1, PAUSE)
        owned = owner.node.owned[0]
        await ownership.take_fence(store, 0, 99, 99)
        assert await control(owner, ALL, PAUSE) in ([], [0])
        await owner.crash()
        await until(lambda: not owner.lease.valid)
        with pytest.raises(RpcError, match="not_owner"):
            await control(owner, ALL, PAUSE)
        assert owned.deposed


async def test_both_are_served(store: Store) -> None:
    async with running(store) as owner:
        handlers = owner.node.handlers()
        assert handlers[Method.CONTROL] == owner.node.controlling.control
        assert handlers[Method.PERMIT] == owner.node.permits.permit
