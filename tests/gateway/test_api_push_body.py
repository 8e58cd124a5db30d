"""What a push request may say, and what it is told when it may not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.api.audiences import encoded
from gateway.api.errors import ApiError, Errno
from gateway.api.push_body import Request, parse, parse_u64
from gateway.api.shape import Shape
from gateway.audience_text import parse_text
from gateway.config import Api
from gateway.store.apps import App
from protocol.codes import MAX_CONTENT
from protocol.schema import device_pb2, log_pb2

APP = App("shop", 7, "access", ())
LIMITS = Api(max_devices=3, max_ttl_s=100, default_ttl_s=50)


def parsed(body: Any = None, key: str | None = None, **fields: Any) -> Request:
    """`body` as it is if bytes; else a good body with `fields` changed (None: left out)."""
    if not isinstance(body, bytes):
        good: dict[str, Any] = {"audience": "all", "notification": {"title": "t"}}
        merged = {**good, **fields} if body is None else body
        body = json.dumps({k: v for k, v in merged.items() if v is not None}).encode()
    return parse(body, key, APP, LIMITS)


def test_a_whole_body() -> None:
    request = parsed(
        audience={"devices": ["1", 4294967298, "01"]},
        notification={"title": "t", "body": "b", "url": "u", "image": "i"},
        data={"k": "v"},
        ttl=9,
        idempotency_key="key",
        validate_only=True,
    )
    order = request.order
    assert (order.app, order.audience, order.ttl_s) == (APP, b"", 9)
    assert list(order.devices) == [1, 4294967298]
    assert order.idempotency_key == "key" and len(order.body_digest) == 64
    assert request.validate_only and request.malformed == []
    assert device_pb2.Content.FromString(order.content) == device_pb2.Content(
        notification=device_pb2.Notification(title="t", body="b", url="u", image="i"),
        data={"k": "v"},
    )


def test_defaults() -> None:
    order = parsed().order
    assert order.audience == b'"all"' and order.ttl_s == 50 and not order.idempotency_key
    assert parsed(ttl=0).order.ttl_s == 0


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ({"audience": "city:gz & !vip"}, "city:gz & !vip"),
        ({"audience": {"or": [{"tag": "a"}, {"tag": "b"}]}}, "a | b"),
        ({"audience": {"tag": ["gz"], "tag_not": ["vip"]}}, "gz & !vip"),
        ({"audience": None, "audience_type": "all"}, "all"),
        (
            {
                "audience": None,
                "audience_type": "tag",
                "tag_list": {"tags": ["a", "b"], "op": "AND"},
            },
            "a & b",
        ),
        ({"audience": None, "condition": "'a' in topics && 'b' in topics"}, "a & b"),
        ({"audience": None, "message": {"topic": "a"}}, "a"),
    ],
)
def test_audiences_in_any_spelling(said: dict[str, Any], means: str) -> None:
    request = parsed(**said)
    assert request.tree == parse_text(means)
    assert request.order.audience == encoded(parse_text(means)) and request.order.devices == []


@pytest.mark.parametrize(
    "said",
    [
        {"audience": "devices(7, 5)"},
        {"audience": {"registration_id": ["7", "5"]}},
        {"audience": None, "audience_type": "token_list", "token_list": ["7", "5"]},
    ],
)
def test_a_list_of_devices_is_a_list_in_any_spelling(said: dict[str, Any]) -> None:
    request = parsed(**said, key="k")
    assert request.tree is None and request.order.audience == b""
    assert request.order.devices == [7, 5]
    listed = parsed(audience={"devices": [5, 7]}, key="k")
    assert request.order.body_digest == listed.order.body_digest


def test_malformed_devices_in_a_tree_are_named() -> None:
    request = parsed(audience={"or": [{"tag": "a"}, {"devices": ["x", "5", "x"]}]})
    assert request.malformed == ["x"] and request.tree == parse_text("a | devices(5)")


def test_ids_that_are_none_are_named_and_the_others_pushed_to() -> None:
    named = ["x", "-1", "1e3"]
    assert parsed(audience={"devices": named}).malformed == named
    request = parsed(audience={"devices": [2**64, str(2**64), 5]})
    assert request.malformed == [str(2**64)] and list(request.order.devices) == [5]
    assert parsed(audience={"devices": [-1, "9" * 300]}).malformed == ["-1", "9" * 64]


BAD: dict[str, tuple[Any, Errno, str]] = {
    "no JSON": (b"{", Errno.NOT_JSON, "truncated"),
    "no UTF-8": (b'{"audience":"all","data":{"a":"\xff"}}', Errno.NOT_JSON, "UTF-8"),
    "half a surrogate pair": (b'{"audience":"all","data":{"a":"\\ud800"}}', Errno.NOT_JSON, "JSON"),
    "something behind": (b'{"audience":"all"} x', Errno.NOT_JSON, "trailing"),
    "empty": (b"", Errno.NOT_JSON, "truncated"),
    "a list": (b"[]", Errno.FIELD, "`object`, got `array` - at `$`"),
    "deeply nested": (b'{"audience":' + b"[" * 100_000, Errno.NOT_JSON, "recursion"),
    "no audience": ({"data": {"a": "b"}}, Errno.AUDIENCE, "expected an audience, got nothing"),
    "bad expression": ({"audience": "a & "}, Errno.AUDIENCE, "audience at position 4: expected"),
    "two audiences": (
        {"audience": {"devices": [1]}, "topic": "a", "data": {"a": "b"}},
        Errno.AUDIENCE,
        "expected one audience, got `audience` and `topic`",
    ),
    "a message with more than an audience": (
        {"message": {"topic": "a", "data": {"a": "b"}}},
        Errno.FIELD,
        "unknown field `data` - at `$.message`",
    ),
    "too many in another spelling": (
        {"audience": "devices(1, 2, 3, 4)", "data": {"a": "b"}},
        Errno.DEVICES,
        "4 devices are named, 1 to 3",
    ),
    "unknown field": ({"audience": "all", "tll": 5}, Errno.FIELD, "unknown field `tll`"),
    "unknown field inside": (
        {"audience": "all", "notification": {"titel": "x"}},
        Errno.FIELD,
        "`titel` - at `$.notification`",
    ),
    "device of another type": (
        {"audience": {"devices": [1.5]}},
        Errno.FIELD,
        "`int | str`, got the number 1.5 - at `$.audience.devices[0]`",
    ),
    "data of another type": ({"audience": "all", "data": {"a": 1}}, Errno.FIELD, "$.data[...]"),
    "ttl as text": ({"audience": "all", "ttl": "5"}, Errno.FIELD, "`int`, got `str` - at `$.ttl`"),
    "a number beyond all bounds": (
        b'{"audience":{"devices":[' + b"9" * 5000 + b"]}}",
        Errno.FIELD,
        "out of range - at `$.audience[...][0]`",
    ),
    "nothing to say": ({"audience": "all"}, Errno.NO_CONTENT, "notification"),
    "empty data": ({"audience": "all", "data": {}}, Errno.NO_CONTENT, "data"),
    "empty notification": (
        {"audience": "all", "notification": {"title": ""}},
        Errno.NO_CONTENT,
        "text",
    ),
    "ttl too long": ({"audience": "all", "data": {"a": "b"}, "ttl": 101}, Errno.TTL, "0 to 100"),
    "negative ttl": ({"audience": "all", "data": {"a": "b"}, "ttl": -1}, Errno.TTL, "$.ttl"),
    "speed of nothing": (
        {"audience": "all", "data": {"a": "b"}, "speed": 0},
        Errno.SHAPE,
        'Expected `int` >= 1 or "auto", got the number 0 - at `$.speed`',
    ),
    "negative speed": ({"audience": "all", "data": {"a": "b"}, "speed": -1}, Errno.SHAPE, "-1"),
    "speed beyond all bounds": (
        {"audience": "all", "data": {"a": "b"}, "speed": 10**9 + 1},
        Errno.SHAPE,
        "1 to 1000000000 devices a second",
    ),
    "speed as text": (
        {"audience": "all", "data": {"a": "b"}, "speed": "5"},
        Errno.SHAPE,
        '"auto", got the string "5" - at `$.speed`',
    ),
    "speed in fractions": (
        {"audience": "all", "data": {"a": "b"}, "speed": 1.5},
        Errno.FIELD,
        "got `float` - at `$.speed`",
    ),
    "speed with one attempt": (
        {"audience": "all", "data": {"a": "b"}, "speed": 5, "ttl": 0},
        Errno.SHAPE,
        "a push with ttl 0 has one attempt, at once",
    ),
    "all held out": (
        {"audience": "all", "data": {"a": "b"}, "holdout": 1},
        Errno.SHAPE,
        "holdout is 1.0: from 0 to below 1",
    ),
    "less than nobody held out": (
        {"audience": "all", "data": {"a": "b"}, "holdout": -0.1},
        Errno.SHAPE,
        "holdout is -0.1",
    ),
    "holdout as text": (
        {"audience": "all", "data": {"a": "b"}, "holdout": "0.1"},
        Errno.FIELD,
        "`float`, got `str` - at `$.holdout`",
    ),
    "another priority": (
        {"audience": "all", "data": {"a": "b"}, "priority": "urgent"},
        Errno.FIELD,
        "- at `$.priority`",
    ),
    "priority as a number": (
        {"audience": "all", "data": {"a": "b"}, "priority": 1},
        Errno.FIELD,
        "`str`, got `int` - at `$.priority`",
    ),
    "long collapse key": (
        {"audience": "all", "data": {"a": "b"}, "collapse_key": "é" * 33},
        Errno.SHAPE,
        "takes 66 bytes in UTF-8: at most 64 are allowed - at `$.collapse_key`",
    ),
    "collapse key of another type": (
        {"audience": "all", "data": {"a": "b"}, "collapse_key": 7},
        Errno.FIELD,
        "`str`, got `int` - at `$.collapse_key`",
    ),
    "speed with its place": (
        {"audience": "all", "data": {"a": "b"}, "speed": 5, "ttl": 0},
        Errno.SHAPE,
        "it takes no speed - at `$.speed`",
    ),
    "nobody named": (
        {"audience": {"devices": []}, "data": {"a": "b"}},
        Errno.DEVICES,
        "0 devices are named, 1 to 3",
    ),
    "too many": (
        {"audience": {"devices": [1, 2, 3, 4]}, "data": {"a": "b"}},
        Errno.DEVICES,
        "4 devices are named, 1 to 3",
    ),
    "empty key": (
        {"audience": "all", "data": {"a": "b"}, "idempotency_key": ""},
        Errno.IDEMPOTENCY_KEY,
        "0 characters",
    ),
    "long key": (
        {"audience": "all", "data": {"a": "b"}, "idempotency_key": "k" * 129},
        Errno.IDEMPOTENCY_KEY,
        "129 characters",
    ),
    "content too large": (
        {"audience": "all", "data": {"a": "x" * MAX_CONTENT}},
        Errno.CONTENT_TOO_LARGE,
        str(MAX_CONTENT),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_bodies(case: str) -> None:
    body, errno, said = BAD[case]
    with pytest.raises(ApiError) as caught:
        parsed(body)
    assert caught.value.errno == errno
    assert said in caught.value.message
    assert caught.value.code == errno // 100


def test_content_of_exactly_the_limit() -> None:
    overhead = len(device_pb2.Content(data={"a": "x" * 60_000}).SerializeToString()) - 60_000
    assert (
        len(parsed(data={"a": "x" * 60_000}, notification=None).order.content) == 60_000 + overhead
    )
    most = MAX_CONTENT - overhead
    assert len(parsed(data={"a": "x" * most}, notification=None).order.content) == MAX_CONTENT


def test_key_in_the_header() -> None:
    assert parsed(key="k").order.idempotency_key == "k"
    assert parsed(key="k", idempotency_key="k").order.idempotency_key == "k"
    for wrong in ({"key": "k", "idempotency_key": "l"}, {"key": ""}, {"key": "k" * 129}):
        with pytest.raises(ApiError) as caught:
            parsed(**wrong)
        assert caught.value.errno == Errno.IDEMPOTENCY_KEY


def test_the_digest_is_of_the_meaning() -> None:
    spelled = b'{"ttl":50, "notification":{"title":"t"},"audience":"all","idempotency_key":"k"}'
    assert parsed(spelled).order.body_digest == parsed(key="k").order.body_digest
    assert parsed(key="k", ttl=51).order.body_digest != parsed(key="k").order.body_digest


@pytest.mark.parametrize("audience", ["all", "city:gz", {"devices": ["1"]}, {"devices": [1, 2]}])
def test_a_shape(audience: Any) -> None:
    options = parsed(audience=audience, speed=500, holdout=0.125).order.options
    told = log_pb2.Push(speed=500, holdout=0.125, inbox_cap=LIMITS.inbox_cap)
    assert log_pb2.Push.FromString(options) == told
    assert parsed(speed=5, holdout=-0.0).order.options == parsed(speed=5).order.options
    assert log_pb2.Push.FromString(parsed(holdout=0.5, ttl=0).order.options).holdout == 0.5


@pytest.mark.parametrize(
    "said",
    [
        {"speed": "auto"},
        {"holdout": 0},
        {"holdout": -0.0},
        {"speed": "auto", "ttl": 0},
        {"priority": "normal"},
        {"collapse_key": ""},
    ],
)
def test_what_is_said_and_changes_nothing_is_no_shape(said: dict[str, Any]) -> None:
    plain = parsed(key="k", **{name: value for name, value in said.items() if name == "ttl"})
    shaped = parsed(key="k", **said)
    assert shaped.order == plain.order
    told = log_pb2.Push.FromString(shaped.order.options)
    assert told == log_pb2.Push(inbox_cap=LIMITS.inbox_cap)


@pytest.mark.parametrize("audience", ["all", {"devices": [1]}])
@pytest.mark.parametrize(
    ("priority", "number"),
    [("high", log_pb2.HIGH), ("normal", log_pb2.NORMAL), ("low", log_pb2.LOW)],
)
def test_priority_and_collapse_key(audience: Any, priority: str, number: int) -> None:
    options = parsed(audience=audience, priority=priority, collapse_key="é" * 32).order.options
    told = log_pb2.Push.FromString(options)
    assert (told.priority, told.collapse_key, told.inbox_cap) == (number, "é" * 32, 1_000)
    assert (told.speed, told.holdout) == (0, 0)


@pytest.mark.parametrize("cap", [1, 127, 128, 1_000, 100_000])
def test_the_cap_stands_in_every_record(cap: int) -> None:
    for shape in (Shape(), Shape(priority=2)):
        assert log_pb2.Push.FromString(shape.options(cap)).inbox_cap == cap


def test_the_examples_of_the_page_are_good() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()
    examples = [
        example
        for example in re.findall(r"```json\n(.*?)```", page, re.DOTALL)
        if "audience" in (said := json.loads(example)) and "notification" in said
    ]
    assert len(examples) >= 5
    limits = Api()
    options = [parse(example.encode(), None, APP, limits).order.options for example in examples]
    told = [log_pb2.Push.FromString(each) for each in options]
    assert {"match-7"} <= {push.collapse_key for push in told}
    assert log_pb2.HIGH in {push.priority for push in told}


def test_the_digest_is_of_the_shape_too() -> None:
    bodies: list[dict[str, Any]] = [
        {},
        {"speed": 5},
        {"speed": 6},
        {"holdout": 0.5},
        {"holdout": 0.5, "speed": 5},
        {"priority": "high"},
        {"priority": "low"},
        {"collapse_key": "a"},
        {"collapse_key": "b"},
        {"collapse_key": "a", "priority": "low"},
        {"collapse_key": "a", "speed": 5},
    ]
    digests = {parsed(key="k", **body).order.body_digest for body in bodies}
    assert len(digests) == len(bodies)


@pytest.mark.parametrize("text", ["", " 1", "+1", "1_0", "٣", "²", "1" * 21, str(2**64), "0x1"])
def test_no_u64(text: str) -> None:
    assert parse_u64(text) is None


def test_u64() -> None:
    assert parse_u64(str(2**64 - 1)) == 2**64 - 1
