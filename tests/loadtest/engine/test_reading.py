"""Scenarios: what a file may say, and how it is told what it may not."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadtest.engine.reading import ScenarioError, find, parsed, read, ready_names
from loadtest.engine.scenario import Event, Group, Scenario
from loadtest.engine.spread import Exponential, Fixed, LogNormal, Uniform
from loadtest.engine.vocabulary import FIGURES

LEAST: dict[str, Any] = {"duration_s": 5, "fleet": {"devices": 10}}
ALL = Path(__file__).with_name("all_behaviours.toml")


def test_the_ready_ones_are_there_and_right() -> None:
    assert ready_names() == sorted(["connect", "fanout", "single", "storm", "million", "soak"])
    for name in ready_names():
        scenario = read(find(name))
        assert scenario.title and scenario.checks.at_most


def test_defaults_stand_where_nothing_is_said() -> None:
    scenario = parsed(LEAST, "x.toml")
    assert scenario.groups == (Group(name="devices"),) and scenario.pushes == ()
    assert scenario.fleet.app == "demo" and scenario.arrival.per_s == 0


def test_a_service_has_edges_enough_for_the_fleet_where_it_may_choose() -> None:
    million = find("million")
    assert read(million).edges == 61
    assert read(million, ["fleet.devices=20000"]).edges == 2
    assert read(million, ["service.edges=5"]).edges == 5
    with pytest.raises(ValueError, match=r"fleet\.devices: expected at most 1,056,000"):
        _ = read(million, ["fleet.devices=2000000"]).edges


def test_a_number_or_a_share_of_the_edges_is_killed() -> None:
    assert Event(at_s=0, do="kill_edge").victims(4) == 1
    assert Event(at_s=0, do="kill_edge", edges=3).victims(4) == 3
    assert Event(at_s=0, do="kill_edge", share=0.5).victims(5) == 3
    assert Event(at_s=0, do="kill_edge", share=0).victims(5) == 1
    with pytest.raises(ValueError, match="expected at most 2 edges, which run now"):
        Event(at_s=0, do="kill_edge", edges=3).victims(2)


def test_all_that_a_group_may_do() -> None:
    restless, sleepers, nat, slow = read(ALL).groups
    assert restless.think == LogNormal(0.2) and restless.click_after == Fixed(0.1)
    assert restless.vanish is not None and restless.vanish.back_after == Exponential(0.7)
    assert sleepers.doze is not None and sleepers.doze.wake_after == Uniform(0.2, 2.0)
    assert nat.nat_timeout_s == 0.4 and slow.read_bytes_per_s == 300
    assert restless.drawn_tags == {"vip": 0.5}


def changed(**more: Any) -> dict[str, Any]:
    return {**LEAST, **more}


def group(**more: Any) -> dict[str, Any]:
    return changed(groups=[{"name": "a", **more}])


def push(**more: Any) -> dict[str, Any]:
    return changed(pushes=[{"at_s": 1, **more}])


def event(**more: Any) -> dict[str, Any]:
    return changed(events=[{"at_s": 1, **more}])


@pytest.mark.parametrize(
    ("raw", "key", "said"),
    [
        (event(do="cut", edges=1), "events[0].edges", "none for `cut`"),
        (event(do="kill_edge", edges=1, share=0.5), "events[0].edges", "not both"),
        (event(do="kill_edge", edges=0), "events[0].edges", "`int` >= 1"),
        ({"fleet": {"devices": 1}}, "duration_s", "is missing"),
        ({"duration_s": 5}, "fleet", "is missing"),
        (changed(fleet={}), "fleet.devices", "is missing"),
        (changed(fleet={"devices": "10"}), "fleet.devices", "expected `int`, got `str`"),
        (changed(fleet={"devices": 0}), "fleet.devices", "`int` >= 1"),
        (changed(fleet={"devizes": 1, "devices": 1}), "fleet.devizes", "one of devices, processes"),
        (changed(durration=1), "durration", "expected one of title, duration_s"),
        (changed(groups=[]), "groups", "length >= 1"),
        (group(share=1.5), "groups[0].share", "<= 1"),
        (group(flaps=1), "groups[0].flaps", "expected one of name, share, heartbeat_s"),
        (group(doze={"per_min": 1, "x": 1}), "groups[0].doze.x", "per_min, wake_after"),
        (group(doze={}), "groups[0].doze.per_min", "is missing"),
        (group(think={"kind": "normal"}), "groups[0].think.kind", "invalid value 'normal'"),
        (group(think={"kind": "fixed", "x": 1}), "groups[0].think.x", "s (kind fixed)"),
        (
            group(think={"kind": "uniform", "from_s": 2, "to_s": 1}),
            "groups[0].think",
            "expected `to_s` at or above `from_s`",
        ),
        (group(tags="vip"), "groups[0].tags", "expected `array`"),
        (group(drawn_tags={"vip": 2}), "groups[0].drawn_tags[...]", "<= 1"),
        (group(share=0.5), "groups[].share", "sum up to 1, got 0.5"),
        (
            changed(groups=[{"name": "a", "share": 0.5}, {"name": "a", "share": 0.5}]),
            "groups[].name",
            "a name for each group",
        ),
        (push(priority="urgent"), "pushes[0].priority", "urgent"),
        (push(payload_bytes=10**6), "pushes[0].payload_bytes", "<= 60000"),
        (push(at_s=6), "pushes[0].at_s", "expected at most duration_s (5)"),
        (push(for_s=1), "pushes[0].per_s", "expected a rate"),
        (push(per_s=99_999, for_s=60), "pushes", "at most 1,000,000"),
        (changed(events=[{"at_s": 9, "do": "cut"}]), "events[0].at_s", "at most duration_s (5)"),
        (changed(events=[{"at_s": 1, "do": "explode"}]), "events[0].do", "explode"),
        (changed(checks={"at_most": {"lots": 0}}), "checks.at_most.lots", "expected one of lost"),
        (changed(checks={"at_most": {"lost": "no"}}), "checks.at_most[...]", "`float`"),
    ],
)
def test_what_is_wrong_is_told_with_file_key_and_what_was_expected(
    raw: dict[str, Any], key: str, said: str
) -> None:
    with pytest.raises(ScenarioError) as error:
        parsed(raw, "mine.toml")
    assert str(error.value).startswith(f"mine.toml: {key}: "), str(error.value)
    assert said in str(error.value), str(error.value)


def test_settings_go_over_the_file() -> None:
    scenario = read(
        ALL,
        [
            "fleet.devices=7",
            "title=two words",
            "groups.sleepers.heartbeat_s=9",
            "groups.0.flap_per_min=1.5",
            "pushes.news.audience=vip & !muted",
            "checks.at_most.push_p99_ms=3",
            'service.set=["a.b=1"]',
        ],
    )
    assert scenario.fleet.devices == 7 and scenario.title == "two words"
    assert scenario.groups[1].heartbeat_s == 9 and scenario.groups[0].flap_per_min == 1.5
    assert scenario.pushes[1].audience == "vip & !muted"
    assert scenario.checks.at_most["push_p99_ms"] == 3 and scenario.service.set == ("a.b=1",)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("fleet.devices", "expected key=value"),
        ("=1", "expected key=value"),
        ("groups.nobody.share=1", "an entry named or numbered 'nobody'"),
        ("groups.9.share=1", "an entry named or numbered '9'"),
        ("duration_s.x=1", "expected duration_s to be a table"),
        ("duration_s.x.y=1", "'x'"),
        ("fleet.devices=many", "fleet.devices: expected `int`"),
        ("fleet.x=1", "fleet.x: expected one of"),
    ],
)
def test_a_setting_that_fits_nowhere_is_told(setting: str, said: str) -> None:
    with pytest.raises(ScenarioError) as error:
        read(ALL, [setting])
    assert said in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no such file, and no ready scenario: connect, fanout"):
        find("nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("duration_s = \n")
    with pytest.raises(ScenarioError, match=r"broken.toml: expected TOML: .*line 1"):
        read(find(str(broken)))
    broken.write_bytes(b"\xff")
    with pytest.raises(ScenarioError, match="expected TOML"):
        read(broken)
    with pytest.raises(ScenarioError, match="Is a directory"):
        read(tmp_path)


def test_pushes_at_most_is_a_bound() -> None:
    raw = changed(
        pushes=[{"at_s": 1}, {"at_s": 1, "per_s": 10}, {"at_s": 1, "per_s": 10, "for_s": 2}]
    )
    assert parsed(raw, "x").pushes_at_most == 1 + 41 + 21


def test_every_key_stands_in_the_documentation() -> None:
    said = Path("docs/loadtest.md").read_text()
    missing = [key for key in _keys(Scenario) if f"`{key}`" not in said]
    assert missing == []
    assert [figure for figure in FIGURES if f"`{figure}`" not in said] == []


def _keys(kind: type[msgspec.Struct]) -> set[str]:
    from loadtest.engine import scenario, spread

    named = (each for module in (scenario, spread) for each in vars(module).values())
    kinds = {
        each for each in named if isinstance(each, type) and issubclass(each, msgspec.Struct)
    } - {msgspec.Struct}
    assert kind in kinds and len(kinds) == 14
    return {field.encode_name for each in kinds for field in msgspec.structs.fields(each)}
