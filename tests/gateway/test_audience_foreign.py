"""Other services' requests: the same devices as an evaluation of the request itself, by its manual."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audience import MAX_ACCOUNTS, Account, AudienceError, Devices, Tag, any_of
from gateway.audience_foreign import from_request
from gateway.audience_text import to_text
from tests.gateway.audience_trees import TAGS, World, select, worlds

tags = st.lists(st.sampled_from(TAGS), min_size=1, max_size=3)
ids = st.lists(st.integers(0, 12).map(str), min_size=1, max_size=3)
accounts = st.lists(st.sampled_from(["u1", "u2", "nobody"]), min_size=1, max_size=2)
operators = st.sampled_from(["AND", "OR"])


# TPNS, evaluated from the request: sets joined from left to right would be wrong, AND binds first.


def tpns_joined(sets: list[set[int]], joints: list[str]) -> set[int]:
    """Python's own precedence does it: the expression is written out and evaluated."""
    text = "sets[0]"
    for i, joint in enumerate(joints[1:], 1):
        text += f" {'&' if joint == 'AND' else '|'} sets[{i}]"
    result: set[int] = eval(text, {"sets": sets})
    return result


def tpns_tags(names: list[str], operator: str, world: World) -> set[int]:
    found = [world.tags[name] for name in names]
    return set.intersection(*found) if operator == "AND" else set.union(*found)


def tpns_rules(rules: list[dict[str, Any]], world: World) -> set[int]:
    results = []
    for rule in rules:
        items = []
        for item in rule["tag_items"]:
            found = tpns_tags(item["tags"], item["tags_operator"], world)
            items.append(world.everybody - found if item["is_not"] else found)
        found = tpns_joined(items, [item["items_operator"] for item in rule["tag_items"]])
        results.append(world.everybody - found if rule["is_not"] else found)
    return tpns_joined(results, [rule["operator"] for rule in rules])


items = st.fixed_dictionaries(
    {
        "tags": tags,
        "tags_operator": operators,
        "items_operator": operators,
        "is_not": st.booleans(),
        "tag_type": st.just("xg_user_define"),
    }
)
rules = st.fixed_dictionaries(
    {
        "tag_items": st.lists(items, min_size=1, max_size=4),
        "operator": operators,
        "is_not": st.booleans(),
    }
)


@settings(max_examples=300, deadline=None)
@given(st.lists(rules, min_size=1, max_size=4), worlds)
def test_tpns_tag_rules(written: list[dict[str, Any]], world: World) -> None:
    body = {"audience_type": "tag", "tag_rules": written, "message": {"title": "t"}}
    assert select(from_request(body), world) == tpns_rules(written, world)


@given(tags, operators, worlds)
def test_tpns_tag_list(names: list[str], operator: str, world: World) -> None:
    body = {"audience_type": "tag", "tag_list": {"tags": names, "op": operator}}
    assert select(from_request(body), world) == tpns_tags(names, operator, world)


@given(accounts, st.sampled_from([None, 0, 1]), st.booleans(), worlds)
def test_tpns_accounts(names: list[str], kind: int | None, single: bool, world: World) -> None:
    body = {
        "audience_type": "account" if single else "account_list",
        "account_list": names,
        "account_push_type": kind,
    }
    meant: set[int] = set()
    for name in names[:1] if single else names:
        bound = world.accounts.get(name, [])
        meant |= set(bound) if kind == 1 else set(bound[-1:])
    assert select(from_request(body), world) == meant


@given(ids, st.booleans(), worlds)
def test_tpns_tokens(named: list[str], single: bool, world: World) -> None:
    body = {"audience_type": "token" if single else "token_list", "token_list": named}
    meant = {int(id) for id in (named[:1] if single else named)} & world.everybody
    assert select(from_request(body), world) == meant


def rule(*names: str, **fields: Any) -> dict[str, Any]:
    item = {"tags": list(names), "is_not": False, "tags_operator": "OR", "items_operator": "OR"}
    return {"tag_items": [{**item, **fields}], "operator": "OR", "is_not": False}


@pytest.mark.parametrize(
    "kind, tag",
    [
        ("xg_user_define", "x"),
        ("xg_auto_version", "version:x"),
        ("xg_auto_sdkversion", "sdk:x"),
        ("xg_auto_systemlanguage", "lang:x"),
        ("xg_auto_country", "country:x"),
        ("xg_auto_province", "province:x"),
        ("xg_auto_devicebrand", "brand:x"),
        ("xg_auto_deviceversion", "model:x"),
    ],
)
def test_tpns_tag_types(kind: str, tag: str) -> None:
    body = {"audience_type": "tag", "tag_rules": [rule("x", tag_type=kind)]}
    assert from_request(body) == Tag(tag)


def test_tpns_what_its_manual_ignores() -> None:
    body = {
        "audience_type": "tag",
        # The first operators, and tag_list beside tag_rules.
        "tag_rules": [{"tag_items": [{"tags": ["a"], "items_operator": "?"}], "operator": "?"}],
        "tag_list": {"tags": ["b"], "op": "OR"},
        # Members that a client library writes although nobody set them.
        "token_list": [],
        "account_list": None,
    }
    assert from_request(body) == Tag("a")


# JPush


def jpush(audience: dict[str, list[str]], world: World) -> set[int]:
    result = world.everybody
    for key, entries in audience.items():
        if not entries:
            continue
        match key:
            case "alias":
                found = [set(world.accounts.get(entry, ())) for entry in entries]
            case "registration_id":
                found = [{int(entry)} for entry in entries]
            case "segment":
                found = [world.segments[entry] for entry in entries]
            case _:
                found = [world.tags[entry] for entry in entries]
        joined = set.intersection(*found) if key == "tag_and" else set.union(*found)
        result = result - joined if key == "tag_not" else result & joined
    return result


members = st.fixed_dictionaries(
    {},
    optional={
        "tag": st.just([]) | tags,
        "tag_and": st.just([]) | tags,
        "tag_not": st.just([]) | tags,
        "alias": st.just([]) | accounts,
        "registration_id": st.just([]) | ids,
        "segment": st.just([]) | st.lists(st.sampled_from(["s1", "s2"]), min_size=1, max_size=2),
    },
).filter(lambda audience: any(audience.values()))


@settings(max_examples=300, deadline=None)
@given(members, worlds)
def test_jpush(audience: dict[str, list[str]], world: World) -> None:
    body = {"platform": "all", "audience": audience, "message": {"msg_content": "m"}}
    assert select(from_request(body), world) == jpush(audience, world)


def test_jpush_everybody() -> None:
    assert to_text(from_request({"audience": "all", "platform": "all"})) == "all"


# FCM


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> str:
    kind = draw(st.sampled_from(["topic", "not", "and", "or", "and or"] if depth else ["topic"]))
    if kind == "topic":
        quote = draw(st.sampled_from("'\""))
        return f"{quote}{draw(st.sampled_from(TAGS))}{quote} in topics"
    below = [f"({draw(conditions(depth - 1))})" for _ in range(3)]
    return {
        "not": f"!{below[0]}",
        "and": f"{below[0]} && {below[1]}&&{below[2]}",
        "or": f"{below[0]} || {below[1]}||{below[2]}",
        "and or": f"{below[0]} && {below[1]} || {below[2]}",
    }[kind]


def fcm(condition: str, subscribed: set[str]) -> bool:
    """Python reads the condition for one device at a time."""
    text = condition.replace("&&", " and ").replace("||", " or ").replace("!", " not ")
    return bool(eval(text, {"topics": subscribed}))


@settings(max_examples=100, deadline=None)
@given(conditions(), worlds)
def test_fcm_condition(condition: str, world: World) -> None:
    meant = {
        device
        for device in world.everybody
        if fcm(condition, {tag for tag, found in world.tags.items() if device in found})
    }
    for body in ({"condition": condition}, {"message": {"condition": condition, "data": {}}}):
        assert select(from_request(body), world) == meant


@pytest.mark.parametrize(
    "body, text",
    [
        ({"message": {"topic": "news"}}, "news"),
        ({"topic": "/topics/news"}, "news"),
        ({"message": {"token": "7"}}, "devices(7)"),
        ({"condition": "'a' in topics && ('b' in topics || !('c' in topics))"}, "a & (b | !c)"),
        ({"condition": "!'a' in topics"}, "!a"),
        ({"condition": "'a' in topics && 'b' in topics || 'c' in topics"}, "a & b | c"),
        ({"condition": "'a' in topics || ('b' in topics && 'c' in topics)"}, "a | b & c"),
    ],
)
def test_fcm(body: dict[str, Any], text: str) -> None:
    assert to_text(from_request(body)) == text


# Ours


@pytest.mark.parametrize(
    "audience, text",
    [
        ("all", "all"),
        ("city:gz & !vip", "city:gz & !vip"),
        ({"tag": "a"}, "a"),
        ({"segment": "s"}, "segment(s)"),
        ({"not": {"tag": "a"}}, "!a"),
        ({"tag": ["a"]}, "a"),
        ({"segment": ["s"]}, "segment(s)"),
    ],
)
def test_audience(audience: Any, text: str) -> None:
    body = {"audience": audience, "notification": {"title": "t"}, "ttl": 5}
    assert to_text(from_request(body)) == text


def test_malformed_ids_of_any_spelling() -> None:
    for body in (
        {"audience": {"devices": ["1", "x"]}},
        {"audience": {"registration_id": ["1", "x"]}},
        {"audience_type": "token_list", "token_list": ["1", "x"]},
    ):
        malformed: list[str] = []
        assert from_request(body, malformed) == Devices((1,))
        assert malformed == ["x"]
        with pytest.raises(AudienceError, match=r"\[1\]: expected a device id"):
            from_request(body)


# Errors

TAG = {"audience_type": "tag"}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"message": {"title": "t"}}, "audience: expected an audience, got nothing"),
    "null": ({"audience": None}, "audience: expected an audience, got nothing"),
    "ours and TPNS": (
        {"audience": "all", "audience_type": "all"},
        "expected one audience, got `audience` and `audience_type`",
    ),
    "ours and FCM": (
        {"audience": "all", "message": {"topic": "x"}},
        "got `audience` and `message.topic`",
    ),
    "two of FCM": ({"condition": "'a' in topics", "topic": "a"}, "got `condition` and `topic`"),
    "TPNS and FCM": (
        {"audience_type": "all", "condition": "'a' in topics"},
        "got `audience_type` and `condition`",
    ),
    "ours and JPush": ({"audience": {"tag": ["a"], "and": []}}, "got `and` among them"),
    "JPush and ours": (
        {"audience": {"tag": "a", "tag_and": ["b"]}},
        "audience.tag: expected a list, got the string",
    ),
    "JPush alias": ({"audience": {"alias": "u"}}, "audience.alias: expected a list"),
    "JPush of nothing": ({"audience": {"tag": [], "alias": []}}, "got only empty lists"),
    "JPush test": ({"audience": {"abtest": ["x"]}}, "got `abtest` among them"),
    "JPush entry": ({"audience": {"tag": ["a", 1]}}, "audience.tag[1]: expected a string"),
    "our text": ({"audience": "a &"}, "audience at position 3: expected a tag"),
    "our JSON": ({"audience": {"not": []}}, "audience.not: expected an object"),
    "a list": ({"audience": []}, "audience: expected an object"),
    "TPNS without type": ({"token_list": ["1"]}, "audience_type: expected one of all, tag"),
    "TPNS package": ({"audience_type": "package_account_push"}, "audience_type: expected one of"),
    "TPNS type of a list": ({"audience_type": ["all"]}, "audience_type: expected one of"),
    "TPNS all and more": (
        {"audience_type": "all", "token_list": ["1"]},
        'token_list: `token_list` does not belong to the audience_type "all"',
    ),
    "TPNS tag and accounts": (
        {**TAG, "tag_list": {"tags": ["a"]}, "account_list": ["u"]},
        'account_list: `account_list` does not belong to the audience_type "tag"',
    ),
    "TPNS without list": (
        {"audience_type": "token", "token_list": []},
        'token_list: expected for the audience_type "token", got nothing',
    ),
    "TPNS push type": (
        {"audience_type": "account", "account_list": ["u"], "account_push_type": 2},
        "account_push_type: expected one of 0, 1, got the number 2",
    ),
    "TPNS operator": (
        {**TAG, "tag_list": {"tags": ["a", "b"]}},
        'tag_list.op: expected "AND" or "OR", got nothing',
    ),
    "TPNS unknown operator": (
        {**TAG, "tag_list": {"tags": ["a", "b"], "op": "XOR"}},
        'tag_list.op: expected one of AND, OR, got the string "XOR"',
    ),
    "TPNS second operator": (
        {**TAG, "tag_rules": [rule("a"), {**rule("b"), "operator": None}]},
        'tag_rules[1].operator: expected "AND" or "OR", got nothing',
    ),
    "TPNS is_not": (
        {**TAG, "tag_rules": [rule("a", is_not="false")]},
        "tag_rules[0].tag_items[0].is_not: expected true or false",
    ),
    "TPNS no tags": (
        {**TAG, "tag_rules": [rule()]},
        "tag_rules[0].tag_items[0].tags: expected at least one entry",
    ),
    "TPNS a tag": (
        {**TAG, "tag_rules": [rule("a", 1)]},  # type: ignore[arg-type]
        "tag_rules[0].tag_items[0].tags[1]: expected a string",
    ),
    "TPNS no items": (
        {**TAG, "tag_rules": [{"operator": "OR"}]},
        "tag_rules[0].tag_items: expected a list, got null",
    ),
    "TPNS rule": ({**TAG, "tag_rules": ["a"]}, "tag_rules[0]: expected an object"),
    "TPNS activity": (
        {**TAG, "tag_rules": [rule("20200408", tag_type="xg_auto_active")]},
        "use the tag active:1d, active:7d or active:30d",
    ),
    "TPNS tag type": (
        {**TAG, "tag_rules": [rule("a", tag_type="xg_auto_moon")]},
        "tag_rules[0].tag_items[0].tag_type: expected one of xg_user_define",
    ),
    "FCM type": ({"message": {"condition": 1}}, "message.condition: expected a string"),
    "FCM topic": ({"topic": "/topics/"}, "topic: expected 1 to 128 bytes"),
    "FCM token": ({"message": {"token": "x"}}, "message.token[0]: expected a device id"),
    "FCM precedence": (
        {"condition": "'a' in topics || 'b' in topics && 'c' in topics"},
        "condition at position 31: expected parentheses that say whether `||` or `&&` comes first",
    ),
    "FCM word": (
        {"condition": "a in topics"},
        "at position 0: expected a topic in quotes, got `a`",
    ),
    "FCM in": ({"condition": "'a' of topics"}, "at position 4: expected `in`, got `of`"),
    "FCM topics": ({"condition": "'a' in topic"}, "at position 7: expected `topics`, got `topic`"),
    "FCM end": (
        {"condition": "'a' in topics 'b'"},
        "at position 14: expected `&&`, `||` or the end",
    ),
    "FCM quote": ({"condition": "'a in topics"}, "at position 12: expected a closing `'`"),
    "FCM sign": ({"condition": "'a' in topics & 'b'"}, "at position 14: expected"),
    "FCM empty topic": (
        {"condition": "'' in topics"},
        "at position 0: expected a topic of 1 to 128",
    ),
    "FCM deep": ({"condition": "(" * 100_000}, "nested too deeply"),
}


@pytest.mark.parametrize("body, said", WRONG.values(), ids=WRONG.keys())
def test_wrong(body: dict[str, Any], said: str) -> None:
    with pytest.raises(AudienceError) as error:
        from_request(body)
    assert said in str(error.value)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=3)
    | st.sampled_from(["all", "tag"]),
    lambda below: (
        st.lists(below, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "tag",
                    "tag_and",
                    "alias",
                    "segment",
                    "and",
                    "tags",
                    "op",
                    "tag_items",
                    "condition",
                ]
            ),
            below,
            max_size=2,
        )
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["audience", "audience_type", "tag_rules", "tag_list", "token_list", "topic", "message"]
        ),
        values,
        max_size=3,
    )
)
def test_any_request_is_a_tree_or_an_audience_error(body: dict[str, Any]) -> None:
    try:
        from_request(body, [])
    except AudienceError:
        pass


def test_limits_hold_for_foreign_lists() -> None:
    many = [str(i) for i in range(MAX_ACCOUNTS)]
    assert from_request({"audience": {"alias": many}}) == any_of(map(Account, many))
    tpns = {"audience_type": "account_list", "account_list": many, "account_push_type": 1}
    assert from_request(tpns) == any_of(map(Account, many))
    with pytest.raises(AudienceError, match=r"audience\.alias\[1000\]: too many accounts"):
        from_request({"audience": {"alias": [*many, "512"]}})
    listed = Devices(tuple(range(MAX_ACCOUNTS)))
    assert from_request({"audience": {"registration_id": many * 2}}) == listed
    with pytest.raises(AudienceError, match=r"audience\.tag\[512\]: too many leaves"):
        from_request({"audience": {"tag": many}})
