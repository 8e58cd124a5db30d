"""Numbers of a process: counted, carried and told apart by their names."""

import subprocess
import sys

import pytest

from gateway import metrics


def test_samples_travel() -> None:
    samples: list[metrics.Sample] = [
        ("columba_connections", {}, 19_000.0),
        ("columba_closes_total", {"code": "4001"}, 3.0),
    ]
    assert metrics.decode_stats(metrics.encode_stats("edge", samples)) == ("edge", samples)


def test_counter_counts_by_labels() -> None:
    counter = metrics.Counter("columba_closes_total", "code")
    for code in ("4001", "4002", "4001"):
        counter.add(code)
    assert counter.value("4001") == 2 and counter.value("9") == 0
    assert list(counter.samples()) == [
        ("columba_closes_total", {"code": "4001"}, 2),
        ("columba_closes_total", {"code": "4002"}, 1),
    ]


def test_histogram_is_cumulative_and_bounds_are_inclusive() -> None:
    histogram = metrics.Histogram("columba_x_seconds", (0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(seconds)
    assert list(histogram.samples()) == [
        ("columba_x_seconds_bucket", {"le": "0.1"}, 2),
        ("columba_x_seconds_bucket", {"le": "1"}, 3),
        ("columba_x_seconds_bucket", {"le": "+Inf"}, 4),
        ("columba_x_seconds_sum", {}, pytest.approx(7.65)),
        ("columba_x_seconds_count", {}, 4),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("columba_closes_total", ("columba_closes_total", "counter")),
        ("columba_x_seconds_bucket", ("columba_x_seconds", "histogram")),
        ("columba_x_seconds_sum", ("columba_x_seconds", "histogram")),
        ("columba_x_seconds_count", ("columba_x_seconds", "histogram")),
        ("columba_connections", ("columba_connections", "gauge")),
    ],
)
def test_the_ending_says_the_kind(name: str, expected: tuple[str, str]) -> None:
    assert metrics.family(name) == expected


def test_a_queue_tells_its_limit() -> None:
    assert list(metrics.queue_samples("receipts", 5, 100)) == [
        ("columba_queue_items", {"queue": "receipts"}, 5),
        ("columba_queue_limit", {"queue": "receipts"}, 100),
    ]


def test_a_process_tells_of_itself() -> None:
    told = {name: value for name, _, value in metrics.process_samples()}
    assert told["columba_process_cpu_seconds_total"] > 0
    assert told["columba_process_memory_bytes"] > 1_000_000


def test_names_are_ours() -> None:
    assert all(name.startswith(metrics.PREFIX) for name in metrics.HELP)


def test_edges_do_not_load_the_prometheus_library() -> None:
    code = "import sys, gateway.metrics; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
