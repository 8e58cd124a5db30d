"""The measurement of throughput on a real service: what it says is counted, is."""

from pathlib import Path

from loadtest.api_client import ApiClient
from loadtest.service import from_ready
from loadtest.throughput import measure_throughput
from loadtest.view import View
from tests.e2e.service import serving

PUSHES, WARM_UP = 500, 2_000


def test_throughput_ends_when_the_nodes_have_the_receipts_of_all(data_dir: Path) -> None:
    with serving(data_dir) as service, View("throughput", as_json=True) as view:
        running = from_ready(service.ready)
        result = measure_throughput(running, PUSHES, 20, 100, view)
        with ApiClient(running) as api:
            metrics = api.metrics()
    assert metrics.whole and sum(metrics.of("columba_pending_singles")) == 0
    assert sum(metrics.of("columba_receipts_total")) == PUSHES + WARM_UP
    assert result["lost"] == result["duplicates"] == result["strays"] == result["refused"] == 0
    assert 0 < result["pushes_per_s"] <= result["accepted_per_s"]
    assert result["dispatch_cpu_us_per_push"] > 0
