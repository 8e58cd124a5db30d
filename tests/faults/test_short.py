"""A short selection of the scenarios, on a small deployment. `make faults` runs all of them."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.plan import Size
from tests.faults.run import run_scenario

SMALL = Size(
    devices=120,
    sdk_children=1,
    sdk_devices=4,
    before_s=0.5,
    during_s=2.0,
    freeze_s=3.0,
    after_s=1.0,
)
NOT_HERE = "recovered"
"""Seconds mean little on a machine that runs other tests beside this one."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "name", ["kill-edge", "kill-node", "kill-store", "kill-sdk", "break-node-edge"]
)
async def test_nothing_is_lost_or_shown_twice(name: str, tmp_path: Path) -> None:
    result: dict[str, Any] = await run_scenario(name, 1, SMALL, lambda _: None, tmp_path)
    wrong = [line for line in result["wrong"] if not line.startswith(NOT_HERE)]
    assert not wrong, result
    assert result["accepted"] and result["shown"] >= result["accepted"] / 2
