"""Tags set by app servers: what the owner checks before it writes them to the log."""

from collections.abc import Iterable

from gateway.dispatch.tagging import Checked, TagLimits, check
from protocol.schema import log_pb2, rpc_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.records import Log

LIMITS = TagLimits(per_device=3, per_app=4)


def item(index: int, add: Iterable[str] = (), remove: Iterable[str] = ()) -> rpc_pb2.TagItem:
    return rpc_pb2.TagItem(index=index, add=add, remove=remove)


def devices() -> Log:
    log = Log()
    log.fold(records.sessions(1, [0, 1], app=1), records.sessions(1, [2], app=2))
    return log


def apply(log: Log, checked: Checked) -> None:
    if checked.record:
        log.fold(checked.record)


def test_items_are_grouped_by_tag() -> None:
    log = devices()
    checked = check(log.partition, 1, [item(0, ["a"]), item(1, ["a", "b"])], LIMITS)
    assert checked.errors == ["", ""]
    taggings = log_pb2.Record.FromString(checked.record).taggings
    assert {(t.tag, t.remove, tuple(t.index)) for t in taggings} == {
        ("a", False, (0, 1)),
        ("b", False, (1,)),
    }


def test_a_device_of_another_app_or_none_is_unknown_and_the_rest_stands() -> None:
    log = devices()
    checked = check(log.partition, 1, [item(2, ["a"]), item(7, ["a"]), item(0, ["a"])], LIMITS)
    assert checked.errors == ["unknown_device", "unknown_device", ""]
    apply(log, checked)
    assert list(log.partition.tags.carriers(1, "a")) == [0]


def test_too_many_tags_on_a_device_cost_that_item_alone() -> None:
    log = devices()
    log.fold(records.profile(0, 1, ["own"]))
    checked = check(log.partition, 1, [item(0, ["a", "b"]), item(0, ["c"]), item(1, ["c"])], LIMITS)
    assert checked.errors == ["", "too_many_tags", ""], "own tags count, and items of this batch"
    apply(log, checked)
    assert log.partition.tags.of(0) == ["a", "b", "own"]


def test_taking_tags_away_is_allowed_above_the_limit() -> None:
    log = devices()
    log.fold(records.profile(0, 1, ["a", "b", "c", "d", "e"]))
    log.fold(records.tagging("x", [0]))
    checked = check(log.partition, 1, [item(0, [], ["x"])], LIMITS)
    assert checked.errors == [""]


def test_too_many_different_tags_of_an_app() -> None:
    log = devices()
    items = [item(0, ["a", "b", "c"]), item(1, ["d", "e"]), item(1, ["d", "a"])]
    checked = check(log.partition, 1, items, LIMITS)
    assert checked.errors == ["", "too_many_names", ""]


def test_nothing_to_do_writes_nothing() -> None:
    assert check(devices().partition, 1, [item(5, ["a"])], LIMITS).record == b""
