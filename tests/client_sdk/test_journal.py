"""The fold of the journal's entries, and their bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_sdk.entries import Acked, Begun, Entry, Receipt, record, scan
from client_sdk.errors import StorageError
from client_sdk.journal import GRACE_MS, LIVE_ONLY_MS, Arrival
from protocol.schema.device_pb2 import CLICKED, DISPLAYED, RECEIVED
from tests.client_sdk.journals import BATCHES, T, journal, stored


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
        admission = j.admit(arrivals, T)
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
        assert j.admit([Arrival(1, 9, b"")], T).duplicates == [1]

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
        assert j.admit([Arrival(2, 0, b"")], T).refused == 1
        assert len(j.admit([Arrival(2, 0, b"")], T + 60_000 + GRACE_MS).stored) == 1

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
        assert j.admit([Arrival(2, 60, b"")], T).duplicates == [2]
        assert j.owe_again(2) == (2, RECEIVED)
        assert j.owe_again(2) is None

    @given(BATCHES)
    def test_a_snapshot_makes_the_same_state(self, batches: list[list[Entry]]) -> None:
        first: list[Entry] = [stored(push_id) for push_id in range(6)]
        j = journal(first + [entry for batch in batches for entry in batch])
        again = journal(j.snapshot())
        assert (again.rows, list(again.waiting), again.content_bytes) == (
            j.rows,
            list(j.waiting),
            j.content_bytes,
        )
        assert again.receipts == j.receipts


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

    def test_entries_of_another_build(self) -> None:
        known = record([Begun(1)])
        unknown = record([Begun(1)]).replace(b"\x01", b"\x77", 1)
        assert scan(known + unknown + known).entries == [Begun(1), Begun(1)]
