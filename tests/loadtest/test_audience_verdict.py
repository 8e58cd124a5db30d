"""The verdict of an audience run: right counts pass, and each thing that can be wrong is seen."""

from collections.abc import Callable
from random import Random
from typing import Any, cast

import pytest

from loadtest import audience_checks
from loadtest.api_client import STATES, ApiClient
from loadtest.audience_checks import Checks
from loadtest.audience_verdict import (
    counts_of,
    cuts_of,
    differences,
    judge_bounds,
    states_of,
    told_cuts,
)
from loadtest.crowd import ALL, SHARES, Crowd, Part, share
from loadtest.meaning import Bounds, Tree, World, meant
from loadtest.push_book import PushBook
from loadtest.verdict import Verdict

EVERYBODY = frozenset(range(40))
LOOKING = frozenset(range(0, 40, 2))
TAGS = {"city:gz": set(range(10)), "city:sz": set(range(10, 20)), "vip": {3, 13, 33}}
SAMPLES = {
    (0.25, "s"): frozenset(range(5, 15)),
    (0.5, "s"): frozenset(range(20)),
}
WORLD = World(EVERYBODY, TAGS, {}, SAMPLES)


def test_lost_must_have_it_and_a_stray_may_not() -> None:
    expected = {7: Bounds({1, 2}, {1, 2, 3}), 8: Bounds({1}, {1})}
    assert judge_bounds(expected, {7: [1, 2], 8: [1]}).clean
    assert judge_bounds(expected, {7: [1, 2, 3], 8: [1]}).clean
    assert judge_bounds(expected, {7: [1, 3, 4], 8: []}) == Verdict(2, 0, 1)
    assert judge_bounds(expected, {7: [1, 2, 2], 8: [1], 9: [1]}) == Verdict(0, 2, 0)


def test_counts_are_those_of_the_devices() -> None:
    states = states_of(frozenset({1, 2, 3, 4}), frozenset({1, 2, 4}), LOOKING)
    assert counts_of(states) == {"targeted": 4, "received": 3, "pending": 1, "displayed": 2}
    assert states.keys() >= {*STATES}
    assert cuts_of(states, {"a:x": {1, 2}, "a": {9}, "a:y": {4}, "b:x": {1}}, ["a"]) == {
        "a:x": {"targeted": 2, "received": 2, "displayed": 1},
        "a:y": {"targeted": 1, "received": 1, "displayed": 1},
    }


def test_told_cuts_are_plain_and_under_their_names() -> None:
    assert told_cuts({"a": {"a:x": {"received": 2, "failed": 0}, "a": {"received": 0}}}) == {
        "a:x": {"received": 2}
    }
    with pytest.raises(ValueError, match="'b:x' is told of under 'a'"):
        told_cuts({"a": {"b:x": {"received": 2}}})


def test_differences_name_what_differs_alone() -> None:
    said = differences({"a:x": {"received": 2, "pending": 1}}, {"a:x": {"received": 2}})
    assert said == "a:x: pending: the service says 1, the devices None"


@pytest.mark.parametrize("devices", [1, 19, 20, 101, 10_000])
def test_shares_are_all_rows_and_each_once(devices: int) -> None:
    rows = [row for number in range(SHARES) for row in share(number + 3 * SHARES).rows(devices)]
    assert rows == [*range(devices)] == [*ALL.rows(devices)]
    assert [*Part(0, 2).rows(devices)] == [*share(0).rows(devices), *share(1).rows(devices)]


class Reports:
    """Devices and a service that agree, unless a test changes what one of them says."""

    TREES: dict[int, Tree] = {  # noqa: RUF012
        7: {"tag": "city:gz"},
        8: {"or": [{"tag": "vip"}, {"not": {"tag": "city:sz"}}]},
        9: "all",
    }

    def __init__(self) -> None:
        self.shown_on = {push: [*meant(tree, WORLD)] for push, tree in self.TREES.items()}
        self.change_counts: Callable[[dict[str, int]], object] = lambda _: None
        self.change_cuts: Callable[[dict[str, Any]], object] = lambda _: None
        self.counted: Callable[[int], int] = lambda count: count

    # As the crowd.

    def looking(self) -> frozenset[int]:
        return LOOKING

    def shown(self) -> dict[int, list[int]]:
        return self.shown_on

    # As the API, which goes by what it means itself.

    def counts(self, push_id: int) -> dict[str, int]:
        devices = frozenset(meant(self.TREES[push_id], WORLD))
        counts = dict.fromkeys(("targeted", *STATES, "displayed"), 0)
        counts |= counts_of(states_of(devices, devices, LOOKING))
        self.change_counts(counts)
        return counts

    def cuts(self, push_id: int, by: object) -> dict[str, Any]:
        devices = frozenset(meant(self.TREES[push_id], WORLD))
        flat = cuts_of(states_of(devices, devices, LOOKING), TAGS, ["city", "vip"])
        cuts: dict[str, Any] = {"city": {"city:none": {"received": 0}}, "vip": {}, "sex": {}}
        for tag, counts in flat.items():
            cuts[tag.partition(":")[0]][tag] = {**counts, "failed": 0}
        self.change_cuts(cuts)
        return cuts

    def count(self, said: Any) -> int:
        if isinstance(said, str) and said != "all":  # the text form of the one below
            return self.counted(len(meant({"tag": "vip"}, WORLD)))
        return self.counted(len(meant(said, WORLD)))


def judged(reports: Reports, world: World = WORLD) -> dict[str, Any]:
    api = cast(ApiClient, reports)
    book = PushBook(api, Random(1))
    book.trees = dict(Reports.TREES)
    book.expect(book.trees, [WORLD])
    checks = Checks(api, book, cast(Crowd, reports), world)
    return checks.result(["all", {"tag": "vip"}, {"not": {"tag": "vip"}}])


SOUND = ("conserved", "pushes_equal", "stats_equal", "counts_equal", "samples_sound")


def wrong_of(result: dict[str, Any]) -> set[str]:
    counted = {name for name in ("lost", "duplicates", "strays", "pending") if result[name]}
    return counted | {name for name in SOUND if not result[name]}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience_checks, "_AGREE_S", 0.0)


def test_all_that_agrees_passes() -> None:
    result = judged(Reports())
    assert wrong_of(result) == set() and result["wrong"] == []
    assert (result["pushes"], result["targeted"], result["displayed"]) == (3, 10 + 31 + 40, 40)
    assert (result["undecided"], result["counts_compared"]) == (0, 3)
    assert result["stats_compared"] > 10


def test_a_message_that_a_device_did_not_show() -> None:
    reports = Reports()
    reports.shown_on[7].remove(5)
    result = judged(reports)
    assert wrong_of(result) == {"lost", "pushes_equal", "stats_equal"} and result["lost"] == 1
    assert "push 7 to city:gz" in result["wrong"][0]


def test_a_message_on_a_device_it_was_not_for() -> None:
    reports = Reports()
    reports.shown_on[7].append(15)
    assert wrong_of(judged(reports)) == {"strays", "pushes_equal", "stats_equal"}


def test_a_message_twice_or_under_another_id() -> None:
    reports = Reports()
    reports.shown_on[7].append(5)
    assert wrong_of(judged(reports)) == {"duplicates"}
    reports = Reports()
    reports.shown_on[10] = [5]
    assert wrong_of(judged(reports)) == {"duplicates"}


def test_a_count_of_a_push_that_is_not_the_devices() -> None:
    for state, broken in (
        ("displayed", {"pushes_equal"}),
        ("targeted", {"pushes_equal", "conserved"}),
        ("pending", {"pushes_equal", "conserved", "pending"}),
        ("unheard_of", {"pushes_equal"}),
    ):
        reports = Reports()
        reports.change_counts = lambda counts, state=state: counts.update(  # type: ignore[misc]
            {state: counts.get(state, 0) + 1}
        )
        assert wrong_of(judged(reports)) == broken


def test_statistics_that_are_not_the_devices() -> None:
    for change in (
        lambda cuts: cuts["city"]["city:gz"].update(displayed=6),
        lambda cuts: cuts["city"].pop("city:gz"),
        lambda cuts: cuts["city"].update({"city:bj": {"targeted": 1}}),
        lambda cuts: cuts["vip"].clear(),
    ):
        reports = Reports()
        reports.change_cuts = change
        assert wrong_of(judged(reports)) == {"stats_equal"}


def test_a_count_of_an_audience_that_is_not_ours() -> None:
    reports = Reports()
    reports.counted = lambda count: count + 1
    result = judged(reports)
    assert wrong_of(result) == {"counts_equal"}
    assert result["wrong"][0] == "count of all: the service says 41, the devices 40"


def test_samples_of_a_wrong_size_or_not_within_each_other() -> None:
    for samples in (
        {**SAMPLES, (0.25, "s"): frozenset(range(20, 30))},
        {**SAMPLES, (0.5, "s"): EVERYBODY},
    ):
        result = judged(Reports(), World(EVERYBODY, TAGS, {}, samples))
        assert wrong_of(result) == {"samples_sound"} and len(result["wrong"]) == 1
