"""Pause, resume and stop over HTTP, with a node that answers as a dispatch node would."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.api.errors import Errno
from gateway.api.nodes import add_counts
from gateway.api.reading import state_of
from gateway.rpc import Method
from protocol.ids import EPOCH_MS, SEVERAL, device_id
from protocol.schema import log_pb2, rpc_pb2
from tests.gateway.api_scene import Scene, error_of, played
from tests.gateway.api_stage import bearer

OLD = (1 << 20) << 29
"""A push id of long ago, but for its place."""
MAX_TTL_MS = 28 * 86_400 * 1000
Answer = tuple[int, dict[str, str], Any]


@pytest.fixture(scope="module")
def whole_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with played(tmp_path_factory.mktemp("control")) as scene:
        yield scene


@pytest.fixture
def scene(whole_scene: Scene) -> Scene:
    """With a node that has heard of nothing yet."""
    node = whole_scene.node
    node.counts.clear()
    node.controls.clear()
    node.undecided = set()
    node.on_controlled = lambda _: None
    return whole_scene


def counts(**fields: Any) -> rpc_pb2.Counts:
    return rpc_pb2.Counts(known=True, app=1, accepted_ms=1_750_000_000_500, ttl_s=60, **fields)


def folds(scene: Scene) -> None:
    """From here on the node does with its counts what is decided."""

    def fold(request: rpc_pb2.ControlRequest) -> None:
        told = scene.node.counts[request.push_id]
        if request.action == log_pb2.STOP:
            told.stopped += told.pending
            told.pending = 0
        told.paused = bool(request.action == log_pb2.PAUSE and told.pending)

    scene.node.on_controlled = fold


def decide(scene: Scene, push_id: object, verb: str) -> Answer:
    return scene.call("POST", f"pushes/{push_id}:{verb}")


@pytest.mark.parametrize(
    ("pending", "stopped", "paused", "state"),
    [
        (2, 0, False, "running"),
        (2, 1, False, "running"),
        (2, 0, True, "paused"),
        (0, 1, False, "stopped"),
        (0, 0, False, "finished"),
    ],
)
def test_the_state_of_a_push(pending: int, stopped: int, paused: bool, state: str) -> None:
    assert state_of(counts(pending=pending, stopped=stopped, paused=paused)) == state


@pytest.mark.parametrize("push_id", [OLD | 2, OLD | SEVERAL | 3], ids=["one", "several"])
def test_pause_resume_stop(scene: Scene, push_id: int) -> None:
    scene.node.counts[push_id] = counts(targeted=3, received=1, pending=2, held_out=4)
    folds(scene)
    for verb, action, state in (
        ("pause", log_pb2.PAUSE, "paused"),
        ("pause", log_pb2.PAUSE, "paused"),
        ("resume", log_pb2.RESUME, "running"),
        ("stop", log_pb2.STOP, "stopped"),
        ("resume", log_pb2.RESUME, "stopped"),
    ):
        status, _, answer = decide(scene, push_id, verb)
        assert status == 200 and answer.keys() == {"push_id", "state", "counts"}
        assert (answer["push_id"], answer["state"]) == (str(push_id), state)
        told = scene.get(f"/v1/apps/shop/pushes/{push_id}")[2]
        assert (told["state"], told["counts"]) == (state, answer["counts"])
        asked = scene.node.controls.pop()
        assert (asked.push_id, asked.app, asked.action) == (push_id, 1, action)
        drawn_ms = (push_id >> 29) * 62.5 + EPOCH_MS
        assert asked.until_ms == drawn_ms + MAX_TTL_MS
    assert answer["counts"]["stopped"] == 2 and answer["counts"]["held_out"] == 4
    assert "paused" not in answer["counts"]


def test_a_finished_push_stays_finished(scene: Scene) -> None:
    push_id = OLD | SEVERAL
    scene.node.counts[push_id] = counts(targeted=3, received=3)
    folds(scene)
    for verb in ("pause", "resume", "stop"):
        status, _, answer = decide(scene, push_id, verb)
        assert (status, answer["state"], answer["counts"]["received"]) == (200, "finished", 3)


@pytest.mark.parametrize("push_id", [OLD | 2, OLD | SEVERAL | 3], ids=["one", "several"])
def test_all_partitions_concerned_must_have_folded_it(scene: Scene, push_id: int) -> None:
    scene.node.counts[push_id] = counts(targeted=3, pending=3)
    scene.node.undecided = {2}
    assert error_of(decide(scene, push_id, "stop"))["errno"] == Errno.DISPATCH_AWAY
    assert len(scene.node.controls) == 1
    scene.node.undecided = set()
    assert decide(scene, push_id, "stop")[0] == 200


def test_only_the_partition_of_a_push_is_asked_for(scene: Scene) -> None:
    push_id = OLD | 2
    scene.node.counts[push_id] = counts(targeted=3, pending=3)
    scene.node.undecided = {0, 1, 3}
    assert decide(scene, push_id, "pause")[0] == 200


def test_a_node_that_does_not_know_how(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    push_id = OLD | SEVERAL
    scene.node.counts[push_id] = counts(targeted=3, pending=3)
    handlers = scene.node.server.handlers
    monkeypatch.setattr(
        scene.node.server, "handlers", {m: h for m, h in handlers.items() if m != Method.CONTROL}
    )
    assert error_of(decide(scene, push_id, "pause"))["errno"] == Errno.DISPATCH_AWAY


@pytest.mark.parametrize("number", [OLD | 1, OLD | SEVERAL, OLD | SEVERAL | 999, 7, 2**64 - 1])
def test_unknown_pushes_are_not_decided_about(scene: Scene, number: int) -> None:
    assert error_of(decide(scene, number, "stop"))["errno"] == Errno.NO_PUSH
    assert not scene.node.controls


def test_another_app_s_push_is_unknown(scene: Scene) -> None:
    push_id = OLD | 1
    scene.node.counts[push_id] = counts(targeted=1, pending=1)
    path = f"/v1/apps/other/pushes/{push_id}:stop"
    answer = scene.stage.request("POST", path, None, bearer(scene.other_key))
    assert error_of(answer)["errno"] == Errno.NO_PUSH
    assert not scene.node.controls


def pushed(scene: Scene, audience: object) -> int:
    answer = scene.push({"audience": audience, "data": {"a": "b"}})[2]
    return int(answer["push_id"])


def test_a_push_that_no_partition_has_yet_is_decided_about(scene: Scene) -> None:
    """Its record tells whose it is; the partitions remember what was decided."""
    push_id = pushed(scene, "all")
    error = error_of(decide(scene, push_id, "stop"))
    assert error["errno"] == Errno.NOT_COUNTED_YET
    assert [asked.action for asked in scene.node.controls] == [log_pb2.STOP]

    def fold(_: rpc_pb2.ControlRequest) -> None:
        scene.node.counts[push_id] = counts(targeted=3, stopped=3)

    scene.node.on_controlled = fold
    assert decide(scene, push_id, "stop")[2]["state"] == "stopped"


def test_a_push_of_one_partition_is_waited_for(scene: Scene) -> None:
    """Nobody but its partition knows whose it is, and that is about to fold it."""
    push_id = pushed(scene, {"devices": [device_id(1, 5)]})
    assert error_of(decide(scene, push_id, "stop"))["errno"] == Errno.NOT_COUNTED_YET
    assert not scene.node.controls
    scene.node.counts[push_id] = counts(targeted=1, pending=1)
    assert decide(scene, push_id, "stop")[0] == 200


def test_nothing_is_remembered_about_made_up_or_another_app_s_new_pushes(scene: Scene) -> None:
    push_id = pushed(scene, "all")
    path = f"/v1/apps/other/pushes/{push_id}:stop"
    answer = scene.stage.request("POST", path, None, bearer(scene.other_key))
    assert error_of(answer)["errno"] == Errno.NO_PUSH
    made_up = push_id ^ (1 << 11)  # as young as it, but nobody has drawn it
    assert error_of(decide(scene, made_up, "stop"))["errno"] == Errno.NOT_COUNTED_YET
    assert not scene.node.controls


@pytest.mark.parametrize("verb", ["pause", "resume", "stop"])
def test_who_may(scene: Scene, verb: str) -> None:
    path = f"/v1/apps/shop/pushes/{OLD | 1}:{verb}"
    assert error_of(scene.stage.request("POST", path))["errno"] == Errno.NO_KEY
    wrong = scene.stage.request("POST", path, None, bearer("nonsense"))
    assert error_of(wrong)["errno"] == Errno.WRONG_KEY
    other = scene.stage.request("POST", path, None, bearer(scene.other_key))
    assert error_of(other)["errno"] == Errno.NO_APP


def test_what_is_no_push_and_no_verb(scene: Scene) -> None:
    assert error_of(decide(scene, "x", "stop"))["errno"] == Errno.ID
    assert error_of(decide(scene, OLD, "stopp"))["errno"] == Errno.METHOD
    assert error_of(scene.call("GET", f"pushes/{OLD}:stop"))["errno"] == Errno.ID


@pytest.mark.parametrize("paused", [(True, False), (False, True), (False, False)])
def test_any_node_where_it_is_paused_makes_it_paused(paused: tuple[bool, bool]) -> None:
    total = rpc_pb2.Counts()
    for here in paused:
        add_counts(total, counts(targeted=1, pending=1, paused=here))
    assert (total.targeted, total.paused) == (2, any(paused))
