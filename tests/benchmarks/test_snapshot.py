"""The benchmark itself, on a small part: it runs, and says what it should."""

import json
import subprocess
import sys
from pathlib import Path

from gateway.dispatch.campaign import Campaign, Single
from gateway.dispatch.partition import Partition
from tests.benchmarks.full_partition import MARKS, Size, coming_in, end_ms, fill

ROOT = Path(__file__).parents[2]
SMALL = Size().scaled(0.001)


def test_a_small_run() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.snapshot", "--share", "0.001", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    told = json.loads(ended.stdout.splitlines()[-1])
    assert set(told) == {
        "size", "records_per_s", "folds_only", "complete", "changes", "changes_again", "pieces",
        "state", "read", "load",
    }  # fmt: skip
    for name in ("complete", "changes", "changes_again"):
        assert told[name].keys() == {"s", "stall_ms", "cpu_ms", "collection_ms", "bytes"}
        assert told[name]["bytes"] > 0 < told[name]["stall_ms"]
    assert told["complete"]["bytes"] > SMALL.devices * 20
    assert told["pieces"]["pieces"] > 20 and told["state"]["estimated_bytes"] > 0


def test_the_partition_is_as_large_as_it_says_and_changes_with_what_comes_in() -> None:
    partition = Partition(0)
    fill(partition, SMALL)
    assert sum(map(len, partition.apps.values())) == SMALL.devices
    assert sum(map(len, partition.online.values())) == SMALL.devices // 2
    assert 0 < len(partition.tags.bound.keys() | partition.tags.own.keys()) <= SMALL.tags
    assert partition.accounts.count() == SMALL.accounts
    pushes = partition.pushes.values()
    assert sum(isinstance(push, Single) for push in pushes) == SMALL.singles
    campaigns = [push for push in pushes if isinstance(push, Campaign)]
    assert len(campaigns) == SMALL.campaigns and not any(push.final for push in campaigns)
    assert all(len(push.marks) == len(MARKS) for push in campaigns)
    partition.changes.dirty.clear()
    for number, record in enumerate(coming_in(SMALL, 300)):
        partition.fold(f"{end_ms()}-{number}", record)
    kinds = {name.partition("/")[0] for name in partition.changes.dirty}
    assert kinds == {"online", "seen", "profiles", "bound", "holders", "singles", "campaigns"}
