"""A real cluster for the tests of a worker that ask for it, healed and emptied before each."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.store.client import Store
from tests.gateway.store.cluster import ValkeyCluster


@pytest.fixture(scope="session")
def _cluster() -> Iterator[ValkeyCluster]:
    folder = Path(tempfile.mkdtemp(prefix="cc-"))
    cluster = ValkeyCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture
def cluster(_cluster: ValkeyCluster) -> ValkeyCluster:
    """Whole and empty."""
    _cluster.heal()
    _cluster.flush()
    return _cluster


@pytest.fixture
async def wide_store(cluster: ValkeyCluster) -> AsyncIterator[Store]:
    """A store of several servers; what it acknowledges is on a replica."""
    store = await Store.connect(cluster.url, timeout_s=2.0, replicas=1)
    yield store
    await store.close()
