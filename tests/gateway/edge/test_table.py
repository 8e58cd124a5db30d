"""The table against a dict of plain records, and the sweep against a clock."""

import itertools
from collections import deque
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.edge.table import TICK_S, Table
from gateway.edge.wheel import MOST_TICKS, Wheel
from protocol.codes import HEARTBEAT_MAX_S, server_timeout_s
from protocol.ids import device_id, split_device_id
from protocol.states import State

FDS = st.integers(0, 5)
DEVICES = st.builds(device_id, st.integers(0, 1), st.integers(0, 3))


BEFORE_OPEN = (State.CONNECTED, State.GREETED)


@dataclass
class Row:
    generation: int
    state: State = State.CONNECTED
    device: int | None = None
    epoch: int = 0
    speaks: bool = False
    """It is the session of its device at this edge."""
    arrives: bool = False
    """It is the latest registration of its device under way."""


class TableAgainstModel(RuleBasedStateMachine):
    """Few descriptors and few devices, so that both are used again all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(8)
        self.model: dict[int, Row] = {}
        self.past: list[tuple[int, int]] = []
        """(descriptor, generation) of rows that are gone"""
        self.epoch = 0

    @rule(fd=FDS)
    def add(self, fd: int) -> None:
        if fd not in self.model:
            generation = self.table.add(fd)
            assert (fd, generation) not in self.past
            self.model[fd] = Row(generation)

    @rule(fd=FDS)
    def greet(self, fd: int) -> None:
        row = self.model.get(fd)
        if row is not None and row.state is State.CONNECTED:
            row.state = State.GREETED
            self.table.greet(fd)

    @rule(fd=FDS, device=DEVICES)
    def arrive(self, fd: int, device: int) -> None:
        row = self.model.get(fd)
        if row is None or row.state not in BEFORE_OPEN or row.device is not None:
            return
        for other in self.model.values():
            if other.device == device:
                other.arrives = False
        row.device, row.arrives = device, True
        self.table.arrive(fd, device)

    @rule(fd=FDS, device=DEVICES)
    def open(self, fd: int, device: int) -> None:
        row = self.model.get(fd)
        if row is None or row.state not in BEFORE_OPEN:
            return
        device = device if row.device is None else row.device
        older = next((k for k, r in self.model.items() if r.device == device and r.speaks), None)
        if older is not None:
            self.model[older].speaks = False
            self.model[older].epoch = 0
        self.epoch += 1
        row.device, row.epoch, row.speaks, row.arrives = device, self.epoch, True, False
        row.state = State.OPEN
        assert self.table.open(fd, device, self.epoch) == older

    @rule(fd=FDS)
    def leave(self, fd: int) -> None:
        row = self.model.get(fd)
        if row is not None:
            row.state, row.arrives, row.speaks = State.LEAVING, False, False
            self.table.leave(fd)

    @precondition(lambda self: self.model)
    @rule(fd=FDS)
    def remove(self, fd: int) -> None:
        row = self.model.pop(fd, None)
        if row is not None:
            self.past.append((fd, row.generation))
            self.table.remove(fd)

    @invariant()
    def same(self) -> None:
        table, model = self.table, self.model
        for fd in range(table.size):
            row = model.get(fd)
            assert table.state[fd] == (row.state if row else State.CLOSED)
            assert table.epoch[fd] == (row.epoch if row else 0)
            assert row is None or table.is_row(fd, row.generation)
        assert not any(table.is_row(fd, generation) for fd, generation in self.past)
        assert table.connections == len(model)
        assert table.greeted == sum(row.state is State.GREETED for row in model.values())
        speaking = {row.device: fd for fd, row in model.items() if row.speaks}
        assert table.open_rows == len(speaking)
        for p in range(2):
            for index in range(4):
                assert table.fd_of(device_id(p, index)) == speaking.get(device_id(p, index))
            here = {split_device_id(d)[1] for d in speaking if d is not None and d >> 32 == p}
            assert set(table.here.get(p, ())) == here
        arriving = {row.device: fd for fd, row in model.items() if row.arrives}
        assert arriving == {
            device_id(p, index): fd
            for p, rows in table.arriving.items()
            for index, fd in rows.items()
        }


TableAgainstModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
test_table_is_its_model = TableAgainstModel.TestCase


def test_a_row_that_is_gone_is_not_the_one_that_has_its_descriptor_now() -> None:
    table = Table(4)
    first = table.add(3)
    table.remove(3)
    assert not table.is_row(3, first)
    second = table.add(3)
    assert table.is_row(3, second) and not table.is_row(3, first)


def test_no_row_is_named_by_generation_zero_of_a_living_one() -> None:
    table = Table(2)
    table._last_generation = 0xFFFF_FFFF
    assert table.add(0) == 1


def test_the_older_row_of_a_device_goes_without_taking_the_newer_one_along() -> None:
    table = Table(4)
    table.add(1), table.add(2)
    assert table.open(1, 7, 100) is None
    assert table.open(2, 7, 101) == 1
    assert table.epoch[1] == 0, "its end is no news to the store"
    table.remove(1)
    assert table.fd_of(7) == 2 and set(table.here[0]) == {7} and table.open_rows == 1


def test_a_row_that_was_sent_away_takes_no_early_messages() -> None:
    table = Table(4)
    table.add(1)
    table.arrive(1, 7)
    table.leave(1)
    assert table.arriving.get(0, {}) == {}


def test_a_row_that_was_sent_away_gets_no_messages_but_its_session_stands_until_it_closes() -> None:
    table = Table(4)
    table.add(1)
    table.open(1, 7, 100)
    table.leave(1)
    assert table.fd_of(7) is None and not table.here[0] and table.open_rows == 0
    assert table.epoch[1] == 100


# The sweep: seconds since the start of the edge.


@settings(max_examples=200, deadline=None)
@given(
    began=st.floats(0, 3000),
    timeout_s=st.floats(1, server_timeout_s(HEARTBEAT_MAX_S)),
    heartbeats=st.lists(st.floats(0.0, 1.0), max_size=5),
    turns=st.lists(st.floats(0.25, 30), min_size=1, max_size=8),
)
def test_nobody_dies_before_the_timeout_and_everybody_soon_after_it(
    began: float, timeout_s: float, heartbeats: list[float], turns: list[float]
) -> None:
    """Sweeps come at any intervals (`turns`, over and over), heartbeats anywhere between them."""
    table = Table(4)
    table.sweep(began)
    table.add(2)
    table.set_timeout(2, timeout_s)
    swept = seen = began
    seen_late = 0.0
    frames = deque(itertools.accumulate((part * timeout_s for part in heartbeats), initial=began))
    for interval in itertools.cycle(turns):
        while frames and frames[0] < swept + interval:
            seen = frames.popleft()
            seen_late = seen - swept
            table.seen(2)
        swept += interval
        dead = table.sweep(swept)
        if dead:
            break
        # Timeouts are rounded up to ticks, and the tick that runs has begun already.
        assert swept - seen <= timeout_s + 2 * TICK_S, "not dead in time"
    assert dead == [2]
    # A frame counts from the sweep before it: nobody looked at the clock since.
    assert swept - seen >= timeout_s - seen_late - 1e-6
    assert table.sweep(swept + 2000) == [], "nobody dies twice"


def test_the_longest_timeout_holds_wherever_the_ticks_stand() -> None:
    """Deadlines are kept in a byte and wrap around: none may look like a past one."""
    longest = server_timeout_s(HEARTBEAT_MAX_S)
    for start in range(300):
        table = Table(2)
        began = start * TICK_S
        table.sweep(began)
        table.add(1)
        table.set_timeout(1, longest)
        assert table.sweep(began + longest) == []
        assert table.sweep(began + longest + 2 * TICK_S) == [1]


def test_skipped_ticks_are_looked_at_too() -> None:
    table = Table(8)
    for fd, timeout in ((1, 10), (2, 100), (3, 900)):
        table.add(fd)
        table.set_timeout(fd, timeout)
    assert table.sweep(600) == [1, 2]
    assert table.sweep(1600) == [3]


def test_rows_without_a_session_have_no_heartbeat_to_keep() -> None:
    table = Table(4)
    table.add(1)
    assert table.sweep(4000) == []
    table.set_timeout(1, 20)
    table.remove(1)
    assert table.sweep(8000) == []


def test_a_handshake_has_its_time_and_no_more() -> None:
    table = Table(4)
    table.add(1), table.add(2), table.add(3)
    for fd in (1, 2, 3):
        table.set_handshake(fd, 8.0)
    table.open(2, 7, 100)
    table.leave(3)
    assert table.sweep_handshakes(8.0) == []
    assert table.sweep_handshakes(8.5) == [1]


@given(
    deadlines=st.dictionaries(st.integers(0, 15), st.integers(1, MOST_TICKS), max_size=16),
    cleared=st.sets(st.integers(0, 15)),
    start=st.integers(0, 600),
    steps=st.lists(st.integers(0, 300), max_size=6),
)
def test_a_wheel_is_a_dict_of_deadlines(
    deadlines: dict[int, int], cleared: set[int], start: int, steps: list[int]
) -> None:
    wheel = Wheel(16)
    wheel.advance(start)
    model = {}
    for row, ticks in deadlines.items():
        wheel.set(row, ticks)
        model[row] = start + ticks
    for row in cleared:
        wheel.clear(row)
        model.pop(row, None)
    for tick in itertools.accumulate(steps, initial=start):
        due = wheel.advance(tick)
        assert sorted(due) == sorted(row for row, at in model.items() if at <= tick)
        assert [model[row] for row in due] == sorted(model[row] for row in due), "earlier first"
        for row in due:
            del model[row]


def test_who_watches_hears_whose_rows_have_left() -> None:
    table = Table(8)
    for fd in (1, 2, 3):
        table.add(fd)
        table.open(fd, fd, fd)
    with table.watched() as left, table.watched() as other:
        assert left == {}
        table.remove(1)
        table.add(1)
        table.open(1, 30, 4)
        table.remove(1)
        assert left == other == {1: 1}, "it is another's row meanwhile"
        table.leave(2)
        table.add(4)
        table.open(4, 3, 5)
        assert left == {1: 1, 2: 2, 3: 3}
    table.remove(3)
    table.remove(4)
    assert left == {1: 1, 2: 2, 3: 3} and table._watchers == []
