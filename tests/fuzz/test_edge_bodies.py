"""Bodies that parse and make no sense, and two connections of one device that get in each other's way.

Bytes that are no frames, frames in any order and bodies of any bytes are tried beside the code
(tests/gateway/edge/test_sessions_fuzz.py); bytes drawn at random hardly ever make a message, so here the
messages are drawn. The invariants are those of that module, and:

* a report that reaches the log has states the log knows, and no more receipts than one frame may have;
* of two connections of one device the registration of each is answered for or taken back.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.store.sessions import Status
from protocol.codes import MAX_RECEIPTS, MAX_TAG_BYTES, MAX_TAGS, Kind
from protocol.frames import split
from protocol.schema import device_pb2, log_pb2
from protocol.states import State
from tests.gateway.edge.stage import Stage, goaway_of, registration, up
from tests.gateway.edge.test_sessions_fuzz import (
    FD,
    HELLO,
    check,
    others,
    stage_with_neighbours,
)

u32 = st.one_of(st.integers(0, 3), st.sampled_from((2**31, 2**32 - 1)), st.integers(0, 2**32 - 1))
u64 = st.one_of(st.integers(0, 3), st.sampled_from((2**53, 2**63, 2**64 - 1)))
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(("", "x" * (MAX_TAG_BYTES + 1), "ü" * MAX_TAG_BYTES, "platform:x", "a\0b")),
)


@st.composite
def receipts(draw: st.DrawFn) -> bytes:
    body = device_pb2.Receipts(seq=draw(u64))
    for _ in range(draw(st.one_of(st.integers(0, 4), st.sampled_from((1000, 1001))))):
        body.receipts.add(push_id=len(body.receipts), at_ms=1)
    for one in body.receipts[: draw(st.integers(0, 3))]:
        one.push_id, one.at_ms = draw(u64), draw(u64)
        one.state = draw(st.integers(-(2**31), 2**31 - 1))  # type: ignore[assignment]
        one.reason = draw(texts)
    return up(Kind.RECEIPTS, body)


@st.composite
def profiles(draw: st.DrawFn) -> bytes:
    body = device_pb2.Profile(change=draw(u64))
    body.tags.extend(draw(st.lists(texts, max_size=5)))
    body.tags.extend(["t"] * draw(st.sampled_from((0, 0, MAX_TAGS, MAX_TAGS + 1))))
    for name in draw(st.lists(texts, max_size=3)):
        body.attributes[name] = draw(texts)
    return up(Kind.PROFILE, body)


heartbeats = u32.map(lambda s: up(Kind.HEARTBEAT, device_pb2.Heartbeat(heartbeat_s=s)))
sensible = st.one_of(receipts(), profiles(), heartbeats)


def check_reports(stage: Stage) -> None:
    for _, report in stage.uplink.reports:
        assert len(report.receipts) <= MAX_RECEIPTS
        for push_id, state in report.receipts:
            assert state in device_pb2.ReceiptState.values() and state
            assert 0 <= push_id < 2**64
        if report.profile:
            profile = log_pb2.Profile.FromString(report.profile)
            assert len(profile.tags) <= MAX_TAGS
            assert all(0 < len(tag.encode()) <= MAX_TAG_BYTES for tag in profile.tags)


@settings(max_examples=200, deadline=None)
@given(st.lists(sensible, min_size=1, max_size=4))
def test_messages_that_parse_and_make_no_sense(frames: list[bytes]) -> None:
    stage = stage_with_neighbours()
    before = others(stage)
    stage.accept(FD)
    stage.feed(FD, HELLO)
    stage.answer(device=9)
    for frame in frames:
        stage.feed(FD, frame)
    check_reports(stage)
    check(stage, before, 1)


@st.composite
def hellos(draw: st.DrawFn) -> bytes:
    hello = registration(nonce=b"n" * 16)
    for name in draw(st.sets(st.sampled_from(("version_min", "version_max", "heartbeat_s")))):
        setattr(hello, name, draw(u32))
    for name in draw(st.sets(st.sampled_from(("connection", "config_version")))):
        setattr(hello, name, draw(u64))
    for name in draw(st.sets(st.sampled_from(("app", "sdk")))):
        setattr(hello, name, draw(texts))
    if draw(st.booleans()):
        hello.registration.time_ms = draw(u64)
    if draw(st.booleans()):
        hello.registration.installation_id = draw(st.binary(max_size=20))
    if draw(st.integers(0, 3)) == 0:
        hello.token = draw(st.binary(max_size=80))
    return up(Kind.HELLO, hello)


@settings(max_examples=150, deadline=None)
@given(hellos(), st.lists(sensible, max_size=2))
def test_a_hello_that_parses_and_makes_no_sense(hello: bytes, frames: list[bytes]) -> None:
    stage = stage_with_neighbours()
    before = others(stage)
    stage.accept(FD)
    stage.feed(FD, hello)
    answered = 0
    if stage.registrar.registered:
        stage.answer(device=9)
        answered = 1
    for frame in frames:
        stage.feed(FD, frame)
    check_reports(stage)
    if stage.asked:
        return  # of an app that nobody knows: the store is asked, and the device waits
    check(stage, before, answered)


Step = tuple[str, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(("hello", "answer", "stale", "frame", "hang up", "replaced")),
        st.integers(0, 1),
    ),
    max_size=14,
)


class Twins:
    """Two connections of device 9, in any order of what can happen to them."""

    FDS = (20, 21)

    def __init__(self) -> None:
        self.stage = stage_with_neighbours()
        self.epoch = 1000
        self.epochs: list[int] = []
        """Of the sessions that the store says stand, in its order."""
        self.here: set[int] = set()
        self.said_hello: set[int] = set()

    def step(self, what: str, which: int) -> None:
        fd = self.FDS[which]
        stage = self.stage
        match what:
            case "hello" if fd not in self.here:
                stage.accept(fd)
                self.here.add(fd)
                stage.feed(fd, stage.hello(device=9, connection=which + 1))
            case "answer" | "stale" if stage.registrar.registered:
                self._answer(Status.REGISTERED if what == "answer" else Status.STALE)
            case "frame" if fd in self.here:
                stage.feed(fd, up(Kind.PING))
            case "hang up" if fd in self.here:
                self._hang_up(fd)
            case "replaced" if self.epochs:
                stage.sessions.drop_replaced(0, 9, self.epoch + 1)

    def _answer(self, status: Status) -> None:
        _, first = self.stage.registrar.registered[0]
        if not self.stage.table.is_row(first.fd, first.row):
            self.stage.registrar.registered.pop(0)  # as the registrar: nobody waits for it
            return
        self.epoch += 1
        if status is Status.REGISTERED:
            self.epochs.append(self.epoch)
        self.stage.answer(device=9, status=status, value=self.epoch)

    def _hang_up(self, fd: int) -> None:
        self.stage.hang_up(fd)
        self.here.discard(fd)


@settings(max_examples=250, deadline=None)
@given(steps)
def test_two_connections_of_one_device(story: list[Step]) -> None:
    twins = Twins()
    stage = twins.stage
    for what, which in story:
        twins.step(what, which)
        standing = [fd for fd in twins.here if stage.table.state[fd] == State.OPEN]
        assert len(standing) <= 1 or not stage.table.fd_of(9), standing
    for fd in sorted(twins.here):
        if fd in stage.reactor.finished:
            goaway_of(stage.reactor.out[fd])
        else:
            split(stage.reactor.out[fd], 1 << 20)
        twins._hang_up(fd)
    while stage.registrar.registered:
        twins._answer(Status.REGISTERED)
    assert stage.table.fd_of(9) is None
    assert {20, 21}.isdisjoint(stage.table.rows.get(0, {}).values())
    assert not stage.sessions.early.take(20) and not stage.sessions.early.take(21)
    # What the store has is taken back, each session at most once.
    back = [epoch for _, device, epoch in stage.registrar.unregistered if device == 9]
    assert len(back) == len(set(back)) and set(back) <= set(twins.epochs)
