"""A scripted edge and an empty directory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client_sdk.edge import Edge, running_edge


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with running_edge() as edge:
        yield edge


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"
