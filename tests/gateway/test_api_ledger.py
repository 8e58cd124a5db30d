"""Why a device has a push, over HTTP: a node that answers as the owner of the device would."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.api.errors import Errno
from protocol.ids import SEVERAL, device_id
from protocol.schema import rpc_pb2
from tests.gateway.api_scene import Scene, error_of, played
from tests.gateway.api_stage import PARTITIONS

DEVICE = device_id(1, 5)
OLD = (1 << 20) << 29
"""A push id of long ago, but for its place."""
PUSH = OLD | SEVERAL | 3
AT_MS = 1_750_000_000_500
AT = "2025-06-15T15:06:40.500+00:00"


@pytest.fixture(scope="module")
def whole_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with played(tmp_path_factory.mktemp("ledger")) as scene:
        yield scene


@pytest.fixture
def scene(whole_scene: Scene) -> Iterator[Scene]:
    yield whole_scene
    whole_scene.node.hidden = set()
    whole_scene.node.ledgers.clear()
    whole_scene.node.counts.clear()


def told(**changed: Any) -> rpc_pb2.LedgerReply:
    row: dict[str, Any] = {
        "device_known": True,
        "push_known": True,
        "app": 1,
        "state": "pending",
        "why": "so and so",
        "edge": 2,
    }
    return rpc_pb2.LedgerReply(**{**row, **changed})


def counts(app: int = 1) -> rpc_pb2.Counts:
    return rpc_pb2.Counts(known=True, app=app, accepted_ms=AT_MS)


def ask(scene: Scene, push_id: object = PUSH, device: object = DEVICE) -> Any:
    return scene.call("GET", f"pushes/{push_id}:explain?device={device}")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_ledger(scene: Scene, method: str) -> None:
    ledger = scene.node.ledgers[PUSH, DEVICE] = told(notes="one\ntwo")
    ledger.steps.add(at_ms=AT_MS, event="accepted")
    ledger.steps.add(event="targeted")
    ledger.steps.add(at_ms=AT_MS, event="sent", edge=2, attempt=3)
    ledger.terms.add(term="city:gz", matches=True)
    ledger.terms.add(term="!vip", matches=False)
    status, _, answer = scene.call(method, f"pushes/{PUSH}:explain?device={DEVICE}")
    assert status == 200
    assert answer == {
        "push_id": str(PUSH),
        "device_id": str(DEVICE),
        "state": "pending",
        "why": "so and so",
        "online": True,
        "edge": 2,
        "terms": [{"term": "city:gz", "matches": True}, {"term": "!vip", "matches": False}],
        "steps": [
            {"at": AT, "event": "accepted"},
            {"at": None, "event": "targeted"},
            {"at": AT, "event": "sent", "edge": 2, "attempt": 3},
        ],
        "notes": ["one", "two"],
    }


def test_offline_and_without_notes(scene: Scene) -> None:
    scene.node.ledgers[PUSH, DEVICE] = told(edge=0)
    answer = ask(scene)[2]
    assert (answer["online"], answer["edge"], answer["terms"]) == (False, 0, [])
    assert "notes" not in answer


@pytest.mark.parametrize(
    ("path", "errno", "said"),
    [
        (f"{PUSH}:explain", Errno.FIELD, "name the device"),
        (f"{PUSH}:explain?device=", Errno.ID, "device: expected a device id (decimal), got the "),
        (f"{PUSH}:explain?device=-1", Errno.ID, "device: expected"),
        (f"{PUSH}:explain?device={2**64}", Errno.ID, "device: expected"),
        (f"x:explain?device={DEVICE}", Errno.ID, "the id in the path"),
        (f"{PUSH}:explain?device={device_id(PARTITIONS, 0)}", Errno.NO_DEVICE, "no such device"),
        (f"{OLD | 999}:explain?device={DEVICE}", Errno.NO_PUSH, "no such push"),
    ],
)
def test_bad_requests(scene: Scene, path: str, errno: Errno, said: str) -> None:
    error = error_of(scene.call("GET", f"pushes/{path}"))
    assert error["errno"] == errno and said in error["message"]


@pytest.mark.parametrize(
    ("ledger", "errno"),
    [
        (rpc_pb2.LedgerReply(), Errno.NO_DEVICE),
        (told(app=2), Errno.NO_DEVICE),
        (told(push_known=False, app=2), Errno.NO_DEVICE),
        (told(push_known=False), Errno.NO_PUSH),
    ],
)
def test_what_is_not_known_or_not_theirs(
    scene: Scene, ledger: rpc_pb2.LedgerReply, errno: Errno
) -> None:
    scene.node.ledgers[PUSH, DEVICE] = ledger
    assert error_of(ask(scene))["errno"] == errno


def test_a_push_that_only_other_partitions_know(scene: Scene) -> None:
    """It lists devices, none of them in this one's partition."""
    push_id = OLD | 2
    scene.node.ledgers[push_id, DEVICE] = told(push_known=False, state="", why="")
    scene.node.counts[push_id] = counts()
    answer = ask(scene, push_id)[2]
    assert answer["state"] == "not_targeted" and answer["online"]
    assert answer["why"] == "the push names devices or accounts, and this device is not among them"
    assert answer["steps"] == [{"at": AT, "event": "accepted"}]
    scene.node.counts[push_id] = counts(app=2)
    assert error_of(ask(scene, push_id))["errno"] == Errno.NO_PUSH


def test_a_push_accepted_just_now_is_not_called_unknown(scene: Scene) -> None:
    body = {"audience": {"devices": [str(DEVICE)]}, "data": {"a": "b"}}
    push_id = int(scene.push(body)[2]["push_id"])
    scene.node.ledgers[push_id, DEVICE] = told(push_known=False)
    assert error_of(ask(scene, push_id))["errno"] == Errno.NOT_COUNTED_YET
    # On its way to the device's partition.
    scene.node.ledgers[push_id, DEVICE] = told(state="")
    assert error_of(ask(scene, push_id))["errno"] == Errno.NOT_COUNTED_YET
    scene.node.ledgers[push_id, DEVICE] = told()
    assert ask(scene, push_id)[0] == 200


def test_a_partition_whose_owner_is_away(scene: Scene) -> None:
    scene.node.ledgers[PUSH, DEVICE] = told()
    scene.node.hidden = {1}
    assert error_of(ask(scene))["errno"] == Errno.DISPATCH_AWAY
    scene.node.hidden = {0}
    assert ask(scene)[0] == 200, "only the device's is asked"
    scene.node.ledgers[PUSH, DEVICE] = told(push_known=False)
    assert error_of(ask(scene))["errno"] == Errno.DISPATCH_AWAY, "who knows what the others know?"


def test_keys(scene: Scene) -> None:
    path = f"/v1/apps/shop/pushes/{PUSH}:explain?device={DEVICE}"
    assert error_of(scene.stage.request("GET", path))["errno"] == Errno.NO_KEY
    assert error_of(scene.stage.get(path, "nonsense"))["errno"] == Errno.WRONG_KEY
    assert error_of(scene.stage.get(path, scene.other_key))["errno"] == Errno.NO_APP
