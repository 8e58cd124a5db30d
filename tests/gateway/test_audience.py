"""Audience trees: normal form, limits, segments, JSON, notes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audience import (
    MAX_ACCOUNT_BYTES,
    MAX_ACCOUNTS,
    MAX_DEPTH,
    MAX_ID,
    MAX_LEAVES,
    MAX_NAME_BYTES,
    STATES,
    Account,
    All,
    And,
    Audience,
    AudienceError,
    Bound,
    Devices,
    Not,
    Or,
    PushState,
    Sample,
    Segment,
    Tag,
    UnknownSegments,
    all_of,
    any_of,
    check_limits,
    devices,
    leaves,
    negate,
    resolve,
    segments,
)
from gateway.audience_json import from_json, to_json
from gateway.audience_notes import describe
from gateway.audience_text import parse_text, to_text
from protocol.codes import MAX_TAG_BYTES
from tests.gateway.audience_trees import World, plain_leaves, select, trees, worlds

A, B, C = Tag("a"), Tag("b"), Tag("c")


# Normal form


@pytest.mark.parametrize(
    "built, normal",
    [
        (all_of([A]), A),
        (any_of([A]), A),
        (all_of([A, all_of([B, C])]), And((A, B, C))),
        (any_of([any_of([A, B]), C]), Or((A, B, C))),
        (all_of([A, any_of([B, C])]), And((A, Or((B, C))))),
        (all_of([B, A, B, all_of([A, C])]), And((B, A, C))),
        (any_of([A, A]), A),
        (negate(A), Not(A)),
        (negate(negate(A)), A),
        (all_of([negate(negate(And((A, B)))), C]), And((A, B, C))),
        (devices([3, 1, 3, 2, 1]), Devices((3, 1, 2))),
        (devices([]), Devices(())),
    ],
)
def test_normal_form(built: Audience, normal: Audience) -> None:
    assert built == normal
    assert hash(built) == hash(normal)


def test_an_operator_without_terms_has_no_meaning() -> None:
    for join in (all_of, any_of):
        with pytest.raises(ValueError, match="of nothing"):
            join([])


def raw(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """JSON as people write it: not normalised."""
    return st.recursive(
        leaf.map(to_json),
        lambda below: st.one_of(
            st.lists(below, min_size=1, max_size=3).map(lambda terms: {"and": terms}),
            st.lists(below, min_size=1, max_size=3).map(lambda terms: {"or": terms}),
            below.map(lambda term: {"not": term}),
        ),
        max_leaves=8,
    )


def by_the_book(value: Any, world: World) -> set[int]:
    """What JSON means, without the tree."""
    if isinstance(value, dict):
        if "and" in value:
            return set.intersection(*(by_the_book(term, world) for term in value["and"]))
        if "or" in value:
            return set.union(*(by_the_book(term, world) for term in value["or"]))
        if "not" in value:
            return world.everybody - by_the_book(value["not"], world)
    return select(from_json(value), world)


def is_normal(tree: Audience) -> bool:
    match tree:
        case And(terms) | Or(terms):
            return (
                len(terms) > 1
                and len(set(terms)) == len(terms)
                and not any(type(term) is type(tree) for term in terms)
                and all(map(is_normal, terms))
            )
        case Not(term):
            return not isinstance(term, Not) and is_normal(term)
    return True


@given(raw(plain_leaves), worlds)
def test_normal_form_keeps_the_meaning(value: Any, world: World) -> None:
    try:
        tree = from_json(value)
    except AudienceError:
        return  # deeper than the limit
    assert is_normal(tree)
    assert select(tree, world) == by_the_book(value, world)


@given(trees())
def test_json_both_ways(tree: Audience) -> None:
    assert is_normal(tree)
    assert from_json(json.loads(json.dumps(to_json(tree)))) == tree
    check_limits(tree)  # raises nothing


# JSON


@pytest.mark.parametrize(
    "value, tree",
    [
        ("all", All()),
        ({"tag": "city:gz"}, Tag("city:gz")),
        ({"account": "u1"}, Account("u1", "all")),
        ({"account": "u1", "which": "latest"}, Account("u1", "latest")),
        ({"account": "u1", "which": "all"}, Account("u1")),
        ({"devices": ["1", 2, "01", str(MAX_ID)]}, Devices((1, 2, MAX_ID))),
        ({"devices": []}, Devices(())),
        ({"push": "7", "state": "displayed"}, PushState(7, "displayed")),
        ({"state": "expired", "push": 7}, PushState(7, "expired")),
        ({"segment": "vips"}, Segment("vips")),
        ({"sample": 0.01, "salt": "x"}, Sample(0.01, "x")),
        ({"sample": 1}, Sample(1.0)),
        (
            {"and": [{"tag": "a"}, {"not": {"or": [{"tag": "b"}, "all"]}}]},
            And((A, Not(Or((B, All()))))),
        ),
    ],
)
def test_json(value: Any, tree: Audience) -> None:
    assert from_json(value) == tree


def test_numbers_are_of_one_type() -> None:
    for number in (0, 1, -0.0, 1.0):
        made = from_json({"sample": number})
        assert isinstance(made, Sample)
        assert repr(made.fraction) == repr(abs(float(number)))


@pytest.mark.parametrize("state", STATES)
def test_every_state(state: Any) -> None:
    assert from_json({"push": 1, "state": state}) == PushState(1, state)


WRONG_JSON: dict[str, tuple[Any, str]] = {
    "a list": ([], 'audience: expected an object such as {"tag": ...}, or "all", got a list'),
    "null": (None, "audience: expected an object such as"),
    "no object": ({}, "audience: expected an object such as"),
    "a string": ("ALL", 'or "all", got the string "ALL"'),
    "a deep list": (
        {"and": [{"tag": "a"}, {"not": []}]},
        'audience.and[1].not: expected an object such as {"tag": ...}, or "all", got a list',
    ),
    "unknown": ({"tags": "a"}, "expected one of and, or, not, tag"),
    "two kinds": ({"tag": "a", "not": "all"}, "got `tag` and `not` in one object"),
    "a stranger": ({"tag": "a", "which": "all"}, "audience: `which` does not belong to `tag`"),
    "empty and": ({"and": []}, "audience.and: expected at least one entry, got an empty list"),
    "empty or": ({"or": []}, "audience.or: expected at least one entry"),
    "and of an object": ({"and": {"tag": "a"}}, "audience.and: expected a list, got an object"),
    "tag of a list": ({"not": {"tag": ["a"]}}, "audience.not.tag: expected a string, got a list"),
    "empty tag": ({"tag": ""}, "audience.tag: expected 1 to 128 bytes in UTF-8, got 0"),
    "control": ({"tag": "a\nb"}, "without control characters, got U+000A in it"),
    "C1 control": ({"tag": "a\x85"}, "got U+0085"),
    "line separator": ({"tag": "\u2028"}, "got U+2028"),
    "half a pair": ({"tag": "a\ud800"}, "got U+D800"),
    "long tag": ({"tag": "é" * 64 + "a"}, "expected 1 to 128 bytes in UTF-8, got 129"),
    "long account": ({"account": "a" * 257}, "audience.account: expected 1 to 256 bytes"),
    "long segment": ({"segment": "a" * 129}, "audience.segment: expected 1 to 128 bytes"),
    "long salt": ({"sample": 0, "salt": "a" * 129}, "audience.salt: expected 0 to 128 bytes"),
    "which": ({"account": "u", "which": "last"}, "audience.which: expected one of all, latest"),
    "devices of a number": (
        {"devices": 1},
        "audience.devices: expected a list of device ids, got the",
    ),
    "device of letters": ({"devices": ["1", "x"]}, "audience.devices[1]: expected a device id"),
    "negative device": ({"devices": [-1]}, "got the number -1"),
    "large device": ({"devices": [2**64]}, "got a number beyond 64 bits"),
    "huge device": ({"devices": [10**5000]}, "got a number beyond 64 bits"),
    "true as a device": ({"devices": [True]}, "audience.devices[0]: expected a device id"),
    "other digits": ({"devices": ["١"]}, "audience.devices[0]: expected a device id"),
    "push": ({"push": "x", "state": "failed"}, "audience.push: expected a push id"),
    "push alone": ({"push": "1"}, "audience: expected `state` beside `push`"),
    "state": ({"push": 1, "state": "seen"}, "audience.state: expected one of targeted, received"),
    "state of a list": ({"push": 1, "state": []}, "audience.state: expected one of"),
    "sample of text": (
        {"sample": "0.1"},
        "audience.sample: expected a number from 0 to 1, got the",
    ),
    "sample of true": ({"sample": True}, "from 0 to 1, got true"),
    "sample over 1": ({"sample": 1.5}, "from 0 to 1, got the number 1.5"),
    "sample nan": ({"sample": float("nan")}, "from 0 to 1, got the number nan"),
    "sample huge": ({"sample": 10**400}, "got a number beyond 64 bits"),
    "salt": ({"sample": 0.1, "salt": 1}, "audience.salt: expected a string, got the number 1"),
    "another type": ({"tag": b"a"}, "expected a string, got a bytes"),
}


@pytest.mark.parametrize("value, said", WRONG_JSON.values(), ids=WRONG_JSON.keys())
def test_wrong_json(value: Any, said: str) -> None:
    with pytest.raises(AudienceError) as error:
        from_json(value)
    assert said in str(error.value)
    assert str(error.value) == f"{error.value.path}: {error.value.said}"
    assert error.value.position is None
    assert len(str(error.value)) < 300


def test_malformed_devices_can_be_told_apart() -> None:
    malformed: list[str] = []
    value = {"devices": ["1", "x", -1, 2**64, "9" * 300, 10**5000, 2]}
    assert from_json(value, malformed=malformed) == Devices((1, 2))
    assert malformed == ["x", "-1", str(2**64), "9" * 64, "a number beyond 64 bits"]
    no_ids: tuple[object, ...] = (None, True, 1.0, [], {})
    for never in no_ids:
        with pytest.raises(AudienceError, match=r"devices\[0\]: expected a device id"):
            from_json({"devices": [never]}, malformed=malformed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("all"),
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.dictionaries(
            st.sampled_from(["and", "or", "not", "tag", "account", "which", "devices", "sample"])
            | st.text(max_size=3),
            below,
            max_size=2,
        ),
    ),
    max_leaves=10,
)


@settings(max_examples=400, deadline=None)
@given(json_values)
def test_any_json_is_a_tree_or_an_audience_error(value: Any) -> None:
    try:
        tree = from_json(value)
    except AudienceError:
        return
    assert from_json(to_json(tree)) == tree


# Limits


def nested(levels: int) -> Audience:
    """`levels` operators around a leaf."""
    tree: Audience = A
    for level in range(levels):
        tree = And((B, tree)) if level % 2 else Or((C, tree))
    return tree


def test_depth() -> None:
    assert from_json(to_json(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(AudienceError, match=f"at most {MAX_DEPTH} operators"):
        from_json(to_json(nested(MAX_DEPTH + 1)))


@pytest.mark.parametrize("operator", ["and", "or", "not"])
def test_no_recursion_beyond_the_limit(operator: str) -> None:
    value: Any = {"tag": "a"}
    for _ in range(100_000):
        value = {operator: value if operator == "not" else [value]}
    with pytest.raises(AudienceError, match="nested too deeply"):
        from_json(value)


def test_leaves_are_counted_as_written() -> None:
    from_json({"or": [{"tag": "a"}] * MAX_LEAVES})
    with pytest.raises(
        AudienceError, match=rf"or\[512\]\.tag: too many leaves: at most {MAX_LEAVES}"
    ):
        from_json({"or": [{"tag": "a"}] * (MAX_LEAVES + 1)})


def test_limits_of_a_tree_made_by_hand() -> None:
    check_limits(nested(MAX_DEPTH))
    with pytest.raises(AudienceError, match="nested too deeply"):
        check_limits(nested(MAX_DEPTH + 1))
    tree: Audience = A
    for _ in range(100_000):
        tree = Not(tree)
    with pytest.raises(AudienceError, match="nested too deeply"):
        check_limits(tree)
    tags = [Tag(str(i)) for i in range(MAX_LEAVES + 1)]
    check_limits(any_of(tags[1:]))
    with pytest.raises(AudienceError, match="too many leaves"):
        check_limits(any_of(tags))


def test_accounts_have_a_limit_of_their_own_and_bound_ones_none() -> None:
    accounts = [Account(str(i)) for i in range(MAX_ACCOUNTS + 1)]
    bound = [Bound(str(i), (i,)) for i in range(2 * MAX_ACCOUNTS)]
    tags = [Tag(str(i)) for i in range(MAX_LEAVES)]
    most = any_of([*tags, *accounts[1:], *bound])
    check_limits(most)
    assert from_json(to_json(most), bound=True) == most
    whole = any_of([*tags, *accounts[1:]])
    assert parse_text(to_text(whole)) == whole
    written = to_json(any_of(accounts))
    assert isinstance(written, dict)
    for refused in (
        lambda: check_limits(any_of([*tags, *accounts])),
        lambda: from_json(written),
        lambda: from_json({"or": [{"account": "u"}] * (MAX_ACCOUNTS + 1)}),
        lambda: parse_text(" | ".join(["account(u)"] * (MAX_ACCOUNTS + 1))),
    ):
        with pytest.raises(AudienceError, match=f"too many accounts: at most {MAX_ACCOUNTS}"):
            refused()
    with pytest.raises(AudienceError, match="too many leaves"):
        check_limits(any_of([*tags, All(), *accounts[1:]]))


def test_accounts_that_have_been_looked_up_are_no_part_of_the_language() -> None:
    bound = Bound("u1", (1, 2), "latest")
    assert from_json(to_json(bound), bound=True) == bound
    assert to_text(bound) == "account(u1, latest)" and to_text(Bound("u1", ())) == "account(u1)"
    with pytest.raises(AudienceError, match="`bound` does not belong"):
        from_json(to_json(bound))


@pytest.mark.parametrize(
    "limit, made",
    [
        (MAX_TAG_BYTES, lambda text: {"tag": text}),
        (MAX_ACCOUNT_BYTES, lambda text: {"account": text}),
        (MAX_NAME_BYTES, lambda text: {"segment": text}),
        (MAX_NAME_BYTES, lambda text: {"sample": 0.5, "salt": text}),
    ],
)
def test_lengths(limit: int, made: Any) -> None:
    from_json(made("a" * limit))
    with pytest.raises(AudienceError, match=f"{limit} bytes"):
        from_json(made("a" * (limit + 1)))


# Segments


def test_leaves_and_segments_in_order() -> None:
    tree = parse_text("segment(x) & (a | !segment(y)) & !(segment(x) | b)")
    assert list(leaves(tree)) == [Segment("x"), A, Segment("y"), Segment("x"), B]
    assert segments(tree) == ["x", "y"]
    assert segments(A) == []


SAVED = {
    name: parse_text(text)
    for name, text in {
        "young": "age:18 | age:19",
        "south": "city:gz | city:sz",
        "core": "segment(young) & segment(south)",
        "rest": "!segment(core)",
    }.items()
}


@pytest.mark.parametrize(
    "text, whole",
    [
        ("a & b", "a & b"),
        ("segment(young)", "age:18 | age:19"),
        ("segment(young) | age:17", "age:18 | age:19 | age:17"),
        ("segment(core) & vip", "(age:18 | age:19) & (city:gz | city:sz) & vip"),
        ("!segment(rest)", "(age:18 | age:19) & (city:gz | city:sz)"),
        ("segment(core) | !segment(core)", None),
    ],
)
def test_resolve(text: str, whole: str | None) -> None:
    resolved = resolve(parse_text(text), SAVED)
    assert segments(resolved) == []
    if whole is not None:
        assert resolved == parse_text(whole)


@given(trees(plain_leaves), trees(plain_leaves), worlds)
def test_resolve_keeps_the_meaning(tree: Audience, saved: Audience, world: World) -> None:
    inner = resolve(saved, {"s1": A, "s2": B}) if segments(saved) else saved
    try:
        whole = resolve(tree, {"s1": saved, "s2": C, **({"s1": inner} if segments(saved) else {})})
    except AudienceError as error:
        assert "limit" in str(error) or "nested" in str(error)
        return
    known = world._replace(segments={"s1": select(inner, world), "s2": world.tags["c"]})
    assert is_normal(whole)
    assert select(whole, world) == select(tree, known)


def test_unknown_segments_are_all_named() -> None:
    saved = {"one": parse_text("segment(two) | segment(none)")}
    with pytest.raises(UnknownSegments) as error:
        resolve(parse_text("segment(nil) & segment(one)"), saved)
    assert error.value.names == ("nil", "two", "none")
    assert "`nil`, `two`, `none`" in str(error.value)


@pytest.mark.parametrize(
    "saved, circle",
    [
        ({"a": "segment(a)"}, "`a` -> `a`"),
        ({"a": "x & segment(b)", "b": "!segment(a)"}, "`a` -> `b` -> `a`"),
        ({"a": "segment(b)", "b": "segment(c) | y", "c": "x | segment(b)"}, "`b` -> `c` -> `b`"),
    ],
)
def test_circles_are_refused(saved: dict[str, str], circle: str) -> None:
    with pytest.raises(AudienceError) as error:
        resolve(Segment("a"), {name: parse_text(text) for name, text in saved.items()})
    assert str(error.value) == f"audience: segments that refer to themselves: {circle}"


def test_accounts_of_segments_count_too() -> None:
    half = any_of(Account(str(i)) for i in range(MAX_ACCOUNTS // 2))
    saved = {"half": half, "more": any_of([half, Account("one")])}
    tree = parse_text("segment(half) & a | segment(half) & b")
    assert len(list(leaves(resolve(tree, saved)))) == MAX_ACCOUNTS + 2
    with pytest.raises(AudienceError, match=f"more than {MAX_ACCOUNTS} accounts"):
        resolve(parse_text("segment(half) & a | segment(more) & b"), saved)


def test_a_long_chain_of_segments() -> None:
    saved: dict[str, Audience] = {str(i): Segment(str(i + 1)) for i in range(20_000)}
    saved["20000"] = A
    assert resolve(Segment("0"), saved) == A
    saved["20000"] = Segment("0")
    with pytest.raises(AudienceError, match="refer to themselves"):
        resolve(Segment("0"), saved)


def test_a_segment_is_read_once_however_often_it_is_referred_to() -> None:
    # Each by the two before it: followed one by one that would be 10^16 steps.
    saved: dict[str, Audience] = {"0": A, "1": A}
    for i in range(2, 80):
        saved[str(i)] = all_of([Segment(str(i - 1)), Segment(str(i - 2))])
    assert resolve(Segment("79"), saved) == A


def test_segments_that_double_are_refused_before_they_are_written_out() -> None:
    # 2^30 leaves, were they built.
    saved: dict[str, Audience] = {"0": any_of([A, B])}
    for i in range(1, 31):
        below = Segment(str(i - 1))
        saved[str(i)] = any_of([all_of([below, A]), all_of([below, B])])
    with pytest.raises(
        AudienceError, match="segment `8`: with its segments put in it has more than"
    ):
        resolve(Segment("30"), saved)


def test_segments_that_nest_too_deeply_together() -> None:
    saved: dict[str, Audience] = {"0": A}
    for i in range(1, 40):
        saved[str(i)] = negate(all_of([Segment(str(i - 1)), B]))
    assert resolve(Segment("8"), saved)
    with pytest.raises(AudienceError, match="segment `9`: nested too deeply"):
        resolve(Segment("9"), saved)


# Notes


@pytest.mark.parametrize(
    "text, notes",
    [
        ("city:gz & !vip", []),
        ("all & !vip", []),
        ("city:gz & (sex:male | !vip)", []),
        ("!(a & b) & c", []),
        ("!vip", ["`!vip` without anything to subtract from means everybody except vip"]),
        ("!a & !b", ["`!a & !b` without anything to subtract from means everybody except a | b"]),
        ("a | !b", ["`!b` without anything to subtract from means everybody except b"]),
        (
            "!(a & !b)",
            ["`!(a & !b)` without anything to subtract from means everybody except a & !b"],
        ),
        (
            "!c & (!a | b)",
            [
                "`!c` without anything to subtract from means everybody except c",
                "`!a` without anything to subtract from means everybody except a",
            ],
        ),
        ("(!a | !b) & (c | d)", []),
        ("a & b & !a", ["`a & b & !a` is nobody: it asks for `a` and for its opposite"]),
        ("c & (a | !a)", ["`a | !a` is everybody: it takes `a` and its opposite"]),
    ],
)
def test_notes(text: str, notes: list[str]) -> None:
    assert describe(parse_text(text)) == notes


def test_notes_are_short() -> None:
    (note,) = describe(negate(devices(range(10_000))))
    assert len(note) < 300


@given(trees(plain_leaves), worlds)
def test_without_notes_everything_begins_from_what_is_named(tree: Audience, world: World) -> None:
    """A device that nothing names is not in an audience that no note warns of."""
    stranger = 50
    wide = world._replace(size=stranger + 1)
    if All() not in leaves(tree) and stranger in select(tree, wide):
        assert any("everybody" in note for note in describe(tree))
