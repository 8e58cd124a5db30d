"""Receipts and profiles into the logs of the real store, and only then back as acknowledgements."""

from collections.abc import AsyncIterator

import pytest

from gateway.edge.uplink import Report, Uplink, encode_record
from gateway.store.client import Store
from gateway.store.leases import Identity
from protocol.schema import log_pb2
from tests.gateway.edge.conftest import Hold
from tests.gateway.edge.stage import fence_off, records
from tests.waiting import until

FIRST = Identity("edge", 7, 100)
RECEIVED, CLICKED = 1, 3


class Rig:
    """An uplink on a connection of its own: a held answer must not hold the test's commands."""

    def __init__(self, store: Store) -> None:
        self.durable: list[Report] = []
        self.uplink = Uplink(store, limit=100, durable=self.durable.append)
        self.uplink.begin(FIRST)


@pytest.fixture
async def rig(store: Store) -> AsyncIterator[Rig]:
    own = await store.another()
    rig = Rig(own)
    yield rig
    rig.uplink.close()
    await own.close()


def receipts(number: int, *pairs: tuple[int, int], device: int = 1) -> Report:
    return Report(4, 1, number, device, pairs, b"")


def profile(number: int, *tags: str, device: int = 1) -> Report:
    body = log_pb2.Profile(index=device, change=number, tags=tags).SerializeToString()
    return Report(4, 1, number, device, (), body)


async def test_a_report_is_acknowledged_when_its_record_is_in_the_log_and_not_before(
    rig: Rig, store: Store, hold: Hold
) -> None:
    await hold(True)
    rig.uplink.report(0, receipts(1, (5, RECEIVED)))
    rig.uplink.report(0, profile(2, "a"))
    await until(lambda: rig.uplink.calls_total == 1)
    assert await records(store) == [] and rig.durable == []
    await hold(False)
    await until(lambda: len(rig.durable) == 2)
    (record,) = await records(store)
    assert [(r.push_id, r.state, list(r.index)) for r in record.receipts] == [(5, RECEIVED, [1])]
    assert [(p.index, p.change, list(p.tags)) for p in record.profiles] == [(1, 2, ["a"])]


async def test_acknowledgements_come_in_the_order_of_the_reports(rig: Rig, hold: Hold) -> None:
    """An acknowledgement stands for all reports before it."""
    await hold(True)
    for number in range(1, 6):
        rig.uplink.report(0, receipts(number, (5, RECEIVED)))
        await until(lambda: rig.uplink.calls_total)
    await hold(False)
    await until(lambda: len(rig.durable) == 5)
    assert [report.number for report in rig.durable] == [1, 2, 3, 4, 5]


def test_receipts_are_grouped_by_push_and_state() -> None:
    reports = [
        receipts(1, (5, RECEIVED), (6, RECEIVED), device=1),
        receipts(1, (5, RECEIVED), device=2**32 - 1),
        profile(1, "x", device=2),
        receipts(2, (5, CLICKED), (2**64 - 1, RECEIVED), device=1),
    ]
    record = log_pb2.Record.FromString(encode_record(reports))
    assert [(r.push_id, r.state, list(r.index)) for r in record.receipts] == [
        (5, RECEIVED, [1, 2**32 - 1]),
        (6, RECEIVED, [1]),
        (5, CLICKED, [1]),
        (2**64 - 1, RECEIVED, [1]),
    ]
    assert [(p.index, list(p.tags)) for p in record.profiles] == [(2, ["x"])]


async def test_reports_of_a_moment_are_one_append_for_each_partition(
    rig: Rig, store: Store
) -> None:
    for device in range(90):
        rig.uplink.report(device % 2, receipts(1, (5, RECEIVED), device=device))
    await until(lambda: len(rig.durable) == 90)
    assert rig.uplink.calls_total == 2
    (record,) = await records(store, 1)
    assert list(record.receipts[0].index) == list(range(1, 90, 2))
    assert rig.uplink.receipts_total == 90 and rig.uplink.receipts_waiting == 0


async def test_it_is_full_at_its_limit_and_has_room_again_when_the_store_has_answered(
    rig: Rig, hold: Hold
) -> None:
    await hold(True)
    for number in range(1, 34):
        rig.uplink.report(0, receipts(number, (5, 1), (6, 1), (7, 1)))
    assert not rig.uplink.full
    rig.uplink.report(1, receipts(40, (5, 1)))
    assert rig.uplink.full
    await hold(False)
    await until(lambda: not rig.uplink.full and len(rig.durable) == 34)


async def test_profiles_fill_it_too(rig: Rig, hold: Hold) -> None:
    await hold(True)
    tags = [f"tag {n} {'x' * 100}" for n in range(100)]
    for number in range(1, 101):
        rig.uplink.report(0, profile(number, *tags))
    assert rig.uplink.full
    await hold(False)
    await until(lambda: not rig.uplink.full)


async def test_a_new_incarnation_appends_what_the_last_one_held(
    rig: Rig, store: Store, hold: Hold
) -> None:
    """The sessions stand, so their later reports will be acknowledged, and that would stand for
    the earlier ones too: none of them may be missing."""
    rig.uplink.report(0, receipts(1, (5, RECEIVED)))
    await until(lambda: len(rig.durable) == 1)
    await fence_off(store, FIRST)
    rig.uplink.report(0, receipts(2, (6, RECEIVED)))
    await until(lambda: rig.uplink.fenced)
    rig.uplink.report(0, receipts(3, (7, RECEIVED)))
    rig.uplink.begin(Identity("edge", 8, 200))
    rig.uplink.report(0, receipts(4, (8, RECEIVED)))
    await until(lambda: rig.durable[-1].number == 4)
    assert [report.number for report in rig.durable] == [1, 2, 3, 4]
    pushes = {group.push_id for record in await records(store) for group in record.receipts}
    assert pushes == {5, 6, 7, 8}
    assert rig.uplink.receipts_waiting == 0


async def test_reports_under_way_at_a_change_of_number_are_not_lost(
    rig: Rig, store: Store, hold: Hold
) -> None:
    await hold(True)
    rig.uplink.report(0, receipts(1, (5, RECEIVED)))
    await until(lambda: rig.uplink.calls_total == 1)
    rig.uplink.report(0, receipts(2, (6, RECEIVED)))
    rig.uplink.begin(Identity("edge", 8, 200))
    rig.uplink.report(0, receipts(3, (7, RECEIVED)))
    await hold(False)
    await until(lambda: rig.durable and rig.durable[-1].number == 3)
    assert [report.number for report in rig.durable] == [1, 2, 3]
    pushes = {group.push_id for record in await records(store) for group in record.receipts}
    assert pushes == {5, 6, 7}
