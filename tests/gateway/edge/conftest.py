"""A real store, empty at the start of each test, and the loops that edges run on."""

import asyncio
import logging
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from gateway.store.apps import Apps, NewApp
from gateway.store.client import Store
from gateway.store.embedded import find_server

BOTH_LOOPS = {"test_reactor.py", "test_reactor_listening.py"}
"""The reactor stands on add_reader and call_soon only, so either loop has to do."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "uvloop": uvloop.new_event_loop
    }
    if item.path.name in BOTH_LOOPS:
        factories["asyncio"] = asyncio.new_event_loop
    return factories


NOT_DURABLE = ("--save", "", "--appendonly", "no", "--logfile", "/dev/null")
Hold = Callable[[bool], Awaitable[None]]


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """A server of this test run. Nothing is synced to disk here: these tests never restart it."""
    folder = tempfile.mkdtemp(prefix="columba-edge-")
    path = f"{folder}/s"
    process = subprocess.Popen(
        [str(find_server()), "--port", "0", "--unixsocket", path, "--dir", folder, *NOT_DURABLE]
    )
    try:
        _wait_for(path, time.monotonic() + 10)
        yield f"unix://{path}"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


def _wait_for(path: str, deadline: float) -> None:
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
                probe.sendall(b"PING\r\n")
                if probe.recv(64).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        assert time.monotonic() < deadline, "the store did not start"
        time.sleep(0.005)


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """A connection to the store, which is empty."""
    store = await Store.connect(store_url)
    await store.call("FLUSHALL")
    yield store
    await store.close()


@pytest.fixture
async def hold(store: Store) -> AsyncIterator[Hold]:
    """`await hold(True)`: calls that may write wait in the store until `await hold(False)`; reads
    are answered."""
    control = await store.another()

    async def hold(on: bool) -> None:
        await control.call("CLIENT", *(("PAUSE", 60_000, "WRITE") if on else ("UNPAUSE",)))

    yield hold
    await hold(False)
    await control.close()


@pytest.fixture
async def app(store: Store) -> NewApp:
    return await Apps(store).create("demo")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not tmp_path: its name, made of the test's, can be too long for a socket.
    path = Path(tempfile.mkdtemp(prefix="columba-edge-"))
    (path / "run").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Iterator[list[Any]]:
    """All that was logged as an error, or with a traceback; it has to be empty at the end."""
    found: list[Any] = []
    with structlog.testing.capture_logs() as lines, caplog.at_level(logging.WARNING):
        yield found
    found += [line for line in lines if line["log_level"] in ("error", "critical")]
    found += [line for line in lines if "exc_info" in line]
    found += [record.getMessage() for record in caplog.records]
    assert found == []
