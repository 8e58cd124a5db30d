"""The verdict on made-up journals: it finds each kind of wrongness, and nothing where there is none."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.faults.door import Copy, Mark
from tests.faults.scenarios import SCENARIOS
from tests.faults.told import Pushed, Told
from tests.faults.verdict import UNDER_WAY_S, Showing, judge

DEVICES = range(1, 7)
FAR = 10_000.0
Lines = dict[int, list[Showing]]


class Story:
    """What was accepted, and journals that are as they should be."""

    def __init__(self, told: Told, journals: Lines) -> None:
        self.told = told
        self.journals = journals

    def wrong(self) -> dict[str, int]:
        return judge(self.told, self.journals, DEVICES).wrong

    def shown(self, wanted: Callable[[Pushed], bool]) -> list[tuple[int, int]]:
        """(device, place in its journal) of showings of such pushes."""
        return [
            (device, at)
            for device, lines in self.journals.items()
            for at, line in enumerate(lines)
            if line.push_id in self.told.pushes and wanted(self.told.pushes[line.push_id])
        ]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Pushes one after the other, some with nobody to tell of them; devices that did as they should."""
    told = Told()
    journals: Lines = {device: [] for device in DEVICES}
    for place in range(draw(st.integers(1, 12))):
        push_id = 100 + place
        devices = draw(st.frozensets(st.sampled_from(DEVICES), min_size=1))
        fate = draw(st.sampled_from(("accepted", "accepted", "accepted", "doubtful", "in doubt")))
        if fate == "accepted":
            told.pushes[push_id] = _pushed(draw, push_id, place, devices)
        elif fate == "doubtful":
            told.doubtful[push_id] = devices
        else:
            told.in_doubt.append(devices)
        _show(draw, told, push_id, place, devices, journals)
    _drop_replaced(draw, told, journals)
    return Story(told, journals)


def _pushed(draw: st.DrawFn, push_id: int, place: int, devices: frozenset[int]) -> Pushed:
    recalled = draw(st.sampled_from((None, None, None, "asked", "done")))
    return Pushed(
        push_id=push_id,
        devices=devices,
        asked_at=place * 10.0,
        # Some answers come when the next request has begun.
        answered_at=place * 10.0 + draw(st.sampled_from((5.0, 15.0))),
        priority=draw(st.sampled_from(("normal", "high"))),
        ordered=len(devices) == 1,
        ttl_s=draw(st.sampled_from((3600, 3600, 0, 2))),
        collapse_key=draw(st.sampled_from(("", "", "a", "b"))),
        recall_asked=recalled is not None,
        recalled_at=FAR if recalled == "done" else None,
    )


def _show(
    draw: st.DrawFn,
    told: Told,
    push_id: int,
    place: int,
    devices: frozenset[int],
    journals: Lines,
) -> None:
    pushed = told.pushes.get(push_id)
    # Of what was not accepted for sure, nothing has to be shown, and anything may be.
    must = pushed is not None and pushed.must_arrive
    for device in sorted(devices):
        if must or draw(st.booleans()):
            journals[device].append(Showing(push_id, place * 10.0 + 6))


def _drop_replaced(draw: st.DrawFn, told: Told, journals: Lines) -> None:
    """What a later push of its collapse key makes void may be shown before it, or not at all."""
    for device, lines in journals.items():
        for line in list(lines):
            if _replaced(told, told.pushes.get(line.push_id), device) and draw(st.booleans()):
                lines.remove(line)


def _replaced(told: Told, pushed: Pushed | None, device: int) -> bool:
    return pushed is not None and any(
        other.push_id > pushed.push_id
        and other.collapse_key == pushed.collapse_key != ""
        and device in other.devices
        for other in told.pushes.values()
    )


chances = st.randoms(use_true_random=False)


@settings(max_examples=100, deadline=None)
@given(stories())
def test_no_false_alarm(story: Story) -> None:
    verdict = judge(story.told, story.journals, DEVICES)
    assert verdict.wrong == {}, verdict.examples
    assert verdict.shown == sum(map(len, story.journals.values()))
    assert verdict.targeted == sum(len(p.devices) for p in story.told.pushes.values())


@settings(max_examples=50, deadline=None)
@given(stories(), st.data())
def test_each_one_lost_is_found(story: Story, data: st.DataObject) -> None:
    found = story.shown(lambda p: p.must_arrive and not p.collapse_key)
    assume(found)
    device, at = data.draw(st.sampled_from(found))
    del story.journals[device][at]
    assert story.wrong() == {"lost": 1}


def test_without_a_journal_everything_is_lost() -> None:
    told = Told()
    told.pushes[1] = Pushed(push_id=1, devices=frozenset((1, 2)), asked_at=0, answered_at=1)
    assert judge(told, {}).wrong == {"lost": 2}


def test_the_last_of_a_collapse_key_must_arrive_and_no_other() -> None:
    told = Told()
    for push_id in (1, 2):
        told.pushes[push_id] = Pushed(
            push_id=push_id,
            devices=frozenset((7,)),
            asked_at=push_id,
            answered_at=push_id,
            collapse_key="k",
        )
    assert judge(told, {7: [Showing(2, 3)]}).wrong == {}
    assert judge(told, {7: [Showing(1, 3)]}).wrong == {"lost": 1}
    # A third one may have been accepted: then it replaces both.
    told.in_doubt.append(frozenset((7,)))
    assert judge(told, {7: [Showing(9, 3)]}).wrong == {}


@settings(max_examples=50, deadline=None)
@given(stories(), st.data())
def test_each_one_shown_twice_is_found(story: Story, data: st.DataObject) -> None:
    found = story.shown(lambda p: p.recalled_at is None)
    assume(found)
    device, at = data.draw(st.sampled_from(found))
    lines = story.journals[device]
    lines.insert(data.draw(st.integers(at + 1, len(lines))), lines[at]._replace(at=FAR))
    assert story.wrong() == {"duplicates": 1}


@settings(max_examples=50, deadline=None)
@given(stories(), st.data())
def test_a_stray_is_found(story: Story, data: st.DataObject) -> None:
    found = [
        (device, push_id)
        for push_id, devices in _known(story.told).items()
        for device in DEVICES
        if device not in devices
    ]
    assume(found)
    device, push_id = data.draw(st.sampled_from(found))
    # In its place, so that it is a stray and nothing else.
    lines = story.journals[device]
    lines.append(Showing(push_id, 0.0))
    lines.sort(key=lambda line: line.push_id)
    assert story.wrong() == {"strays": 1}


def _known(told: Told) -> dict[int, frozenset[int]]:
    return {p.push_id: p.devices for p in told.pushes.values()} | told.doubtful


@settings(max_examples=50, deadline=None)
@given(stories(), st.data())
def test_what_was_made_of_no_request_is_found(story: Story, data: st.DataObject) -> None:
    """The same request as two pushes shows as a push of which nobody was told."""
    story.told.in_doubt.clear()
    for lines in story.journals.values():
        lines[:] = [line for line in lines if line.push_id in _known(story.told)]
    device = data.draw(st.sampled_from(DEVICES))
    story.journals[device].append(Showing(999, FAR))
    assert story.wrong() == {"duplicates": 1}


def test_pushes_are_given_to_requests_in_doubt_as_well_as_can_be() -> None:
    """Whichever is looked at first: none takes the only request that fits another."""
    told = Told(in_doubt=[frozenset((1, 4)), frozenset((1, 2, 3))])
    for order in ((5, 6), (6, 5)):
        lines = {5: {1: [Showing(5, 0)]}, 6: {4: [Showing(6, 0)]}}
        assert judge(told, lines[order[0]] | lines[order[1]]).wrong == {}


def test_a_request_in_doubt_is_at_most_one_push_and_for_its_own_devices() -> None:
    told = Told(in_doubt=[frozenset((1, 2)), frozenset((1,))])
    assert judge(told, {1: [Showing(5, 0), Showing(6, 0)], 2: [Showing(5, 0)]}).wrong == {}
    assert judge(told, {1: [Showing(n, 0) for n in (5, 6, 7)]}).wrong == {"duplicates": 1}
    assert judge(told, {3: [Showing(5, 0)]}).wrong == {"duplicates": 1}
    assert judge(told, {1: [Showing(5, 0)], 3: [Showing(5, 0)]}).wrong == {"duplicates": 1}


@settings(max_examples=80, deadline=None)
@given(st.permutations(range(6)), st.lists(st.sampled_from(("normal", "high")), min_size=6))
def test_order_within_a_device_and_a_priority(order: list[int], priorities: list[str]) -> None:
    told = Told()
    for n in range(6):
        told.pushes[n] = Pushed(
            push_id=n,
            devices=frozenset((1,)),
            asked_at=n * 10.0,
            answered_at=n * 10.0 + 5,
            priority=priorities[n],
            ordered=True,
        )
    # An oracle in other words: it stands behind any of its lane that was accepted later.
    wrong = sum(
        any(before > n and priorities[before] == priorities[n] for before in order[:place])
        for place, n in enumerate(order)
    )
    journal = {1: [Showing(n, FAR) for n in order]}
    assert judge(told, journal).wrong == ({"out_of_order": wrong} if wrong else {})
    # Who asks for the second before the first is answered may get them in any order.
    for n in range(6):
        told.pushes[n] = replace(told.pushes[n], answered_at=FAR)
    assert judge(told, journal).wrong == {}


@settings(max_examples=50, deadline=None)
@given(stories(), st.data())
def test_shown_behind_the_answer_to_a_recall_and_no_copy_seen(
    story: Story, data: st.DataObject
) -> None:
    found = story.shown(lambda p: p.recalled_at is not None)
    assume(found)
    device, at = data.draw(st.sampled_from(found))
    lines = story.journals[device]
    lines[at] = lines[at]._replace(at=FAR + UNDER_WAY_S + 0.001)
    assert story.wrong() == {"recalled_and_shown": 1}
    lines[at] = lines[at]._replace(at=FAR + UNDER_WAY_S)
    assert story.wrong() == {}


BEFORE, AFTER = Copy(1, 99), Copy(1, 100)
LONG_S = UNDER_WAY_S + 0.001


@pytest.mark.parametrize(
    ("sent", "late_s", "wrong"),
    [
        ([AFTER], 0.001, {"recalled_and_shown": 1}),
        ([AFTER], LONG_S, {"recalled_and_shown": 1}),
        # The first one may have been lost with its connection.
        ([BEFORE, AFTER], 0.001, {"recalled_and_shown": 1}),
        ([BEFORE], LONG_S, {"recalled_on_their_way": 1}),
        ([BEFORE, BEFORE], LONG_S, {"recalled_on_their_way": 1}),
        ([BEFORE], UNDER_WAY_S, {}),
        # Shown before the answer: what was sent once more behind it showed nothing.
        ([BEFORE, AFTER], 0.0, {}),
        ([], LONG_S, {"recalled_and_shown": 1}),
        ([], UNDER_WAY_S, {}),
    ],
)
def test_what_was_recalled_is_judged_by_when_it_left_its_edge(
    sent: list[Copy], late_s: float, wrong: dict[str, int]
) -> None:
    pushed = Pushed(
        push_id=1,
        devices=frozenset((7, 8)),
        asked_at=0,
        answered_at=1,
        recall_asked=True,
        recalled_at=FAR,
        mark=Mark(1, {1: 100}),
    )
    journals = {7: [Showing(1, FAR + late_s)]}
    # What another device was sent late, and did not show, is no excuse and no accusation.
    copies = {(1, 7): sent, (1, 8): [AFTER]}
    verdict = judge(Told(pushes={1: pushed}), journals, copies=copies)
    assert verdict.wrong == wrong | {"recalled_and_sent": sent.count(AFTER) + 1}
    assert verdict.recalled == (late_s > 0)


def test_no_scenario_excuses_what_left_its_edge_after_the_recall() -> None:
    assert not [name for name, each in SCENARIOS.items() if "recalled_and_shown" in each.allowed]


@pytest.mark.parametrize(
    ("order", "wrong"), [((1, 2, 3), 0), ((1, 3, 2), 1), ((3, 1, 2), 2), ((3,), 0)]
)
def test_shown_behind_what_replaced_it(order: tuple[int, ...], wrong: int) -> None:
    told = Told()
    for push_id in (1, 2, 3):
        told.pushes[push_id] = Pushed(
            push_id=push_id,
            devices=frozenset((1,)),
            asked_at=0,
            answered_at=9,
            collapse_key="k",
        )
    journal = {1: [Showing(push_id, 0) for push_id in order]}
    assert judge(told, journal, [1]).wrong == ({"replaced_and_shown": wrong} if wrong else {})
    # One that knows no collapse keys shows what comes, in the order in which it comes.
    assert judge(told, journal, [2]).wrong == {}


def test_examples_are_few() -> None:
    told = Told()
    for push_id in range(100):
        told.pushes[push_id] = Pushed(
            push_id=push_id, devices=frozenset((1,)), asked_at=0, answered_at=1
        )
    verdict = judge(told, {})
    assert verdict.lost == 100 and len(verdict.examples) == 12
