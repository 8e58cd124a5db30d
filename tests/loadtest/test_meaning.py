"""Whom an audience means: plain sets against the question asked of each device by itself."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audience_json import from_json
from gateway.audience_text import parse_text
from loadtest import expressions
from loadtest.meaning import Bounds, Tree, World, bounds, by_tag, meant, to_text
from tests.loadtest.drawing import SIZE, TREES, UNHURRIED, WORLDS


def is_meant(tree: Tree, device: int, world: World) -> bool:
    """Slow and simple."""
    if tree == "all":
        return True
    [(operator, inner), *_] = tree.items()
    match operator:
        case "and":
            return all(is_meant(term, device, world) for term in inner)
        case "or":
            return any(is_meant(term, device, world) for term in inner)
        case "not":
            return not is_meant(inner, device, world)
        case "tag":
            return device in world.tags.get(inner, ())
        case "devices":
            return str(device) in inner
        case "push":
            return device in world.states[int(inner), tree["state"]]
    return device in world.samples[inner, tree["salt"]]


@UNHURRIED
@given(TREES, WORLDS)
def test_means_each_device_that_it_means_by_itself(tree: Tree, world: World) -> None:
    assert meant(tree, world) == {d for d in range(SIZE) if is_meant(tree, d, world)}


@UNHURRIED
@given(TREES)
def test_text_and_json_are_the_same_audience_to_the_service(tree: Tree) -> None:
    assert parse_text(to_text(tree)) == from_json(tree)


@UNHURRIED
@given(TREES, st.lists(WORLDS, min_size=1, max_size=3), st.data())
def test_bounds_hold_whichever_world_each_device_is_in(
    tree: Tree, worlds: list[World], data: st.DataObject
) -> None:
    found = bounds(tree, worlds)
    of_each = st.lists(st.sampled_from(worlds), min_size=SIZE, max_size=SIZE)
    chosen = data.draw(of_each)
    mixed = {device for device in range(SIZE) if is_meant(tree, device, chosen[device])}
    assert found.must <= mixed <= found.may
    if len(worlds) == 1:
        assert found.must == found.may


def test_bounds_of_a_change() -> None:
    before = World({1, 2, 3}, {"a": {1, 2}})
    after = World({1, 2, 3}, {"a": {2, 3}})
    assert bounds({"tag": "a"}, [before, after]) == Bounds({2}, {1, 2, 3})
    assert bounds({"not": {"tag": "a"}}, [before, after]) == Bounds(set(), {1, 3})


def test_devices_by_tag() -> None:
    assert by_tag({1: ["a", "b"], 2: ["b"], 3: []}) == {"a": {1}, "b": {1, 2}}


@pytest.mark.parametrize("tree", [{}, {"segment": "s"}, "vip", {"tags": ["a"]}])
def test_what_is_no_audience_of_ours_is_refused(tree: Any) -> None:
    for read in (lambda: meant(tree, World({1})), lambda: to_text(tree)):
        with pytest.raises(ValueError, match="no audience"):
            read()
    with pytest.raises(KeyError):
        meant({"push": "7", "state": "received"}, World({1}))


def test_drawn_expressions_are_audiences() -> None:
    random = Random(1)
    for leaves in (expressions.leaves_of_tags(), [expressions.sample(0.5), "all"]):
        for _ in range(200):
            tree = expressions.draw_tree(random, leaves)
            assert tree.keys() & {"and", "or", "not"}
            assert parse_text(to_text(tree)) == from_json(tree)


def test_drawn_tags_are_those_that_expressions_ask_for() -> None:
    asked = {leaf["tag"] for leaf in expressions.leaves_of_tags()} - {*expressions.OF_ALL}
    random = Random(1)
    drawn = [expressions.draw_tags(random) for _ in range(2000)]
    assert asked - {"nobody:here"} == frozenset.union(*drawn)
    assert len({*drawn}) > 100
    for tags in drawn:
        assert {"platform", "lang"} <= {tag.partition(":")[0] for tag in tags}
