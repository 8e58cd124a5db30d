"""A whole edge with the real store: its lease, its memory of receipts, its room, its end."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Edge
from gateway.edge.registrar import Registrar
from gateway.metrics import decode_stats
from gateway.rpc import Method, RpcError
from gateway.store import keys, recalls
from gateway.store.apps import NewApp
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.leases import Identity, Lease, end
from gateway.store.sessions import Answer, Up
from protocol.codes import CloseCode, Kind
from protocol.ids import split_device_id
from protocol.schema import device_pb2
from tests.gateway.edge.conftest import Hold
from tests.gateway.edge.stage import (
    RunningEdge,
    fence_off,
    message,
    receipts,
    records,
    running_edge,
    up,
    with_token,
)
from tests.waiting import until


@pytest.fixture
async def edge(
    store_url: str, data_dir: Path, app: NewApp, complaints: list[Any]
) -> AsyncIterator[RunningEdge]:
    async with running_edge(store_url, data_dir, lease_s=0.3) as edge:
        yield edge


async def standing(store: Store) -> dict[int, int]:
    """device id -> number of the edge, as the store knows it"""
    found = {}
    for p in range(2):
        reply = await store.call("HGETALL", keys.sessions(p))
        for index, entry in zip(reply[::2], reply[1::2], strict=True):
            found[p << 32 | int(index)] = int(entry.split()[1])
    return found


async def stands_at(store: Store, wanted: dict[int, int]) -> None:
    deadline = time.monotonic() + 10
    while (found := await standing(store)) != wanted:
        assert time.monotonic() < deadline, f"{found}, not {wanted}"
        await asyncio.sleep(0.01)


# Sessions in the store.


async def test_the_store_knows_who_is_connected_and_who_has_left(
    edge: RunningEdge, app: NewApp, store: Store
) -> None:
    number = edge.said["number"]
    one = await edge.device(app, installation=b"a" * 16)
    two = await edge.device(app, installation=b"b" * 16)
    await stands_at(store, {one.id: number, two.id: number})
    one.send(up(Kind.BYE))
    await one.end()
    await stands_at(store, {two.id: number})
    await two.close()
    await stands_at(store, {})


async def test_a_device_comes_back_with_its_token_as_the_same_device(
    edge: RunningEdge, app: NewApp
) -> None:
    first = await edge.device(app)
    await first.close()
    again = await edge.connect()
    again.hello(with_token(first.token, connection=2))
    welcome = await again.welcome()
    assert welcome.device_id == first.id and welcome.token == b"", "it keeps the one it has"


async def test_a_lost_answer_to_a_registration_makes_no_second_device(
    edge: RunningEdge, app: NewApp
) -> None:
    first = await edge.device(app, connection=1)
    second = await edge.device(app, connection=2)
    assert second.id == first.id
    assert (await first.goaway()).code == CloseCode.REPLACED


# The lease.


async def test_a_lost_lease_means_a_new_number_and_no_device_notices(
    edge: RunningEdge, app: NewApp, store: Store
) -> None:
    devices = [await edge.device(app, installation=bytes((n,)) * 16) for n in range(6)]
    before = edge.process.identity
    await stands_at(store, {d.id: before.number for d in devices})
    await end(store, before, "left")  # as if it had run out and been noticed
    await until(lambda: edge.process.identity != before)
    after = edge.process.identity
    assert after.number != before.number and after.start > before.start
    await stands_at(store, {d.id: after.number for d in devices})
    assert await edge.deliver(message(5), *[d.id for d in devices]) == []
    for device in devices:
        assert await device.message() == 5  # and nothing came before it
        device.send(receipts(1, 5))
        assert await device.ack() == 1
    # The end of a continued session is the end of the new one.
    await devices[0].close()
    await stands_at(store, {d.id: after.number for d in devices[1:]})


async def test_without_a_lease_no_message_goes_out(
    edge: RunningEdge, app: NewApp, hold: Hold
) -> None:
    """Who recalls a push does not ask this edge then, and may have been told that no copy of it is left."""
    device = await edge.device(app)
    await hold(True)
    await until(lambda: edge.process.reactor.silent)
    with pytest.raises(RpcError, match="busy"):
        await edge.deliver(message(6), device.id)
    await hold(False)
    await until(lambda: not edge.process.reactor.silent)
    assert await edge.deliver(message(6), device.id) == []
    assert await device.message() == 6


async def test_a_renewal_that_comes_late_ends_the_silence_behind_the_recalls(
    edge: RunningEdge, app: NewApp, hold: Hold, store: Store
) -> None:
    """Nobody has declared it dead, so it goes on under its number. But it was not asked meanwhile."""
    device = await edge.device(app)
    number = edge.process.identity
    now_ms = int(time.time() * 1000)
    await recalls.add(store, recalls.StoredRecall(99, 1, now_ms + 60_000), now_ms)
    await hold(True)
    await until(lambda: edge.process.reactor.silent)
    assert 99 not in edge.process.sessions.recalls
    await hold(False)
    await until(lambda: not edge.process.reactor.silent)
    assert edge.process.identity == number and edge.process.standing.lease.lapses >= 1
    assert 99 in edge.process.sessions.recalls
    assert await edge.deliver(message(6), device.id) == []
    assert await device.message() == 6


async def test_an_edge_that_was_declared_dead_comes_back_under_a_new_number(
    edge: RunningEdge, app: NewApp, store: Store
) -> None:
    """It froze or was cut off; the owners of the partitions have written it off meanwhile."""
    devices = [await edge.device(app, installation=bytes((n,)) * 16) for n in range(6)]
    before = edge.process.identity
    for p in range(2):
        await fence_off(store, before, p)
    # It does not know yet: a registration and a receipt of now must not be lost.
    late = await edge.connect()
    late.hello(with_token(devices[0].token, connection=2))
    devices[1].send(receipts(1, 5))
    assert await devices[1].ack() == 1
    await late.welcome()
    assert edge.process.identity.start > before.start
    await stands_at(store, {d.id: edge.process.identity.number for d in devices})
    assert (await devices[0].goaway()).code == CloseCode.REPLACED, "by the same device's own"
    assert await edge.deliver(message(5), *[d.id for d in devices]) == []
    for device in [late, *devices[1:]]:
        assert await device.message() == 5


async def test_a_session_that_went_elsewhere_while_the_edge_was_written_off_ends(
    edge: RunningEdge, app: NewApp, store: Store
) -> None:
    stays = await edge.device(app, installation=b"s" * 16)
    moves = await edge.device(app, installation=b"m" * 16)
    answers: list[Answer] = []
    elsewhere = Registrar(
        Edge(),
        store,
        is_row=lambda fd, row: True,
        answered=lambda p, up, answer: answers.append(answer),
    )
    elsewhere.begin(Identity("edge", 99, 1))
    p, index = split_device_id(moves.id)
    elsewhere.register(p, Up(1, 1, 2, app.number, index, b"", b"", 0))
    await until(lambda: answers)
    await end(store, edge.process.identity, "left")
    assert (await moves.goaway()).code == CloseCode.REPLACED
    await moves.close()
    await until(lambda: edge.process.table.connections == 1)
    await stays.ping()
    await stands_at(store, {stays.id: edge.process.identity.number, moves.id: 99})
    elsewhere.close()


# The store is away for a while.


async def test_standing_sessions_do_not_notice_a_store_that_does_not_answer(
    edge: RunningEdge, app: NewApp, store: Store, hold: Hold
) -> None:
    device = await edge.device(app)
    await hold(True)
    device.send(receipts(1, 5))
    new = await edge.connect()
    new.hello(with_token(device.token, connection=2))
    await device.ping()
    assert await edge.deliver(message(5), device.id) == [], "the new connection keeps it for later"
    await hold(False)
    await new.welcome()
    assert await new.message() == 5


async def test_receipts_are_acknowledged_once_they_are_in_the_log(
    edge: RunningEdge, app: NewApp, store: Store, hold: Hold
) -> None:
    device = await edge.device(app)
    p = device.id >> 32
    await hold(True)
    device.send(receipts(1, 5, 6))
    await device.ping()  # it has been read
    assert not any(record.receipts for record in await records(store, p))
    await hold(False)
    assert await device.ack() == 1
    found = {r.push_id for record in await records(store, p) for r in record.receipts}
    assert found == {5, 6}


async def test_a_registration_that_the_store_keeps_waiting_is_sent_away(
    store_url: str, data_dir: Path, app: NewApp, hold: Hold, complaints: list[Any]
) -> None:
    async with running_edge(store_url, data_dir, register_timeout_s=0.5) as edge:
        device = await edge.device(app)
        await device.close()
        await until(lambda: not edge.process.table.connections)
        await hold(True)
        late = await edge.connect()
        late.hello(with_token(device.token, connection=2))
        goaway = await late.goaway()
        assert goaway.code == CloseCode.STORE_UNAVAILABLE and goaway.retry_after_ms > 0
        await hold(False)


async def test_a_registration_that_is_late_leaves_no_session(
    store_url: str, data_dir: Path, app: NewApp, store: Store, hold: Hold, complaints: list[Any]
) -> None:
    async with running_edge(store_url, data_dir) as edge:
        device = await edge.device(app)
        await device.close()
        await stands_at(store, {})
        await hold(True)
        late = await edge.connect()
        late.hello(with_token(device.token, connection=2))
        await until(lambda: edge.process.table.arriving)
        await late.close()
        await until(lambda: not edge.process.table.connections)
        await hold(False)
        await stands_at(store, {})


# Backpressure.


async def test_too_many_receipts_are_left_with_their_devices_until_there_is_room(
    store_url: str, data_dir: Path, app: NewApp, hold: Hold, complaints: list[Any]
) -> None:
    async with running_edge(store_url, data_dir, receipts_max=50) as edge:
        device = await edge.device(app)
        await hold(True)
        frames = 400
        for seq in range(1, frames + 1):
            device.send(receipts(seq, *range(1, 101)))
        await until(lambda: edge.process.uplink.full)
        waiting = edge.process.uplink.receipts_waiting
        assert 50 <= waiting < 100 * frames / 4, "not all of them were read"
        other = await edge.connect()
        other.send(b"\0")
        await other.goaway()
        assert edge.process.uplink.receipts_waiting <= 2 * waiting
        await hold(False)
        acks = [await device.ack()]
        while acks[-1] < frames:  # each stands for those before it
            acks.append(await device.ack())
        assert acks == sorted(set(acks))


async def test_a_device_that_does_not_read_is_named_slow_and_then_closed(
    store_url: str, data_dir: Path, app: NewApp, complaints: list[Any]
) -> None:
    async with running_edge(
        store_url, data_dir, output_cap_bytes=100_000, slow_close_s=0.3
    ) as edge:
        slow = await edge.device(app, installation=b"s" * 16)
        healthy = await edge.device(app, installation=b"h" * 16)
        slow.pause_reading()
        frame = message(5, "x" * 60_000)
        for _ in range(1000):
            if await edge.deliver(frame, slow.id):
                break
        assert await edge.deliver(frame, slow.id) == [([], [slow.id & 0xFFFF_FFFF])]
        assert edge.process.reactor.unsent_bytes <= 100_000
        assert await edge.deliver(message(6), healthy.id) == []
        assert await healthy.message() == 6
        await until(lambda: edge.process.sessions.closes["too_slow"])
        await until(lambda: edge.process.table.connections == 1)
        ((gone, _),) = await edge.deliver(frame, slow.id)
        assert gone == [slow.id & 0xFFFF_FFFF]


async def test_a_full_edge_says_so_and_takes_devices_again_when_there_is_room(
    store_url: str, data_dir: Path, app: NewApp, complaints: list[Any]
) -> None:
    used = len(os.listdir("/proc/self/fd"))
    settings = {"descriptors_high": (used + 30) / 20_000, "descriptors_low": 2 / 20_000}
    async with running_edge(store_url, data_dir, **settings) as edge:
        healthy = await edge.device(app)
        others = [await edge.connect() for _ in range(30)]
        await until(lambda: edge.process.reactor.refused_full_total)
        told = 0
        for device in others:
            if device.has_ended():
                assert (await device.goaway()).code == CloseCode.EDGE_FULL
                told += 1
        with pytest.raises(OSError):
            await edge.connect()
        await healthy.ping()
        for device in others:
            await device.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                back = await edge.device(app, installation=b"b" * 16)
                break
            except OSError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
        await back.ping()
        await healthy.ping()


# Numbers.


async def test_what_an_edge_tells_of_itself(edge: RunningEdge, app: NewApp) -> None:
    device = await edge.device(app)
    await edge.deliver(message(5), device.id)
    await device.message()
    device.send(receipts(1, 5))
    await device.ack()
    role, samples = decode_stats(await edge.rpc.call(Method.STATS, b"", 5))
    values = {name: value for name, labels, value in samples if not labels}
    assert role == "edge"
    assert values["columba_connections"] == values["columba_sessions"] == 1
    assert values["columba_handshakes_total"] == values["columba_messages_total"] == 1
    assert values["columba_receipts_total"] == 1


# The end.


async def test_an_edge_that_stops_says_where_to_go_and_takes_the_last_receipts(
    store_url: str, data_dir: Path, app: NewApp, store: Store, complaints: list[Any]
) -> None:
    neighbour = await Lease.take(
        store, StoreClock(), "edge", 60, {"own": "192.0.2.8:7071", "rpc": ""}
    )
    async with running_edge(store_url, data_dir, drain_s=0.1) as edge:
        identity = edge.process.identity
        devices = [await edge.device(app, installation=bytes((n,)) * 16) for n in range(8)]
        silent = await edge.connect()
        stopping = asyncio.create_task(edge.stop())
        for device in devices:
            goaway = device_pb2.GoAway.FromString(await device.expect(Kind.GOAWAY))
            assert (goaway.code, goaway.address) == (CloseCode.GOING_AWAY, "192.0.2.8:7071")
            assert 0 < goaway.retry_after_ms <= 50
            device.send(receipts(1, 5))
            assert await device.ack() == 1
            await device.ping()
        with pytest.raises(OSError):
            await edge.connect()
        await silent.end()
        for device in devices:
            await device.close()
        await stopping
    assert await standing(store) == {}, "all are unregistered"
    info = await store.call("HGET", keys.LEASE_INFO, identity.member)
    assert b'"down":true' in info, "its lease has ended"
    log = await records(store, 0) + await records(store, 1)
    assert sum(len(group.index) for record in log for group in record.receipts) == 8
    await neighbour.end()


async def test_devices_that_stay_are_closed_and_unregistered_in_the_end(
    store_url: str, data_dir: Path, app: NewApp, store: Store, complaints: list[Any]
) -> None:
    async with running_edge(store_url, data_dir) as edge:
        device = await edge.device(app)
        await edge.stop()
        assert (await device.goaway()).code == CloseCode.GOING_AWAY
    assert await standing(store) == {}


async def test_no_messages_for_a_device_that_was_told_to_go(
    store_url: str, data_dir: Path, app: NewApp, complaints: list[Any]
) -> None:
    async with running_edge(store_url, data_dir, drain_s=0.1) as edge:
        device = await edge.device(app)
        stopping = asyncio.create_task(edge.stop())
        await device.expect(Kind.GOAWAY)
        assert await edge.deliver(message(5), device.id) == [([device.id & 0xFFFF_FFFF], [])]
        await device.close()
        await stopping


async def test_an_edge_leaves_no_descriptor_behind(
    store_url: str, data_dir: Path, app: NewApp, complaints: list[Any]
) -> None:
    async with running_edge(store_url, data_dir):
        pass
    before = len(os.listdir("/proc/self/fd"))
    async with running_edge(store_url, data_dir) as edge:
        await edge.device(app)
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_numbers_are_not_shared_by_two_edges(edge: RunningEdge, store: Store) -> None:
    other = await Lease.take(store, StoreClock(), "edge", 60, {})
    assert other.identity != Identity("edge", edge.said["number"], edge.said["start"])
    assert other.identity.number != edge.said["number"]
