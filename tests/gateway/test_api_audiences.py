"""Audiences, tags and segments over HTTP, with a node that notes what it is asked."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from gateway.api import audiences as audiences_module
from gateway.api import tag_routes
from gateway.api.errors import Errno
from gateway.api.nodes import COUNTED
from gateway.audience_json import to_json
from gateway.audience_text import parse_text
from gateway.systemtags import SYSTEM_TAGS
from protocol.ids import SEVERAL, device_id
from protocol.schema import rpc_pb2
from tests.gateway.api_scene import Scene, error_of, played
from tests.gateway.api_stage import PARTITIONS, all_pushes

OLD = (1 << 20) << 29
"""A push id of long ago, but for its place."""


@pytest.fixture(scope="module")
def whole_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with played(tmp_path_factory.mktemp("audiences")) as scene:
        yield scene


@pytest.fixture
def scene(whole_scene: Scene) -> Iterator[Scene]:
    yield whole_scene
    node = whole_scene.node
    node.hidden = set()
    node.tag_errors.clear()
    node.tags.clear()
    node.audiences.clear()
    for one in whole_scene.call("GET", "segments")[2]["segments"]:
        assert whole_scene.call("DELETE", f"segments/{quote(one['name'], safe='')}")[0] == 200


def saved(scene: Scene, name: str, audience: Any) -> tuple[int, dict[str, str], Any]:
    return scene.call("PUT", f"segments/{quote(name, safe='')}", {"audience": audience})


def as_json(text: str) -> bytes:
    return json.dumps(to_json(parse_text(text)), separators=(",", ":"), ensure_ascii=False).encode()


def pushed(scene: Scene, audience: Any, **changed: Any) -> tuple[int, dict[str, str], Any]:
    return scene.push({"audience": audience, "data": {"a": "b"}, **changed})


# Pushes.


def test_a_push_to_an_expression_reaches_every_partition(scene: Scene) -> None:
    status, _, answer = pushed(scene, "city:gz & !vip")
    assert status == 202 and answer["accepted"] is None and answer["invalid"] == []
    assert "notes" not in answer
    for pushes in scene.stage.with_store(all_pushes).values():
        assert pushes[-1].push_id == int(answer["push_id"]) and not pushes[-1].index
        assert pushes[-1].audience == as_json("city:gz & !vip")


def test_a_push_in_another_service_s_spelling(scene: Scene) -> None:
    body = {"condition": "'a' in topics && !('b' in topics)", "data": {"a": "b"}}
    assert scene.push(body)[0] == 202
    assert scene.stage.with_store(all_pushes)[0][-1].audience == as_json("a & !b")


def test_notes_are_told(scene: Scene) -> None:
    (note,) = pushed(scene, "!vip")[2]["notes"]
    assert "everybody except vip" in note
    answer = pushed(scene, "!vip", validate_only=True)
    assert answer[0] == 200 and answer[2]["notes"] == [note]


def test_segments_are_put_in(scene: Scene) -> None:
    saved(scene, "vips", "vip | segment(gold)")
    saved(scene, "gold", "gold")
    error = error_of(saved(scene, "vips", "vip | segment(none)"))
    assert error["errno"] == Errno.AUDIENCE
    saved(scene, "vips", "vip | segment(gold)")
    status, _, answer = pushed(scene, "city:gz & segment(vips)")
    assert status == 202 and answer["invalid"] == []
    pushes = scene.stage.with_store(all_pushes)
    assert pushes[0][-1].audience == as_json("city:gz & (vip | gold)")


@pytest.mark.parametrize("audience", ["!segment(lost)", "vip & !(a | segment(lost))"])
def test_an_unknown_segment_below_a_not_is_refused(scene: Scene, audience: str) -> None:
    """As nobody it would make the push one to everybody."""
    before = scene.stage.with_store(all_pushes)
    error = error_of(pushed(scene, audience))
    assert error["errno"] == Errno.AUDIENCE and "lost" in error["message"]
    assert scene.stage.with_store(all_pushes) == before


def test_unknown_segments_are_named_and_count_as_nobody(scene: Scene) -> None:
    first = pushed(scene, "vip | segment(lost)", idempotency_key="lost")
    assert first[0] == 202
    assert first[2]["invalid"] == [{"target": "lost", "code": "unknown_segment"}]
    pushes = scene.stage.with_store(all_pushes)
    assert pushes[0][-1].audience == as_json("vip | devices()")
    saved(scene, "lost", "found")
    again = pushed(scene, "segment(lost) | vip", idempotency_key="lost")
    assert again[2] == first[2], "the same body, and the same answer whatever was saved since"
    other = error_of(pushed(scene, "segment(lost)", idempotency_key="lost"))
    assert other["errno"] == Errno.CONFLICT


@pytest.mark.parametrize(
    ("audience", "errno", "said"),
    [
        ("city:gz & )", Errno.AUDIENCE, "audience at position 10: expected"),
        ({"and": [{"tag": "a"}, {"not": 5}]}, Errno.AUDIENCE, "audience.and[1].not: expected"),
        (
            f"vip | devices({', '.join(map(str, range(101)))})",
            Errno.DEVICES,
            "101 devices are named, at most 100",
        ),
    ],
)
def test_audiences_that_are_refused(scene: Scene, audience: Any, errno: Errno, said: str) -> None:
    calls = (
        pushed(scene, audience),
        pushed(scene, audience, validate_only=True),
        scene.call("POST", "audience:count", {"audience": audience}),
        saved(scene, "a", audience),
    )
    for call in calls:
        error = error_of(call)
        assert error["errno"] == errno and said in error["message"]


# Counting.


def test_count(scene: Scene) -> None:
    saved(scene, "vips", "vip")
    status, _, answer = scene.call("POST", "audience:count", {"audience": "!segment(vips)"})
    assert status == 200 and set(answer) == {"count", "ms", "notes"}
    assert answer["count"] == sum(10 + p for p in range(PARTITIONS))
    assert answer["ms"] > 0 and len(answer["notes"]) == 1
    (asked,) = scene.node.audiences
    assert (asked.app, asked.audience, asked.explain) == (1, as_json("!vip"), False)
    answer = scene.call("POST", "audience:count", {"audience": "segment(x)"})[2]
    assert answer["invalid"] == [{"target": "x", "code": "unknown_segment"}]


def test_explain(scene: Scene) -> None:
    body = {"topic": "vip"}
    status, _, answer = scene.call("POST", "audience:explain", body)
    assert status == 200 and scene.node.audiences[0].explain
    assert answer["terms"] == [
        {"term": "vip", "devices": 2 * PARTITIONS, "ms": 2.0 * PARTITIONS},
        {"term": "city:gz", "devices": 30 * PARTITIONS, "ms": 0.5 * PARTITIONS},
    ]
    assert answer["partitions"] == [
        {"partition": p, "devices": 10 + p, "ms": 1.0} for p in range(PARTITIONS)
    ]
    assert answer["sample"][0] == str(device_id(0, 0)) and len(answer["sample"]) == 10


@pytest.mark.parametrize("verb", ["count", "explain"])
def test_each_partition_is_needed(scene: Scene, verb: str) -> None:
    scene.node.hidden = {1}
    error = error_of(scene.call("POST", f"audience:{verb}", {"audience": "vip"}))
    assert error["errno"] == Errno.DISPATCH_AWAY


@pytest.mark.parametrize(
    ("body", "errno"),
    [
        (b"{", Errno.NOT_JSON),
        ({"audience": "a", "ttl": 5}, Errno.FIELD),
        ({}, Errno.AUDIENCE),
        (b" " * 200_001, Errno.BODY_TOO_LARGE),
    ],
)
def test_bad_bodies(scene: Scene, body: Any, errno: Errno) -> None:
    for method, path in (("POST", "audience:count"), ("PUT", "segments/a")):
        assert error_of(scene.call(method, path, body))["errno"] == errno
    assert scene.stage.service.bodies.used == 0


# Tags.


def test_tags_are_bound_by_the_owners_and_answered_in_order(scene: Scene) -> None:
    scene.node.tag_errors = {7: "unknown_device", 8: "too_many_names", 9: "something new"}
    rows: list[tuple[Any, list[str], str]] = [
        (str(device_id(1, 5)), ["a", "b", "a"], ""),
        (device_id(0, 1), ["城市:广州"], ""),
        ("x", ["a"], "malformed"),
        (-1, ["a"], "malformed"),
        (str(2**64), ["a"], "malformed"),
        (str(device_id(PARTITIONS, 1)), ["a"], "unknown_device"),
        (str(device_id(1, 7)), ["a"], "unknown_device"),
        (str(device_id(1, 8)), ["a"], "too_many_names"),
        (str(device_id(1, 9)), ["a"], "unavailable"),
        (str(device_id(2, 1)), [f"t{n}" for n in range(101)], "too_many_tags"),
        (str(device_id(2, 1)), [""], "bad_tag"),
        (str(device_id(2, 1)), ["a\nb"], "bad_tag"),
        (str(device_id(2, 1)), ["platform:ios"], "bad_tag"),
        (str(device_id(2, 1)), ["active"], "bad_tag"),
        (str(device_id(1, 1)), [], ""),
    ]
    items = [{"device": device, "tags": tags} for device, tags, _ in rows]
    status, _, answer = scene.call("POST", "tags:bind", {"items": items})
    assert status == 200
    assert answer["results"] == [
        {"device": str(device), "ok": False, "code": code}
        if code
        else {"device": str(device), "ok": True}
        for device, _, code in rows
    ]
    asked = {request.partition: request for request in scene.node.tags}
    assert set(asked) == {0, 1} and len(scene.node.tags) == 2
    assert asked[1].app == 1 and [item.index for item in asked[1].items] == [5, 7, 8, 9, 1]
    assert asked[1].items[0] == rpc_pb2.TagItem(index=5, add=["a", "b"])
    scene.call("POST", "tags:unbind", {"items": items[:1]})
    assert list(scene.node.tags[-1].items) == [rpc_pb2.TagItem(index=5, remove=["a", "b"])]


def test_tags_go_in_slices_and_an_owner_that_is_away_harms_no_other(scene: Scene) -> None:
    scene.node.hidden = {3}
    items = [{"device": str(device_id(n % 4, n)), "tags": ["a"]} for n in range(2010)]
    results = scene.call("POST", "tags:bind", {"items": items})[2]["results"]
    for n, result in enumerate(results):
        assert result["device"] == items[n]["device"]
        assert result.get("code") == ("unavailable" if n % 4 == 3 else None)
    told = {p: [r for r in scene.node.tags if r.partition == p] for p in range(4)}
    assert [len(r.items) for r in told[0]] == [tag_routes.SLICE, 3] and not told[3]
    assert [i.index for r in told[1] for i in r.items] == list(range(1, 2010, 4))


@pytest.mark.parametrize(
    ("body", "errno"),
    [
        ({"items": []}, Errno.ITEMS),
        ({"items": [{"device": 1, "tags": []}] * 3}, Errno.ITEMS),
        ({"items": [{"device": 1}]}, Errno.FIELD),
        ({"items": [{"device": 1, "tags": [5]}]}, Errno.FIELD),
        ({}, Errno.FIELD),
    ],
)
def test_bad_tag_requests(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, body: Any, errno: Errno
) -> None:
    monkeypatch.setattr(tag_routes, "MAX_ITEMS", 2)
    assert error_of(scene.call("POST", "tags:bind", body))["errno"] == errno


def test_the_page_tells_every_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()
    section = page.partition("\n## Tags\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == set(tag_routes.CODES)
    assert all(f"`{name}`" in section for name in SYSTEM_TAGS)
    assert f"1 to {tag_routes.MAX_ITEMS:,} items" in section


# Segments.


def test_segments_are_kept(scene: Scene) -> None:
    view = {
        "name": "a/b 中",
        "audience": {"and": [{"tag": "city:gz"}, {"not": {"tag": "vip"}}]},
        "text": "city:gz & !vip",
        "notes": [],
    }
    assert saved(scene, "a/b 中", "city:gz & !vip")[::2] == (200, view)
    path = f"segments/{quote('a/b 中', safe='')}"
    assert scene.call("GET", path)[2] == view
    assert saved(scene, "Z", {"segment": "a/b 中"})[0] == 200
    names = [one["name"] for one in scene.call("GET", "segments")[2]["segments"]]
    assert names == ["Z", "a/b 中"]
    other = scene.stage.get("/v1/apps/other/segments", scene.other_key)
    assert other[2] == {"segments": []}
    assert scene.call("DELETE", path)[2] == view
    for method in ("GET", "DELETE"):
        assert error_of(scene.call(method, path))["errno"] == Errno.NO_SEGMENT
    # What is left hanging does not keep others from being saved.
    assert saved(scene, "c", "x")[0] == 200
    assert pushed(scene, "segment(Z)", validate_only=True)[2]["invalid"] == [
        {"target": "a/b 中", "code": "unknown_segment"}
    ]


def test_circles_and_limits_are_refused(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert saved(scene, "a", "x")[0] == 200
    assert saved(scene, "b", "segment(a) | y")[0] == 200
    for name, text in (("a", "segment(b)"), ("b", "segment(b)")):
        error = error_of(saved(scene, name, text))
        assert error["errno"] == Errno.AUDIENCE and "refer to themselves" in error["message"]
    many = " | ".join(f"t{n}" for n in range(512))
    error = error_of(saved(scene, "a", many))
    assert error["errno"] == Errno.AUDIENCE and "segment `b`" in error["message"]
    assert scene.call("GET", "segments/a")[2]["text"] == "x"
    monkeypatch.setattr(audiences_module, "MAX_SEGMENTS", 2)
    assert error_of(saved(scene, "c", "x"))["errno"] == Errno.AUDIENCE
    assert saved(scene, "a", "z")[0] == 200
    assert error_of(saved(scene, "n" * 129, "x"))["errno"] == Errno.NAME


# Cuts.


def cut(tag: str, **counts: int) -> rpc_pb2.Cut:
    return rpc_pb2.Cut(tag=tag, counts=counts)


@pytest.mark.parametrize("place", [2, SEVERAL | 3])
def test_counts_cut_by_tags(scene: Scene, place: int) -> None:
    push_id = OLD | place
    cuts = [
        cut("city:gz", targeted=3, received=1),
        cut("city:gz", targeted=2),
        cut("vip", failed=1),
    ]
    scene.node.cuts[push_id] = rpc_pb2.CutReply(known=True, app=1, cuts=cuts)
    path = f"pushes/{push_id}/stats?by=city,platform,vip"
    status, _, answer = scene.call("GET", path)
    nothing = dict.fromkeys(COUNTED, 0)
    assert status == 200 and scene.node.cut_by == ["city", "platform", "vip"]
    assert answer == {
        "push_id": str(push_id),
        "by": {
            "city": {"city:gz": {**nothing, "targeted": 5, "received": 1}},
            "platform": {},
            "vip": {"vip": {**nothing, "failed": 1}},
        },
    }
    scene.node.hidden = {2, 3}
    assert error_of(scene.call("GET", path))["errno"] == Errno.DISPATCH_AWAY
    scene.node.hidden = set()
    other = scene.stage.get(f"/v1/apps/other/{path}", scene.other_key)
    assert error_of(other)["errno"] == Errno.NO_PUSH
    assert error_of(scene.call("GET", f"pushes/{OLD | 1}/stats?by=a"))["errno"] == Errno.NO_PUSH


@pytest.mark.parametrize("by", ["", "?by=", "?by=a,,b", "?by=city:gz", "?by=a,b,c,d,e,f"])
def test_names_to_cut_by(scene: Scene, by: str) -> None:
    assert error_of(scene.call("GET", f"pushes/{OLD}/stats{by}"))["errno"] == Errno.NAME


# Who may.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "audience:count"),
        ("POST", "audience:explain"),
        ("POST", "tags:bind"),
        ("POST", "tags:unbind"),
        ("GET", "segments"),
        ("PUT", "segments/a"),
        ("GET", "segments/a"),
        ("DELETE", "segments/a"),
        ("GET", f"pushes/{OLD}/stats?by=a"),
    ],
)
def test_keys(scene: Scene, method: str, path: str) -> None:
    def errno(key: str | None) -> int:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        answer = scene.stage.request(method, f"/v1/apps/shop/{path}", None, headers)
        return int(error_of(answer)["errno"])

    assert errno(None) == Errno.NO_KEY
    assert errno("nonsense") == Errno.WRONG_KEY
    assert errno(scene.other_key) == Errno.NO_APP
