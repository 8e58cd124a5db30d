"""A service on a cluster at work, while primaries of it are killed."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.store import keys
from protocol.ids import split_device_id
from tests.e2e.service import OFTEN, Service, serving
from tests.e2e.tenants import Tenant, new_tenant
from tests.e2e.test_store_faults import Outage, outage_of
from tests.gateway.store.cluster import ValkeyCluster
from tests.waiting import until

PATIENCE_S = 40.0


@pytest.fixture
def cluster() -> Iterator[ValkeyCluster]:
    folder = Path(tempfile.mkdtemp(prefix="cc-"))
    cluster = ValkeyCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture
def service(cluster: ValkeyCluster, data_dir: Path) -> Iterator[Service]:
    settings = {**OFTEN, "store.replicas": 1}
    with serving(data_dir, settings, "--store", cluster.url) as service:
        yield service


@pytest.fixture
async def tenant(service: Service) -> AsyncIterator[Tenant]:
    yield await new_tenant(service)


async def _accepted_everywhere(outage: Outage) -> None:
    """Each device is in some partition: wait until all of them are pushed to again."""
    before = {device: len(pushes) for device, pushes in outage.accepted.items()}
    await until(
        lambda: all(len(outage.accepted[device]) > count for device, count in before.items()),
        "pushes to every device are accepted again",
        PATIENCE_S,
    )


async def test_primaries_are_killed_under_a_service_at_work(
    cluster: ValkeyCluster, service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """What was accepted arrives, once; sessions stand; nobody is taken for dead."""
    async with outage_of(service, tenant, tmp_path) as outage:
        partition, _ = split_device_id(outage.listeners[0].id)
        # What it executes from here on, it executes for nobody.
        cluster.cut_off(cluster.primary_of(keys.log(partition)))
        # What devices say meanwhile is kept by them until it is in a log.
        for listener in outage.listeners:
            assert listener.last is not None
            await listener.last.clicked()
        async with outage.pushing():
            await until(outage.refused, "pushes are refused")
            for key in (keys.log(partition), keys.LEASES):
                dead, _ = await asyncio.to_thread(cluster.fail_over, key)
                # The heir acknowledges when it has a replica.
                await asyncio.to_thread(dead.start)
                await _accepted_everywhere(outage)
                await asyncio.to_thread(cluster.heal)
    assert service.log.events("loading a partition again", reason="another server has it")
