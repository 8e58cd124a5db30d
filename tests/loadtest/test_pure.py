"""The data structures beside the fleet: schedule, ledger, device table, wire, verdict, RESP."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.census import FRESH_S
from loadtest.api_client import STATES, Metrics, law_holds
from loadtest.device_table import DeviceTable
from loadtest.floor import frame_of_size
from loadtest.ledger import Ledger, Shown
from loadtest.resp import Replies, Reply, StoreError, command
from loadtest.schedule import Schedule
from loadtest.service import address
from loadtest.verdict import Verdict, judge
from loadtest.wire import DISPLAYED, RECEIVED, parse_message, receipt, receipts_frame
from protocol.codes import MAX_BODY_DOWN, MAX_BODY_UP, Kind
from protocol.frames import split
from protocol.schema import device_pb2


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 100)), max_size=50))
def test_schedule_gives_each_entry_once_and_not_early(entries: list[tuple[int, float]]) -> None:
    schedule = Schedule(0.5)
    for row, at in entries:
        schedule.put(row, at)
    taken: list[tuple[int, float]] = []
    for step in range(0, 1021):
        now = step / 10
        taken += [(row, now) for _, rows in schedule.take(now) for row in rows]
    assert sorted(row for row, _ in taken) == sorted(row for row, _ in entries)
    assert schedule.next_at() is None
    for row, now in taken:
        assert any(row == r and at <= now <= at + 0.7 for r, at in entries)


def test_schedule_tells_when_to_look_again() -> None:
    schedule = Schedule(1.0)
    schedule.put(1, 7.5)
    assert schedule.next_at() == 8.0 and schedule.take(7.9) == []


@given(st.lists(st.integers(0, 99_999), max_size=400))
def test_shown_is_a_set_of_rows_in_either_form(rows: list[int]) -> None:
    shown, model = Shown(1, 100_000), set[int]()
    for row in rows:
        assert shown.add(row) == (row not in model)
        model.add(row)
    assert shown.rows() == sorted(model) and shown.count == len(model)


def test_shown_of_a_broadcast_is_one_bit_a_row() -> None:
    shown = Shown(1, 1001)
    assert all(shown.add(row) for row in range(1001))
    assert not any(shown.add(row) for row in range(1001))
    assert shown.rows() == list(range(1001))


def test_ledger_forgets_the_oldest_and_says_so() -> None:
    ledger = Ledger(10, pushes=2)
    for push_id in (1, 2, 1, 3):
        ledger.of(push_id)
    assert list(ledger.pushes) == [2, 3] and ledger.forgotten == 1


def test_tokens_keep_their_rows_when_a_longer_one_comes() -> None:
    table = DeviceTable(4, b"seed")
    table.keep_token(1, b"short")
    table.keep_token(3, b"somewhat longer")
    table.keep_token(0, b"mid-size")
    tokens = [table.token(row) for row in range(4)]
    assert tokens == [b"mid-size", b"short", b"", b"somewhat longer"]
    table.keep_token(3, b"")
    assert table.token(3) == b""
    with pytest.raises(ValueError, match="256 bytes"):
        table.keep_token(0, bytes(256))


IDS = st.integers(0, 2**64 - 1)


@given(st.integers(1, 2**32), st.lists(st.tuples(IDS, st.integers(0, 2**48)), max_size=20))
def test_handmade_receipts_are_what_protobuf_reads(
    seq: int, entries: list[tuple[int, int]]
) -> None:
    joined = b"".join(receipt(push_id, DISPLAYED, at_ms) for push_id, at_ms in entries)
    [(kind, body)], _ = split(receipts_frame(seq, joined), MAX_BODY_UP)
    message = device_pb2.Receipts.FromString(body)
    assert kind == Kind.RECEIPTS and message.seq == seq
    assert [(entry.push_id, entry.at_ms) for entry in message.receipts] == entries
    assert {entry.state for entry in message.receipts} <= {device_pb2.DISPLAYED}
    assert RECEIVED == device_pb2.RECEIVED


@given(st.integers(60, 400))
def test_floor_frame_has_the_size_wanted(size: int) -> None:
    frame = frame_of_size(size, 5, {"sent_ns": "123"})
    [(_, body)], _ = split(frame, MAX_BODY_DOWN)
    assert size <= len(frame) <= size + 2 and parse_message(body) == (5, 123)


def test_floor_frame_cannot_be_smaller_than_its_data() -> None:
    with pytest.raises(ValueError, match="more than 20 bytes"):
        frame_of_size(20, 5, {"sent_ns": "123"})


def test_verdict_tells_lost_duplicate_and_stray() -> None:
    accepted = {1: {10, 11}, 2: {10}}
    assert judge(accepted, {1: [10, 11], 2: [10]}).clean
    assert judge(accepted, {1: [10]}) == Verdict(lost=2, duplicates=0, strays=0)
    assert judge(accepted, {1: [10, 11, 11], 2: [10]}) == Verdict(lost=0, duplicates=1, strays=0)
    assert judge(accepted, {1: [10, 11], 2: [10], 3: [10]}).duplicates == 1
    assert judge(accepted, {1: [10, 11, 12], 2: [10]}).strays == 1


def test_conservation_law() -> None:
    counts = dict.fromkeys(STATES, 1) | {"targeted": len(STATES), "displayed": 5}
    assert law_holds(counts)
    assert not law_holds(counts | {"pending": 0})


def test_resp_commands() -> None:
    assert command("DEL", b"k", 12) == b"*3\r\n$3\r\nDEL\r\n$1\r\nk\r\n$2\r\n12\r\n"


STREAM = b"+OK\r\n:7\r\n$-1\r\n*-1\r\n$4\r\na\r\nb\r\n*2\r\n*1\r\n:1\r\n$0\r\n\r\n"
REPLIES: list[Reply] = [b"OK", 7, None, None, b"a\r\nb", [[1], b""]]


@pytest.mark.parametrize("step", [1, 3, len(STREAM)])
def test_resp_replies_whole_and_in_pieces(step: int) -> None:
    replies, found = Replies(), list[Reply]()
    for at in range(0, len(STREAM), step):
        found += replies.feed(STREAM[at : at + step])
    assert found == REPLIES


def test_resp_errors_are_told_and_nonsense_raises() -> None:
    [error] = Replies().feed(b"-ERR no\r\n")
    assert isinstance(error, StoreError) and str(error) == "ERR no"
    with pytest.raises(ValueError, match="no RESP reply"):
        Replies().feed(b"?\r\n")


def test_addresses() -> None:
    assert address("127.0.0.1:7070") == ("127.0.0.1", 7070)
    assert address("[::1]:1") == ("::1", 1)
    for text in ("127.0.0.1", ":1", "a:b"):
        with pytest.raises(ValueError, match="host:port"):
            address(text)


# What /metrics says.


def test_metrics_are_whole_when_every_process_has_answered() -> None:
    text = """# HELP columba_pending_singles Pushes
# TYPE columba_pending_singles gauge
columba_pending_singles{process="node:1"} 3.0
columba_pending_singles{process="node:2"} 4.0
columba_pending_singles_of_another_kind 5.0
columba_process_answered{process="node:1"} 1.0
"""
    metrics = Metrics(text)
    assert metrics.of("columba_pending_singles") == [3.0, 4.0] and metrics.whole
    assert not Metrics(text + 'columba_process_answered{process="node:3"} 0.0\n').whole
    assert not Metrics("").whole and Metrics("").of("columba_pending_singles") == []


def test_the_age_of_metrics_is_what_the_api_takes_for_fresh() -> None:
    assert Metrics.AGE_S == FRESH_S
