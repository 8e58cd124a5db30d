"""The fold of the journal's entries, and their bytes."""

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_sdk.entries import (
    Acked,
    Begun,
    Done,
    Entry,
    Recall,
    Receipt,
    Replacement,
    Stored,
    Told,
    record,
    scan,
)
from client_sdk.errors import StorageError
from client_sdk.events import Recalled, Replaced
from client_sdk.journal import GRACE_MS, LIVE_ONLY_MS, MAX_STRANGERS, Arrival
from protocol.schema.device_pb2 import CLICKED, DISPLAYED, FAILED, RECEIVED
from tests.client_sdk.journals import BATCHES, NOW, T, at, journal, state, stored

OLD_JOURNAL = """
434c4a31 35000000 a23eb050
  00 0100000000000000 0068e5cf8b010000 3c000000 03000000 6f6e65
  00 0200000000000000 0568e5cf8b010000 00000000 00000000
434c4a31 09000000 7300d83d 01 0100000000000000
434c4a31 21000000 1fbe0d6d
  03 0100000000000000 05 0968e5cf8b010000 0300 776879
  04 0100000000000000 01
434c4a31 09000000 553bda8a 02 0200000000000000
434c4a31 00000000 00000000
"""


class TestFold:
    def test_life_of_a_message(self) -> None:
        j = journal([stored(1)])
        assert list(j.receipts) == [(1, RECEIVED)]
        assert j.next_waiting(T) == stored(1)
        j.apply([Begun(1)])
        assert j.next_waiting(T) is None
        assert j.unfinished() == [stored(1)]
        j.apply([Receipt(1, DISPLAYED, T)])
        assert j.unfinished() == []
        assert (j.content_bytes, list(j.receipts)) == (0, [(1, RECEIVED), (1, DISPLAYED)])
        j.apply([Acked(1, RECEIVED), Acked(1, DISPLAYED)])
        assert not j.receipts and 1 in j.rows

    def test_order_of_arrival(self) -> None:
        j = journal([stored(3), stored(1), stored(2), Begun(1)])
        assert list(j.waiting) == [3, 2]

    def test_admission(self) -> None:
        j = journal([stored(1)], ids=3, content=10)
        arrivals = [
            Arrival(1, 60, b""),
            Arrival(2, 60, b"12345678"),
            Arrival(2, 60, b"12345678"),
            Arrival(3, 60, b"12"),  # too many bytes
            Arrival(4, 60, b"1"),
            Arrival(5, 60, b""),  # too many ids
        ]
        admission = j.admit(arrivals, NOW)
        assert [s.push_id for s in admission.stored] == [2, 4]
        assert admission.duplicates == [1]
        assert admission.refused == 2
        assert 2 not in j.rows  # nothing counts before it is on disk

    def test_expiry_is_by_ttl_and_a_moment_for_those_without(self) -> None:
        j = journal([stored(1, ttl_s=0), stored(2, ttl_s=100)])
        assert j.next_waiting(T + LIVE_ONLY_MS - 1) == stored(1, ttl_s=0)
        assert j.next_waiting(T + LIVE_ONLY_MS) == stored(2, ttl_s=100)
        assert j.next_waiting(T + 100_000) is None
        assert j.expired == 2
        assert j.admit([Arrival(1, 9, b"")], NOW).duplicates == [1]

    def test_ids_go_when_nothing_can_bring_them_again(self) -> None:
        over = T + 60_000 + GRACE_MS
        j = journal([stored(1), Acked(1, RECEIVED), stored(2), stored(3, ttl_s=61)])
        j.apply([Acked(3, RECEIVED)])
        assert j.forget(over - 1) == 3  # expired, but remembered
        assert j.forget(over) == 0  # not so often
        assert set(j.rows) == {1, 2, 3}
        assert j.forget(over + 70_000) == 2
        assert set(j.rows) == {2}  # its receipt is not acknowledged
        j.apply([Acked(2, RECEIVED)])
        j.forget(over + 140_000)
        assert not j.rows and not j.content_bytes

    def test_room_comes_back(self) -> None:
        j = journal([stored(1), Acked(1, RECEIVED)], ids=1)
        assert j.admit([Arrival(2, 0, b"")], NOW).refused == 1
        assert len(j.admit([Arrival(2, 0, b"")], at(T + 60_000 + GRACE_MS)).stored) == 1

    def test_receipts_for_what_is_forgotten_are_kept_within_bounds(self) -> None:
        j = journal(ids=2)
        for n in range(10):
            owed = j.owe(Receipt(n, CLICKED, T))
            assert owed
            j.apply([owed])
        assert j.owe(Receipt(0, CLICKED, T)) is None
        with pytest.raises(StorageError):
            j.owe(Receipt(99, CLICKED, T))

    def test_a_mark_without_its_message_still_counts(self) -> None:
        j = journal([stored(1), Begun(2)])
        assert j.admit([Arrival(2, 60, b"")], NOW).duplicates == [2]
        assert j.owe_again(2) == (2, RECEIVED)
        assert j.owe_again(2) is None

    def test_a_recall_and_a_mark_under_way_count_in_the_order_of_the_disk(self) -> None:
        first = journal([stored(1), Recall(1), Begun(1)])
        assert not first.may_go(1) and first.next_event() == Recalled(1, handed_out=False)
        second = journal([stored(1), Begun(1)])
        assert second.may_go(1)
        second.apply([Recall(1)])
        assert not second.may_go(1) and second.next_event() == Recalled(1, handed_out=True)
        assert not first.unfinished() and not second.unfinished()
        assert first.content_bytes == second.content_bytes == 0
        assert list(first.receipts) == [(1, RECEIVED)]  # it was stored, whatever came after

    def test_what_comes_after_its_recall_is_nothing(self) -> None:
        j = journal([Recall(1)])
        admission = j.admit([Arrival(1, 60, b""), Arrival(2, 60, b"")], NOW, recalls={2})
        assert admission == ([], [], 0, 2, [])
        j.apply([stored(1)])  # admitted before the recall was on disk
        assert not j.rows and not j.receipts and not j.waiting
        assert j.next_event() is None

    def test_recalls_of_strangers_are_bounded_and_the_oldest_go(self) -> None:
        j = journal(list(map(Recall, range(MAX_STRANGERS + 2))))
        assert list(j.strangers) == list(range(2, MAX_STRANGERS + 2))
        assert j.recall([0, 5, 1, 0, MAX_STRANGERS + 1]) == [Recall(0), Recall(1)]
        assert list(journal(j.snapshot()).strangers) == list(j.strangers)

    def test_the_newest_of_a_key_replaces_the_others(self) -> None:
        j = journal([stored(5, "k"), Begun(5), stored(8, "k")])
        arrivals = [Arrival(p, 60, b"", "k") for p in (7, 9, 6, 12)] + [Arrival(13, 60, b"")]
        admission = j.admit(arrivals, NOW)
        assert list(admission.replacements) == [
            Replacement(7, 8),
            Replacement(8, 9),
            Replacement(6, 9),
            Replacement(9, 12),
        ]
        j.apply([*admission.stored, *admission.replacements])
        assert list(j.waiting) == [12, 13]
        assert j.replaced == 4
        assert {key for key in j.receipts} == {(p, RECEIVED) for p in (5, 6, 7, 8, 9, 12, 13)}
        assert j.admit([Arrival(20, 60, b"", "other")], NOW).replacements == []

    def test_a_key_is_known_as_long_as_its_message(self) -> None:
        over = T + 60_000 + GRACE_MS
        j = journal([stored(5, "k", ttl_s=90), stored(8, "k"), Acked(8, RECEIVED)])
        j.forget(over)
        assert set(j.rows) == {5}
        assert j.admit([Arrival(7, 60, b"", "k")], at(over)).replacements == [Replacement(5, 7)]

    def test_an_event_is_told_until_it_is_taken(self) -> None:
        j = journal([stored(1, "k"), Begun(1), stored(2, "k"), Replacement(1, 2)])
        assert j.next_event() == Replaced(1, by=2)
        j.apply([Replacement(1, 3)])  # it is replaced already
        assert j.next_event() == Replaced(1, by=2)
        j.apply([Recall(1), Told(1, False)])  # the answer crossed the recall
        assert j.next_event() == Recalled(1, handed_out=True)
        j.apply([Told(1, True), Told(7, True)])
        assert j.next_event() is None
        j.apply([Recall(1)])
        assert j.next_event() is None

    def test_an_event_that_nobody_takes_goes_with_its_message(self) -> None:
        j = journal([stored(1), Begun(1), Acked(1, RECEIVED), Recall(1)])
        j.forget(T + 60_000 + GRACE_MS)
        assert (j.rows, j.next_event()) == ({}, None)

    def test_counts_are_of_what_happens_now(self) -> None:
        entries: list[Entry] = [stored(1), Recall(1), stored(2), Replacement(2, 3)]
        j = journal()
        j.load(entries)
        assert (j.recalled, j.replaced) == (0, 0)
        j.apply([stored(4), Recall(4)])
        assert (j.recalled, j.replaced) == (1, 0)

    def test_an_uncertain_clock_holds_back_and_drops_nothing(self) -> None:
        j = journal([stored(1, ttl_s=100), stored(2, ttl_s=1000)])
        assert j.next_waiting(T + 500_000, certain=False) == stored(2, ttl_s=1000)
        assert j.next_waiting(T + 5_000_000, certain=False) is None
        assert (list(j.waiting), j.expired) == ([1, 2], 0)
        assert j.next_waiting(T + 50_000) == stored(1, ttl_s=100)

    def test_received_is_dated_by_the_devices_own_clock(self) -> None:
        late = Stored(1, T, 60, b"", clock_offset_ms=5000)  # the device's clock is 5 s late
        j = journal([late, Stored(2, 3, 60, b"", clock_offset_ms=9)])
        assert list(j.receipts.values()) == [
            Receipt(1, RECEIVED, T - 5000, clock_offset_ms=5000),
            Receipt(2, RECEIVED, 0, clock_offset_ms=9),  # a clock has no time before 1970
        ]

    @given(BATCHES)
    def test_a_snapshot_makes_the_same_state(self, batches: list[list[Entry]]) -> None:
        first: list[Entry] = [stored(push_id, "ab"[push_id % 2]) for push_id in range(6)]
        j = journal(first + [entry for batch in batches for entry in batch])
        assert state(journal(j.snapshot())) == state(j)


class TestBytes:
    @settings(max_examples=40)
    @given(BATCHES)
    def test_every_truncation_gives_the_records_before_it(self, batches: list[list[Entry]]) -> None:
        records = [record(batch) for batch in batches]
        data = b"".join(records)
        ends = [sum(map(len, records[:n])) for n in range(len(records) + 1)]
        for cut in range(len(data) + 1):
            whole = sum(end <= cut for end in ends) - 1
            found = scan(data[:cut])
            assert found.entries == [e for batch in batches[:whole] for e in batch]
            assert (found.end, found.damaged) == (ends[whole], False)

    @given(BATCHES.filter(len), st.data())
    def test_damage_costs_the_record_it_hits(
        self, batches: list[list[Entry]], data: st.DataObject
    ) -> None:
        records = [record(batch) for batch in batches]
        hit = data.draw(st.integers(0, len(records) - 1))
        at = data.draw(st.integers(0, len(records[hit]) - 1))
        bad = bytearray(records[hit])
        bad[at] ^= data.draw(st.integers(1, 255))
        found = scan(b"".join([*records[:hit], bytes(bad), *records[hit + 1 :]]))
        assert found.entries == [e for n, batch in enumerate(batches) if n != hit for e in batch]
        assert found.damaged == (hit < len(records) - 1)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        assert scan(data).end <= len(data)

    def test_a_journal_of_an_earlier_build(self) -> None:
        """Bytes that the build before recalls wrote. Its times were the service's."""
        found = scan(bytes.fromhex(OLD_JOURNAL))
        assert not found.damaged
        assert found.entries == [
            Stored(1, T, 60, b"one"),
            Stored(2, T + 5, 0, b""),
            Begun(1),
            Receipt(1, FAILED, T + 9, "why"),
            Acked(1, RECEIVED),
            Done(2),
        ]
        assert scan(record(found.entries)).entries == found.entries

    def test_entries_of_another_build(self) -> None:
        known = record([Begun(1)])
        body = record([Begun(1)])[12:].replace(b"\x01", b"\x77", 1)
        unknown = struct.pack("<4sII", b"CLJ1", len(body), zlib.crc32(body)) + body
        found = scan(known + unknown + known)
        assert (found.entries, found.damaged) == ([Begun(1), Begun(1)], True)
