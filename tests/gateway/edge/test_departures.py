"""Sessions that go to other edges."""

import asyncio
from collections import Counter

from gateway.edge.departures import Departures, Target
from protocol.codes import CloseCode, Kind
from protocol.frames import split
from protocol.ids import device_id
from protocol.schema import device_pb2
from protocol.states import State
from tests.gateway.edge.stage import Stage, goaway_of, kinds

HERE = range(5, 35)


def opened(spread_ms: int = 5_000) -> tuple[Stage, Departures]:
    stage = Stage(size=128, spread_ms=spread_ms)
    for fd in HERE:
        stage.open(fd, device=device_id(fd % 2, fd))
        stage.take(fd)
    return stage, Departures(stage.table, stage.sessions)


def told(stage: Stage) -> dict[int, device_pb2.GoAway]:
    """By row, to whom GOAWAY was sent since the last look."""
    found = {}
    for fd in HERE:
        for kind, body in split(stage.take(fd), 1000)[0]:
            assert kind == Kind.GOAWAY
            found[fd] = device_pb2.GoAway.FromString(body)
    return found


def coming(stage: Stage, fd: int) -> bytes:
    """A device registers; what it is sent."""
    stage.accept(fd)
    stage.feed(fd, stage.hello(device_id(0, fd)))
    stage.answer(device=fd)
    return stage.take(fd)


async def test_all_of_a_drained_edge_go_by_shares_and_at_once_where_there_is_another() -> None:
    stage, departures = opened()
    assert departures.drain([Target("a:1", 1), Target("b:2", 3)], 0.0) == len(HERE)
    await departures.finished()
    goaways = told(stage)
    assert goaways.keys() == set(HERE)
    assert {goaway.code for goaway in goaways.values()} == {CloseCode.GOING_AWAY}
    assert {goaway.retry_after_ms for goaway in goaways.values()} == {1}
    places = Counter(goaway.address for goaway in goaways.values())
    assert places.keys() == {"a:1", "b:2"} and places["b:2"] > places["a:1"]
    assert all(stage.table.state[fd] == State.LEAVING for fd in HERE)


async def test_without_another_edge_they_come_back_spread() -> None:
    stage, departures = opened()
    departures.drain([], 0.0)
    await departures.finished()
    goaways = told(stage)
    assert {goaway.address for goaway in goaways.values()} == {""}
    assert len({goaway.retry_after_ms for goaway in goaways.values()}) > len(HERE) / 2
    assert all(1 <= goaway.retry_after_ms <= 5_000 for goaway in goaways.values())


async def test_who_registers_while_it_drains_is_sent_on() -> None:
    stage, departures = opened()
    departures.drain([Target("a:1", 1)], 0.0)
    await departures.finished()
    assert goaway_of(coming(stage, 40)).address == "a:1"
    departures.undo()
    assert kinds(coming(stage, 41)) == [Kind.WELCOME]


async def test_so_many_move_as_each_other_edge_is_to_get() -> None:
    stage, departures = opened()
    assert departures.move([Target("a:1", 4), Target("b:2", 7)], 0.0) == 11
    await departures.finished()
    assert Counter(goaway.address for goaway in told(stage).values()) == {"a:1": 4, "b:2": 7}
    assert departures.move([Target("a:1", 1000)], 0.0) == len(HERE) - 11, "no more than there are"
    await departures.finished()
    assert len(told(stage)) == len(HERE) - 11


async def test_they_go_a_few_at_a_time_and_a_drain_takes_over() -> None:
    stage, departures = opened()
    departures.move([Target("a:1", len(HERE))], 60.0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first = told(stage)
    assert 1 <= len(first) < len(HERE) / 2 and departures.under_way
    assert departures.drain([Target("b:2", 1)], 0.0) == len(HERE) - len(first)
    await departures.finished()
    rest = told(stage)
    assert {goaway.address for goaway in rest.values()} == {"b:2"}
    assert first.keys() | rest.keys() == set(HERE) and not first.keys() & rest.keys()


async def test_a_row_that_has_another_owner_meanwhile_stays() -> None:
    stage, departures = opened()
    departures.move([Target("a:1", len(HERE))], 0.0)
    stage.hang_up(5)
    stage.open(5, device=device_id(1, 77))
    stage.take(5)
    await departures.finished()
    assert 5 not in told(stage) and stage.table.state[5] == State.OPEN
