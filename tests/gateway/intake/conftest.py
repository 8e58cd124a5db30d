"""A real store for the tests of accepting."""

from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.api import seat as seat_module
from gateway.store.client import Store
from tests.gateway.api_stage import PARTITIONS, StoreServer, add_devices
from tests.gateway.intake.desk import APP, OTHER


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    server = StoreServer(tmp_path_factory.mktemp("store")).start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def no_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has an empty store: nobody has drawn ids under these numbers."""
    monkeypatch.setattr(seat_module, "QUIET_S", 0.0)


@pytest.fixture
async def store(server: StoreServer) -> AsyncIterator[Store]:
    """Our own look into it; empty but for some devices of two apps."""
    store = await Store.connect(server.url)
    await store.call("FLUSHALL")
    await add_devices(store, APP.number, {p: [0, 1, 2] for p in range(PARTITIONS)})
    await add_devices(store, OTHER.number, {p: [3] for p in range(PARTITIONS)})
    yield store
    await store.close()
