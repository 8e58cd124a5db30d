"""What has run out, and what is kept how long. Milliseconds of the store's clock."""

from gateway.dispatch.campaign import RECEIVED, Tally
from gateway.dispatch.retention import Due, Keeping, Retention
from tests.gateway.dispatch import records
from tests.gateway.dispatch.records import START_MS, Log

NOTHING = Due([], [], [])
KEEPING = Keeping(live_only_s=30, keep_s=1000, keep_counts_s=5000, keep_bytes=10**9)


def watched(log: Log, keeping: Keeping = KEEPING) -> Retention:
    """As an owner that has just restored this state."""
    retention = Retention(log.partition, keeping)
    for push in log.partition.pushes.values():
        retention.add(push)
    return retention


def with_pushes(*logged: bytes) -> Log:
    log = Log()
    log.fold(records.sessions(1, [0, 2]), *logged)
    return log


def test_expiry_is_the_accepting_records_time_plus_the_ttl() -> None:
    log = with_pushes(records.push(1, [0], ttl_s=60), records.push(2, [0, 2], ttl_s=61))
    retention = watched(log)
    first = log.partition.pushes[1].accepted_ms
    assert retention.due(first + 59_999, 10) == NOTHING
    assert retention.due(first + 60_000, 10) == Due([1], [], [])
    assert retention.due(first + 61_001, 10) == Due([2], [], [])


def test_ttl_0_expires_after_its_own_time() -> None:
    log = with_pushes(records.push(1, [0], ttl_s=0))
    at = log.partition.pushes[1].accepted_ms
    assert watched(log).due(at + 29_999, 10) == NOTHING
    assert watched(log).due(at + 30_000, 10) == Due([1], [], [])


def test_what_is_final_does_not_expire() -> None:
    log = with_pushes(records.push(1, [0]))
    retention = watched(log)
    log.fold(records.receipts(1, RECEIVED, [0]))
    assert retention.due(START_MS + 100_000, 10) == NOTHING


def test_a_great_many_come_in_slices_and_none_is_left_out() -> None:
    log = with_pushes(*[records.push(n, [0]) for n in range(1, 26)])
    retention = watched(log)
    slices = [retention.due(START_MS + 90_000, 10).expired for _ in range(4)]
    assert [len(s) for s in slices] == [10, 10, 5, 0]
    assert sorted(n for s in slices for n in s) == list(range(1, 26))


def test_finished_rows_stay_for_their_time_and_of_campaigns_then_the_counts() -> None:
    log = with_pushes(records.push(1, [0]), records.push(2, [0, 2]))
    log.fold(records.due(expired=[1, 2]))
    retention = watched(log)
    assert retention.due(START_MS + 999_000, 10) == NOTHING
    found = retention.due(START_MS + 1_000_100, 10)
    assert found == Due([], [2], [1])
    log.fold(records.due(shrunk=[2], forgotten=[1]))
    assert isinstance(log.partition.pushes[2], Tally)
    for watching in (retention, watched(log)):  # the next owner knows it as well
        assert watching.due(START_MS + 4_999_000, 10) == NOTHING
        assert watching.due(START_MS + 5_000_100, 10) == Due([], [], [2])


def test_unfinished_pushes_are_not_dropped_however_old_and_crowded() -> None:
    log = with_pushes(records.push(1, [0], ttl_s=10_000_000))
    retention = watched(log, KEEPING._replace(keep_bytes=0))
    for _ in range(3):
        assert retention.due(START_MS + 6_000_000, 10) == NOTHING


def test_over_the_cap_the_oldest_finished_go_first_though_an_older_one_is_unfinished() -> None:
    log = with_pushes(records.push(1, [0], ttl_s=100), *[records.push(n, [2]) for n in range(2, 7)])
    log.fold(*[records.receipts(n, RECEIVED, [2]) for n in range(2, 7)])
    row_bytes = log.partition.estimated_bytes() // 6
    retention = watched(log, KEEPING._replace(keep_bytes=4 * row_bytes))
    now_ms = START_MS + 1_000
    while found := retention.due(now_ms, 2):
        if found == NOTHING:
            break
        log.fold(records.due(forgotten=found.forgotten))
    left = sorted(log.partition.pushes)
    assert left[0] == 1 and left[1:] == list(range(7 - len(left) + 1, 7))
    assert 2 <= len(left) <= 4
