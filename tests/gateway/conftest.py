"""One real store for all tests of a worker, emptied before each that asks for it."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.store.client import Store
from tests.gateway.store.valkey import Valkey


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """Running, without an append-only file."""
    # Not tmp_path: the path of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="cv-"))
    server = Valkey(folder)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(folder)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def store(valkey: Valkey) -> AsyncIterator[Store]:
    """A connection to an empty store."""
    store = await Store.connect(valkey.url)
    await store.call("FLUSHALL")
    yield store
    await store.close()


@pytest.fixture
def own_valkey(short_path: Path) -> Iterator[Valkey]:
    """A store of the test's own, with an append-only file: to be killed, started again, frozen."""
    server = Valkey(short_path, durable=True)
    server.start()
    yield server
    server.kill()
