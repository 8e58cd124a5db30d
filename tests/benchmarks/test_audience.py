"""The benchmark itself, on a small part: it runs, checks itself, and says what it should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import audience

ROOT = Path(__file__).parents[2]


def test_a_small_run() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.audience", "--devices", str(1 << 21)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["devices"] == 1 << 21
    assert set(told) == {
        "devices", "count2_ms", "count4_ms", "select_ms", "first_partition_ms", "bytes", "kinds",
        "tag_changes_per_s",
    }  # fmt: skip
    assert 0 < told["first_partition_ms"] <= told["select_ms"]
    assert told["tag_changes_per_s"] > 0
    assert set(told["kinds"]) == {"dense", "sparse", "runs"}
    assert "2 partitions checked" in ended.stderr


@pytest.mark.parametrize("size", [1, 1000, audience.PARTITION - 1, audience.PARTITION])
def test_numpy_and_integers_agree_about_a_partition(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = audience.build(0, size)
    assert len(part.universe) == size
    assert audience._check(part) == 1
    monkeypatch.setattr(audience, "numpy", None)
    assert audience._check(part) == 1


def test_a_wrong_bitmap_is_noticed() -> None:
    part = audience.build(0, 1000)
    part.terms["a"].flip_inplace(0, 500)
    with pytest.raises(AssertionError):
        audience._check(part)
