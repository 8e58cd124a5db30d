"""Any bytes, at any point of a session: what may come of it is stated in one place, below."""

import json
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from client_sdk.entries import Entry, Receipt, record, scan
from client_sdk.heartbeat import Probing
from client_sdk.journal import Arrival
from client_sdk.reconnect import Backoff
from client_sdk.session import (
    Dead,
    Event,
    GoneAway,
    Opened,
    ProfileAcked,
    Recalls,
    ReceiptsAcked,
    Session,
)
from client_sdk.state import Installation, Profile
from protocol import frames
from protocol.codes import MAX_BODY_DOWN, MAX_COLLAPSE_KEY_BYTES, CloseCode, Kind
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.schema import device_pb2
from protocol.schema.device_pb2 import DISPLAYED
from protocol.states import TABLE, UPWARD, Side, State
from tests.client_sdk.journals import NOW, journal
from tests.client_sdk.test_session import CONVERSATION, session

GOOD, _ = frames.split(CONVERSATION, MAX_BODY_DOWN)
REACHES = {(before, after) for (side, before, _), after in TABLE.items() if side is Side.DEVICE}

free = settings(deadline=None)
U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
SMALL = st.sampled_from(range(12))

# Frames that parse, of any kind, with any values: what an edge of a later build, or a wrong one,
# might say.
SPOKEN: st.SearchStrategy[frames.Frame] = st.one_of(
    st.sampled_from(GOOD),
    st.builds(
        lambda **fields: (int(Kind.MESSAGE), device_pb2.Message(**fields).SerializeToString()),
        push_id=U64 | SMALL,
        ttl_s=U32,
        content=st.builds(
            lambda data: device_pb2.Content(data=data), st.dictionaries(st.text(), st.text())
        ),
        collapse_key=st.text(max_size=70),
    ),
    st.builds(
        lambda ids: (int(Kind.RECALL), device_pb2.Recall(push_id=ids).SerializeToString()),
        st.lists(U64 | SMALL, max_size=5),
    ),
    st.builds(
        lambda **fields: (int(Kind.WELCOME), device_pb2.Welcome(**fields).SerializeToString()),
        version=U32,
        epoch=U64,
        heartbeat_s=U32,
        server_time_ms=U64,
        device_id=U64,
        token=st.binary(max_size=9),
        config_version=U64,
        config=st.dictionaries(st.text(), st.text(), max_size=3),
        recalled=st.lists(U64 | SMALL, max_size=5),
        limits=st.builds(device_pb2.Limits, max_body_up=U32, max_receipts=U32),
        backoff=st.builds(device_pb2.Backoff, base_ms=U32, factor=st.floats(width=32), max_ms=U32),
        probing=st.builds(device_pb2.Probing, start_s=U32, step_s=U32, max_s=U32, back_s=U32),
    ),
    st.builds(
        lambda seq: (int(Kind.RECEIPT_ACK), device_pb2.ReceiptAck(seq=seq).SerializeToString()),
        SMALL | U64,
    ),
    st.tuples(st.integers(0, 255), st.binary(max_size=40)),
    st.builds(lambda kind, frame: (kind, frame[1]), st.sampled_from(Kind), st.sampled_from(GOOD)),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A session as an edge might have meant it, with frames left out, repeated, exchanged or made
    up, bodies damaged within whole frames, and then bytes damaged anywhere."""
    spoken = draw(st.lists(SPOKEN, max_size=8))
    if draw(st.booleans()):
        spoken.insert(0, GOOD[0])  # else few would get past WELCOME
    data = bytearray()
    for kind, body in spoken:
        mangled = bytearray(body)
        for _ in range(draw(st.sampled_from((0, 0, 0, 1, 3)))):
            _damage(draw, mangled)
        data += frames.encode(kind, bytes(mangled))
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        _damage(draw, data)
    return bytes(data)


def _damage(draw: st.DrawFn, data: bytearray) -> None:
    at = draw(st.integers(0, len(data)))
    match draw(st.sampled_from(("set", "insert", "delete", "repeat"))):
        case "set":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        case "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        case "delete":
            del data[at : at + draw(st.integers(1, 8))]
        case "repeat":
            data[at:at] = data[at : at + 16]


@dataclass
class Step:
    """What the device does before the next chunk arrives."""

    does: str
    seconds: float
    chunk: int
    """Bytes of it."""


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(("nothing", "receipts", "profile", "deadline", "bye", "pause", "reset")),
        st.sampled_from((0.0, 0.5, 9.0, 100.0)),
        st.sampled_from((1, 2, 7, 50, 1 << 20)),
    ),
    min_size=1,
    max_size=12,
)


@settings(free, max_examples=200)
@given(streams(), STEPS)
def test_whatever_arrives(data: bytes, steps: list[Step]) -> None:
    """- Only RemoteProtocolError leaves `receive_data`, with a code for frames; nothing else does
      anything worse than refuse.
    - Each change of the state stands in the session table; what has ended stays ended.
    - It holds at most one incomplete frame.
    - What it says arrived can be stored and read again; receipts are acknowledged once, and only
      those that were sent.
    """
    this = session()
    said: list[Event] = []
    this.hello(device_pb2.Hello(), 0.0)
    now, at, sent = 0.0, 0, 0
    for step in [*steps, Step("nothing", 0.0, 1 << 20)]:
        now += step.seconds
        before = this.state
        try:
            sent += _act(this, step.does, sent, now)
            _in_the_table(before, this.state)
            before = this.state
            events = this.receive_data(data[at : at + step.chunk], now)
        except RemoteProtocolError as error:
            assert error.code in (CloseCode.PROTOCOL_ERROR, CloseCode.FRAME_TOO_LARGE)
            break
        except Dead:
            break
        at += step.chunk
        # Several frames may have come: each of their steps is one of the table's.
        assert this.state in _reachable(before)
        assert len(this._frames._rest) < 1 + 4 + MAX_BODY_DOWN
        said += events
    _can_be_kept(said, sent)


def _act(this: Session, does: str, sent: int, now: float) -> int:
    """Receipts that were sent."""
    assert this.deadline() >= 0.0
    try:
        match does:
            case "receipts" if this.state is State.OPEN:
                out = this.receipts([Receipt(sent, DISPLAYED, 5)], now)
                return int(out != b"")
            case "profile":
                this.profile(Profile(1, ["tag"]), now)
            case "deadline":
                out = this.on_deadline(now)
                assert all(kind in UPWARD for kind, _ in frames.split(out, 1 << 16)[0])
            case "bye":
                this.bye(now)
            case "pause":
                this.stop_reading()
                this.resume_reading(now)
            case "reset":
                this.on_reset(now)
    except LocalProtocolError:
        pass  # a profile before WELCOME, or over a limit that the edge has set
    return 0


def _in_the_table(before: State, after: State) -> None:
    assert before is after or (before, after) in REACHES


def _reachable(before: State) -> set[State]:
    found = {before}
    while more := {after for state, after in REACHES if state in found} - found:
        found |= more
    return found


def _can_be_kept(said: list[Event], sent: int) -> None:
    kept = journal(ids=1000, content=1 << 30)
    acked: list[int] = []
    for event in said:
        match event:
            case Arrival():
                assert len(event.collapse_key.encode()) <= MAX_COLLAPSE_KEY_BYTES
                admission = kept.admit([event], NOW)
                batch: list[Entry] = [*admission.stored, *admission.replacements]
                assert scan(record(batch)).entries == batch
                kept.apply(batch)
                for stored in admission.stored:
                    device_pb2.Content.FromString(stored.content)
            case Recalls(push_ids):
                recalls = kept.recall(push_ids)
                assert scan(record(recalls)).entries == recalls
                kept.apply(recalls)
            case Opened(welcome):
                _can_be_noted(welcome)
                kept.apply(kept.recall(welcome.recalled))
            case ReceiptsAcked(keys):
                acked += [push_id for push_id, _ in keys]
            case _:
                assert isinstance(event, ProfileAcked | GoneAway)
    assert len(set(acked)) == len(acked) and set(acked) <= set(range(sent))
    assert not set(kept.waiting) & {p for p, row in kept.rows.items() if row.void}


def _can_be_noted(welcome: device_pb2.Welcome) -> None:
    this = Installation("demo", bytes(16))
    this.device_id, this.token = welcome.device_id, welcome.token
    this.config_version, this.config = welcome.config_version, dict(welcome.config)
    this.probing = Probing.from_wire(welcome.probing)
    this.backoff = Backoff.from_wire(welcome.backoff)
    assert Installation.from_json(this.to_json()) is not None
    assert json.loads(this.to_json())
    for attempt in (0, 1, 100):
        assert 0 <= this.backoff.bound_s(attempt) <= this.backoff.max_s
