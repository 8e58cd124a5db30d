"""Accounts over HTTP: bound and unbound, looked up in audiences, and what becomes of the push."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from gateway.api import account_routes
from gateway.api.audiences import partitions_of
from gateway.api.errors import Errno
from gateway.audience import Bound, Devices, all_of, any_of, negate
from gateway.audience_text import parse_text
from gateway.rpc import Method, RpcError
from protocol.ids import device_id, push_place
from protocol.schema import log_pb2, rpc_pb2
from tests.gateway.account_owners import AccountOwners
from tests.gateway.api_scene import DEVICES, Scene, error_of, played
from tests.gateway.api_stage import PARTITIONS, all_pushes
from tests.gateway.test_api_http import rpc, rpc_push

ONE, TWO, THREE = device_id(0, 1), device_id(1, 5), device_id(3, 1)


@pytest.fixture(scope="module")
def whole_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with played(tmp_path_factory.mktemp("accounts")) as scene:
        yield scene


@pytest.fixture
def scene(whole_scene: Scene) -> Iterator[Scene]:
    whole_scene.node.accounts = AccountOwners(PARTITIONS, DEVICES)
    whole_scene.node.lookups.clear()
    whole_scene.node.audiences.clear()
    yield whole_scene
    whole_scene.node.hidden = set()


def bind(scene: Scene, *rows: tuple[str, int], **more: Any) -> list[Any]:
    """Binds (account, device)s; the results."""
    items = [{"account": account, "device": str(device), **more} for account, device in rows]
    status, _, answer = scene.call("POST", "accounts:bind", {"items": items})
    assert status == 200
    results: list[Any] = answer["results"]
    return results


def pushed(scene: Scene, audience: Any, **changed: Any) -> tuple[int, dict[str, str], Any]:
    return scene.push({"audience": audience, "data": {"a": "b"}, **changed})


def reached(scene: Scene, push_id: Any) -> dict[int, log_pb2.Push]:
    """partition -> the push's record there"""
    logs = scene.stage.with_store(all_pushes)
    return {
        p: push for p, pushes in logs.items() for push in pushes if str(push.push_id) == push_id
    }


# Binding.


def test_devices_are_bound_and_every_item_has_its_result(scene: Scene) -> None:
    rows: list[tuple[Any, Any, str]] = [
        ("u1", str(ONE), ""),
        ("u1", TWO, ""),
        ("账号/1", str(THREE), ""),
        ("a" * 256, str(device_id(2, 1)), ""),
        ("u1", "x", "malformed"),
        ("u1", -1, "malformed"),
        ("u1", str(2**64), "malformed"),
        ("u1", str(device_id(0, 2)), "unknown_device"),
        ("u1", str(device_id(PARTITIONS, 1)), "unknown_device"),
        ("", str(ONE), "bad_account"),
        ("a" * 257, str(ONE), "bad_account"),
        ("a\nb", str(ONE), "bad_account"),
    ]
    items = [{"account": account, "device": device} for account, device, _ in rows]
    status, _, answer = scene.call("POST", "accounts:bind", {"items": items})
    assert status == 200
    assert answer["results"] == [
        {"account": account[:256], "device": str(device), "ok": not code}
        | ({"code": code} if code else {})
        for account, device, code in rows
    ]
    owners = scene.node.accounts
    assert owners.listed("u1") == [ONE, TWO] and owners.holder_of(TWO) == "u1"
    assert scene.call("GET", "accounts/u1")[2] == {"account": "u1", "devices": [str(ONE), str(TWO)]}
    path = f"accounts/{quote('账号/1', safe='')}"
    assert scene.call("GET", path)[2] == {"account": "账号/1", "devices": [str(THREE)]}
    bind(scene, ("u1", ONE))
    assert scene.call("GET", "accounts/u1")[2]["devices"] == [str(TWO), str(ONE)]


def test_only(scene: Scene) -> None:
    bind(scene, ("u1", ONE), ("u1", TWO), ("u2", THREE))
    assert bind(scene, ("u1", THREE), only=True) == [
        {"account": "u1", "device": str(THREE), "ok": True}
    ]
    owners = scene.node.accounts
    assert owners.listed("u1") == [THREE] and owners.listed("u2") == []
    assert [owners.holder_of(device) for device in (ONE, TWO, THREE)] == ["", "", "u1"]


def test_unbinding_is_done_whether_there_is_anything_to_do_or_not(scene: Scene) -> None:
    bind(scene, ("u1", ONE), ("u1", TWO), ("u2", THREE))
    items = [
        {"account": "u1", "device": str(ONE)},
        {"account": "u1", "device": str(THREE)},
        {"account": "none", "device": str(ONE)},
        {"account": "u2"},
        {"account": "u3", "device": None},
        {"account": "u1", "device": str(device_id(0, 2))},
        {"account": "", "device": str(ONE)},
    ]
    status, _, answer = scene.call("POST", "accounts:unbind", {"items": items})
    assert status == 200
    assert [result.get("code") for result in answer["results"]] == [
        None, None, None, None, None, "unknown_device", "bad_account",
    ]  # fmt: skip
    assert answer["results"][3:5] == [{"account": "u2", "ok": True}, {"account": "u3", "ok": True}]
    owners = scene.node.accounts
    assert [owners.holder_of(device) for device in (ONE, TWO, THREE)] == ["", "u1", ""]
    assert owners.listed("u1") == [TWO] and owners.listed("u2") == []


def test_too_many_devices(scene: Scene) -> None:
    scene.node.accounts.limit = 2
    results = bind(scene, ("u1", ONE), ("u1", TWO), ("u1", THREE), ("u2", THREE))
    assert [result.get("code") for result in results] == [None, None, "too_many_devices", None]


def test_an_owner_that_is_away_costs_what_concerns_it(scene: Scene) -> None:
    names = [f"u{n}" for n in range(40)]
    away = scene.node.accounts.home("u0")
    scene.node.hidden = {away}
    devices = [device_id(n % PARTITIONS, 1) for n in range(40)]
    results = bind(scene, *zip(names, devices, strict=True))
    for name, device, result in zip(names, devices, results, strict=True):
        concerned = away in (scene.node.accounts.home(name), device >> 32)
        assert result.get("code") == ("unavailable" if concerned else None)
    assert error_of(scene.call("GET", "accounts/u0"))["errno"] == Errno.DISPATCH_AWAY
    unbound = scene.call("POST", "accounts:unbind", {"items": [{"account": "u0"}]})[2]["results"]
    assert unbound == [{"account": "u0", "ok": False, "code": "unavailable"}]


@pytest.mark.parametrize(
    ("body", "errno"),
    [
        ({"items": []}, Errno.ITEMS),
        ({"items": [{"account": "a", "device": 1}] * 3}, Errno.ITEMS),
        ({"items": [{"account": 5, "device": 1}]}, Errno.FIELD),
        ({"items": [{"account": "a", "device": 1, "tags": []}]}, Errno.FIELD),
        ({"items": [{"device": 1}]}, Errno.FIELD),
        ({}, Errno.FIELD),
    ],
)
@pytest.mark.parametrize("verb", ["bind", "unbind"])
def test_bad_requests(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, body: Any, errno: Errno, verb: str
) -> None:
    monkeypatch.setattr(account_routes, "MAX_ITEMS", 2)
    assert error_of(scene.call("POST", f"accounts:{verb}", body))["errno"] == errno


def test_a_device_must_be_named_to_be_bound(scene: Scene) -> None:
    error = error_of(scene.call("POST", "accounts:bind", {"items": [{"account": "u1"}]}))
    assert error["errno"] == Errno.FIELD and "device" in error["message"]


def test_accounts_that_are_not_there(scene: Scene) -> None:
    assert error_of(scene.call("GET", "accounts/u1"))["errno"] == Errno.NO_ACCOUNT
    bind(scene, ("u1", ONE))
    answer = scene.stage.get("/v1/apps/other/accounts/u1", scene.other_key)
    assert error_of(answer)["errno"] == Errno.NO_ACCOUNT
    assert error_of(scene.call("GET", f"accounts/{'a' * 257}"))["errno"] == Errno.NAME


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "accounts:bind"), ("POST", "accounts:unbind"), ("GET", "accounts/u1")],
)
def test_keys(scene: Scene, method: str, path: str) -> None:
    def errno(key: str | None) -> int:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        answer = scene.stage.request(method, f"/v1/apps/shop/{path}", None, headers)
        return int(error_of(answer)["errno"])

    assert errno(None) == Errno.NO_KEY
    assert errno("nonsense") == Errno.WRONG_KEY
    assert errno(scene.other_key) == Errno.NO_APP


# Pushes.


def bound(account: str, *devices: int, **more: str) -> dict[str, Any]:
    return {"bound": account, "devices": list(map(str, devices)), **more}


def test_a_push_to_an_account_of_one_device_is_one_append(scene: Scene) -> None:
    bind(scene, ("u1", TWO))
    status, _, answer = pushed(scene, {"account": "u1"})
    assert status == 202 and answer["accepted"] is None and answer["invalid"] == []
    ((p, push),) = reached(scene, answer["push_id"]).items()
    assert p == 1 and json.loads(push.audience) == bound("u1", TWO)
    assert push.content and not push.accepted_ms, "the record is the accept"
    assert push_place(push.push_id) == (False, 1)
    assert [list(asked.accounts) for asked in scene.node.lookups[-1:]] == [["u1"]]


@pytest.mark.parametrize(
    "audience",
    [
        "account(u1) | account(u2)",
        {"alias": ["u1", "u2"]},
        "(account(u1) | account(u2)) & !muted",
        "account(u1) & vip | account(u2)",
    ],
)
def test_a_push_to_accounts_goes_to_the_partitions_of_their_devices(
    scene: Scene, audience: Any
) -> None:
    bind(scene, ("u1", ONE), ("u1", TWO), ("u2", THREE))
    push_id = pushed(scene, audience)[2]["push_id"]
    found = reached(scene, push_id)
    assert set(found) == {0, 1, 3}
    assert all(push.accepted_ms and push.audience == found[0].audience for push in found.values())


def test_a_push_that_may_concern_others_goes_everywhere(scene: Scene) -> None:
    bind(scene, ("u1", ONE))
    for audience in ("account(u1) | vip", "!account(u1)", "vip & !account(u1)"):
        assert set(reached(scene, pushed(scene, audience)[2]["push_id"])) == set(range(PARTITIONS))


def test_other_spellings_of_accounts(scene: Scene) -> None:
    bind(scene, ("u1", ONE), ("u1", TWO), ("u2", THREE))
    tpns: dict[str, Any] = {
        "audience_type": "account_list",
        "account_list": ["u1", "u2"],
        "data": {"a": "b"},
    }
    (push, *_) = reached(scene, scene.push(tpns)[2]["push_id"]).values()
    latest = [bound("u1", TWO, which="latest"), bound("u2", THREE, which="latest")]
    assert json.loads(push.audience) == {"or": latest}
    tpns["account_push_type"] = 1
    (push, *_) = reached(scene, scene.push(tpns)[2]["push_id"]).values()
    assert json.loads(push.audience) == {"or": [bound("u1", ONE, TWO), bound("u2", THREE)]}


def test_unknown_accounts_are_nobody_and_are_named(scene: Scene) -> None:
    bind(scene, ("u1", TWO))
    status, _, answer = pushed(scene, "account(x) | account(u1) | account(y, latest)")
    unknown = [{"target": name, "code": "unknown_account"} for name in ("x", "y")]
    assert status == 202 and answer["invalid"] == unknown
    assert set(reached(scene, answer["push_id"])) == {1}
    status, _, answer = pushed(scene, "account(x)")
    assert status == 202 and answer["invalid"] == unknown[:1]
    ((_, push),) = reached(scene, answer["push_id"]).items()
    assert json.loads(push.audience) == bound("x") and not push.content
    everybody = pushed(scene, "!account(x)")[2]
    assert everybody["invalid"] == unknown[:1] and everybody["notes"]
    assert set(reached(scene, everybody["push_id"])) == set(range(PARTITIONS))


def test_the_same_key_gives_the_same_answer_whatever_became_of_the_account(scene: Scene) -> None:
    first = pushed(scene, "account(x)", idempotency_key="to x")
    assert first[0] == 202 and first[2]["invalid"][0]["code"] == "unknown_account"
    ((p, _),) = reached(scene, first[2]["push_id"]).items()
    bind(scene, ("x", ONE))
    again = pushed(scene, "account(x)", idempotency_key="to x")
    assert (again[0], again[2]) == (202, first[2])
    assert set(reached(scene, first[2]["push_id"])) == {p}


def test_validate_only_and_counting_look_accounts_up(scene: Scene) -> None:
    bind(scene, ("u1", ONE), ("u1", TWO))
    answer = pushed(scene, "account(u1) | account(x)", validate_only=True)
    assert answer[0] == 200 and answer[2]["push_id"] is None
    assert answer[2]["invalid"] == [{"target": "x", "code": "unknown_account"}]
    for verb in ("count", "explain"):
        body = {"audience": "vip & account(u1) & !account(x)"}
        status, _, answer = scene.call("POST", f"audience:{verb}", body)
        assert status == 200
        assert answer["invalid"] == [{"target": "x", "code": "unknown_account"}]
        asked = json.loads(scene.node.audiences[-1].audience)
        assert asked == {"and": [{"tag": "vip"}, bound("u1", ONE, TWO), {"not": bound("x")}]}


def test_segments_keep_accounts_as_they_are_and_pushes_look_them_up(scene: Scene) -> None:
    saved = scene.call("PUT", "segments/friends", {"audience": "account(u1) | account(u2, latest)"})
    assert saved[0] == 200 and saved[2]["text"] == "account(u1) | account(u2, latest)"
    bind(scene, ("u1", ONE), ("u2", TWO))
    push_id = pushed(scene, "segment(friends)")[2]["push_id"]
    found = reached(scene, push_id)
    listed = {"or": [bound("u1", ONE), bound("u2", TWO, which="latest")]}
    assert set(found) == {0, 1} and json.loads(found[0].audience) == listed
    assert scene.call("DELETE", "segments/friends")[0] == 200


def test_a_push_over_rpc(scene: Scene) -> None:
    bind(scene, ("u1", TWO))
    audience = b'{"or": [{"account": "u1"}, {"account": "x"}]}'
    reply = rpc_pb2.PushReply.FromString(rpc(scene, rpc_push(audience=audience)))
    assert list(reply.unknown_accounts) == ["x"]
    assert set(reached(scene, str(reply.push_id))) == {1}
    scene.node.hidden = set(range(PARTITIONS))
    with pytest.raises(RpcError) as caught:
        rpc(scene, rpc_push(audience=audience))
    assert caught.value.code == "unavailable"


def test_owners_that_are_away_are_worth_trying_again(scene: Scene) -> None:
    bind(scene, ("u1", ONE), ("u1", THREE))
    before = scene.stage.with_store(all_pushes)
    scene.node.hidden = {scene.node.accounts.home("u1")}
    for answer in (
        pushed(scene, "account(u1)"),
        pushed(scene, "account(u1)", validate_only=True),
        scene.call("POST", "audience:count", {"audience": "account(u1)"}),
    ):
        assert error_of(answer)["errno"] == Errno.DISPATCH_AWAY
    # Of the latest device its own owner is asked, too.
    scene.node.hidden = {3}
    assert error_of(pushed(scene, "account(u1, latest)"))["errno"] == Errno.DISPATCH_AWAY
    assert scene.stage.with_store(all_pushes) == before
    assert pushed(scene, "account(u1)")[0] == (202 if scene.node.accounts.home("u1") != 3 else 503)


def test_pushes_that_wait_for_owners_are_bounded(scene: Scene) -> None:
    """By their bytes, as those are whose bodies are still coming in."""
    bind(scene, ("u1", ONE))
    handlers, bodies = scene.node.server.handlers, scene.stage.service.bodies
    assert isinstance(handlers, dict)
    asked, answered = threading.Event(), threading.Event()

    async def slow(body: bytes) -> bytes:
        asked.set()
        while not answered.is_set():
            await asyncio.sleep(0.005)
        return scene.node.on_lookup(body)

    handlers[Method.LOOKUP] = slow
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(pushed, scene, "account(u1)")
            assert asked.wait(5) and bodies.used > 0
            rest = bodies.limit - bodies.used
            assert bodies.take(rest)
            assert error_of(pushed(scene, "account(u1)"))["errno"] == Errno.BUSY
            bodies.give(rest)
            answered.set()
            assert first.result()[0] == 202
    finally:
        answered.set()
        handlers[Method.LOOKUP] = scene.node.on_lookup
    assert bodies.used == 0


def test_what_was_remembered_of_owners_refuses_no_push(
    monkeypatch: pytest.MonkeyPatch, scene: Scene
) -> None:
    assert scene.stage.service.backend is not None
    monkeypatch.setattr(scene.stage.service.backend.nodes, "_patience_s", 5.0)
    bind(scene, ("u1", ONE))
    refusals = [RpcError("not_owner", "another node has this partition")]

    def refuse(_: int) -> None:
        if refusals:
            raise refusals.pop()

    monkeypatch.setattr(scene.node, "check_shown", refuse)
    assert pushed(scene, "account(u1)")[0] == 202 and not refusals


def test_devices_of_all_accounts_together_are_bounded(scene: Scene) -> None:
    """A hundred, in these tests."""
    for n in range(101):
        owners = scene.node.accounts
        item = rpc_pb2.AccountItem(account=f"u{n}", device=ONE, binding=1)
        p = owners.home(f"u{n}")
        owners.account(rpc_pb2.AccountRequest(partition=p, app=1, items=[item]))
    names = [f"u{n}" for n in range(101)]
    assert pushed(scene, {"alias": names[1:]})[0] == 202
    error = error_of(pushed(scene, {"alias": names}))
    assert error["errno"] == Errno.ACCOUNTS
    assert "have 101 devices together, at most 100" in error["message"]


def test_a_thousand_accounts_in_one_push(scene: Scene) -> None:
    aliases = [f"u{n}" for n in range(1000)]
    status, _, answer = pushed(scene, {"alias": aliases})
    assert status == 202 and len(answer["invalid"]) == 1000
    error = error_of(pushed(scene, {"alias": [*aliases, "one more"]}))
    assert error["errno"] == Errno.AUDIENCE and "at most 1000" in error["message"]


def test_what_was_looked_up_cannot_be_said_by_a_caller(scene: Scene) -> None:
    error = error_of(pushed(scene, bound("u1", ONE)))
    assert error["errno"] == Errno.AUDIENCE and "`bound`" in error["message"]


# Where an audience can mean somebody.

_U1, _U2 = Bound("u1", (device_id(0, 1), device_id(2, 1))), Bound("u2", (device_id(2, 5),))
_VIP = parse_text("vip")


@pytest.mark.parametrize(
    ("tree", "partitions"),
    [
        (_U1, {0, 2}),
        (Bound("x", ()), set()),
        (Devices((ONE, TWO)), {0, 1}),
        (any_of([_U1, _U2, Devices((TWO,))]), {0, 1, 2}),
        (any_of([_U1, _VIP]), None),
        (all_of([_U1, _VIP]), {0, 2}),
        (all_of([_U1, _U2]), {2}),
        (all_of([_U1, negate(_U2)]), {0, 2}),
        (all_of([_VIP, parse_text("all")]), None),
        (negate(_U1), None),
        (all_of([any_of([_U1, _VIP]), _U2]), {2}),
        (parse_text("push(1, received)"), None),
    ],
)
def test_partitions_that_are_concerned(tree: Any, partitions: set[int] | None) -> None:
    assert partitions_of(tree) == partitions


# The page.


def test_the_page_tells_every_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()
    section = page.partition("\n## Accounts\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == set(account_routes.CODES)
    assert f"1 to {account_routes.MAX_ITEMS:,} items" in section
