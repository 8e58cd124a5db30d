"""Recalls over HTTP, with a node and edges that answer as scripted."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway.api import recalls as module
from gateway.api.errors import Errno
from gateway.api.reading import state_of
from gateway.api.service import Backend
from gateway.store import keys, recalls
from gateway.store.client import Store
from gateway.store.errors import StoreUnavailable
from gateway.store.recalls import StoredRecall
from protocol.ids import EPOCH_MS, SEVERAL
from protocol.schema import log_pb2, rpc_pb2
from tests.gateway.api_scene import Edge, Scene, error_of, played
from tests.gateway.api_stage import bearer
from tests.waiting import eventually

OLD = (1 << 20) << 29
MAX_TTL_MS = 28 * 86_400 * 1000
ONE, SEVERAL_ONES = OLD | 2, OLD | SEVERAL | 3
Answer = tuple[int, dict[str, str], Any]


@pytest.fixture(scope="module")
def whole_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with played(tmp_path_factory.mktemp("recall")) as scene:
        yield scene


class Edges:
    """Edges of a scene; all leave at the end."""

    def __init__(self, scene: Scene, folder: str) -> None:
        self._stage = scene.stage
        self._folder = folder
        self.all: list[Edge] = []

    def join(self) -> Edge:
        backend = backend_of(self._stage)

        async def work() -> Edge:
            path = f"unix:{self._folder}/e{len(self.all)}.sock"
            edge = Edge(backend.store, path)
            await edge.join(backend.clock)
            return edge

        self.all.append(self._stage.do(work()))
        return self.all[-1]

    def answers(self, edge: Edge, *, good: bool) -> None:
        async def work() -> None:
            edge.answers.set() if good else edge.answers.clear()

        self._stage.do(work())

    def leave(self, edge: Edge) -> None:
        self.answers(edge, good=True)
        self._stage.do(edge.leave())
        self.all.remove(edge)


def backend_of(stage: Any) -> Backend:
    backend: Backend | None = stage.service.backend
    assert backend is not None
    return backend


@pytest.fixture
def scene(whole_scene: Scene) -> Scene:
    node = whole_scene.node
    node.counts.clear()
    for push_id in (ONE, SEVERAL_ONES):
        node.counts[push_id] = counts(targeted=3, received=1, pending=2)
    node.controls.clear()
    node.undecided = set()

    def fold(request: rpc_pb2.ControlRequest) -> None:
        told = node.counts[request.push_id]
        told.recalled += told.pending
        told.pending = 0

    node.on_controlled = fold
    whole_scene.stage.with_store(lambda store: store.call("DEL", keys.RECALLS))
    return whole_scene


@pytest.fixture
def edges(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edges]:
    found = Edges(scene, str(tmp_path_factory.mktemp("e")))
    yield found
    for edge in list(found.all):
        found.leave(edge)


def counts(**fields: Any) -> rpc_pb2.Counts:
    return rpc_pb2.Counts(known=True, app=1, accepted_ms=1_750_000_000_500, ttl_s=60, **fields)


def recall(scene: Scene, push_id: object) -> Answer:
    return scene.call("POST", f"pushes/{push_id}:recall")


def until_of(push_id: int) -> int:
    return int((push_id >> 29) * 62.5) + EPOCH_MS + MAX_TTL_MS


def stored(scene: Scene) -> dict[bytes, float]:
    rows = scene.stage.with_store(
        lambda store: store.call("ZRANGE", keys.RECALLS, 0, -1, "WITHSCORES")
    )
    return {member: float(score) for member, score in zip(rows[::2], rows[1::2], strict=True)}


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"recalled": 1, "received": 1}, "recalled"),
        ({"recalled": 1, "stopped": 1}, "recalled"),
        ({"recalled": 1, "pending": 1}, "running"),
        ({"received": 1}, "finished"),
    ],
)
def test_the_state_of_a_recalled_push(fields: dict[str, int], state: str) -> None:
    assert state_of(counts(**fields)) == state


@pytest.mark.parametrize("push_id", [ONE, SEVERAL_ONES], ids=["one", "several"])
def test_store_partitions_and_edges_hear_of_it(scene: Scene, edges: Edges, push_id: int) -> None:
    both = [edges.join(), edges.join()]
    for time_said in (1, 2):
        status, _, answer = recall(scene, push_id)
        assert status == 200 and answer.keys() == {"push_id", "state", "counts"}
        assert (answer["push_id"], answer["state"]) == (str(push_id), "recalled")
        assert (answer["counts"]["recalled"], answer["counts"]["received"]) == (2, 1)
        assert stored(scene) == {f"1 {push_id}".encode(): until_of(push_id)}
        control = scene.node.controls.pop()
        assert not scene.node.controls
        assert (control.push_id, control.app, control.action) == (push_id, 1, log_pb2.RECALL)
        assert control.until_ms == until_of(push_id)
        for edge in both:
            assert edge.known_before == [True] * time_said
            told = edge.asked[-1]
            assert (told.push_id, told.app, told.until_ms) == (push_id, 1, until_of(push_id))
            assert len(edge.asked) == time_said


def test_without_any_edge(scene: Scene) -> None:
    assert recall(scene, ONE)[0] == 200


def in_background(scene: Scene, push_id: int) -> Any:
    """A future of the answer."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(recall, scene, push_id)
    pool.shutdown(wait=False)
    return future


def test_it_is_answered_when_every_edge_has_confirmed(scene: Scene, edges: Edges) -> None:
    quick, slow = edges.join(), edges.join()
    edges.answers(slow, good=False)
    answer = in_background(scene, ONE)
    eventually(lambda: len(slow.asked) >= 2)  # asked again and again
    assert not answer.done() and len(quick.asked) == 1
    edges.answers(slow, good=True)
    assert answer.result(10)[0] == 200
    assert len(quick.asked) == 1, "who has confirmed is not asked again"


def test_an_edge_that_leaves_is_not_waited_for(scene: Scene, edges: Edges) -> None:
    _, silent = edges.join(), edges.join()
    edges.answers(silent, good=False)
    answer = in_background(scene, ONE)
    eventually(lambda: silent.asked)
    assert not answer.done()
    scene.stage.do(silent.lease.end())
    assert answer.result(10)[0] == 200
    edges.all.remove(silent)
    edges.answers(silent, good=True)
    scene.stage.do(silent.server.stop())


def test_an_edge_that_joins_meanwhile_is_asked_or_reads_it(scene: Scene, edges: Edges) -> None:
    silent = edges.join()
    edges.answers(silent, good=False)
    answer = in_background(scene, ONE)
    eventually(lambda: silent.asked)
    late = edges.join()
    loaded = scene.stage.with_store(lambda store: recalls.load(store, 0))
    assert [one.push_id for one in loaded] == [ONE]
    eventually(lambda: late.asked)
    edges.answers(silent, good=True)
    assert answer.result(10)[0] == 200


def test_the_roster_is_read_after_the_store_knows(
    scene: Scene, edges: Edges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edge that took its lease just before that, and has read no recall, is asked."""
    between: list[Edge] = []
    add = recalls.add

    async def slow_add(store: Store, one: StoredRecall, now_ms: int) -> None:
        edge = Edge(store, f"unix:{edges._folder}/between.sock")
        await edge.join(backend_of(scene.stage).clock)
        between.append(edge)
        await add(store, one, now_ms)

    monkeypatch.setattr(recalls, "add", slow_add)
    assert recall(scene, ONE)[0] == 200
    edges.all += between
    assert [told.push_id for told in between[0].asked] == [ONE]


def test_an_edge_that_never_confirms(
    scene: Scene, edges: Edges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_of(scene.stage).recalling, "_confirm_s", 0.3)
    silent = edges.join()
    edges.answers(silent, good=False)
    error = error_of(recall(scene, ONE))
    assert error["errno"] == Errno.EDGES_AWAY
    assert stored(scene) and len(scene.node.controls) == 1
    edges.answers(silent, good=True)
    assert recall(scene, ONE)[0] == 200


def test_an_edge_that_does_not_know_how(
    scene: Scene, edges: Edges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_of(scene.stage).recalling, "_confirm_s", 0.3)
    old = edges.join()
    monkeypatch.setattr(old.server, "handlers", {})
    assert error_of(recall(scene, ONE))["errno"] == Errno.EDGES_AWAY


@pytest.mark.parametrize("push_id", [ONE, SEVERAL_ONES], ids=["one", "several"])
def test_a_partition_that_has_not_folded_it(scene: Scene, edges: Edges, push_id: int) -> None:
    """The edges are told all the same, and the store."""
    edge = edges.join()
    scene.node.undecided = {2}
    assert error_of(recall(scene, push_id))["errno"] == Errno.DISPATCH_AWAY
    assert stored(scene) and [told.push_id for told in edge.asked] == [push_id]
    scene.node.undecided = set()
    assert recall(scene, push_id)[0] == 200


def test_a_store_that_is_away_when_it_is_to_know(
    scene: Scene, edges: Edges, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = edges.join()

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(recalls, "add", away)
    assert error_of(recall(scene, ONE))["errno"] == Errno.STORE_AWAY
    assert not edge.asked and not scene.node.controls, (
        "nobody hears of what the store does not know"
    )


def test_a_store_that_is_away_when_edges_are_looked_up(
    scene: Scene, edges: Edges, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = edges.join()
    polled = 0

    async def away() -> None:
        nonlocal polled
        polled += 1
        raise StoreUnavailable("away")

    monkeypatch.setattr(backend_of(scene.stage).roster, "poll", away)
    assert error_of(recall(scene, ONE))["errno"] == Errno.STORE_AWAY
    assert polled and stored(scene) and len(scene.node.controls) == 1 and not edge.asked
    monkeypatch.undo()
    assert recall(scene, ONE)[0] == 200 and edge.asked


def test_unknown_pushes_and_those_of_others(scene: Scene, edges: Edges) -> None:
    edge = edges.join()
    assert error_of(recall(scene, OLD | 1))["errno"] == Errno.NO_PUSH
    assert error_of(recall(scene, "x"))["errno"] == Errno.ID
    path = f"/v1/apps/other/pushes/{ONE}:recall"
    other = scene.stage.request("POST", path, None, bearer(scene.other_key))
    assert error_of(other)["errno"] == Errno.NO_PUSH
    assert not stored(scene) and not edge.asked and not scene.node.controls


def test_recalls_under_way_are_bounded(
    scene: Scene, edges: Edges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING", 2)
    silent = edges.join()
    edges.answers(silent, good=False)
    waiting = [in_background(scene, ONE) for _ in range(2)]
    eventually(lambda: backend_of(scene.stage).recalling._waiting == 2)
    begun = time.monotonic()
    error = error_of(recall(scene, SEVERAL_ONES))
    assert error["errno"] == Errno.BUSY and time.monotonic() - begun < 2
    assert list(stored(scene)) == [f"1 {ONE}".encode()]
    edges.answers(silent, good=True)
    assert [one.result(10)[0] for one in waiting] == [200, 200]
    assert recall(scene, SEVERAL_ONES)[0] == 200


def test_the_store_keeps_a_bounded_number(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it those that end first go; those that have ended go anyway."""
    monkeypatch.setattr(recalls, "MOST", 3)
    all_of_them = [StoredRecall(push_id, 7, 1_000 + push_id) for push_id in range(1, 7)]

    async def fill(store: Store) -> list[list[int]]:
        found = []
        for one in all_of_them:
            await recalls.add(store, one, 0)
        found.append([one.push_id for one in await recalls.load(store, 0)])
        found.append([one.push_id for one in await recalls.load(store, 1_005)])
        await recalls.add(store, StoredRecall(9, 7, 2_000), 1_005)
        found.append([one.push_id for one in await recalls.load(store, 0)])
        return found

    assert scene.stage.with_store(fill) == [[4, 5, 6], [5, 6], [6, 9]]
