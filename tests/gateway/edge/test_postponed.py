"""Acknowledgements that wait for company: on a clock of the test's own, and behind real sockets."""

import heapq
import socket
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.output import Item
from gateway.edge.postponed import LATEST_S, Postponed
from gateway.lanes import NORMAL
from tests.gateway.edge.wires import Wires, all_of, wires
from tests.waiting import until

TICK_S = 0.05
AT_ONCE = 10
IN_ONE_TURN = 32


class Handle:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualLoop:
    """Timers on a clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, int, Callable[[], None], Handle]] = []
        self._soon: list[Callable[[], None]] = []
        self._count = 0
        self.soons = 0

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        self.soons += 1
        self._soon.append(callback)
        return Handle()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        self._count += 1
        handle = Handle()
        heapq.heappush(self._timers, (self.now + delay, self._count, callback, handle))
        return handle

    def go_on(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            while self._soon:
                self._soon.pop(0)()
            if not self._timers or self._timers[0][0] > end:
                break
            self.now, _, callback, handle = heapq.heappop(self._timers)
            if not handle.cancelled:
                callback()
        self.now = end

    @property
    def rests(self) -> bool:
        return not self._timers and not self._soon


class Stage:
    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.sent: list[tuple[int, bytes]] = []
        self.sent_at: list[float] = []
        self.on_sent: Callable[[int], None] = lambda fd: None
        self.postponed = Postponed(self.loop, self._send)

    def _send(self, fd: int, frame: bytes) -> None:
        self.sent.append((fd, frame))
        self.sent_at.append(self.loop.now)
        self.on_sent(fd)

    def spend(self) -> None:
        """What may go at once in this moment, on other connections."""
        for fd in range(1000, 1000 + AT_ONCE):
            self.postponed.put(fd, b"x")
        self.loop.go_on(0)
        self.sent.clear()
        self.sent_at.clear()


def test_the_first_of_a_moment_go_at_once_and_the_others_a_second_later() -> None:
    stage = Stage()
    for fd in range(AT_ONCE + 2):
        stage.postponed.put(fd, b"a")
    stage.postponed.put(0, b"a")
    stage.loop.go_on(0)
    assert [fd for fd, _ in stage.sent] == list(range(AT_ONCE))
    stage.loop.go_on(TICK_S)
    stage.postponed.put(50, b"b")
    stage.loop.go_on(0)
    assert stage.sent[AT_ONCE:] == [(50, b"b")], "another moment"
    stage.loop.go_on(LATEST_S - 2 * TICK_S)
    assert len(stage.sent) == AT_ONCE + 1 and len(stage.postponed) == 2
    stage.loop.go_on(2 * TICK_S)
    assert stage.sent[AT_ONCE + 1 :] == [(10, b"a"), (11, b"a")] and not stage.postponed
    stage.loop.go_on(TICK_S)
    assert stage.loop.rests, "nobody is woken up for nothing"


def test_one_that_waits_stands_for_those_before_and_goes_when_the_first_was_due() -> None:
    stage = Stage()
    stage.spend()
    stage.postponed.put(1, b"1")
    stage.loop.go_on(LATEST_S - TICK_S)
    stage.postponed.put(1, b"2")
    stage.loop.go_on(2 * TICK_S)
    assert stage.sent == [(1, b"2")], "the first does not overtake, nor the second go by itself"


def test_what_is_taken_is_not_sent() -> None:
    stage = Stage()
    stage.spend()
    stage.postponed.put(1, b"1")
    assert stage.postponed.take(1) == b"1" and stage.postponed.take(1) == b""
    stage.loop.go_on(2 * LATEST_S)
    assert stage.sent == []


def test_thousands_that_are_due_together_go_a_few_in_a_turn() -> None:
    stage = Stage()
    stage.spend()
    for fd in range(100):
        stage.postponed.put(fd, b"x")
    turns = stage.loop.soons
    stage.loop.go_on(LATEST_S + TICK_S)
    assert stage.loop.soons - turns == 100 // IN_ONE_TURN
    assert [fd for fd, _ in stage.sent] == list(range(100)), "the longest waiting first"


def test_between_those_turns_no_more_go_at_once_than_in_any_moment() -> None:
    stage = Stage()
    stage.spend()
    for fd in range(100):
        stage.postponed.put(fd, b"x")
    stage.loop.go_on(LATEST_S - TICK_S)
    stage.on_sent = lambda fd: stage.postponed.put(2000 + fd, b"y") if fd < 100 else None
    stage.loop.go_on(2 * TICK_S)
    assert len(stage.sent) == 100 + AT_ONCE and len(stage.postponed) == 100 - AT_ONCE


def test_after_its_end_nothing_is_sent() -> None:
    stage = Stage()
    stage.spend()
    stage.postponed.put(1, b"x")
    stage.postponed.stop()
    stage.loop.go_on(2 * LATEST_S)
    assert stage.sent == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5)),
        st.tuples(st.just("take"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.sampled_from([0.01, 0.05, 0.3, 1.0])),
    ),
    max_size=80,
)


@given(STEPS)
def test_the_last_of_a_connection_always_gets_out_in_order_and_in_time(
    steps: list[tuple[str, float]],
) -> None:
    stage = Stage()
    put_at: dict[int, dict[int, float]] = {fd: {} for fd in range(6)}
    out: dict[int, list[int]] = {fd: [] for fd in range(6)}
    number = 0

    def look() -> None:
        for (fd, frame), at in zip(stage.sent, stage.sent_at, strict=True):
            last = int.from_bytes(frame)
            covered = [n for n in put_at[fd] if n <= last]
            assert all(at - put_at[fd].pop(n) <= LATEST_S + 2 * TICK_S for n in covered)
            out[fd].append(last)
        stage.sent.clear()
        stage.sent_at.clear()

    for step, value in steps:
        fd = int(value)
        if step == "put":
            number += 1
            put_at[fd][number] = stage.loop.now
            stage.postponed.put(fd, number.to_bytes(2))
        elif step == "take":
            frame = stage.postponed.take(fd)
            assert bool(frame) == bool(put_at[fd])
            if frame:
                stage.sent.append((fd, frame))
                stage.sent_at.append(stage.loop.now)
        else:
            stage.loop.go_on(value)
        look()
    stage.loop.go_on(2 * LATEST_S)
    look()
    assert not any(put_at.values()), "all of them are out"
    assert all(numbers == sorted(numbers) for numbers in out.values())


# Behind a reactor.


async def spent(stage: Wires) -> tuple[socket.socket, int]:
    """A connection, in a moment in which nothing more may go at once: (the peer, our descriptor)."""
    peer = stage.connect()
    await until(lambda: stage.handler.accepted)
    (fd,) = stage.handler.accepted
    loop = ManualLoop()  # on which this moment lasts until the test ends
    stage.reactor.postponed = Postponed(loop, stage.reactor.send)
    for _ in range(AT_ONCE):
        stage.reactor.postpone(fd, b"")
        loop.go_on(0)
    stage.reactor.flush()
    return peer, fd


async def test_it_goes_in_one_write_with_what_else_goes_to_the_connection_and_before_it() -> None:
    with wires() as stage:
        peer, fd = await spent(stage)
        writes = stage.reactor.writes_total
        stage.reactor.postpone(fd, b"ack 1.")
        stage.reactor.postpone(fd, b"ack 2.")
        assert stage.reactor.offer(fd, Item(NORMAL, 7, b"message."))
        await until(lambda: stage.reactor.writes_total > writes)
        assert await all_of(peer, 14) == b"ack 2.message."
        assert not stage.reactor.postponed


async def test_one_that_waits_is_written_before_the_last_bytes_of_its_connection() -> None:
    with wires() as stage:
        peer, fd = await spent(stage)
        stage.reactor.postpone(fd, b"ack.")
        stage.reactor.finish(fd, b"goaway")
        assert await all_of(peer, 10) == b"ack.goaway"


async def test_the_next_owner_of_a_descriptor_gets_nothing_of_the_one_before() -> None:
    with wires() as stage:
        first, fd = await spent(stage)
        stage.reactor.postpone(fd, b"ack.")
        first.close()
        await until(lambda: stage.handler.closed)
        assert not stage.reactor.postponed
        second = stage.connect()
        await until(lambda: len(stage.handler.accepted) == 2)
        assert stage.handler.accepted[1] == fd
        stage.reactor.send(fd, b"hello")
        assert await all_of(second, 5) == b"hello"
