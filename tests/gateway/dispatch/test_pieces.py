"""A snapshot is the state at exactly one position, however the fold and the writing take turns."""

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dispatch import pieces
from gateway.dispatch.audiences import DAY_MS
from gateway.dispatch.campaign import RECEIVED
from gateway.dispatch.partition import MOST_DAYS, Partition
from protocol.schema import log_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.histories import HISTORIES, ONE_RECORD
from tests.gateway.dispatch.records import START_MS, Log, known, written


def restored(position: str, blobs: dict[str, bytes]) -> Partition:
    partition = Partition(0)
    pieces.restore(partition, position, blobs)
    return partition


def whole(partition: Partition) -> dict[str, bytes]:
    """A snapshot of everything, which leaves no trace."""
    kept, dirty = partition.changes.keeper, set(partition.changes.dirty)
    with pieces.freeze(partition, pieces.names(partition)) as frozen:
        blobs = written(frozen)
    partition.changes.keeper = kept
    partition.changes.dirty |= dirty
    return blobs


def said(name: str, blobs: dict[str, bytes]) -> object:
    """What a piece says: of a campaign, no mark and an empty one are the same."""
    if name not in blobs or not name.startswith("campaigns/"):
        return blobs.get(name)
    return known(restored("1-0", {"meta": blobs["meta"], name: blobs[name]}))["pushes"]


@settings(max_examples=300)
@given(
    HISTORIES,
    st.lists(st.tuples(st.integers(0, 3), ONE_RECORD), max_size=30),
    st.randoms(use_true_random=False),
)
def test_records_folded_between_the_pieces_change_nothing_of_them(
    before: list[bytes], beside: list[tuple[int, bytes]], chance: random.Random
) -> None:
    log = Log()
    log.fold(*before)
    at_freeze = known(log.partition)
    order = sorted(pieces.names(log.partition) | log.partition.changes.dirty)
    chance.shuffle(order)
    with pieces.freeze(log.partition, order) as frozen:
        making = frozen.pieces()
        made: list[tuple[str, bytes | None]] = []
        for count, record in beside:
            made += itertools.islice(making, count)
            log.fold(record)
        made += making
    assert len(made) == len(order) + 1, "each once, and what every snapshot has"
    blobs = {name: blob for name, blob in made if blob is not None}
    assert known(restored(frozen.position, blobs)) == at_freeze
    assert set(blobs) <= pieces.names(restored(frozen.position, blobs)) | {"meta"}


@given(HISTORIES)
def test_whatever_changes_is_told_before_and_is_dirty_afterwards(history: list[bytes]) -> None:
    """Each change by itself, so that a failure names the piece."""

    class Listener:
        def __init__(self) -> None:
            self.told: set[str] = set()

        def keep(self, piece: str, row: object, old: object) -> None:
            self.told.add(piece)

    log = Log()
    before = whole(log.partition)
    for record in history:
        log.partition.changes.dirty.clear()
        listener = log.partition.changes.keeper = Listener()
        log.fold(record)
        after = whole(log.partition)
        changed = {n for n in before.keys() | after.keys() if said(n, before) != said(n, after)}
        changed.discard("meta")
        assert changed <= listener.told
        assert changed <= log.partition.changes.dirty <= listener.told
        before = after


@given(HISTORIES)
def test_all_pieces_by_name_are_the_whole_state(history: list[bytes]) -> None:
    """The first snapshot of a new owner is complete, whatever was dirty."""
    log = Log()
    log.fold(*history)
    log.partition.changes.dirty.clear()
    frozen = pieces.freeze(log.partition, pieces.names(log.partition))
    assert known(restored(frozen.position, written(frozen))) == known(log.partition)


PAIR = b'{"bound": "u1", "devices": ["0", "2"]}'
ONE_CHANGE: dict[str, list[bytes]] = {
    "a device comes": [records.sessions(1, [6])],
    "a device moves to another edge": [records.sessions(2, [2])],
    "a device goes": [records.sessions(1, [], [2])],
    "an edge ends": [records.edge_down(1)],
    "a profile changes": [records.profile(0, 2, ["b"]), records.profile(0, 3, [])],
    "a profile comes": [records.profile(2, 1, ["a"])],
    "a single is receipted": [records.receipts(1, RECEIVED, [0])],
    "a single expires": [records.due(expired=[1])],
    "a single goes": [records.due(forgotten=[5])],
    "a single comes": [records.push(11, [0])],
    "a single goes and another comes under its id": [
        records.due(forgotten=[5]), records.push(5, [0])
    ],
    "a campaign is receipted": [records.receipts(2, RECEIVED, [2])],
    "a campaign is stopped": [records.control(2, log_pb2.STOP)],
    "a campaign comes": [records.push(12, [0, 2])],
    "a campaign becomes a tally": [records.due(expired=[2], shrunk=[2])],
    "a tally goes": [records.due(forgotten=[3])],
    "a device leaves an account that pushes are for": [records.holder("", [(0, 2)])],
    "a device comes to another account": [records.holder("u2", [(0, 2)])],
    "a first device comes to an account": [records.holder("u1", [(4, 9)])],
    "a list changes": [records.account("u1", [(2, 1)], remove=True)],
    "a list comes": [records.account("u2", [(2, 1)])],
    "a tag is taken away": [records.tagging("x", [0], remove=True)],
    "a tag comes": [records.tagging("y", [0])],
    "decisions": [records.control(4, log_pb2.RESUME), records.control(99, log_pb2.PAUSE)],
}  # fmt: skip


def a_bit_of_everything() -> Log:
    log = Log()
    log.fold(records.sessions(1, [0, 2, 4]), records.profile(0, 1, ["a"]))
    log.fold(records.account("u1", [(0, 1), (2, 1)]), records.holder("u1", [(0, 1), (2, 1)]))
    log.fold(records.tagging("x", [0]), records.push(1, [0]), records.push(5, [0]))
    log.fold(records.push(2, [0, 2]), records.receipts(2, RECEIVED, [0]))
    log.fold(records.push(3, []), records.due(shrunk=[3]), records.push(4, [0, 2]))
    log.fold(records.push(6, audience=PAIR), records.receipts(5, RECEIVED, [0]))
    log.fold(records.control(4, log_pb2.PAUSE), records.control(98, log_pb2.STOP))
    return log


@pytest.mark.parametrize("change", ONE_CHANGE)
def test_no_kind_of_piece_follows_what_comes_after_the_freeze(change: str) -> None:
    log = a_bit_of_everything()
    at_freeze = known(log.partition)
    frozen = pieces.freeze(log.partition)
    log.fold(*ONE_CHANGE[change])
    assert known(log.partition) | {"position": ""} != at_freeze | {"position": ""}
    assert known(restored(frozen.position, written(frozen))) == at_freeze


def test_days_that_go_by_after_the_freeze_are_in_the_pieces() -> None:
    log = a_bit_of_everything()
    at_freeze = known(log.partition)
    frozen = pieces.freeze(log.partition)
    later = f"{START_MS + (MOST_DAYS + 1) * DAY_MS}-0"
    log.partition.fold(later, records.sessions(1, [6], [0]))
    assert set(log.partition.seen) == set(log.partition.born) != set(at_freeze["seen"])
    assert known(restored(frozen.position, written(frozen))) == at_freeze


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
        for name, blob in frozen.pieces():
            if blob is None:
                blobs.pop(name, None)
            else:
                blobs[name] = blob
    heir = restored(frozen.position, blobs)
    cut = len(log.entries)
    log.fold(*rest)
    for position, record in log.entries[cut:]:
        heir.fold(position, record)
    assert known(heir) == known(log.partition)


def names_of(frozen: pieces.Frozen) -> set[str]:
    return {name for name, _ in frozen.pieces()}


def test_what_has_not_changed_is_not_written_again() -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 2]), records.push(1, [0, 2]), records.push(2, [0]))
    pieces.freeze(log.partition)
    assert names_of(pieces.freeze(log.partition)) == {"meta"}
    log.fold(records.receipts(1, RECEIVED, [0]))
    assert names_of(pieces.freeze(log.partition)) == {"meta", "campaigns/1"}
    log.fold(records.receipts(1, RECEIVED, [0]))
    assert names_of(pieces.freeze(log.partition)) == {"meta"}, "a repetition"


def test_what_is_gone_is_told_as_gone() -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 2]), records.push(1, [0]), records.push(2, [0, 2]))
    pieces.freeze(log.partition)
    log.fold(records.due(expired=[1, 2]), records.due(forgotten=[1, 2]), records.edge_down(1))
    gone = {name for name, blob in pieces.freeze(log.partition).pieces() if blob is None}
    assert gone == {"singles/0", "campaigns/2", "online/1"}


def test_a_restored_partition_has_nothing_to_write() -> None:
    log = Log()
    log.fold(records.sessions(1, [0]), records.push(1, [0]))
    frozen = pieces.freeze(log.partition)
    assert restored(frozen.position, written(frozen)).changes.dirty == set()


def test_many_singles_make_several_pieces_so_that_one_change_costs_one() -> None:
    log = Log()
    log.fold(records.sessions(1, [0]), *[records.push(n, [0]) for n in range(1, 3000)])
    assert len(written(pieces.freeze(log.partition))) >= 3 + 2
    log.fold(records.receipts(1, RECEIVED, [0]))
    assert names_of(pieces.freeze(log.partition)) == {"meta", "singles/0"}


def test_what_waits_for_a_device_is_restored_in_the_order_of_the_log() -> None:
    log = Log()
    log.fold(records.sessions(1, [0]), *[records.push(n, [0]) for n in range(1, 3000)])
    blobs = whole(log.partition)
    for order in (sorted(blobs), sorted(blobs, reverse=True)):
        heir = restored(log.partition.position, {name: blobs[name] for name in order})
        assert known(heir) == known(log.partition)


def test_a_freeze_copies_nothing_and_a_change_beside_it_only_its_row() -> None:
    """What a turn of the loop costs must not grow with the state."""
    log = Log()
    log.fold(records.sessions(1, range(0, 1024, 2)))
    log.fold(*[records.profile(i, 1, ["a"]) for i in range(0, 1024, 2)])
    frozen = pieces.freeze(log.partition)
    assert set(frozen._copies) == {"meta"} and not frozen._rows
    log.fold(records.profile(4, 2, ["b"]), records.profile(4, 3, ["c"]))
    assert set(frozen._copies) == {"meta"}
    assert frozen._rows == {"profiles/0": {4: (1, ("1/a",))}}


def test_a_state_is_restored_in_steps_however_large_one_piece_is() -> None:
    log = Log()
    everybody = range(0, 20_000, 2)
    log.fold(records.sessions(1, everybody), records.tagging("x", everybody))
    frozen = pieces.freeze(log.partition)
    blobs = written(frozen)
    heir = Partition(0)
    steps = sum(1 for _ in pieces.restoring(heir, frozen.position, blobs))
    assert steps > len(blobs) + 10_000 // 1024
    assert known(heir) == known(log.partition)


def test_pieces_that_nobody_kept_are_not_written() -> None:
    """A second snapshot has begun beside the first, or the first was given up."""
    log = Log()
    log.fold(records.sessions(1, [0, 2]))

    def begun() -> Iterator[tuple[str, bytes | None]]:
        frozen = pieces.freeze(log.partition, pieces.names(log.partition))
        making = frozen.pieces()
        next(making)
        return making

    first = begun()
    pieces.freeze(log.partition)
    with pytest.raises(RuntimeError):
        next(first)
    with pieces.freeze(log.partition, pieces.names(log.partition)) as frozen:
        making = frozen.pieces()
        next(making)
    assert log.partition.changes.keeper is None
    with pytest.raises(RuntimeError):
        next(making)


def test_profiles_as_earlier_builds_wrote_them() -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 2]), records.profile(0, 7, ["a", "b"]))
    blobs = whole(log.partition)
    row = log_pb2.Profile(index=0, change=7, tags=["1/a", "1/b"])
    blobs["profiles/0"] = log_pb2.Record(profiles=[row]).SerializeToString()
    assert known(restored(log.partition.position, blobs)) == known(log.partition)
