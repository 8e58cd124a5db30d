"""A scripted edge for the tests of the fleet."""

from collections.abc import Iterator

import pytest

from tests.loadtest.fleet_setting import Setting
from tests.loadtest.scripted_edge import ScriptedEdge


@pytest.fixture
def setting() -> Iterator[Setting]:
    with ScriptedEdge() as edge:
        setting = Setting(edge)
        yield setting
        for fleet in setting.fleets:
            fleet.close()
