"""HTTP over a real socket: a store, an API process, and a node that answers as a dispatch node would."""

import http.client
import json
import socket
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway import audience
from gateway.api import connections as connections_module
from gateway.api.audiences import encoded
from gateway.api.errors import Errno
from gateway.api.intake import WAITING_BYTES
from gateway.api.nodes import COUNTED, STATES
from gateway.api.service import BODY_BYTES
from gateway.audience_text import parse_text
from gateway.rpc import Method, RpcClient, RpcError
from gateway.store.apps import Apps
from gateway.store.leases import Lease
from protocol.codes import MAX_CONTENT
from protocol.ids import EPOCH_MS, SEVERAL, device_id, push_place
from protocol.schema import device_pb2, rpc_pb2
from tests.gateway.api_scene import Scene, error_of, played
from tests.gateway.api_stage import PARTITIONS, SECRETS, all_pushes, bearer, pushes_in
from tests.waiting import eventually

DEVICE = device_id(1, 5)
OLD = (1 << 20) << 29
"""A push id of long ago, but for its place."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with played(tmp_path_factory.mktemp("api")) as scene:
        yield scene


def good(**changed: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "audience": {"devices": [str(DEVICE)]},
        "notification": {"title": "Parcel", "body": "It is at the door"},
        "data": {"parcel": "7"},
    }
    return {**body, **changed}


# The hot route.


def test_a_push(scene: Scene) -> None:
    status, headers, answer = scene.push(good(ttl=60))
    assert status == 202 and headers["content-type"] == "application/json"
    push_id = answer["push_id"]
    assert answer == {"push_id": push_id, "accepted": 1, "invalid": [], "trace_id": push_id}
    place = push_place(int(push_id))
    assert place == (False, 1)
    push = scene.stage.with_store(lambda store: pushes_in(store, 1))[-1]
    assert push.push_id == int(push_id) and list(push.index) == [5] and push.ttl_s == 60
    content = device_pb2.Content.FromString(push.content)
    assert content.notification.title == "Parcel" and dict(content.data) == {"parcel": "7"}


def test_invalid_targets_are_named_and_the_others_pushed_to(scene: Scene) -> None:
    named = [str(DEVICE), DEVICE, str(device_id(0, 99)), "abc", device_id(77, 1)]
    status, _, answer = scene.push(good(audience={"devices": named}))
    assert status == 202 and answer["accepted"] == 1
    assert {(i["target"], i["code"]) for i in answer["invalid"]} == {
        (str(device_id(0, 99)), "unknown_device"),
        (str(device_id(77, 1)), "unknown_device"),
        ("abc", "malformed"),
    }


def test_everybody(scene: Scene) -> None:
    status, _, answer = scene.push(good(audience="all"))
    assert status == 202 and answer["accepted"] is None and answer["invalid"] == []
    logs = scene.stage.with_store(all_pushes)
    assert all(pushes[-1].push_id == int(answer["push_id"]) for pushes in logs.values())


@pytest.mark.parametrize(
    "audience", ["all", {"devices": [DEVICE]}, {"devices": [DEVICE, device_id(2, 1)]}]
)
def test_a_shape_stands_in_every_log(scene: Scene, audience: Any) -> None:
    status, _, answer = scene.push(good(audience=audience, speed=7, holdout=0.25))
    assert status == 202
    logs = scene.stage.with_store(all_pushes)
    last = [pushes[-1] for pushes in logs.values() if pushes]
    found = [push for push in last if push.push_id == int(answer["push_id"])]
    assert len(found) == (PARTITIONS if audience == "all" else len(audience["devices"]))
    assert all((push.speed, push.holdout) == (7, 0.25) for push in found)


def test_key_in_body_or_header_is_one_push_and_another_body_a_conflict(scene: Scene) -> None:
    first = scene.push(good(idempotency_key="k1"))
    again = scene.push(good(), {"Idempotency-Key": "k1"})
    assert first[0] == again[0] == 202 and first[2] == again[2]
    conflict = error_of(scene.push(good(data={"parcel": "8"}), {"Idempotency-Key": "k1"}))
    assert conflict["errno"] == Errno.CONFLICT
    assert conflict["trace_id"] == first[2]["push_id"]
    both = error_of(scene.push(good(idempotency_key="k1"), {"Idempotency-Key": "k2"}))
    assert both["errno"] == Errno.IDEMPOTENCY_KEY


def test_one_key_at_once_over_http(scene: Scene) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: scene.push(good(idempotency_key="race")), range(8)))
    assert {a[0] for a in answers} == {202} and len({a[2]["push_id"] for a in answers}) == 1


def test_validate_only_pushes_nothing(scene: Scene) -> None:
    before = scene.stage.with_store(all_pushes)
    unknown = str(device_id(2, 99))
    body = good(audience={"devices": [DEVICE, unknown, "x"]}, validate_only=True)
    status, _, answer = scene.push(body)
    assert status == 200 and answer["push_id"] is None and answer["accepted"] == 1
    assert [i["target"] for i in answer["invalid"]] == [unknown, "x"]
    assert scene.stage.with_store(all_pushes) == before
    assert error_of(scene.push(good(validate_only=True, ttl=-1)))["errno"] == Errno.TTL


@pytest.mark.parametrize(
    ("body", "errno"),
    [
        (b"{", Errno.NOT_JSON),
        (good(ttl="5"), Errno.FIELD),
        (good(colour="red"), Errno.FIELD),
        (good(audience={"devices": [None]}), Errno.FIELD),
        ({"audience": "all"}, Errno.NO_CONTENT),
        (good(ttl=28 * 86_400 + 1), Errno.TTL),
        (good(audience={"devices": list(range(101))}), Errno.DEVICES),
        (good(speed=0), Errno.SHAPE),
        (good(speed=5, ttl=0, validate_only=True), Errno.SHAPE),
        (good(data={"a": "x" * MAX_CONTENT}), Errno.CONTENT_TOO_LARGE),
        (good(data={"a": "x" * 200_000}), Errno.BODY_TOO_LARGE),
    ],
    ids=lambda value: value.name if isinstance(value, Errno) else "",
)
def test_bad_requests(scene: Scene, body: Any, errno: Errno) -> None:
    assert error_of(scene.push(body))["errno"] == errno


def test_a_body_without_a_length_is_bounded_while_it_is_read(scene: Scene) -> None:
    url = urllib.parse.urlsplit(scene.stage.address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
    chunks = (b" " * 10_000 for _ in range(25))
    connection.request(
        "POST", "/v1/apps/shop/pushes", chunks, bearer(scene.key), encode_chunked=True
    )
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["errno"] == Errno.BODY_TOO_LARGE
    # The connection is still good: what came beyond the limit was read and dropped.
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()


def test_an_announced_length_is_refused_before_it_is_sent(scene: Scene) -> None:
    url = urllib.parse.urlsplit(scene.stage.address)
    with socket.create_connection((url.hostname, url.port or 80), timeout=10) as client:
        client.sendall(
            b"POST /v1/apps/shop/pushes HTTP/1.1\r\nHost: x\r\nContent-Length: 200001\r\n"
            b"Authorization: Bearer " + scene.key.encode() + b"\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_caller_that_leaves_in_the_middle_harms_nobody(scene: Scene) -> None:
    url = urllib.parse.urlsplit(scene.stage.address)
    with socket.create_connection((url.hostname, url.port or 80), timeout=10) as client:
        client.sendall(
            b"POST /v1/apps/shop/pushes HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
            b"Authorization: Bearer " + scene.key.encode() + b"\r\n\r\n{"
        )
    assert scene.push(good())[0] == 202


# Who may.


@pytest.mark.parametrize("path", ["pushes", "pushes/5", f"devices/{DEVICE}"])
def test_keys(scene: Scene, path: str) -> None:
    method = "POST" if path == "pushes" else "GET"

    def call(app: str, authorization: str | None) -> int:
        headers = {"Authorization": authorization} if authorization is not None else {}
        answer = scene.stage.request(method, f"/v1/apps/{app}/{path}", None, headers)
        error = error_of(answer)
        assert ("www-authenticate" in answer[1]) == (answer[0] == 401)
        return int(error["errno"])

    for missing in (None, "", "Basic eDp5", "Bearer", scene.key):
        assert call("shop", missing) == Errno.NO_KEY
    for wrong in ("Bearer ", "Bearer nonsense", "Bearer \xff"):
        assert call("shop", wrong) == Errno.WRONG_KEY
        assert call("nowhere", wrong) == Errno.WRONG_KEY
    other = f"bearer {scene.other_key}"
    assert call("shop", other) == Errno.NO_APP
    assert call("nowhere", other) == Errno.NO_APP


def test_an_app_made_a_moment_ago_is_found(scene: Scene) -> None:
    new = scene.stage.with_store(lambda store: Apps(store).create("fresh"))

    def pushed() -> int:
        return scene.stage.request("POST", "/v1/apps/fresh/pushes", good(), bearer(new.api_key))[0]

    eventually(lambda: pushed() == 202)


# What became of it.


def counts(**fields: Any) -> rpc_pb2.Counts:
    return rpc_pb2.Counts(known=True, app=1, accepted_ms=1_750_000_000_500, ttl_s=60, **fields)


def test_counts_of_a_push_in_one_partition(scene: Scene) -> None:
    push_id = OLD | 2
    scene.node.counts[push_id] = counts(targeted=3, received=1, pending=2, displayed=1)
    status, _, answer = scene.get(f"/v1/apps/shop/pushes/{push_id}")
    assert status == 200
    assert answer == {
        "push_id": str(push_id),
        "state": "running",
        "counts": {
            **dict.fromkeys(("failed", "recalled", "replaced", "overflowed", "stopped"), 0),
            **{"expired": 0, "clicked": 0, "dismissed": 0, "held_out": 0},
            **{"targeted": 3, "received": 1, "pending": 2, "displayed": 1},
        },
        "accepted_at": "2025-06-15T15:06:40.500+00:00",
        "ttl": 60,
    }


def test_counts_of_a_push_in_several_partitions_need_all_of_them(scene: Scene) -> None:
    push_id = OLD | SEVERAL | 3
    scene.node.counts[push_id] = counts(targeted=5, received=5)
    path = f"/v1/apps/shop/pushes/{push_id}"
    assert scene.get(path)[2]["counts"]["received"] == 5
    scene.node.hidden = {0}
    try:
        assert error_of(scene.get(path))["errno"] == Errno.DISPATCH_AWAY
    finally:
        scene.node.hidden = set()
    assert scene.get(path)[0] == 200


def test_a_partition_without_an_owner_that_answers(scene: Scene) -> None:
    scene.node.hidden = {2}
    try:
        for path in (f"pushes/{OLD | 2}", f"devices/{device_id(2, 1)}"):
            error = error_of(scene.get(f"/v1/apps/shop/{path}"))
            assert error["errno"] == Errno.DISPATCH_AWAY
    finally:
        scene.node.hidden = set()


@pytest.mark.parametrize("number", [OLD | 1, OLD | SEVERAL, OLD | 999, 7, 2**64 - 1])
def test_unknown_pushes(scene: Scene, number: int) -> None:
    error = error_of(scene.get(f"/v1/apps/shop/pushes/{number}"))
    assert error["errno"] == Errno.NO_PUSH


def test_another_app_s_push_is_unknown(scene: Scene) -> None:
    push_id = OLD | 1
    scene.node.counts[push_id] = counts()
    assert scene.get(f"/v1/apps/shop/pushes/{push_id}")[0] == 200
    error = error_of(scene.get(f"/v1/apps/other/pushes/{push_id}", scene.other_key))
    assert error["errno"] == Errno.NO_PUSH
    del scene.node.counts[push_id]


def test_a_push_accepted_just_now_is_not_called_unknown(scene: Scene) -> None:
    push_id = scene.push(good())[2]["push_id"]
    path = f"/v1/apps/shop/pushes/{push_id}"
    assert error_of(scene.get(path))["errno"] == Errno.NOT_COUNTED_YET
    scene.node.counts[int(push_id)] = counts(targeted=1, pending=1)
    assert scene.get(path)[0] == 200


def test_counts_that_do_not_add_up_are_noticed(scene: Scene) -> None:
    push_id = OLD | 3
    scene.node.counts[push_id] = counts(targeted=3, received=1)
    before = scene.stage.service.law_broken_total
    assert scene.get(f"/v1/apps/shop/pushes/{push_id}")[0] == 200
    assert scene.stage.service.law_broken_total == before + 1


def test_a_device(scene: Scene) -> None:
    scene.node.devices[DEVICE] = rpc_pb2.DeviceState(
        known=True, app=1, edge=3, pending=2, tags=["vip", "city:hz"], epoch=2**53, account="u1"
    )
    path = f"devices/{DEVICE}"
    status, _, answer = scene.get(f"/v1/apps/shop/{path}")
    assert status == 200
    assert answer == {
        "device_id": str(DEVICE),
        "online": True,
        "edge": 3,
        "pending": 2,
        "tags": ["city:hz", "vip"],
        "account": "u1",
        "epoch": str(2**53),
    }
    scene.node.devices[DEVICE].account = ""
    assert scene.get(f"/v1/apps/shop/{path}")[2]["account"] is None
    for app, key, device in (
        ("other", scene.other_key, DEVICE),
        ("shop", scene.key, device_id(0, 44)),
        ("shop", scene.key, device_id(PARTITIONS, 1)),
    ):
        error = error_of(scene.get(f"/v1/apps/{app}/devices/{device}", key))
        assert error["errno"] == Errno.NO_DEVICE


@pytest.mark.parametrize("path", ["pushes/x", "pushes/-1", "devices/1.5", f"devices/{2**64}"])
def test_ids_that_are_none(scene: Scene, path: str) -> None:
    assert error_of(scene.get(f"/v1/apps/shop/{path}"))["errno"] == Errno.ID


# The service about itself.


# Bodies that are being read.


def half_sent(scene: Scene, body: bytes) -> socket.socket:
    """A push of which half the body has been sent."""
    url = urllib.parse.urlsplit(scene.stage.address)
    caller = socket.create_connection((url.hostname or "", url.port or 0), timeout=10)
    head = (
        f"POST /v1/apps/shop/pushes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {scene.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    caller.sendall(head.encode() + body[: len(body) // 2])
    return caller


def test_bodies_being_read_are_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = scene.stage.service.bodies
    monkeypatch.setattr(bodies, "limit", 100_000)
    raw = json.dumps(good(data={"a": "b" * 60_000})).encode()
    callers = [half_sent(scene, raw) for _ in range(3)]
    eventually(lambda: bodies.used == 3 * (len(raw) // 2))
    error = error_of(scene.push(raw))
    assert error["errno"] == Errno.BUSY
    callers[0].sendall(raw[len(raw) // 2 :])  # together over the limit: this one is refused as well
    assert callers[0].recv(100).startswith(b"HTTP/1.1 503")
    eventually(lambda: bodies.used == 2 * (len(raw) // 2))
    callers[1].close()
    eventually(lambda: bodies.used == len(raw) // 2)
    callers[2].sendall(raw[len(raw) // 2 :])
    assert callers[2].recv(100).startswith(b"HTTP/1.1 202")
    assert bodies.used == 0
    for caller in callers:
        caller.close()


def test_a_body_that_takes_too_long_gives_its_room_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "BODY_S", 0.2)
    raw = json.dumps(good()).encode()
    with half_sent(scene, raw) as caller:
        response = http.client.HTTPResponse(caller)
        response.begin()
        assert json.loads(response.read())["error"]["errno"] == Errno.SLOW_BODY
    eventually(lambda: scene.stage.service.bodies.used == 0)


def test_health_and_version(scene: Scene) -> None:
    assert scene.stage.get("/healthz")[::2] == (200, {"status": "ok"})
    assert scene.stage.get("/readyz")[::2] == (200, {"status": "ready"})
    parts = scene.stage.get("/readyz?verbose")[2]["parts"]
    assert parts == {"not_draining": True, "store": True, "lease": True, "dispatch": True}
    assert scene.stage.get("/version")[2]["name"] == "columba"


def test_status_tells_numbers_of_all_processes(scene: Scene) -> None:
    status, _, answer = scene.stage.get("/v1/status")
    assert status == 200 and answer["partitions"] == PARTITIONS and answer["ready"] is True
    (api,) = answer["processes"]["api"]
    assert api["number"] == scene.stage.said["number"] and api["start"] == scene.stage.said["start"]
    assert api["answered"] and 0 < api["lease_ms"] <= 5000
    assert api["stats"]["columba_queue_limit{queue=pushes}"] == 20_000
    assert api["stats"]["columba_queue_limit{queue=push_bytes}"] == WAITING_BYTES
    assert api["stats"]["columba_queue_limit{queue=body_bytes}"] == BODY_BYTES
    (node,) = answer["processes"]["node"]
    assert node["answered"] and node["stats"] == {"columba_records_total{kind=push}": 5.0}
    assert answer["processes"]["edge"] == []
    assert "sock" not in json.dumps(answer), "no addresses"


def test_what_is_counted_is_called_the_same_everywhere(scene: Scene) -> None:
    assert set(COUNTED) == set(audience.STATES) and len(COUNTED) == 13
    assert COUNTED[0] == "targeted" and not {"targeted", "clicked"} & set(STATES)
    document = scene.get("/openapi.json")[2]
    counts = document["components"]["schemas"]["PushState"]["properties"]["counts"]
    assert tuple(counts["properties"]) == tuple(counts["required"]) == COUNTED


def test_metrics(scene: Scene) -> None:
    scene.push(good())

    def lines() -> set[str]:
        status, headers, text = scene.stage.get("/metrics")
        assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
        return set(text.splitlines())

    wanted = {
        "# TYPE columba_http_requests_total counter",
        "# TYPE columba_accept_seconds histogram",
        'columba_records_total{kind="push",process="node:1"} 5.0',
        'columba_process_answered{process="api:1"} 1.0',
        'columba_process_answered{process="node:1"} 1.0',
        'columba_queue_limit{process="api:1",queue="pushes"} 20000.0',
        'columba_queue_items{process="api:1",queue="push_bytes"} 0.0',
        'columba_queue_items{process="api:1",queue="body_bytes"} 0.0',
    }
    # An answer of half a second ago may be given again, from before the push.
    eventually(lambda: wanted <= lines() and any(map(_counts_pushes, lines())))
    names = [line.split()[2] for line in lines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    assert all(name.startswith("columba_") for name in names)


def _counts_pushes(line: str) -> bool:
    return line.startswith("columba_http_requests_total{") and '"/v1/apps/{app}/pushes"' in line


def test_a_process_that_does_not_answer_is_shown_as_such(scene: Scene) -> None:
    backend = scene.stage.service.backend
    assert backend is not None
    info = {"rpc": "unix:/nowhere/edge.sock"}
    lease = scene.stage.do(Lease.take(backend.store, backend.clock, "edge", 60.0, info))
    wanted = 'columba_process_answered{process="edge:1"} 0.0'
    eventually(lambda: wanted in scene.stage.get("/metrics")[2].splitlines())
    scene.stage.do(lease.end())


def test_unknown_addresses_and_methods(scene: Scene) -> None:
    assert error_of(scene.stage.get("/v2"))["errno"] == Errno.NO_ROUTE
    assert error_of(scene.stage.get("/healthz/"))["errno"] == Errno.NO_ROUTE
    for method, path in (("GET", "/v1/apps/shop/pushes"), ("DELETE", "/healthz")):
        assert error_of(scene.stage.request(method, path))["errno"] == Errno.METHOD


def test_openapi_lists_all_routes_and_its_references_resolve(scene: Scene) -> None:
    status, _, document = scene.stage.get("/openapi.json")
    assert status == 200 and document["openapi"].startswith("3.")
    assert {(path, m) for path, ops in document["paths"].items() for m in ops} == {
        ("/v1/apps/{app}/pushes", "post"),
        ("/v1/apps/{app}/pushes/{push_id}", "get"),
        ("/v1/apps/{app}/devices/{device_id}", "get"),
        ("/v1/apps/{app}/pushes/{push_id}/stats", "get"),
        *(("/v1/apps/{app}/pushes/{push_id}:explain", verb) for verb in ("get", "post")),
        *(
            (f"/v1/apps/{{app}}/pushes/{{push_id}}:{v}", "post")
            for v in ("pause", "resume", "stop", "recall")
        ),
        *((f"/v1/apps/{{app}}/audience:{verb}", "post") for verb in ("count", "explain")),
        *((f"/v1/apps/{{app}}/tags:{verb}", "post") for verb in ("bind", "unbind")),
        *((f"/v1/apps/{{app}}/accounts:{verb}", "post") for verb in ("bind", "unbind")),
        ("/v1/apps/{app}/accounts/{account}", "get"),
        ("/v1/apps/{app}/segments", "get"),
        *(("/v1/apps/{app}/segments/{name}", verb) for verb in ("put", "get", "delete")),
        *((path, "get") for path in ("/v1/status", "/healthz", "/readyz", "/version", "/metrics")),
    }
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"] and operation["responses"]
            assert ("security" in operation) == path.startswith("/v1/apps/")
    assert "422" not in json.dumps(document)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_examples_are_good_requests(scene: Scene) -> None:
    document = scene.stage.get("/openapi.json")[2]
    body = document["paths"]["/v1/apps/{app}/pushes"]["post"]["requestBody"]
    examples = body["content"]["application/json"]["examples"].values()
    assert len(examples) == 6
    for example in examples:
        assert scene.push({**example["value"], "validate_only": True})[0] == 200


def test_the_page_loads_nothing_from_elsewhere(scene: Scene) -> None:
    status, headers, page = scene.stage.get("/docs")
    assert status == 200 and headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "://" not in page and "src=" not in page


# The same push over RPC.


def rpc(scene: Scene, body: bytes) -> bytes:
    async def call() -> bytes:
        assert scene.stage.service.rpc is not None
        client = RpcClient(scene.stage.service.rpc.address, SECRETS.rpc_secret)
        client.start()
        try:
            await client.wait_up()
            return await client.call(Method.PUSH, body, 5.0)
        finally:
            await client.close()

    return scene.stage.do(call())


def rpc_push(**changed: Any) -> bytes:
    fields: dict[str, Any] = {"app": "shop", "content": b"\x12\x04\n\x00\x12\x00", "ttl_s": 60}
    return rpc_pb2.PushRequest(**{**fields, **changed}).SerializeToString()


def test_push_over_rpc(scene: Scene) -> None:
    unknown = device_id(1, 66)
    answer = rpc(scene, rpc_push(devices=[DEVICE, DEVICE, unknown]))
    reply = rpc_pb2.PushReply.FromString(answer)
    assert reply.accepted == 1 and list(reply.unknown) == [unknown]
    push = scene.stage.with_store(lambda store: pushes_in(store, 1))[-1]
    assert push.push_id == reply.push_id and list(push.index) == [5]


def test_keys_are_the_same_over_rpc_and_http(scene: Scene) -> None:
    content = device_pb2.Content(data={"a": "b"}).SerializeToString()
    reply = rpc_pb2.PushReply.FromString(
        rpc(scene, rpc_push(audience=b'"all"', content=content, idempotency_key="both"))
    )
    body = {"audience": "all", "data": {"a": "b"}, "ttl": 60, "idempotency_key": "both"}
    assert scene.push(body)[2]["push_id"] == str(reply.push_id)


def test_keys_of_shaped_pushes_are_the_same_over_rpc_and_http(scene: Scene) -> None:
    content = device_pb2.Content(data={"a": "b"}).SerializeToString()
    shaped = rpc_push(
        audience=b'"all"', content=content, idempotency_key="shaped", speed=500, holdout=0.1
    )
    reply = rpc_pb2.PushReply.FromString(rpc(scene, shaped))
    body = {"audience": "all", "data": {"a": "b"}, "ttl": 60, "idempotency_key": "shaped"}
    assert error_of(scene.push(body))["errno"] == Errno.CONFLICT
    answer = scene.push({**body, "speed": 500, "holdout": 0.1})[2]
    assert answer["push_id"] == str(reply.push_id)
    for pushes in scene.stage.with_store(all_pushes).values():
        (push,) = [push for push in pushes if push.push_id == reply.push_id]
        assert (push.speed, push.holdout) == (500, 0.1)


def test_an_audience_over_rpc(scene: Scene) -> None:
    backend = scene.stage.service.backend
    assert backend is not None
    scene.stage.do(backend.segments.save(1, "over-rpc", parse_text("a | b")))
    reply = rpc(scene, rpc_push(audience=b'{"and":[{"tag":"c"},{"segment":"over-rpc"}]}'))
    push_id = rpc_pb2.PushReply.FromString(reply).push_id
    for pushes in scene.stage.with_store(all_pushes).values():
        assert pushes[-1].push_id == push_id
        assert pushes[-1].audience == encoded(parse_text("c & (a | b)"))


def test_a_tree_that_lists_devices_is_a_list_over_rpc(scene: Scene) -> None:
    audience = json.dumps({"devices": [str(DEVICE)]}).encode()
    reply = rpc_pb2.PushReply.FromString(rpc(scene, rpc_push(audience=audience)))
    assert reply.accepted == 1 and not push_place(reply.push_id).several


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (rpc_push(audience=b"{"), "invalid"),
        (rpc_push(audience=b'"vip"'), "invalid"),
        (rpc_push(audience=b'{"devices":[]}'), "invalid"),
        (rpc_push(audience=b'{"bound":"a","devices":["1"]}'), "invalid"),
        (rpc_push(audience=b'{"segment":"none"}'), "invalid"),
        (rpc_push(audience=b"[" * 100_000), "invalid"),
        (b"\xff", "invalid"),
        (rpc_push(devices=[1], content=b"\xff"), "invalid"),
        (rpc_push(devices=[1], content=b""), "invalid"),
        (rpc_push(devices=[1], content=b"\x12" + b"\x00" * MAX_CONTENT), "invalid"),
        (rpc_push(), "invalid"),
        (rpc_push(devices=[1], audience=b'"all"'), "invalid"),
        (rpc_push(devices=range(101)), "invalid"),
        (rpc_push(devices=[1], ttl_s=28 * 86_400 + 1), "invalid"),
        (rpc_push(devices=[1], idempotency_key="k" * 129), "invalid"),
        (rpc_push(devices=[1], speed=1_000_000_001), "invalid"),
        (rpc_push(devices=[1], speed=5, ttl_s=0), "invalid"),
        (rpc_push(devices=[1], holdout=1.0), "invalid"),
        (rpc_push(devices=[1], holdout=-0.1), "invalid"),
        (rpc_push(devices=[1], holdout=float("nan")), "invalid"),
        (rpc_push(devices=[1], app="nowhere"), "unknown_app"),
    ],
)
def test_refusals_over_rpc(scene: Scene, body: bytes, code: str) -> None:
    with pytest.raises(RpcError) as caught:
        rpc(scene, body)
    assert caught.value.code == code


def test_conflict_over_rpc(scene: Scene) -> None:
    rpc(scene, rpc_push(audience=b'"all"', idempotency_key="c"))
    with pytest.raises(RpcError) as caught:
        rpc(scene, rpc_push(audience=b'"all"', idempotency_key="c", ttl_s=61))
    assert caught.value.code == "conflict"


def test_push_ids_tell_the_time(scene: Scene) -> None:
    backend = scene.stage.service.backend
    assert backend is not None
    push_id = int(scene.push(good())[2]["push_id"])
    assert abs((push_id >> 29) * 62.5 + EPOCH_MS - backend.clock.now_ms()) < 1000
