"""Dispatch nodes that are killed, stand still, or find their snapshot damaged."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from gateway.store import keys
from protocol.ids import split_device_id
from tests.e2e.listeners import Listener, listening, several
from tests.e2e.processes import send
from tests.e2e.service import PARTITIONS, Service
from tests.e2e.tenants import Tenant
from tests.waiting import until

HURTS = True


async def test_a_node_is_killed_while_pushes_go_on(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """Accepts go on without it. The next one has its state from snapshot and log: earlier counts
    are as they were, and every push that was accepted is handed out exactly once."""
    service.log.expect("ended, starting again")
    async with several(tenant, service.devices, tmp_path, 6) as listeners:
        settled = [await tenant.push(listener.id) for listener in listeners]
        settled.append(await tenant.push(everybody=True))
        for listener, push in zip(listeners, settled, strict=False):
            await listener.gets(push, settled[-1])
        await snapshots_written(service)
        counts = [await tenant.reaches(push, pending=0) for push in settled]

        accepted: dict[int, list[int]] = {listener.id: [] for listener in listeners}
        to_all: list[int] = []
        enough = asyncio.Event()

        async def push_on() -> None:
            while not enough.is_set():
                for listener in listeners:
                    accepted[listener.id].append(await tenant.push(listener.id))
                to_all.append(await tenant.push(everybody=True))

        pushing = asyncio.create_task(push_on())

        async def three_more(what: str) -> None:
            done = len(to_all)
            await until(lambda: len(to_all) >= done + 3, what)

        for _ in range(2):
            node = service.pid_of("dispatch")
            await three_more("pushes are accepted")
            send(node, signal.SIGKILL)
            await three_more("pushes are accepted without a node")
            await service.restarted("dispatch", node)
            await tenant.counts(settled[0])  # it answers again
        enough.set()
        await pushing

        for listener, push in zip(listeners, settled, strict=False):
            await listener.gets(push, settled[-1], *to_all, *accepted[listener.id])
            assert listener.device.stats.connects == 1
        for push in to_all:
            await tenant.reaches(push, targeted=6, received=6, displayed=6)
        for listener in listeners:
            # Enough of them: each look takes three processes some milliseconds.
            for push in accepted[listener.id][-5:]:
                await tenant.reaches(push, targeted=1, received=1, displayed=1)
        assert [await tenant.counts(push) for push in settled] == counts


async def test_devices_register_while_no_node_acts(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """Registration needs the store and nothing else; pushes are accepted; what waited is handed out
    when the node acts again."""
    with service.frozen(service.pid_of("dispatch")):
        async with listening(tenant, service.devices, tmp_path / "device") as listener:
            push = await tenant.push(listener.id)
            to_all = await tenant.push(everybody=True)
            answer = await tenant.call("GET", f"/pushes/{push}")
            assert answer.status == 503 and int(answer.headers["retry-after"]) > 0
    async with listening(tenant, service.devices, tmp_path / "device") as listener:
        await listener.gets(push, to_all)
        await tenant.reaches(to_all, targeted=1, received=1, displayed=1)


async def test_damaged_snapshots_are_set_aside(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """A manifest and a chunk that cannot be read cost a longer replay and no state: the snapshot
    before them and the log know everything. The log of the service says so once for each."""
    service.log.expect("ended, starting again", "snapshot set aside")
    async with several(tenant, service.devices, tmp_path, 8) as listeners:
        by_partition: dict[int, Listener] = {split_device_id(x.id)[0]: x for x in listeners}
        assert len(by_partition) >= 2, "eight devices fell into one partition"
        (one, first), (other, second), *_ = by_partition.items()
        pushes = []

        async def push_and_settle() -> None:
            pushes.append(await tenant.push(everybody=True))
            await tenant.reaches(pushes[-1], targeted=8, received=8, displayed=8)

        await push_and_settle()
        await snapshots_written(service)
        await push_and_settle()
        await snapshots_written(service)
        device = await tenant.device(first.id)

        node = service.pid_of("dispatch")
        # Standing still, it writes no newer snapshot over the damage.
        send(node, signal.SIGSTOP)
        try:
            async with service.store() as store:
                raw = await store.get(keys.manifest(one))
                await store.set(keys.manifest(one), flipped(raw))
                newest = chunks_of(await store.get(keys.manifest(other)))
                before = chunks_of(await store.get(keys.previous_manifest(other)))
                assert newest - before, "the newest snapshot has a chunk of its own"
                for name in newest - before:
                    chunk = await store.hget(keys.chunks(other), name)
                    await store.hset(keys.chunks(other), name, flipped(chunk))
        finally:
            send(node, signal.SIGKILL)
        await service.restarted("dispatch", node)
        for push in pushes:
            await tenant.reaches(push, targeted=8, received=8, displayed=8)
        after = await tenant.device(first.id)
        assert after == device
        last = await tenant.push(everybody=True)
        for listener in listeners:
            await listener.gets(*pushes, last)
        for p in (one, other):
            assert len(service.log.events("snapshot set aside", partition=p)) == 1
            async with service.store() as store:
                assert await store.exists(keys.corrupt_manifest(p))
        assert len(service.log.events("snapshot set aside")) == 2
        assert second.device.stats.duplicates == 0


def flipped(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 0xFF]) + raw[middle + 1 :]


def manifest_of(raw: bytes) -> dict[str, Any]:
    """What stands behind its checksum."""
    manifest: dict[str, Any] = json.loads(raw.partition(b" ")[2])
    return manifest


def chunks_of(manifest: bytes) -> set[str]:
    """Fields of {p}:chunks that a manifest refers to."""
    return {
        f"{name}#{part}@{version}"
        for name, (version, parts, _) in manifest_of(manifest)["pieces"].items()
        for part in range(parts)
    }


async def snapshots_written(service: Service) -> None:
    """Waits until every partition that has a log has written down all of it."""

    async def up_to_date() -> bool:
        async with service.store() as store:
            for p in range(PARTITIONS):
                last = await store.xrevrange(keys.log(p), "+", "-", 1)
                raw = await store.get(keys.manifest(p))
                if last and (not raw or manifest_of(raw)["position"] != last[0][0].decode()):
                    return False
        return True

    await until(up_to_date, "snapshots of all that stands in the logs")
