"""The session against bytes and literal times."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk.entries import Receipt
from client_sdk.heartbeat import Network, Prober, Probing
from client_sdk.journal import Arrival
from client_sdk.session import (
    NEVER,
    Dead,
    Event,
    GoneAway,
    Opened,
    ProfileAcked,
    Recalls,
    ReceiptsAcked,
    Session,
)
from client_sdk.state import Profile
from protocol import frames
from protocol.codes import MAX_BODY_DOWN, MAX_BODY_UP, CloseCode, Kind
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.schema import device_pb2
from protocol.schema.device_pb2 import DISPLAYED, RECEIVED
from protocol.states import State

PROBING = Probing(start_s=100, step_s=50, max_s=400, successes=2, failures=2, back_s=10)
TOLD = device_pb2.Probing(start_s=100, step_s=50, max_s=400, successes=2, failures=2, back_s=10)


def session(network: Network | None = None, fixed_s: int | None = None) -> Session:
    prober = Prober(network or Network(""), PROBING, fixed_s)
    return Session(prober, now=0.0, wall_ms=1_000_000)


def down(kind: int, body: object = None) -> bytes:
    return frames.encode(kind, body.SerializeToString() if body else b"")  # type: ignore[attr-defined]


def welcome(**fields: object) -> bytes:
    fields.setdefault("probing", TOLD)
    return down(Kind.WELCOME, device_pb2.Welcome(**fields))  # type: ignore[arg-type]


def opened(network: Network | None = None, **fields: object) -> Session:
    this = session(network)
    this.hello(device_pb2.Hello(), 0.0)
    this.receive_data(welcome(**fields), 0.0)
    return this


def sent(data: bytes) -> list[frames.Frame]:
    cut, used = frames.split(data, MAX_BODY_UP)
    assert used == len(data)
    return cut


def kinds(data: bytes) -> list[Kind]:
    return [Kind(kind) for kind, _ in sent(data)]


PONG = frames.PONG
CONVERSATION = b"".join(
    (
        welcome(device_id=7, recalled=[9, 1 << 63]),
        down(
            Kind.MESSAGE,
            device_pb2.Message(
                push_id=5, ttl_s=60, content=device_pb2.Content(data={"a": "b" * 300})
            ),
        ),
        PONG,
        down(0x80 | 0x41, device_pb2.Content()),
        down(Kind.PROFILE_ACK, device_pb2.ProfileAck(change=3)),
        down(Kind.MESSAGE, device_pb2.Message(push_id=6, collapse_key="score")),
        down(Kind.RECALL, device_pb2.Recall(push_id=[5, 8])),
        down(Kind.RECEIPT_ACK, device_pb2.ReceiptAck(seq=0)),
        down(Kind.GOAWAY, device_pb2.GoAway(code=4000)),
    )
)
WHAT_IT_SAYS = [
    Opened(device_pb2.Welcome(device_id=7, probing=TOLD, recalled=[9, 1 << 63])),
    Arrival(5, 60, device_pb2.Content(data={"a": "b" * 300}).SerializeToString()),
    ProfileAcked(3),
    Arrival(6, 0, b"", "score"),
    Recalls([5, 8]),
    ReceiptsAcked([]),
    GoneAway(device_pb2.GoAway(code=4000)),
]


def heard(chunks: list[bytes]) -> list[Event]:
    this = session()
    this.hello(device_pb2.Hello(), 0.0)
    return [event for chunk in chunks for event in this.receive_data(chunk, 1.0)]


def test_whole() -> None:
    assert heard([CONVERSATION]) == WHAT_IT_SAYS


def test_byte_by_byte() -> None:
    assert heard([bytes((byte,)) for byte in CONVERSATION]) == WHAT_IT_SAYS


@given(st.lists(st.integers(0, len(CONVERSATION))))
def test_in_any_pieces(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    pieces = [CONVERSATION[a:b] for a, b in itertools.pairwise(edges)]
    assert heard(pieces) == WHAT_IT_SAYS


@given(st.binary(max_size=64), st.integers(0, len(CONVERSATION)))
def test_garbage_is_the_peers_fault(garbage: bytes, at: int) -> None:
    try:
        heard([CONVERSATION[:at] + garbage + CONVERSATION[at:]])
    except RemoteProtocolError:
        pass  # and nothing else


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (down(Kind.MESSAGE), CloseCode.PROTOCOL_ERROR),
        (down(Kind.RECALL), CloseCode.PROTOCOL_ERROR),
        (PONG, CloseCode.PROTOCOL_ERROR),
        (frames.encode(Kind.WELCOME, b"\xff"), CloseCode.PROTOCOL_ERROR),
        (down(Kind.HELLO), CloseCode.PROTOCOL_ERROR),
        (b"\x05" + frames.varint(MAX_BODY_DOWN + 1), CloseCode.FRAME_TOO_LARGE),
    ],
)
def test_what_an_edge_may_not_say_before_welcome(data: bytes, code: CloseCode) -> None:
    this = session()
    this.hello(device_pb2.Hello(), 0.0)
    with pytest.raises(RemoteProtocolError) as caught:
        this.receive_data(data, 0.0)
    assert caught.value.code is code


def test_no_welcome_in_time() -> None:
    this = session()
    assert this.deadline() == NEVER
    this.hello(device_pb2.Hello(), 5.0)
    assert this.deadline() == 15.0
    assert this.on_deadline(14.9) == b""
    with pytest.raises(Dead, match="WELCOME"):
        this.on_deadline(15.0)


class TestReceipts:
    OWED = tuple(Receipt(n, RECEIVED, 10, "") for n in range(1, 6))

    def test_acknowledgement_covers_all_up_to_it(self) -> None:
        this = opened()
        for owed in self.OWED:
            this.receipts([owed], 0.0)
        ack = down(Kind.RECEIPT_ACK, device_pb2.ReceiptAck(seq=3))
        assert this.receive_data(ack, 0.0) == [ReceiptsAcked([(n, RECEIVED) for n in (1, 2, 3)])]
        assert this.receive_data(ack, 0.0) == [ReceiptsAcked([])]

    def test_acknowledgement_of_what_was_never_sent(self) -> None:
        this = opened()
        this.receipts(self.OWED, 0.0)
        with pytest.raises(RemoteProtocolError):
            this.receive_data(down(Kind.RECEIPT_ACK, device_pb2.ReceiptAck(seq=2)), 0.0)

    def test_frames_keep_the_servers_count(self) -> None:
        this = opened(limits=device_pb2.Limits(max_receipts=2))
        bodies = [device_pb2.Receipts.FromString(b) for _, b in sent(this.receipts(self.OWED, 0.0))]
        assert [len(body.receipts) for body in bodies] == [2, 2, 1]
        assert [body.seq for body in bodies] == [1, 2, 3]

    @given(st.lists(st.text(max_size=60), max_size=60), st.integers(300, 700))
    def test_frames_keep_the_servers_size(self, reasons: list[str], limit: int) -> None:
        this = opened(limits=device_pb2.Limits(max_body_up=limit))
        owed = [Receipt(n, DISPLAYED, 1 << 40, reason) for n, reason in enumerate(reasons)]
        got = []
        for _, body in sent(this.receipts(owed, 0.0)):
            assert len(body) <= limit
            got += [r.push_id for r in device_pb2.Receipts.FromString(body).receipts]
        assert got == list(range(len(reasons)))

    def test_limits_of_the_server_do_not_lift_those_of_the_protocol(self) -> None:
        this = opened(limits=device_pb2.Limits(max_receipts=1 << 30, max_body_up=1 << 30))
        owed = [Receipt(n, RECEIVED, 0) for n in range(2500)]
        assert len(sent(this.receipts(owed, 0.0))) == 3

    def test_say_by_which_clock(self) -> None:
        frame = opened().receipts([Receipt(1, RECEIVED, 50, clock_offset_ms=-7)], 0.0)
        ((_, body),) = sent(frame)
        (receipt,) = device_pb2.Receipts.FromString(body).receipts
        assert (receipt.at_ms, receipt.clock_offset_ms) == (50, -7)

    def test_nothing_owed_says_nothing(self) -> None:
        assert opened().receipts([], 0.0) == b""


class TestHeartbeat:
    def test_ping_after_an_interval_without_sending(self) -> None:
        this = opened()
        assert this.deadline() == 100.0
        this.profile(Profile(1), 30.0)
        assert this.deadline() == 130.0
        assert this.on_deadline(129.0) == b""
        assert this.on_deadline(130.0) == frames.PING
        assert this.deadline() == 138.0
        this.receive_data(PONG, 131.0)
        assert this.deadline() == 230.0

    def test_silence_after_ping_is_death(self) -> None:
        network = Network("")
        this = opened(network)
        this.on_deadline(100.0)
        assert this.on_deadline(107.9) == b""
        with pytest.raises(Dead, match="PONG"):
            this.on_deadline(108.0)
        assert network.failures == 1

    def test_any_frame_is_life(self) -> None:
        this = opened()
        this.on_deadline(100.0)
        this.receive_data(down(Kind.MESSAGE, device_pb2.Message(push_id=1)), 107.0)
        assert this.deadline() == 115.0
        assert this.on_deadline(114.0) == b""
        with pytest.raises(Dead):
            this.on_deadline(115.0)

    def test_no_verdict_while_nothing_is_read(self) -> None:
        network = Network("")
        this = opened(network)
        this.on_deadline(100.0)
        this.stop_reading()
        assert this.on_deadline(150.0) == b""
        assert this.on_deadline(200.0) == frames.PING  # still alive, for the server
        this.resume_reading(250.0)
        assert this.deadline() == 258.0
        this.receive_data(PONG, 251.0)
        assert this.deadline() == 300.0

    def test_growth_is_declared_before_it_is_used(self) -> None:
        this = opened()
        now = 0.0
        declared = []
        for _ in range(8):
            now = this.deadline()
            assert kinds(this.on_deadline(now))[-1] is Kind.PING
            this.receive_data(PONG, now + 1)
            for kind, body in sent(this.on_deadline(now + 1)):
                assert kind == Kind.HEARTBEAT
                declared.append(device_pb2.Heartbeat.FromString(body).heartbeat_s)
                assert this.deadline() == now + 1 + declared[-1]
        # Three PONGs prove the connection (and count, at the shortest interval).
        assert declared == [150, 200, 250]

    def test_disturbed_silence_measures_nothing(self) -> None:
        network = Network("")
        this = opened(network)
        message = down(Kind.MESSAGE, device_pb2.Message(push_id=1))
        for n in range(1, 4):
            this.receive_data(message, n * 100.0 - 50)
            assert this.on_deadline(n * 100.0) == frames.PING
            this.receive_data(PONG, n * 100.0 + 1)
        assert (network.successes, network.interval_s) == (0, 100)
        this.on_deadline(500.0)  # slept through its timer
        this.receive_data(PONG, 501.0)
        assert network.successes == 0
        this.on_deadline(600.0)
        this.receive_data(PONG, 601.0)
        assert network.successes == 1

    def test_reset_under_a_ping_is_a_failure(self) -> None:
        network = Network("")
        this = opened(network)
        this.on_reset(50.0)
        assert network.failures == 0
        this.on_deadline(100.0)
        this.on_reset(101.0)
        assert network.failures == 1

    def test_the_servers_bound_is_kept(self) -> None:
        this = opened(heartbeat_s=60)
        for now in range(60, 60 * 20, 60):
            assert kinds(this.on_deadline(float(now))) == [Kind.PING]
            this.receive_data(PONG, now + 1.0)
        lazy = opened(heartbeat_s=300)
        assert lazy.deadline() == 300.0
        assert kinds(lazy.on_deadline(300.0)) == [Kind.PING]

    def test_new_constants_are_declared_at_once(self) -> None:
        this = opened(probing=device_pb2.Probing(start_s=30))
        body = device_pb2.Heartbeat(heartbeat_s=30)
        assert this.deadline() == 30.0
        assert this.on_deadline(2.0) == down(Kind.HEARTBEAT, body)
        assert this.deadline() == 32.0


def test_bye_where_there_is_a_session_to_leave() -> None:
    assert session().bye(0.0) == b""
    this = opened()
    assert kinds(this.bye(0.0)) == [Kind.BYE]
    assert this.state is State.CLOSED
    assert this.deadline() == NEVER
    # What crossed it still counts.
    assert this.receive_data(down(Kind.MESSAGE, device_pb2.Message(push_id=1)), 1.0)
    assert this.receive_data(down(Kind.RECALL, device_pb2.Recall(push_id=[1])), 1.0)


def test_a_profile_over_the_servers_limit_is_not_sent() -> None:
    this = opened(limits=device_pb2.Limits(max_body_up=100))
    with pytest.raises(LocalProtocolError):
        this.profile(Profile(1, ["x" * 100]), 0.0)
