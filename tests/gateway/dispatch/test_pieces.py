"""A snapshot is the state at exactly one position."""

from hypothesis import given, settings

from gateway.dispatch import pieces
from gateway.dispatch.campaign import RECEIVED
from gateway.dispatch.partition import Partition
from tests.gateway.dispatch import records
from tests.gateway.dispatch.histories import HISTORIES
from tests.gateway.dispatch.records import Log, known


def restored(position: str, blobs: dict[str, bytes]) -> Partition:
    partition = Partition(0)
    pieces.restore(partition, position, blobs)
    return partition


@given(HISTORIES, HISTORIES)
def test_what_is_folded_after_the_freeze_is_not_in_the_pieces(
    before: list[bytes], after: list[bytes]
) -> None:
    log = Log()
    log.fold(*before)
    at_freeze = known(log.partition)
    frozen = pieces.freeze(log.partition)
    log.fold(*after)
    blobs = dict(frozen.pieces())  # serialised only now, beside the fold
    assert known(restored(frozen.position, blobs)) == at_freeze


@given(HISTORIES)
def test_all_pieces_by_name_are_the_whole_state(history: list[bytes]) -> None:
    """The first snapshot of a new owner is complete, whatever was dirty."""
    log = Log()
    log.fold(*history)
    log.partition.dirty.clear()
    frozen = pieces.freeze(log.partition, pieces.names(log.partition))
    assert known(restored(frozen.position, dict(frozen.pieces()))) == known(log.partition)


def test_no_kind_of_piece_follows_what_comes_after_the_freeze() -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 2]), records.profile(0, 1, ["a"]))
    log.fold(records.push(1, [0]), records.push(2, [0, 2]), records.receipts(2, RECEIVED, [0]))
    log.fold(records.push(3, []), records.due(shrunk=[3]), records.tagging("x", [0]))
    at_freeze = known(log.partition)
    frozen = pieces.freeze(log.partition)
    log.fold(records.sessions(1, [4], [0]), records.sessions(2, [2]), records.profile(0, 2, []))
    log.fold(records.receipts(1, RECEIVED, [0]), records.receipts(2, RECEIVED, [2]))
    log.fold(records.push(4, [0]), records.due(forgotten=[1, 3]), records.tagging("x", [2]))
    assert known(restored(frozen.position, dict(frozen.pieces()))) == at_freeze


@settings(max_examples=60)
@given(HISTORIES, HISTORIES, HISTORIES)
def test_snapshots_of_changes_and_the_rest_of_the_log_equal_never_having_stopped(
    first: list[bytes], second: list[bytes], rest: list[bytes]
) -> None:
    log = Log()
    blobs: dict[str, bytes] = {}
    for part in (first, second):
        log.fold(*part)
        frozen = pieces.freeze(log.partition)
        for name in frozen.removed:
            blobs.pop(name, None)
        blobs.update(frozen.pieces())
    heir = restored(frozen.position, blobs)
    cut = len(log.entries)
    log.fold(*rest)
    for position, record in log.entries[cut:]:
        heir.fold(position, record)
    assert known(heir) == known(log.partition)


def test_what_has_not_changed_is_not_written_again() -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 2]), records.push(1, [0, 2]), records.push(2, [0]))
    pieces.freeze(log.partition)
    assert [name for name, _ in pieces.freeze(log.partition).pieces()] == ["meta"]
    log.fold(records.receipts(1, RECEIVED, [0]))
    assert {name for name, _ in pieces.freeze(log.partition).pieces()} == {"meta", "campaigns/1"}
    log.fold(records.receipts(1, RECEIVED, [0]))
    assert {name for name, _ in pieces.freeze(log.partition).pieces()} == {"meta"}, "a repetition"


def test_what_is_gone_is_removed() -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 2]), records.push(1, [0]), records.push(2, [0, 2]))
    pieces.freeze(log.partition)
    log.fold(records.due(expired=[1, 2]), records.due(forgotten=[1, 2]), records.edge_down(1))
    assert set(pieces.freeze(log.partition).removed) == {"singles/0", "campaigns/2", "online/1"}


def test_a_restored_partition_has_nothing_to_write() -> None:
    log = Log()
    log.fold(records.sessions(1, [0]), records.push(1, [0]))
    frozen = pieces.freeze(log.partition)
    assert restored(frozen.position, dict(frozen.pieces())).dirty == set()


def test_many_singles_make_several_pieces_so_that_one_change_costs_one() -> None:
    log = Log()
    log.fold(records.sessions(1, [0]), *[records.push(n, [0]) for n in range(1, 3000)])
    assert len(dict(pieces.freeze(log.partition).pieces())) >= 3 + 2
    log.fold(records.receipts(1, RECEIVED, [0]))
    changed = dict(pieces.freeze(log.partition).pieces())
    assert set(changed) == {"meta", "singles/0"}
