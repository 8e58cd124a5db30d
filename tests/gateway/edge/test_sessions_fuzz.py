"""Bytes of a device, damaged in every way. Whatever comes:

* no exception leaves the session code;
* the connection stays legal, or it is told GOAWAY as its last frame and closed, and counted once;
* what is sent are whole frames of the kinds that travel down;
* no other row changes, and nothing is sent to one;
* once it has closed, nothing of it is left.
"""

from collections.abc import Callable
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.codes import CloseCode, Kind
from protocol.frames import PING, varint
from protocol.schema import device_pb2
from protocol.states import UPWARD, State
from tests.gateway.edge.stage import Stage, goaway_of, kinds, receipts, registration, up

FD = 20
HELLO = up(Kind.HELLO, registration(nonce=b"n" * 16))
PROFILE = device_pb2.Profile(change=2, tags=["a", "b:c"], attributes={"lang": "de"})
FRAMES = [
    HELLO,
    PING,
    receipts(1, 5, 6),
    receipts(2, 7, state="CLICKED"),
    up(Kind.PROFILE, PROFILE),
    up(Kind.HEARTBEAT, device_pb2.Heartbeat(heartbeat_s=2**32 - 1)),
    up(0x9A) + PING,
    up(Kind.BYE),
]
REST = b"".join(FRAMES[1:-1]) * 2 + FRAMES[-1]

Damage = Callable[[bytes], bytes]
place = st.integers(0, len(HELLO + REST))
damages: st.SearchStrategy[Damage] = st.one_of(
    st.builds(lambda at, b: lambda d: d[:at] + b + d[at:], place, st.binary(max_size=8)),
    st.builds(lambda at, n: lambda d: d[:at] + d[at + n :], place, st.integers(1, 40)),
    st.builds(
        lambda at, b: lambda d: d[:at] + bytes((b,)) + d[at + 1 :], place, st.integers(0, 255)
    ),
    st.builds(lambda at, n: lambda d: d[: at + n] + d[at:], place, st.integers(1, 80)),
    st.builds(
        lambda at, kind, n: lambda d: d[:at] + bytes((kind,)) + varint(n) + d[at:],
        place,
        st.integers(0, 255),
        st.integers(0, 2**28),
    ),
)
cuts = st.lists(st.integers(0, 2 * len(HELLO + REST)), max_size=10).map(sorted)


def stage_with_neighbours() -> Stage:
    stage = Stage(output_cap_bytes=4096)
    stage.open(3, device=1)
    stage.accept(4)
    stage.accept(5)
    stage.feed(5, stage.hello(device=2))
    stage.registrar.registered.clear()
    return stage


def others(stage: Stage) -> object:
    table = stage.table
    return [
        (table.state[fd], table.generation[fd], table.device[fd], table.epoch[fd])
        for fd in range(table.size)
        if fd != FD
    ]


def feed(stage: Stage, data: bytes, at: list[int], answered_after: int) -> int:
    """In pieces; the store answers after one of them. Returns how many registrations it answered."""
    answered = 0
    edges = [0, *(cut for cut in at if cut <= len(data)), len(data)]
    for n, (a, b) in enumerate(pairwise(edges)):
        stage.feed(FD, data[a:b])
        if n >= answered_after and stage.registrar.registered:
            stage.answer(device=9)
            answered += 1
    return answered


def check(stage: Stage, before: object, answered: int) -> None:
    assert others(stage) == before
    assert set(stage.reactor.out) <= {FD}, "somebody else was written to"
    sent = kinds(stage.reactor.out[FD])
    assert not UPWARD & set(sent)
    state = State(stage.table.state[FD])
    if FD in stage.reactor.finished:
        assert state is State.LEAVING
        assert sent.count(Kind.GOAWAY) == 1 and sent[-1] is Kind.GOAWAY
        assert CloseCode(goaway_of(stage.reactor.out[FD]).code)
        assert sum(stage.sessions.closes.values()) == 1
    elif FD in stage.reactor.closed:
        assert stage.sessions.closes == {"bye": 1}
    else:
        assert state in (State.CONNECTED, State.GREETED, State.OPEN)
        assert stage.sessions.closes == {}
    opened = Kind.WELCOME in sent
    assert opened or stage.uplink.reports == []
    stage.hang_up(FD)
    assert answered >= opened
    # Opened or not: what the store has registered is unregistered, once.
    assert [d for _, d, _ in stage.registrar.unregistered] == [9] * answered
    assert stage.table.state[FD] == State.CLOSED and stage.table.fd_of(9) is None
    assert all(FD not in rows.values() for rows in stage.table.rows.values())
    assert all(FD not in rows.values() for rows in stage.table.arriving.values())
    # The next owner of the descriptor starts from nothing.
    stage.registrar.registered.clear()
    stage.accept(FD)
    stage.feed(FD, stage.hello(device=11))
    stage.answer()
    assert kinds(stage.take(FD)) == [Kind.WELCOME]


@settings(max_examples=250, deadline=None)
@given(st.lists(damages, max_size=4), cuts, st.integers(0, 4))
@example([], [len(HELLO)], 0)
def test_a_damaged_conversation(done: list[Damage], at: list[int], answered_after: int) -> None:
    data = HELLO + REST
    for damage in done:
        data = damage(data)
    stage = stage_with_neighbours()
    before = others(stage)
    stage.accept(FD)
    check(stage, before, feed(stage, data, at, answered_after))


@settings(max_examples=250, deadline=None)
@given(st.lists(damages, max_size=3), cuts)
def test_a_session_that_goes_wrong(done: list[Damage], at: list[int]) -> None:
    data = REST
    for damage in done:
        data = damage(data)
    stage = stage_with_neighbours()
    before = others(stage)
    stage.accept(FD)
    stage.feed(FD, HELLO)
    stage.answer(device=9)
    check(stage, before, 1 + feed(stage, data, at, 0))


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(FRAMES), max_size=8), cuts, st.integers(0, 4))
def test_good_frames_in_any_order(frames: list[bytes], at: list[int], answered_after: int) -> None:
    data = b"".join(frames)
    stage = stage_with_neighbours()
    before = others(stage)
    stage.accept(FD)
    check(stage, before, feed(stage, data, at, answered_after))


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 12), st.binary(max_size=200))
def test_any_body_in_a_good_frame(kind: int, body: bytes) -> None:
    stage = stage_with_neighbours()
    before = others(stage)
    stage.accept(FD)
    stage.feed(FD, HELLO)
    stage.answer(device=9)
    stage.feed(FD, bytes((kind,)) + varint(len(body)) + body)
    check(stage, before, 1)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_any_body_of_hello(body: bytes) -> None:
    stage = stage_with_neighbours()
    before = others(stage)
    stage.accept(FD)
    stage.feed(FD, bytes((Kind.HELLO,)) + varint(len(body)) + body)
    check(stage, before, 0)
