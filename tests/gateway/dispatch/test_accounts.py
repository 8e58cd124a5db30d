"""Accounts in the fold: lists, holders, and what a push to an account means."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch import pieces
from gateway.dispatch.accounts import Entry, Holding
from gateway.dispatch.audiences import select
from gateway.dispatch.campaign import DISPLAYED, RECEIVED, Campaign, Single
from gateway.dispatch.partition import Partition
from protocol.ids import device_id
from protocol.schema import log_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.histories import ACCOUNTS, HOLDERS
from tests.gateway.dispatch.records import START_MS, Log, app_of

PAIR = b'{"bound": "u1", "devices": ["0", "2"]}'
"""Devices 0 and 2 of partition 0, which are of app 1, as account u1's."""


class Model:
    """Plain dicts, by the book."""

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self.lists: dict[tuple[int, str], list[tuple[int, int]]] = {}
        self.holders: dict[int, tuple[int, str, int]] = {}

    def take(self, record: bytes) -> None:
        message = log_pb2.Record.FromString(record)
        for change in message.accounts:
            listed = self.lists.setdefault((change.app, change.account), [])
            for device, binding in zip(change.device, change.binding, strict=True):
                listed[:] = [entry for entry in listed if entry != (device, binding)]
                if not change.remove:
                    listed.append((device, binding))
        for holder in message.holders:
            for index, binding in zip(holder.index, holder.binding, strict=True):
                before = self.holders.get(index)
                if index >= self.devices or app_of(index) != holder.app:
                    continue
                if holder.was and (before is None or before[1] != holder.was):
                    continue
                self.holders.pop(index, None)
                if holder.account:
                    self.holders[index] = (holder.app, holder.account, binding)


@given(st.lists(ACCOUNTS | HOLDERS, max_size=30), st.booleans())
def test_lists_and_holders_are_as_in_the_book(history: list[bytes], restored: bool) -> None:
    log, model = Log(), Model(6)
    log.fold(records.sessions(1, range(6)))
    for record in history:
        log.fold(record)
        model.take(record)
    partition = log.partition
    if restored:
        frozen = pieces.freeze(partition, pieces.names(partition))
        partition = Partition(0)
        pieces.restore(partition, frozen.position, records.written(frozen))
    accounts = partition.accounts
    for (app, account), listed in model.lists.items():
        assert accounts.entries_of(app, account) == listed
    for index in range(8):
        app, account, binding = model.holders.get(index, (0, "", 0))
        assert accounts.holding_of(index) == Holding(account, binding)
        for name in ("u1", "u2"):
            for asked in (1, 2):
                belongs = (app, account) == (asked, name)
                assert (index in accounts.held(asked, name, range(8))) == belongs
    assert accounts.count() == sum(1 for listed in model.lists.values() if listed)


def test_the_latest_stands_last_and_each_binding_goes_by_itself() -> None:
    log = Log()
    log.fold(records.account("u1", [(5, 1), (6, 2), (7, 3)]), records.account("u1", [(5, 4)]))
    entries = [Entry(5, 1), Entry(6, 2), Entry(7, 3), Entry(5, 4)]
    assert log.partition.accounts.entries_of(1, "u1") == entries
    log.fold(records.account("u1", [(5, 1), (6, 3), (8, 1)], remove=True))
    assert log.partition.accounts.entries_of(1, "u1") == entries[1:]


def test_a_record_without_bindings_is_read() -> None:
    partition = Partition(0)
    partition.fold("1-0", records.sessions(1, [0]))
    accounts = [log_pb2.AccountChange(app=1, account="u1", device=[5, 6])]
    holders = [log_pb2.Holder(app=1, account="u1", index=[0])]
    partition.fold("2-0", log_pb2.Record(accounts=accounts, holders=holders).SerializeToString())
    assert partition.accounts.entries_of(1, "u1") == [Entry(5, 0), Entry(6, 0)]
    assert partition.accounts.holding_of(0) == Holding("u1", 0)


# Audiences.


def two_of_u1() -> Log:
    """Devices 0, 2, 4, 6 of app 1, all online; 0 and 2 are u1's."""
    log = Log()
    log.fold(records.sessions(1, [0, 2, 4, 6]))
    log.fold(records.holder("u1", [(0, 1), (2, 2)]), records.holder("u2", [(4, 3)]))
    return log


@pytest.mark.parametrize(
    ("audience", "devices", "personal"),
    [
        (PAIR, [0, 2], [0, 2]),
        (b'{"bound": "u1", "devices": ["0", "4", "6", "4294967298"]}', [0], [0]),
        (b'{"bound": "u1", "devices": []}', [], []),
        (b'{"not": {"bound": "u1", "devices": ["0", "2"]}}', [4, 6], []),
        (b'{"or": [{"bound": "u1", "devices": ["0", "2"]}, {"tag": "a"}]}', [0, 2, 6], [2]),
        (b'{"and": [{"bound": "u1", "devices": ["0", "2"]}, {"tag": "a"}]}', [0], [0]),
        (b'{"and": [{"bound": "u1", "devices": ["0"]}, {"not": {"tag": "a"}}]}', [], []),
    ],
)
def test_an_account_is_those_of_its_devices_that_are_still_its_own(
    audience: bytes, devices: list[int], personal: list[int]
) -> None:
    log = two_of_u1()
    log.fold(records.tagging("a", [0, 6]))
    meant = select(log.partition, 1, audience, START_MS)
    assert (list(meant.devices), list(meant.personal)) == (devices, personal)


def test_an_account_of_another_app_is_another_account() -> None:
    log = two_of_u1()
    log.fold(records.sessions(1, [1, 3]), records.holder("u1", [(1, 1)], app=2))
    assert not select(log.partition, 2, PAIR, START_MS).devices
    both = b'{"bound": "u1", "devices": ["0", "1", "2", "3"]}'
    assert list(select(log.partition, 2, both, START_MS).devices) == [1]


def test_a_device_that_moved_gets_nothing_of_its_former_account() -> None:
    log = two_of_u1()
    log.fold(records.holder("u2", [(2, 9)]), records.push(1, audience=PAIR, accepted_ms=5))
    assert list(log.partition.pushes[1].pending()) == [0]


# What is pending when a device leaves.


def counts(log: Log, push_id: int) -> dict[str, int]:
    return {name: n for name, n in log.partition.pushes[push_id].counts() if n}


@pytest.mark.parametrize("to", ["u2", ""])
def test_what_is_pending_for_a_device_as_its_account_s_is_taken_back_when_it_leaves(
    to: str,
) -> None:
    log = two_of_u1()
    log.fold(records.push(1, audience=PAIR, accepted_ms=5))
    log.fold(records.push(2, [2], content=b"c"), records.push(3, everybody=True, accepted_ms=5))
    log.fold(records.push(4, audience=PAIR.replace(b'"0", ', b""), content=b"c"))
    assert isinstance(log.partition.pushes[4], Single)
    effects = log.fold(records.holder(to, [(2, 9)], was="u1"))
    assert effects.final == [4]
    assert counts(log, 1) == {"targeted": 2, "pending": 1, "stopped": 1}
    assert counts(log, 2) == {"targeted": 1, "pending": 1}, "to the device, whosever it is"
    assert counts(log, 3) == {"targeted": 4, "pending": 4}
    assert counts(log, 4) == {"targeted": 1, "stopped": 1}
    assert [push.push_id for push in log.partition.pending_of(2)] == [2, 3]
    # What was on its way counts as what it is.
    log.fold(records.receipts(1, RECEIVED, [2]), records.receipts(4, DISPLAYED, [2]))
    assert counts(log, 1) == {"targeted": 2, "pending": 1, "received": 1}
    assert counts(log, 4) == {"targeted": 1, "received": 1, "displayed": 1}


def test_a_device_that_is_bound_again_keeps_what_is_pending() -> None:
    log = two_of_u1()
    log.fold(records.push(1, audience=PAIR, accepted_ms=5))
    log.fold(records.holder("u1", [(2, 9)]), records.holder("", [(2, 0)], was="u2"))
    assert counts(log, 1) == {"targeted": 2, "pending": 2}


def test_who_is_meant_for_another_reason_too_keeps_it() -> None:
    log = two_of_u1()
    log.fold(records.tagging("a", [2]))
    either = b'{"or": [%s, {"tag": "a"}]}' % PAIR
    log.fold(records.push(1, audience=either, accepted_ms=5))
    log.fold(records.holder("u2", [(0, 8), (2, 9)]))
    assert list(log.partition.pushes[1].pending()) == [2]


def test_the_last_device_that_leaves_ends_the_push() -> None:
    log = two_of_u1()
    log.fold(records.push(1, audience=PAIR, accepted_ms=5))
    log.fold(records.receipts(1, RECEIVED, [0]))
    assert log.fold(records.holder("u2", [(2, 9)])).final == [1]
    assert log.partition.campaigns == {}


# One device.


@pytest.mark.parametrize(
    ("changed", "single"),
    [
        ({}, True),
        ({"accepted_ms": 5}, False),
        ({"holdout": 0.5}, False),
        ({"audience": PAIR}, False),
        ({"audience": b'{"devices": ["0"]}'}, False),
        ({"speed": 5}, True),
        ({"ttl_s": 0}, True),
    ],
)
def test_a_push_to_the_one_device_of_an_account_is_as_small_as_one_to_a_device(
    changed: dict[str, Any], single: bool
) -> None:
    """Not where its content stands in a push record: a single's stands in the partition."""
    log = two_of_u1()
    one: dict[str, Any] = {"audience": b'{"bound": "u1", "devices": ["0"]}', "content": b"c"}
    log.fold(records.push(1, **one | changed))
    assert isinstance(log.partition.pushes[1], Single if single else Campaign)
    found = counts(log, 1)
    meant = found.get("targeted", 0) + found.get("held_out", 0)
    assert meant == (2 if changed.get("audience") == PAIR else 1)
    assert known_again(log) == log.partition.pushes[1].pending()


def known_again(log: Log) -> Any:
    """What is pending of push 1 after a snapshot."""
    heir = Partition(0)
    frozen = pieces.freeze(log.partition)
    pieces.restore(heir, frozen.position, records.written(frozen))
    return heir.pushes[1].pending()


def test_ttl_0_is_for_the_account_s_device_only_if_it_is_online() -> None:
    log = two_of_u1()
    log.fold(records.sessions(1, [], [0]))
    one = b'{"bound": "u1", "devices": ["0"]}'
    log.fold(records.push(1, audience=one, ttl_s=0), records.push(2, audience=one))
    assert counts(log, 1) == {} and counts(log, 2) == {"targeted": 1, "pending": 1}


def test_devices_of_other_partitions_are_theirs_to_decide() -> None:
    partition = Partition(3)
    partition.fold("1-0", records.sessions(1, [0, 2]))
    partition.fold("2-0", records.holder("u1", [(0, 1), (2, 2)]))
    ids = (device_id(3, 2), device_id(1, 0))
    listed = b'{"bound": "u1", "devices": ["%d", "%d"]}' % ids
    assert list(select(partition, 1, listed, START_MS).devices) == [2]
