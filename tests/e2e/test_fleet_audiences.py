"""Audiences with 20,000 simulated devices that come, go and change their tags."""

from pathlib import Path
from typing import Final

import pytest

from loadtest.audience import passed, run_audience
from loadtest.service import from_ready
from loadtest.view import View
from tests.e2e.service import serving

DEVICES: Final = 20_000
SETTINGS: Final = {
    # As a service of its own would have it, not as the tests of faults want it.
    "service.partitions": 16,
    "store.lease_s": 5.0,
    "dispatch.resend_s": 30,
}


@pytest.mark.timeout(240)  # some 40 s alone on two cores
def test_twenty_thousand_devices_get_what_is_meant_for_them(data_dir: Path) -> None:
    with serving(data_dir, SETTINGS) as service, View("audience", as_json=True) as view:
        result = run_audience(from_ready(service.ready), DEVICES, 1, view)
    assert result["wrong"] == [] and result["late"] is None
    assert result["lost"] == result["duplicates"] == result["strays"] == 0, result
    assert result["conserved"] and result["pending"] == 0, result
    assert result["pushes_equal"] and result["stats_equal"] and result["counts_equal"], result
    assert result["samples_sound"] and passed(result), result
    # And there was something that could have gone wrong.
    assert result["devices"] == DEVICES and result["pushes"] > 40
    assert result["received"] == result["targeted"] > 5 * DEVICES
    assert 0 < result["displayed"] < result["received"]
    assert result["undecided"] > 0 and result["tag_changes"] > DEVICES
    assert result["reconnected"] > DEVICES // 2
    assert result["counts_compared"] > 60 and result["stats_compared"] > 1000
