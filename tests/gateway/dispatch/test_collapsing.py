"""Collapse keys and inbox caps: who has to go, the same for everybody who folds the log."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dispatch import pieces
from gateway.dispatch.campaign import RECEIVED, Push
from gateway.dispatch.partition import Partition
from gateway.lanes import HIGH, LOW
from protocol.schema import log_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.records import START_MS, Log, known


def state(log: Log, push_id: int) -> dict[str, int]:
    counts = dict(log.partition.pushes[push_id].counts())
    return {name: n for name, n in counts.items() if n and name != "targeted"}


def one(push_id: int, device: int = 0, key: str = "k", cap: int = 0, priority: int = 0) -> bytes:
    return records.push(
        push_id, [device], collapse_key=key, inbox_cap=cap, priority=priority, content=b"c"
    )


def some(push_id: int, *devices: int) -> bytes:
    return records.push(push_id, devices, collapse_key="k", accepted_ms=START_MS)


def log_of(*devices: int) -> Log:
    log = Log()
    log.fold(records.sessions(1, devices))
    return log


def waiting(log: Log, device: int = 0) -> list[int]:
    return [push.push_id for push in log.partition.pending_of(device)]


def test_the_greater_id_wins_even_if_it_is_final_when_the_other_one_comes() -> None:
    log = log_of(0, 2, 4)
    log.fold(one(20), one(30, 2), some(40, 4))
    log.fold(*[records.receipts(n, RECEIVED, [d]) for n, d in ((20, 0), (30, 2), (40, 4))])
    effects = log.fold(one(15))
    assert state(log, 15) == {"replaced": 1} and effects.final == [15]
    log.fold(some(16, 0, 2, 4))
    assert state(log, 16) == {"replaced": 3}
    log.fold(one(17, 4), one(50, 4))
    assert state(log, 17) == {"replaced": 1} and waiting(log, 4) == [50]


def test_only_devices_that_both_mean_are_concerned() -> None:
    log = log_of(0, 2, 4)
    log.fold(some(10, 0, 2), one(20, 2), some(30, 2, 4))
    assert state(log, 10) == {"pending": 1, "replaced": 1}
    assert state(log, 20) == {"replaced": 1} and state(log, 30) == {"pending": 2}


def test_a_device_with_many_others_under_the_same_key_costs_no_more() -> None:
    """One key for everybody, a push to each: what is compared is this device's."""
    log = log_of(*range(0, 8000, 2))
    log.fold(*[one(n, 2 * n) for n in range(1, 4000)])
    began = time.perf_counter()
    log.fold(*[one(n, 0) for n in range(5000, 5400)])
    assert time.perf_counter() - began < 0.5
    assert waiting(log) == [5399] and waiting(log, 2) == [1]


@settings(max_examples=150, deadline=None)
@given(
    pushes=st.lists(
        st.tuples(st.integers(1, 40), st.sets(st.sampled_from([0, 2, 4]), min_size=1)),
        max_size=12,
        unique_by=lambda row: row[0],
    ),
    data=st.data(),
)
def test_whatever_the_order_only_the_newest_is_left_and_an_heir_agrees(
    pushes: list[tuple[int, set[int]]], data: st.DataObject
) -> None:
    log = log_of(0, 2, 4)
    heir: Partition | None = None
    for push_id, devices in pushes:
        record = one(push_id, min(devices)) if len(devices) == 1 else some(push_id, *devices)
        for partition in filter(None, (log.partition, heir)):
            partition.fold(f"{START_MS + push_id}-0", record)
        if data.draw(st.booleans()):
            got = records.receipts(push_id, RECEIVED, [min(devices)])
            for partition in filter(None, (log.partition, heir)):
                partition.fold(f"{START_MS + push_id}-1", got)
        if heir is None and data.draw(st.booleans()):
            frozen = pieces.freeze(log.partition, pieces.names(log.partition))
            heir = Partition(0)
            pieces.restore(heir, frozen.position, records.written(frozen))
    known_pushes = log.partition.pushes
    for push_id, devices in pushes:
        for device in devices:
            newest = max(n for n, others in pushes if device in others)
            push: Push = known_pushes[push_id]
            assert not push.is_pending(device) or push_id == newest
    if heir is not None:
        assert known(heir) == known(log.partition)


def test_what_makes_room_pushes_nobody_out() -> None:
    log = log_of(0)
    log.fold(one(1, key="", cap=2), one(2, cap=2), one(3, cap=2))
    assert waiting(log) == [1, 3] and state(log, 2) == {"replaced": 1}


def test_what_is_recalled_or_stopped_before_it_comes_needs_no_room() -> None:
    for action in (log_pb2.RECALL, log_pb2.STOP):
        log = log_of(0)
        log.fold(one(1, key="", cap=1), records.control(2, action))
        effects = log.fold(one(2, key="", cap=1))
        assert waiting(log) == [1] and effects.final == [2], action


def test_a_full_inbox_loses_the_oldest_of_the_lowest_priority() -> None:
    log = log_of(0)
    log.fold(one(1, key="", priority=LOW), one(2, key=""), one(3, key="", priority=LOW))
    log.fold(one(4, key="", cap=3, priority=HIGH))
    assert waiting(log) == [2, 3, 4] and state(log, 1) == {"overflowed": 1}
    log.fold(one(5, key="", cap=3, priority=LOW))
    assert waiting(log) == [2, 4, 5]
    log.fold(one(6, key="", cap=2, priority=HIGH))
    assert waiting(log) == [4, 6], "a cap that was lowered holds from the next one on"
    log.fold(one(7, key="", cap=2))
    assert waiting(log) == [4, 6] and state(log, 7) == {"overflowed": 1}, "it may be itself"
    log.fold(records.receipts(7, RECEIVED, [0]))
    assert state(log, 7) == {"received": 1}


def test_a_shrunk_or_forgotten_push_is_out_of_the_comparison() -> None:
    log = log_of(0, 2)
    log.fold(some(10, 0, 2), one(20))
    log.fold(records.receipts(10, RECEIVED, [0, 2]), records.receipts(20, RECEIVED, [0]))
    log.fold(records.due(shrunk=[10]), records.due(forgotten=[20]))
    log.fold(records.due(forgotten=[10]))
    assert not log.partition.collapsing._keys
