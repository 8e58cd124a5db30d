"""What an audience means in a partition: its leaves looked up in the state, at a given time."""

import json
from typing import Any

import pytest

from gateway.dispatch.audiences import DAY_MS, select
from gateway.dispatch.campaign import DISPLAYED, FAILED, RECEIVED, Campaign
from gateway.dispatch.partition import MOST_DAYS, Partition
from protocol.ids import device_id
from tests.gateway.dispatch import records
from tests.gateway.dispatch.records import START_MS, Log


def who(partition: Partition, audience: Any, *, app: int = 1, ms: int = START_MS) -> list[int]:
    return list(select(partition, app, json.dumps(audience).encode(), ms).devices)


@pytest.fixture
def log() -> Log:
    """Devices 0 to 5 of app 1, and 6 of app 2; all were online, 4 and 5 have left."""
    log = Log()
    log.fold(records.sessions(1, range(6), app=1), records.sessions(1, [6], app=2))
    log.fold(records.sessions(1, [], [4, 5]))
    log.fold(records.profile(0, 1, ["city:gz"]), records.profile(1, 1, ["city:sz"]))
    log.fold(records.tagging("vip", [0, 2]), records.tagging("city:gz", [3]))
    return log


@pytest.mark.parametrize(
    ("audience", "devices"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ({"tag": "city:gz"}, [0, 3]),
        ({"tag": "nobody"}, []),
        ({"not": {"tag": "vip"}}, [1, 3, 4, 5]),
        ({"and": [{"tag": "city:gz"}, {"not": {"tag": "vip"}}]}, [3]),
        ({"or": [{"tag": "city:sz"}, {"tag": "vip"}]}, [0, 1, 2]),
        ({"devices": [str(device_id(0, 1)), str(device_id(3, 2)), str(device_id(0, 6))]}, [1]),
        ({"sample": 1}, [0, 1, 2, 3, 4, 5]),
        ({"sample": 0}, []),
        ({"tag": "new:1d"}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_leaves_and_operators(log: Log, audience: Any, devices: list[int]) -> None:
    assert who(log.partition, audience) == devices


def test_apps_are_apart(log: Log) -> None:
    log.fold(records.tagging("vip", [6], app=2), records.tagging("vip", [1], app=2))
    assert who(log.partition, "all", app=2) == [6]
    assert who(log.partition, {"tag": "vip"}, app=2) == [6], "not the device of another app"
    assert who(log.partition, {"tag": "vip"}) == [0, 2]


def test_what_the_device_and_what_the_server_says_are_kept_apart(log: Log) -> None:
    log.fold(records.profile(0, 2, []))
    assert who(log.partition, {"tag": "city:gz"}) == [3]
    log.fold(records.tagging("city:sz", [1], remove=True))
    assert who(log.partition, {"tag": "city:sz"}) == [1], "the device still says so"


def test_states_of_a_push_are_audiences(log: Log) -> None:
    log.fold(records.push(9, everybody=True), records.push(8, [2], content=b"c"))
    log.fold(records.receipts(9, DISPLAYED, [0]), records.receipts(9, RECEIVED, [1]))
    log.fold(records.receipts(9, FAILED, [1, 2]), records.receipts(8, RECEIVED, [2]))

    def of(push: int, state: str) -> list[int]:
        return who(log.partition, {"push": str(push), "state": state})

    assert of(9, "targeted") == [0, 1, 2, 3, 4, 5]
    assert of(9, "received") == [0, 1]
    assert of(9, "failed") == [2], "received is the stronger state"
    assert of(9, "displayed") == [0]
    assert of(9, "pending") == [3, 4, 5]
    assert of(8, "received") == [2]
    assert of(7, "received") == [], "no such push"
    unread = {
        "and": [{"push": "9", "state": "received"}, {"not": {"push": "9", "state": "displayed"}}]
    }
    assert who(log.partition, unread) == [1]
    assert who(log.partition, {"push": "9", "state": "targeted"}, app=2) == []


def test_active_is_who_is_online_or_was_lately() -> None:
    log = Log()
    log.fold(records.sessions(1, [0, 1], app=1), records.sessions(1, [], [1]))
    for days, devices in ((0, [0, 1]), (1, [0])):
        later = START_MS + days * DAY_MS
        assert who(log.partition, {"tag": "active:1d"}, ms=later) == devices
    week_later = START_MS + 6 * DAY_MS
    assert who(log.partition, {"tag": "active:7d"}, ms=week_later) == [0, 1]
    assert who(log.partition, {"tag": "active:7d"}, ms=week_later + DAY_MS) == [0]
    assert who(log.partition, {"tag": "new:7d"}, ms=week_later + DAY_MS) == []


def test_days_that_nobody_can_ask_for_are_dropped() -> None:
    partition = Partition(0)
    for day in range(100):
        partition.fold(f"{day * DAY_MS}-0", records.sessions(1, [day]))
    assert sorted(partition.seen) == sorted(partition.born) == list(range(100 - MOST_DAYS, 100))


def test_an_audience_is_fixed_when_the_push_is_folded(log: Log) -> None:
    log.fold(records.push(9, audience=b'{"tag": "vip"}', accepted_ms=START_MS))
    log.fold(records.tagging("vip", [1]), records.tagging("vip", [0], remove=True))
    push = log.partition.pushes[9]
    assert isinstance(push, Campaign)
    assert list(push.targeted) == [0, 2]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"tag": 3}', b'{"segment": "vips"}'])
def test_what_cannot_be_read_means_nobody(log: Log, raw: bytes) -> None:
    assert not select(log.partition, 1, raw, START_MS).devices
