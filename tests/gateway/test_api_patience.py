"""Partitions that change hands while app servers ask: they wait, and need not know."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.api import nodes as module
from gateway.api.errors import Errno
from gateway.api.nodes import Nodes, NodesAway
from gateway.rpc import Method, RpcError
from gateway.store import ownership
from gateway.store.leases import Lease
from gateway.store.ownership import take_fence
from protocol.ids import SEVERAL, device_id
from protocol.schema import log_pb2, rpc_pb2
from tests.gateway.account_owners import AccountOwners
from tests.gateway.api_scene import DEVICES, Node, Scene, error_of, played
from tests.gateway.api_stage import PARTITIONS
from tests.waiting import eventually

OLD = (1 << 20) << 29
P = 2
DEVICE = device_id(P, 5)
ONE, SEVERAL_ONES = OLD | P, OLD | SEVERAL | 3
PATIENCE_S = 5.0
Answer = tuple[int, dict[str, str], Any]


@pytest.fixture(scope="module")
def whole_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with played(tmp_path_factory.mktemp("patience"), patience_s=PATIENCE_S) as scene:
        yield scene


@pytest.fixture
def scene(whole_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Partition P has no owner."""
    node = whole_scene.node
    counts = rpc_pb2.Counts(known=True, app=1, targeted=1, received=1, accepted_ms=5)
    node.counts = {ONE: counts, SEVERAL_ONES: counts}
    node.cuts = {push_id: rpc_pb2.CutReply(known=True, app=1) for push_id in node.counts}
    node.devices = {DEVICE: rpc_pb2.DeviceState(known=True, app=1)}
    ledger = rpc_pb2.LedgerReply(device_known=True, push_known=True, app=1, state="received")
    node.ledgers = {(ONE, DEVICE): ledger}
    node.hidden, node.undecided = {P}, {P}
    node.accounts = AccountOwners(PARTITIONS, DEVICES)
    node.controls.clear()
    node.tags.clear()
    node.tag_errors.clear()
    return whole_scene


def found(scene: Scene) -> None:
    """Partition P has its owner again."""
    scene.node.hidden, scene.node.undecided = set(), set()


def in_background(work: Callable[[], Answer]) -> "Future[Answer]":
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def nodes_of(scene: Scene) -> Nodes:
    backend = scene.stage.service.backend
    assert backend is not None
    return backend.nodes


TAGS = {"items": [{"device": str(DEVICE), "tags": ["vip"]}]}
BOUND = {"items": [{"account": "u1", "device": str(DEVICE)}]}
ACCOUNT = next(f"u{n}" for n in range(99) if AccountOwners(PARTITIONS, []).home(f"u{n}") == P)
PUSH = {"audience": f"account({ACCOUNT})", "data": {"a": "b"}}
QUESTIONS: dict[str, tuple[str, str, Any, int]] = {
    "counts of one": ("GET", f"pushes/{ONE}", None, 200),
    "counts of all": ("GET", f"pushes/{SEVERAL_ONES}", None, 200),
    "cut of one": ("GET", f"pushes/{ONE}/stats?by=city", None, 200),
    "cut of all": ("GET", f"pushes/{SEVERAL_ONES}/stats?by=city", None, 200),
    "device": ("GET", f"devices/{DEVICE}", None, 200),
    "ledger": ("GET", f"pushes/{ONE}:explain?device={DEVICE}", None, 200),
    "audience": ("POST", "audience:count", {"audience": "vip"}, 200),
    "pause": ("POST", f"pushes/{ONE}:pause", None, 200),
    "stop": ("POST", f"pushes/{SEVERAL_ONES}:stop", None, 200),
    "recall": ("POST", f"pushes/{SEVERAL_ONES}:recall", None, 200),
    "tags": ("POST", "tags:bind", TAGS, 200),
    "bind": ("POST", "accounts:bind", BOUND, 200),
    "unbind": ("POST", "accounts:unbind", BOUND, 200),
    "list": ("GET", f"accounts/{ACCOUNT}", None, 404),
    "push to an account": ("POST", "pushes", PUSH, 202),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_nobody_notices(scene: Scene, question: str) -> None:
    method, path, body, wanted = QUESTIONS[question]
    answer = in_background(lambda: scene.call(method, path, body))
    eventually(lambda: nodes_of(scene).waiting)
    assert not answer.done()
    found(scene)
    status, _, told = answer.result(10)
    assert status == wanted, told
    assert all(result["ok"] for result in told.get("results", ()))
    eventually(lambda: not nodes_of(scene).waiting)


@pytest.mark.parametrize("question", QUESTIONS)
def test_patience_has_an_end(scene: Scene, monkeypatch: pytest.MonkeyPatch, question: str) -> None:
    monkeypatch.setattr(nodes_of(scene), "_patience_s", 0.4)
    method, path, body, _ = QUESTIONS[question]
    begun = time.monotonic()
    answer = scene.call(method, path, body)
    assert 0.3 < time.monotonic() - begun < PATIENCE_S
    if "results" in answer[2]:
        assert [one["code"] for one in answer[2]["results"]] == ["unavailable"]
    else:
        assert error_of(answer)["errno"] == Errno.DISPATCH_AWAY
    assert not nodes_of(scene).waiting


def test_one_binding_request_has_one_patience(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many waves of items it takes."""
    monkeypatch.setattr(nodes_of(scene), "_patience_s", 0.5)
    monkeypatch.setattr("gateway.api.account_routes.WAVE", 1)
    items = [{"account": f"u{n}", "device": str(DEVICE)} for n in range(6)]
    begun = time.monotonic()
    results = scene.call("POST", "accounts:bind", {"items": items})[2]["results"]
    assert {result["code"] for result in results} == {"unavailable"}
    assert time.monotonic() - begun < 2.5


def test_another_node_takes_the_partition(scene: Scene, tmp_path: Path) -> None:
    """The question goes to the owner of that moment, whom nobody had heard of when it was asked."""
    answer = in_background(lambda: scene.get(f"/v1/apps/shop/pushes/{ONE}"))
    eventually(lambda: nodes_of(scene).waiting)
    other = Node()
    other.counts = scene.node.counts
    backend = scene.stage.service.backend
    assert backend is not None
    store, clock = backend.store, backend.clock

    async def take_over() -> Lease:
        await other.server.start(f"unix:{tmp_path}/other.sock")
        lease = await Lease.take(store, clock, "node", 3600.0, {"rpc": other.server.address})
        await take_fence(store, P, lease.identity.number, lease.identity.start)
        return lease

    async def give_back(lease: Lease) -> None:
        first = min(h.identity for h in backend.roster.live("node", clock.now_ms()))
        await take_fence(store, P, first.number, first.start)
        await lease.end()
        await other.server.stop()
        await backend.roster.poll()

    lease = scene.stage.do(take_over())
    try:
        assert answer.result(10)[0] == 200
    finally:
        scene.stage.do(give_back(lease))


def test_a_decision_whose_answer_was_lost_is_said_again(scene: Scene) -> None:
    scene.node.hidden = set()
    answer = in_background(lambda: scene.call("POST", f"pushes/{SEVERAL_ONES}:pause"))
    eventually(lambda: len(scene.node.controls) >= 2)
    found(scene)
    assert answer.result(10)[0] == 200
    assert {control.action for control in scene.node.controls} == {log_pb2.PAUSE}
    assert len({control.SerializeToString() for control in scene.node.controls}) == 1


@pytest.mark.parametrize(
    "method", [Method.TAG, Method.ACCOUNT, Method.HOLDER], ids=lambda m: m.name
)
def test_changes_whose_answers_were_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    """Done by the owner, and done once more: the outcome is the same."""
    found(scene)
    handler: Any = scene.node.server.handlers[method]
    lost = 0

    def losing(body: bytes) -> bytes:
        nonlocal lost
        answer: bytes = handler(body)
        lost += 1
        if lost <= 2:
            raise RpcError("not_owner", "another node has taken the partition")
        return answer

    monkeypatch.setitem(scene.node.server.handlers, method, losing)
    accounts = scene.node.accounts
    if method == Method.TAG:
        assert scene.call("POST", "tags:bind", TAGS)[2]["results"][0]["ok"]
        first, *again = scene.node.tags
        assert again == [first, first]
        return
    for account in ("a", "b", "a"):
        items = [{"account": account, "device": str(DEVICE)}]
        lost = 0
        assert scene.call("POST", "accounts:bind", {"items": items})[2]["results"][0]["ok"]
        assert accounts.holder_of(DEVICE) == account
        assert accounts.reached(account) == {DEVICE}
    lost = 0
    assert scene.call("POST", "accounts:unbind", {"items": items})[2]["results"][0]["ok"]
    assert accounts.holder_of(DEVICE) == "" and not accounts.listed("a")


def test_only_so_many_wait(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 2)
    path = f"/v1/apps/shop/pushes/{ONE}"
    waiting = [in_background(lambda: scene.get(path)) for _ in range(2)]
    eventually(lambda: nodes_of(scene).waiting == 2)
    begun = time.monotonic()
    assert error_of(scene.get(path))["errno"] == Errno.DISPATCH_AWAY
    assert time.monotonic() - begun < 2
    found(scene)
    assert [answer.result(10)[0] for answer in waiting] == [200, 200]


def test_many_who_wait_do_not_storm_the_store(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    owners = ownership.owners

    async def counted(*args: Any) -> Any:
        nonlocal read
        read += 1
        return await owners(*args)

    monkeypatch.setattr(module, "owners", counted)
    monkeypatch.setattr(nodes_of(scene), "_patience_s", 1.0)

    async def ask_all() -> set[type]:
        asked = (nodes_of(scene).counts(ONE) for _ in range(300))
        return {type(end) for end in await asyncio.gather(*asked, return_exceptions=True)}

    assert scene.stage.do(ask_all()) == {NodesAway}
    assert 2 <= read <= 1.0 / module._OWNERS_MIN_S + 5


def test_a_process_that_ends_waits_for_nobody(tmp_path: Path) -> None:
    with played(tmp_path, patience_s=60.0) as scene:
        scene.node.hidden = {P}
        scene.node.counts = {ONE: rpc_pb2.Counts(known=True, app=1)}
        answer = in_background(lambda: scene.get(f"/v1/apps/shop/pushes/{ONE}"))
        eventually(lambda: nodes_of(scene).waiting)
        begun = time.monotonic()
        scene.stage.begin_stop()
        assert error_of(answer.result(10))["errno"] == Errno.DISPATCH_AWAY
        assert time.monotonic() - begun < 3


async def test_what_is_no_absence_is_told_at_once() -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        raise ValueError("a defect")

    nothing: Any = None
    nodes = Nodes(nothing, nothing, nothing, nothing, 4, patience_s=5.0)
    call: Awaitable[None] = nodes.patiently(ask)
    with pytest.raises(ValueError, match="a defect"):
        await call
    assert asked == 1 and nodes.waiting == 0
