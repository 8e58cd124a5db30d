"""Pause, resume and stop in the fold, and devices that are held out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch import controls, pieces
from gateway.dispatch.campaign import RECEIVED, Campaign, Single
from gateway.dispatch.partition import Partition
from protocol.schema import log_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.records import START_MS, Log, known

PAUSE, RESUME, STOP = log_pb2.PAUSE, log_pb2.RESUME, log_pb2.STOP


def counts(log: Log, push_id: int) -> dict[str, int]:
    return {name: n for name, n in log.partition.pushes[push_id].counts() if n}


def restored(log: Log) -> Partition:
    frozen = pieces.freeze(log.partition, pieces.names(log.partition))
    heir = Partition(0)
    pieces.restore(heir, frozen.position, records.written(frozen))
    return heir


@pytest.fixture
def log() -> Log:
    """A push to one device and one to three, of app 1."""
    log = Log()
    log.fold(records.sessions(1, [0, 2, 4, 6]), records.push(1, [0]), records.push(2, [0, 2, 4]))
    return log


# A push that is known.


def test_pause_and_resume_change_what_is_sent_and_nothing_that_is_counted(log: Log) -> None:
    for push_id in (1, 2):
        before = counts(log, push_id)
        assert log.fold(records.control(push_id, PAUSE)).resumed == []
        assert log.partition.controls.paused == {push_id}
        assert log.fold(records.control(push_id, PAUSE)).resumed == [], "again"
        effects = log.fold(records.control(push_id, RESUME))
        assert effects.resumed == [log.partition.pushes[push_id]]
        assert log.fold(records.control(push_id, RESUME)).resumed == [], "again"
        assert log.partition.controls.paused == set() and counts(log, push_id) == before


def test_stop_ends_what_is_pending_for_good(log: Log) -> None:
    log.fold(records.receipts(2, RECEIVED, [2]), records.control(2, PAUSE))
    assert log.fold(records.control(1, STOP)).final == [1]
    assert log.fold(records.control(2, STOP)).final == [2]
    assert counts(log, 1) == {"targeted": 1, "stopped": 1}
    assert counts(log, 2) == {"targeted": 3, "received": 1, "stopped": 2}
    assert log.partition.campaigns == {} and not log.partition.inbox
    assert log.partition.controls.paused == set()
    effects = log.fold(records.control(1, RESUME), records.control(2, RESUME))
    assert effects.resumed == [] and log.partition.pending_of(0) == []
    log.fold(records.control(2, PAUSE))
    assert log.partition.controls.paused == set(), "nothing is left to be paused"


def test_a_receipt_that_comes_after_the_stop_wins(log: Log) -> None:
    log.fold(records.control(1, STOP), records.control(2, STOP))
    log.fold(records.receipts(1, RECEIVED, [0]), records.receipts(2, RECEIVED, [4]))
    assert counts(log, 1) == {"targeted": 1, "received": 1}
    assert counts(log, 2) == {"targeted": 3, "received": 1, "stopped": 2}


def test_what_was_stopped_does_not_expire_any_more(log: Log) -> None:
    log.fold(records.control(2, STOP), records.due(expired=[1, 2]))
    assert counts(log, 1) == {"targeted": 1, "expired": 1}
    assert counts(log, 2) == {"targeted": 3, "stopped": 3}


@pytest.mark.parametrize("action", [PAUSE, RESUME, STOP])
def test_another_app_decides_nothing(log: Log, action: "log_pb2.Action") -> None:
    log.fold(records.control(2, PAUSE))
    before = known(log.partition) | {"position": ""}
    effects = log.fold(records.control(1, action, app=2), records.control(2, action, app=2))
    assert known(log.partition) | {"position": ""} == before and effects.resumed == []


def test_a_push_that_is_done_is_not_paused_any_more(log: Log) -> None:
    log.fold(records.control(1, PAUSE), records.control(2, PAUSE))
    log.fold(records.receipts(1, RECEIVED, [0]), records.due(expired=[2]))
    assert log.partition.controls.paused == set()
    log.fold(records.due(shrunk=[2]), records.control(2, PAUSE), records.control(2, STOP))
    assert log.partition.controls.paused == set()
    assert counts(log, 2) == {"targeted": 3, "expired": 3}


# A push that is still to come: its fan-out has reached other partitions before.


def test_a_decision_before_its_push_holds_when_it_comes(log: Log) -> None:
    log.fold(*[records.control(n, PAUSE) for n in (3, 4)], *[records.control(5, STOP)])
    log.fold(records.control(6, PAUSE), records.control(6, RESUME))
    log.fold(records.control(7, STOP), records.control(7, RESUME))
    log.fold(records.control(8, PAUSE, app=2))
    log.fold(records.push(3, [0]), records.push(4, [0, 2]))
    final = [log.fold(records.push(n, [0, 2])).final for n in (5, 6, 7, 8)]
    assert log.partition.controls.paused == {3, 4}
    assert final == [[5], [], [7], []], "a stop is for good"
    assert log.partition.controls.early == {}


def test_a_decision_about_nobodys_push_is_forgotten_in_the_end(log: Log) -> None:
    log.fold(records.control(3, PAUSE, until_ms=START_MS + 100))
    log.fold(records.control(4, PAUSE, until_ms=START_MS + 200))
    assert set(log.partition.controls.early) == {3, 4}
    log.partition.fold(f"{START_MS + 100}-0", records.control(5, STOP))
    assert set(log.partition.controls.early) == {4, 5}


def test_decisions_before_their_push_are_bounded(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "MOST_EARLY", 3)
    for push_id, until_ms in ((13, 9_000), (12, 2_000), (11, 2_000), (14, 5_000), (15, 7_000)):
        log.fold(records.control(push_id, PAUSE, until_ms=START_MS + until_ms))
    assert set(log.partition.controls.early) == {13, 14, 15}, "the first to end, the lower id first"
    log.fold(records.control(14, STOP))
    assert set(log.partition.controls.early) == {13, 14, 15}, "one more about the same push"


def test_a_snapshot_keeps_decisions_speeds_and_who_is_held_out(log: Log) -> None:
    log.fold(records.push(3, everybody=True, holdout=0.5, speed=7), records.push(4, [0]))
    log.fold(records.control(2, PAUSE), records.control(4, PAUSE), records.control(1, STOP))
    log.fold(records.control(9, STOP, until_ms=START_MS + 600), records.control(8, PAUSE))
    heir = restored(log)
    assert known(heir) == known(log.partition)
    push = heir.pushes[3]
    assert isinstance(push, Campaign) and push.speed == 7
    assert len(push.held_out) + len(push.targeted) == 4
    assert heir.controls.paused == {2, 4} and set(heir.controls.early) == {8, 9}
    later = [records.control(2, RESUME), records.push(8, [2]), records.push(9, [2])]
    for at, record in enumerate(later):
        heir.fold(f"{START_MS + 500 + at}-0", record)
        log.partition.fold(f"{START_MS + 500 + at}-0", record)
    assert known(heir) == known(log.partition)
    assert isinstance(heir.pushes[9], Single) and heir.pushes[9].final


# Held out.

AUDIENCES: dict[str, dict[str, Any]] = {
    "all": {"everybody": True},
    "listed": {"indexes": range(100, 900)},
    "expression": {"audience": b'{"not": {"tag": "x"}}'},
}


@given(
    st.integers(1, 2**60), st.floats(0.01, 1.0), st.sampled_from(sorted(AUDIENCES)), st.booleans()
)
def test_held_out_and_targeted_are_the_audience_and_nobody_is_both(
    push_id: int, holdout: float, said: str, live_only: bool
) -> None:
    whole, part, again = (crowd() for _ in range(3))
    ttl_s = 0 if live_only else 60
    whole.fold(records.push(push_id, ttl_s=ttl_s, **AUDIENCES[said]))
    audience = pushed(whole, push_id).targeted
    for log in (part, again):
        log.fold(records.push(push_id, ttl_s=ttl_s, holdout=holdout, **AUDIENCES[said]))
    push = pushed(part, push_id)
    assert not push.held_out & push.targeted
    assert push.held_out | push.targeted == audience
    assert pushed(again, push_id).held_out == push.held_out, "the same, whoever folds it"
    assert len(push.held_out) == pytest.approx(holdout * len(audience), abs=90)
    assert counts(part, push_id).get("held_out", 0) == len(push.held_out)
    assert counts(part, push_id).get("targeted", 0) == len(push.targeted)


def test_a_device_that_is_held_out_gets_nothing_and_its_receipts_count_for_nothing() -> None:
    log = crowd()
    log.fold(records.push(1, everybody=True, holdout=0.3))
    held_out = list(pushed(log, 1).held_out)
    before = counts(log, 1)
    log.fold(records.receipts(1, RECEIVED, held_out))
    assert counts(log, 1) == before
    assert all(log.partition.pending_of(index) == [] for index in held_out)


def test_each_push_holds_out_others() -> None:
    """Or the same devices would never get anything."""
    log = crowd()
    log.fold(*[records.push(n, everybody=True, holdout=0.5) for n in (1, 2)])
    both = pushed(log, 1).held_out & pushed(log, 2).held_out
    assert len(both) == pytest.approx(250, abs=80)


def test_no_hold_out_and_all_of_it() -> None:
    log = crowd()
    log.fold(records.push(1, everybody=True), records.push(2, everybody=True, holdout=1.0))
    assert counts(log, 1) == {"targeted": 1000, "pending": 1000}
    assert counts(log, 2) == {"held_out": 1000}
    assert 2 not in log.partition.campaigns, "nobody is left to wait for"


def crowd() -> Log:
    log = Log()
    log.fold(records.sessions(1, range(1000), app=1), records.sessions(1, [], range(0, 1000, 7)))
    log.fold(records.tagging("x", range(0, 1000, 3)))
    return log


def pushed(log: Log, push_id: int) -> Campaign:
    push = log.partition.pushes[push_id]
    assert isinstance(push, Campaign)
    return push
