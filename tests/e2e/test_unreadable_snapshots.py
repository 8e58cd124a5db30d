"""The worst case: neither the newest snapshot nor the one before it can be read."""

import signal
from pathlib import Path

from gateway.store import keys
from protocol.ids import split_device_id
from tests.e2e.listeners import listening
from tests.e2e.processes import send
from tests.e2e.service import OFTEN, serving
from tests.e2e.tenants import new_tenant
from tests.e2e.test_dispatch_faults import chunks_of, flipped, snapshots_written


async def test_devices_and_sessions_come_back_from_the_stores_registers(
    data_dir: Path, tmp_path: Path
) -> None:
    """What was pushed before is lost then, and the log says so; the partition is not out of service."""
    with serving(data_dir, OFTEN) as service:
        service.log.expect("ended, starting again", "snapshot set aside", "no snapshot can be read")
        tenant = await new_tenant(service)
        async with listening(tenant, service.devices, tmp_path / "device") as listener:
            p, _ = split_device_id(listener.id)
            pushes = []
            for _ in range(3):
                pushes.append(await tenant.push(everybody=True))
                await tenant.reaches(pushes[-1], targeted=1, received=1, displayed=1)
                await snapshots_written(service)
            node = service.pid_of("dispatch")
            send(node, signal.SIGSTOP)
            try:
                async with service.store() as store:
                    newest = chunks_of(await store.get(keys.manifest(p)))
                    fallback = chunks_of(await store.get(keys.previous_manifest(p)))
                    assert not newest & fallback, "one damaged chunk must not cost both"
                    for chunks in (newest, fallback):
                        name = next(name for name in chunks if name.startswith("apps/"))
                        chunk = await store.hget(keys.chunks(p), name)
                        await store.hset(keys.chunks(p), name, flipped(chunk))
            finally:
                send(node, signal.SIGKILL)
            await service.restarted("dispatch", node)
            last = await tenant.push(listener.id)
            await listener.gets(*pushes, last, wait_s=5)
            await tenant.reaches(last, targeted=1, received=1, displayed=1)
