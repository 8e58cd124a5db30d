"""A running service for the tests of a module.

Modules that hurt it say HURTS = True and share one; the others share another. Each test has an app
of its own there.
"""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.service import OFTEN, Service, serving
from tests.e2e.tenants import Tenant, new_tenant


@contextmanager
def _short_dir() -> Iterator[Path]:
    """For a data directory: a name made of the test's can be too long for a unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="ce-"))
    try:
        yield folder / "data"
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def _unhurt() -> Iterator[Service]:
    with _short_dir() as data_dir, serving(data_dir) as service:
        yield service


@pytest.fixture(scope="session")
def _hurt() -> Iterator[Service]:
    with _short_dir() as data_dir, serving(data_dir, OFTEN) as service:
        yield service


@pytest.fixture
def _running(request: pytest.FixtureRequest) -> Service:
    hurts = getattr(request.module, "HURTS", False)
    running: Service = request.getfixturevalue("_hurt" if hurts else "_unhurt")
    return running


@pytest.fixture
def service(_running: Service) -> Iterator[Service]:
    """The running service. During the test, no traceback and no error may come into its log."""
    yield _running
    complaints = _running.log.new_complaints()
    assert not complaints, "\n".join(complaints)


@pytest.fixture
async def tenant(service: Service) -> AsyncIterator[Tenant]:
    """An app of this test's own."""
    yield await new_tenant(service)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """For a service that the test starts itself."""
    with _short_dir() as path:
        yield path
