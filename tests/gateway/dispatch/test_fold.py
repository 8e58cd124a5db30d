"""The fold: state and record, nothing else; repetitions change nothing."""

import ast
import inspect
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dispatch import (
    accounts,
    audiences,
    blocks,
    campaign,
    changes,
    collapsing,
    controls,
    inbox,
    partition,
    sampling,
    selection,
    tags,
)
from gateway.dispatch.campaign import RECEIVED, Campaign, Single, Tally
from gateway.dispatch.partition import Partition
from tests.gateway.dispatch import records
from tests.gateway.dispatch.histories import (
    EDGE_DOWNS,
    FAN_OUTS,
    HISTORIES,
    PROFILES,
    RECEIPTS,
)
from tests.gateway.dispatch.records import Log, known


def folded(entries: list[tuple[str, bytes]]) -> Partition:
    state = Partition(0)
    for position, record in entries:
        state.fold(position, record)
    return state


@given(HISTORIES)
def test_two_folds_of_one_log_give_one_state(history: list[bytes]) -> None:
    log = Log()
    log.fold(*history)
    assert known(folded(log.entries)) == known(log.partition)


@given(HISTORIES)
def test_each_record_twice_in_order_changes_nothing(history: list[bytes]) -> None:
    once, twice = Log(), Log()
    for record in history:
        once.fold(record)
        position, _ = once.entries[-1]
        for _ in range(2):
            twice.partition.fold(position, record)
    assert known(twice.partition) == known(once.partition)


@given(
    st.lists(
        st.one_of(
            *[
                st.lists(kind, min_size=1, max_size=6)
                for kind in (RECEIPTS, PROFILES, FAN_OUTS, EDGE_DOWNS)
            ]
        ),
        max_size=8,
    ),
    HISTORIES,
    st.randoms(use_true_random=False),
)
def test_regrouping_records_of_a_kind_into_batches_gives_the_same_state(
    runs: list[list[bytes]], before: list[bytes], chance: random.Random
) -> None:
    """A batch is a concatenation of encoded records; where it is cut says nothing."""
    single, grouped = Log(), Log()
    single.fold(*before)
    grouped.fold(*before)
    for run in runs:
        single.fold(*run)
        while run:
            cut = chance.randint(1, len(run))
            grouped.fold(b"".join(run[:cut]))
            run = run[cut:]
    grouped.partition.position = single.partition.position
    assert known(grouped.partition) == known(single.partition)


@settings(max_examples=20)
@given(HISTORIES)
def test_the_fold_asks_no_clock_and_no_chance(history: list[bytes]) -> None:
    def forbidden(*_: object) -> float:
        raise AssertionError("the fold asked for more than state and record")

    kept = time.time, time.monotonic, time.perf_counter, random.random
    time.time = time.monotonic = time.perf_counter = random.random = forbidden
    try:
        Log().fold(*history)
    finally:
        time.time, time.monotonic, time.perf_counter, random.random = kept


@pytest.mark.parametrize(
    "module",
    [
        partition,
        accounts,
        audiences,
        blocks,
        campaign,
        changes,
        collapsing,
        controls,
        inbox,
        sampling,
        selection,
        tags,
    ],
)
def test_the_fold_knows_no_configuration_no_clock_and_no_store(module: object) -> None:
    allowed = {
        "array", "bisect", "collections.abc", "itertools", "typing", "pyroaring", "re", "struct", "sys", "hashlib",
        "msgspec", "zlib", "gateway.audience", "gateway.audience_json", "gateway.dispatch.accounts",
        "gateway.dispatch.audiences", "gateway.dispatch.blocks", "gateway.dispatch.campaign", "gateway.dispatch.changes",
        "gateway.dispatch.collapsing", "gateway.dispatch.controls", "gateway.dispatch.effects",
        "gateway.dispatch.inbox", "gateway.lanes",
        "gateway.dispatch.sampling", "gateway.dispatch.selection", "gateway.dispatch.tags",
        "protocol.ids", "protocol.schema",
    }  # fmt: skip
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    found = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    found |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert found <= allowed


def test_time_is_the_records_own() -> None:
    state = Partition(0)
    state.fold("5-0", records.sessions(1, [0]))
    state.fold("777-3", records.push(1, [0], app=1))
    state.fold("778-0", records.push(2, [0], accepted_ms=99))
    assert (state.pushes[1].accepted_ms, state.pushes[2].accepted_ms) == (777, 99)
    assert state.position == "778-0"


# Sessions.


def test_a_later_session_at_another_edge_moves_the_device_and_tells_the_first() -> None:
    log = Log()
    log.fold(records.sessions(1, [4], epoch=1))
    effects = log.fold(records.sessions(2, [4], epoch=9))
    assert effects.replaced == [(1, 4, 9)] and list(effects.arrived) == [4]
    assert known(log.partition)["online"] == {2: [4]}


def test_a_session_that_came_and_went_in_one_record_has_not_arrived() -> None:
    effects = Log().fold(records.sessions(1, [3, 4], [4]))
    assert list(effects.arrived) == [3]


def test_an_end_told_by_another_edge_ends_nothing() -> None:
    log = Log()
    log.fold(records.sessions(1, [4]), records.sessions(2, [], [4]))
    assert log.partition.edge_of(4) == 1


def test_the_end_of_an_edge_takes_its_devices_offline_and_no_others() -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 1, 2]), records.sessions(2, [1, 5]))
    effects = log.fold(records.edge_down(1, start=8))
    assert [(edge, start, list(d)) for edge, start, d in effects.ended] == [(1, 8, [0, 2])]
    assert known(log.partition)["location"] == {1: 2, 5: 2}


# Profiles.


def test_a_lower_change_number_turns_no_history() -> None:
    log = Log()
    log.fold(records.sessions(1, [0]), records.profile(0, 2, []))
    log.fold(records.profile(0, 1, ["vip"]), records.profile(0, 2, ["late"]))
    assert log.partition.tags.of(0) == [] and log.partition.tags.own == {}
    log.fold(records.profile(0, 3, ["vip"]))
    assert log.partition.tags.of(0) == ["vip"]


def test_tags_are_named_within_their_app_and_a_stranger_has_none() -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 1]), *[records.profile(i, 1, ["x"]) for i in (0, 1, 9)])
    assert known(log.partition)["tags"] == {"1/x": [0], "2/x": [1]}


# Pushes.


def test_a_push_that_two_processes_completed_counts_once() -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 2]))
    assert len(log.fold(records.push(1, everybody=True, accepted_ms=5)).fresh) == 1
    log.fold(records.receipts(1, RECEIVED, [0]))
    before = known(log.partition)
    again = log.fold(records.push(1, everybody=True, accepted_ms=5))
    assert again.fresh == []
    assert known(log.partition) | {"position": ""} == before | {"position": ""}


@pytest.mark.parametrize("indexes", [[2], [2, 4]])
def test_ttl_0_targets_who_is_online_at_the_fold(indexes: list[int]) -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 2, 4]), records.sessions(1, [], [2]))
    log.fold(records.push(1, indexes, ttl_s=0), records.push(2, everybody=True, ttl_s=0))
    log.fold(records.sessions(1, [2]))
    assert dict(log.partition.pushes[1].counts())["targeted"] == len(indexes) - 1
    assert list(log.partition.pushes[2].pending()) == [0, 4], "2 came later"
    assert not log.partition.inbox


def test_a_push_reaches_no_device_of_another_app() -> None:
    log = Log()
    log.fold(records.sessions(1, range(6)))
    log.fold(records.push(1, everybody=True, app=2), records.push(2, [0, 1, 2, 9], app=2))
    assert list(log.partition.pushes[1].pending()) == [1, 3, 5]
    assert list(log.partition.pushes[2].pending()) == [1]


@pytest.mark.parametrize("said", ["devices", "audience"])
def test_a_push_to_one_device_may_hold_it_out(said: str) -> None:
    log = Log()
    log.fold(records.sessions(1, [0]))
    whom = {"indexes": [0]} if said == "devices" else {"audience": b'{"devices": ["0"]}'}
    log.fold(*[records.push(n, **whom, holdout=0.25) for n in range(400)])
    all_counts = [dict(push.counts()) for push in log.partition.pushes.values()]
    assert {c["targeted"] + c["held_out"] for c in all_counts} == {1}
    assert sum(c["held_out"] for c in all_counts) == pytest.approx(100, abs=30)
    waiting = {push.push_id for push in log.partition.pending_of(0)}
    assert waiting == {n for n, c in enumerate(all_counts) if c["targeted"]}


def test_receipts_of_what_is_not_known_are_counted_and_dropped() -> None:
    log = Log()
    effects = log.fold(records.receipts(77, RECEIVED, [0, 1]))
    assert effects.late_receipts == 2 and log.partition.pushes == {}
    log.fold(records.sessions(1, [0, 2]), records.push(1, [0]), records.push(2, [0, 2]))
    log.fold(records.receipts(1, RECEIVED, [0]), records.receipts(2, RECEIVED, [0, 2]))
    log.fold(records.due(forgotten=[1], shrunk=[2]))
    assert log.fold(records.receipts(1, RECEIVED, [0])).late_receipts == 1
    log.fold(records.receipts(2, RECEIVED, [0]))
    assert set(log.partition.pushes) == {2}


def test_nothing_that_is_pending_is_shrunk_or_forgotten() -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 2]), records.push(1, [0]), records.push(2, [0, 2]))
    log.fold(records.due(shrunk=[1, 2], forgotten=[1, 2]))
    assert [type(p) for p in log.partition.pushes.values()] == [Single, Campaign]
    log.fold(records.due(expired=[1, 2], shrunk=[1, 2]))
    assert [type(p) for p in log.partition.pushes.values()] == [Single, Tally]
    log.fold(records.due(forgotten=[1, 2]))
    assert log.partition.pushes == {} and log.partition.estimated_bytes() == 0


def test_a_device_index_far_ahead_makes_room() -> None:
    log = Log()
    log.fold(records.sessions(1, [100_001]))
    assert log.partition.edge_of(100_001) == 1 and log.partition.edge_of(100_002) == 0
