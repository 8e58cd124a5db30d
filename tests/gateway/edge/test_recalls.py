"""Recalls as an edge remembers them."""

import pytest

from gateway.edge import recalls as module
from gateway.edge.recalls import Recall, Recalls
from protocol.codes import MAX_RECALLS
from protocol.schema import device_pb2


def told(recalls: Recalls, app: int) -> list[int]:
    """What a device of the app finds in its WELCOME."""
    return list(device_pb2.Welcome.FromString(recalls.welcome(app)).recalled)


def test_each_app_hears_of_its_own() -> None:
    recalls = Recalls()
    assert recalls.add([Recall(5, 1, 100), Recall(6, 2, 100), Recall(3, 1, 100)], 10) == [5, 6, 3]
    assert recalls.add([Recall(5, 1, 100)], 10) == []
    assert 5 in recalls and 7 not in recalls
    assert told(recalls, 1) == [3, 5] and told(recalls, 2) == [6] and told(recalls, 3) == []


def test_what_has_ended_is_forgotten() -> None:
    recalls = Recalls()
    recalls.add([Recall(1, 1, 100), Recall(2, 1, 200)], 10)
    assert told(recalls, 1) == [1, 2]
    recalls.add([Recall(3, 1, 300), Recall(4, 1, 99)], 100)
    assert told(recalls, 1) == [2, 3]
    assert 1 not in recalls and 4 not in recalls and len(recalls) == 2


def test_a_welcome_holds_the_newest() -> None:
    recalls = Recalls()
    recalls.add([Recall(n, 1, 100) for n in range(1, MAX_RECALLS + 11)], 10)
    assert told(recalls, 1) == list(range(11, MAX_RECALLS + 11))


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    recalls = Recalls()
    recalls.add([Recall(n, 1, 100 - n) for n in range(1, 6)], 10)
    assert told(recalls, 1) == [1, 2, 3]
