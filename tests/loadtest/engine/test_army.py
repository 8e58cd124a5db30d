"""How a fleet is spread over processes, and what they use."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.engine.army import muster, processes_for, sources_of
from loadtest.engine.reading import parsed
from loadtest.engine.scenario import Group, Scenario
from loadtest.engine.usage import Usage, by_role
from loadtest.service import Service


def scenario(devices: int, processes: int = 0, **group: object) -> Scenario:
    raw = {
        "duration_s": 1,
        "fleet": {"devices": devices, "processes": processes},
        "groups": [{"name": "a", **group}],
    }
    return parsed(raw, "x")


@pytest.mark.parametrize(
    ("made", "descriptors", "processes"),
    [
        (scenario(1), 20_000, 1),
        (scenario(19_000), 20_000, 1),
        (scenario(19_001), 20_000, 2),
        (scenario(19_001), 1 << 20, 2),
        (scenario(17_000, flap_per_min=1), 20_000, 1),
        (scenario(17_000, switch_per_min=1), 20_000, 2),
        (scenario(17_000, nat_timeout_s=1), 20_000, 2),
        (scenario(1_000_000), 20_000, 53),
        (scenario(1000), 1024, 2),
        (scenario(1000, processes=3), 20_000, 3),
    ],
)
def test_as_few_processes_as_have_descriptors_enough(
    made: Scenario, descriptors: int, processes: int
) -> None:
    assert processes_for(made, descriptors) == processes


@pytest.mark.parametrize(
    ("made", "descriptors", "said"),
    [
        (scenario(50_000, processes=2), 20_000, "expected 3 or more"),
        (scenario(2, processes=3), 20_000, "at most one a device"),
        (scenario(2), 256, "256 descriptors a process are too few"),
    ],
)
def test_processes_that_cannot_be(made: Scenario, descriptors: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        processes_for(made, descriptors)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 100_000), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 20)
)
def test_mustering_comes_out_even(devices: int, weights: list[int], processes: int) -> None:
    groups = [Group(name=f"g{n}", share=w / sum(weights)) for n, w in enumerate(weights)]
    mustered = muster(devices, groups, processes)
    sums = [sum(process) for process in mustered]
    assert sum(sums) == devices and max(sums) - min(sums) <= 1
    for column, group in zip(zip(*mustered, strict=True), groups, strict=True):
        assert abs(sum(column) - devices * group.share) <= 1.000001
        assert max(column) - min(column) <= 1


def test_sources_are_on_loopback_and_each_processes_own() -> None:
    service = Service(("127.0.0.1", 1), "http://x", "demo", "", "")
    assert sources_of(service, 16, 0, 2) == ["127.16.1.1", "127.16.1.2"]
    assert sources_of(service, 16, 251, 1) == ["127.17.2.1"]
    elsewhere = Service(("10.0.0.1", 1), "http://x", "demo", "", "")
    assert sources_of(elsewhere, 16, 0, 2) == []


def test_usage_by_role_follows_the_services_pids(tmp_path: Path) -> None:
    assert by_role({"store": None, "api": 3, "edges": [4, 5], "dispatch": []}) == {
        "api": [3],
        "edges": [4, 5],
    }
    pids = tmp_path / "pids.json"
    service = Service(("127.0.0.1", 1), "http://x", "demo", "", "", pids={"api": [os.getpid()]})
    usage = Usage(service, [os.getpid()])
    assert usage.sample()["cpu_api"] == 0 and usage.edge_pids() == []
    sum(range(300_000))
    values = usage.sample()
    assert values["cpu_api"] and values["cpu_fleet"] and (values["rss_api_mb"] or 0) > 1
    following = Usage(Service(("127.0.0.1", 1), "http://x", "demo", "", "", pids_file=pids), [])
    assert following.sample() == {"cpu_fleet": 0, "rss_fleet_mb": 0}, "not written yet"
    pids.write_text('{"edges": [4194303]}')
    assert following.sample()["rss_edges_mb"] == 0, "gone between two samples"
    assert following.edge_pids() == [4194303]
