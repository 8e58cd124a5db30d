"""Sessions of an edge, between recorders: what goes in as frames, and what comes out."""

from collections.abc import Callable, Iterator

import pytest

from client_sdk.entries import Receipt
from client_sdk.heartbeat import Network, Prober, Probing
from client_sdk.journal import Arrival
from client_sdk.session import Event, GoneAway, Opened, ProfileAcked, ReceiptsAcked, Session
from client_sdk.state import Profile
from gateway.edge.output import Item
from gateway.edge.uplink import Report
from gateway.lanes import NORMAL
from gateway.store.errors import ProducerFull, StoreUnavailable
from gateway.store.sessions import Status
from protocol.codes import MAX_BODY_DOWN, CloseCode, Kind, server_timeout_s
from protocol.frames import PING, PONG, split
from protocol.ids import device_id
from protocol.schema import device_pb2, log_pb2
from protocol.schema.device_pb2 import CLICKED, RECEIVED
from protocol.states import State
from tests.gateway.edge.stage import (
    DEMO,
    NOW_MS,
    Stage,
    goaway_of,
    kinds,
    message,
    receipts,
    registration,
    up,
)

# Joined in memory with the device's side of the same conversation.

Cut = Callable[[bytes], Iterator[bytes]]
TAIL = bytes((0xC1, 3)) + b"abc"
"""A frame of a later version: skipped by both sides."""


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for byte in data:
        yield bytes((byte,))


def with_a_tail(data: bytes) -> Iterator[bytes]:
    """Each piece ends within the next frame."""
    yield data + TAIL[:3]
    yield TAIL[3:]


class Joined:
    """An edge and a device's session, wired together."""

    def __init__(self, cut: Cut) -> None:
        self.stage = Stage()
        prober = Prober(Network(""), Probing(), None)
        self.device = Session(prober, now=0.0, wall_ms=NOW_MS)
        self.cut = cut
        self.fd = self.stage.accept(5)

    def says(self, data: bytes) -> None:
        for piece in self.cut(data):
            self.stage.feed(self.fd, piece)

    def hears(self) -> list[Event]:
        return [
            event
            for piece in self.cut(self.stage.take(self.fd))
            for event in self.device.receive_data(piece, 0.0)
        ]

    def durable(self) -> None:
        while self.stage.uplink.reports:
            self.stage.sessions.on_durable(self.stage.uplink.reports.pop(0)[1])


@pytest.mark.parametrize("cut", [whole, byte_by_byte, with_a_tail])
def test_a_conversation_from_hello_to_goaway(cut: Cut) -> None:
    joined = Joined(cut)
    stage, device, fd = joined.stage, joined.device, joined.fd

    joined.says(device.hello(registration(connection=3), 0.0))
    stage.answer(device=9, value=4711)
    (opened,) = joined.hears()
    assert isinstance(opened, Opened)
    assert (opened.welcome.epoch, opened.welcome.server_time_ms) == (4711, NOW_MS)
    assert device.state is State.OPEN and stage.table.state[fd] == State.OPEN
    assert stage.table.fd_of(opened.welcome.device_id) == fd

    stage.reactor.send(fd, message(5, "x" * 300) + message(6))
    assert [e.push_id for e in joined.hears() if isinstance(e, Arrival)] == [5, 6]

    joined.says(device.receipts([Receipt(5, RECEIVED, 0), Receipt(5, CLICKED, 0)], 0.0))
    joined.says(device.receipts([Receipt(6, RECEIVED, 0)], 0.0))
    assert joined.hears() == [], "nothing is acknowledged before it is durable"
    joined.durable()
    acked = [key for e in joined.hears() if isinstance(e, ReceiptsAcked) for key in e.keys]
    assert acked == [(5, RECEIVED), (5, CLICKED), (6, RECEIVED)]

    joined.says(device.profile(Profile(4, ["news"], {"lang": "de"}), 0.0))
    joined.durable()
    assert joined.hears() == [ProfileAcked(4)]

    joined.says(PING)
    assert stage.reactor.out[fd] == PONG
    assert joined.hears() == []

    stage.sessions.depart(fd, "192.0.2.8:7070")
    (gone,) = joined.hears()
    assert isinstance(gone, GoneAway)
    assert (gone.goaway.code, gone.goaway.address) == (4000, "192.0.2.8:7070")
    assert (device.state, stage.table.state[fd]) == (State.LEAVING, State.LEAVING)

    joined.says(device.receipts([Receipt(6, CLICKED, 0)], 0.0))
    joined.durable()
    assert joined.hears() == [ReceiptsAcked([(6, CLICKED)])], "receipts that crossed count"
    joined.says(device.bye(0.0))
    assert stage.reactor.closed == [fd]


def test_frames_in_one_piece_are_answered_in_their_order() -> None:
    stage = Stage()
    fd = stage.open(4)
    stage.feed(fd, PING + receipts(1, 5) + PING)
    assert kinds(stage.take(fd)) == [Kind.PONG, Kind.PONG]
    assert [report.number for _, report in stage.uplink.reports] == [1]


# Who may do what, when.


@pytest.mark.parametrize(
    "frame",
    [PING, receipts(1, 5), up(Kind.PROFILE, device_pb2.Profile(change=1)), up(Kind.BYE)],
)
def test_nothing_may_come_between_hello_and_welcome(frame: bytes) -> None:
    stage = Stage()
    fd = stage.accept(4)
    stage.feed(fd, stage.hello())
    stage.feed(fd, frame)
    assert goaway_of(stage.take(fd)).code == CloseCode.PROTOCOL_ERROR
    assert stage.uplink.reports == []


def test_a_registration_that_ends_after_its_row_was_sent_away_leaves_no_session() -> None:
    stage = Stage()
    fd = stage.accept(4)
    stage.feed(fd, stage.hello(device=7))
    stage.feed(fd, PING)
    stage.answer(value=300)
    assert stage.registrar.unregistered == [(0, 7, 300)]
    assert kinds(stage.take(fd)) == [Kind.GOAWAY], "and no WELCOME behind the GOAWAY"


def test_optional_frames_are_skipped_once_the_device_has_spoken() -> None:
    stage = Stage()
    fd = stage.accept(4)
    stage.feed(fd, stage.hello() + up(0x91))
    stage.answer()
    stage.feed(fd, up(0xFF, device_pb2.Profile(change=1)) + PING)
    assert kinds(stage.take(fd)) == [Kind.WELCOME, Kind.PONG]


def test_what_comes_after_bye_is_ignored() -> None:
    stage = Stage()
    fd = stage.open(4)
    stage.feed(fd, up(Kind.BYE) + b"\x55\x00 garbage")
    assert stage.reactor.closed == [fd] and stage.reactor.finished == {}
    assert stage.sessions.closes == {"bye": 1}, "one end, counted once"


def test_an_app_that_is_not_known_yet_is_looked_up() -> None:
    stage = Stage()
    fd = stage.accept(4)
    other = DEMO._replace(app_id="other", number=2)
    stage.feed(fd, up(Kind.HELLO, registration(other)))
    ((app_id, found),) = stage.asked
    assert app_id == "other" and stage.registrar.registered == []
    found(other)
    stage.answer()
    assert kinds(stage.take(fd)) == [Kind.WELCOME]


@pytest.mark.parametrize(
    ("result", "code"),
    [(None, CloseCode.UNKNOWN_APP), (StoreUnavailable("x"), CloseCode.STORE_UNAVAILABLE)],
)
def test_an_app_that_is_not_found(result: StoreUnavailable | None, code: CloseCode) -> None:
    stage = Stage()
    fd = stage.accept(4)
    stage.feed(fd, up(Kind.HELLO, registration(DEMO._replace(app_id="other"))))
    stage.asked[0][1](result)
    goaway = goaway_of(stage.take(fd))
    assert goaway.code == code
    assert bool(goaway.retry_after_ms) == (code == CloseCode.STORE_UNAVAILABLE)


def test_a_late_answer_about_an_app_does_not_reach_the_next_owner_of_the_descriptor() -> None:
    stage = Stage()
    fd = stage.accept(4)
    stage.feed(fd, up(Kind.HELLO, registration(DEMO._replace(app_id="other"))))
    stage.hang_up(fd)
    stage.accept(4)
    stage.asked[0][1](None)
    assert stage.take(4) == b"" and stage.table.state[4] == State.CONNECTED


def test_a_late_acknowledgement_does_not_reach_the_next_owner_of_the_descriptor() -> None:
    stage = Stage()
    fd = stage.open(4)
    stage.feed(fd, receipts(1, 5))
    stage.hang_up(fd)
    stage.open(4, device=8)
    stage.sessions.on_durable(stage.uplink.reports[0][1])
    assert stage.take(4) == b""


@pytest.mark.parametrize(
    ("status", "code", "field"),
    [
        (Status.STALE, CloseCode.STALE_CONNECTION, ("connection", 12)),
        (Status.NONCE_SEEN, CloseCode.WRONG_CLOCK, ("server_time_ms", NOW_MS)),
        (Status.UNKNOWN_DEVICE, CloseCode.BAD_TOKEN, None),
        (Status.FENCED_SINCE, CloseCode.GOING_AWAY, None),
    ],
)
def test_what_the_store_refuses(
    status: Status, code: CloseCode, field: tuple[str, int] | None
) -> None:
    stage = Stage()
    fd = stage.accept(4)
    stage.feed(fd, stage.hello())
    stage.answer(status=status, value=12)
    goaway = goaway_of(stage.take(fd))
    assert goaway.code == code
    if field:
        assert getattr(goaway, field[0]) == field[1]
    stage.hang_up(fd)
    assert stage.registrar.unregistered == []


def test_too_many_registrations_are_sent_away_with_a_retry_time() -> None:
    stage = Stage()
    stage.registrar.refusal = ProducerFull("full")
    fd = stage.accept(4)
    stage.feed(fd, stage.hello())
    goaway = goaway_of(stage.take(fd))
    assert goaway.code == CloseCode.OVERLOADED and goaway.retry_after_ms > 0


def test_a_token_past_half_of_its_life_is_renewed_and_a_young_one_is_not() -> None:
    stage = Stage(token_days=100)
    for fd, days in ((4, 49), (5, 51)):
        stage.accept(fd)
        token = stage.token(fd, issued_s=NOW_MS // 1000 - days * 86_400)
        hello = device_pb2.Hello(
            version_min=1, version_max=1, app="demo", token=token, connection=1
        )
        stage.feed(fd, up(Kind.HELLO, hello))
        stage.answer()
    sent = [split(stage.take(fd), MAX_BODY_DOWN)[0] for fd in (4, 5)]
    welcomes = [device_pb2.Welcome.FromString(body) for ((_, body),) in sent]
    assert welcomes[0].token == b"" and stage.sealer.open(welcomes[1].token).device == 5


# The end of a session is told to the store, under its epoch.


def test_the_end_of_a_session_is_told_under_its_epoch() -> None:
    stage = Stage()
    stage.accept(4)
    stage.feed(4, stage.hello(device=device_id(1, 7)))
    stage.answer(value=205)
    stage.hang_up(4)
    assert stage.registrar.unregistered == [(1, 7, 205)]


def test_connections_without_a_session_end_silently() -> None:
    stage = Stage()
    stage.accept(4)
    stage.accept(5)
    stage.feed(5, stage.hello())
    stage.hang_up(4)
    stage.hang_up(5)
    assert stage.registrar.unregistered == []


def test_a_newer_connection_replaces_the_older_one_at_the_same_edge() -> None:
    stage = Stage()
    stage.open(4, device=7, connection=1)
    stage.open(5, device=7, connection=2)
    assert goaway_of(stage.take(4)).code == CloseCode.REPLACED
    stage.hang_up(4)
    assert stage.registrar.unregistered == [], "the newer session is not touched"
    assert stage.table.fd_of(7) == 5


def test_only_an_older_session_is_dropped_when_a_later_one_stands_elsewhere() -> None:
    stage = Stage()
    stage.open(4, device=7)
    epoch = stage.table.epoch[4]
    stage.sessions.drop_replaced(0, 7, epoch)
    stage.sessions.drop_replaced(0, 8, epoch + 1)
    assert stage.take(4) == b""
    stage.sessions.drop_replaced(0, 7, epoch + 1)
    assert goaway_of(stage.take(4)).code == CloseCode.REPLACED
    stage.hang_up(4)
    assert stage.registrar.unregistered == []


# Messages that come before WELCOME.


def held(stage: Stage, fd: int, frame: bytes) -> bool:
    return stage.sessions.early.hold(fd, Item(NORMAL, 1, frame))


def test_an_early_message_waits_for_welcome() -> None:
    stage = Stage()
    stage.accept(4)
    stage.feed(4, stage.hello())
    assert held(stage, 4, message(5)) and held(stage, 4, message(6))
    assert stage.take(4) == b""
    stage.answer()
    assert kinds(stage.take(4)) == [Kind.WELCOME, Kind.MESSAGE, Kind.MESSAGE]


def test_early_messages_of_a_refused_registration_go_to_the_standing_session() -> None:
    stage = Stage()
    stage.open(4, device=7, connection=5)
    stage.accept(5)
    stage.feed(5, stage.hello(device=7, connection=2))
    held(stage, 5, message(9))
    stage.answer(status=Status.STALE, value=5)
    assert kinds(stage.take(5)) == [Kind.GOAWAY]
    assert kinds(stage.take(4)) == [Kind.MESSAGE]


def test_early_messages_are_bounded() -> None:
    stage = Stage(output_cap_bytes=100)
    stage.accept(4)
    stage.feed(4, stage.hello())
    assert held(stage, 4, bytes(60)) and not held(stage, 4, bytes(60))


def test_early_messages_of_a_closed_connection_do_not_reach_the_next_one() -> None:
    stage = Stage()
    stage.accept(4)
    stage.feed(4, stage.hello())
    held(stage, 4, message(9))
    stage.hang_up(4)
    stage.registrar.registered.clear()
    stage.accept(4)
    stage.feed(4, stage.hello(device=8))
    stage.answer()
    assert kinds(stage.take(4)) == [Kind.WELCOME]


# Receipts and profiles.


def test_receipts_of_pushes_nobody_knows_go_the_same_way_as_others() -> None:
    """An edge knows no pushes; the owner of the partition drops what it does not know."""
    stage = Stage()
    fd = stage.open(4, device=device_id(1, 7))
    stage.feed(fd, receipts(3, 1, 2**64 - 1))
    assert stage.uplink.reports == [
        (1, Report(fd, stage.table.generation[fd], 3, 7, [(1, 1), (2**64 - 1, 1)], b""))
    ]
    stage.sessions.on_durable(stage.uplink.reports[0][1])
    assert kinds(stage.take(fd)) == [Kind.RECEIPT_ACK]


def test_acknowledgements_of_receipts_may_come_later_but_for_a_device_that_leaves() -> None:
    stage = Stage()
    fd = stage.open(4)
    stage.feed(fd, receipts(1, 5))
    stage.sessions.on_durable(stage.uplink.reports[0][1])
    assert stage.reactor.postponed == [fd]
    stage.feed(fd, up(Kind.PROFILE, device_pb2.Profile(change=1)))
    stage.sessions.on_durable(stage.uplink.reports[1][1])
    assert stage.reactor.postponed == [fd], "an app waits for its tags"
    stage.feed(fd, receipts(2, 6))
    stage.sessions.depart(fd, "")
    stage.sessions.on_durable(stage.uplink.reports[2][1])
    assert stage.reactor.postponed == [fd]
    told = kinds(stage.take(fd))
    assert told == [Kind.RECEIPT_ACK, Kind.PROFILE_ACK, Kind.GOAWAY, Kind.RECEIPT_ACK]


def test_reading_pauses_while_too_many_receipts_wait_and_goes_on_later() -> None:
    stage = Stage()
    fd = stage.open(4)
    stage.uplink.full = True
    stage.feed(fd, receipts(1, 5))
    assert stage.reactor.paused == {fd} and stage.told_paused == 1
    assert stage.sessions.pauses.resume(), "some wait still"
    assert stage.reactor.paused == {fd}
    stage.uplink.full = False
    assert not stage.sessions.pauses.resume()
    assert stage.reactor.paused == set()


def test_reading_pauses_for_profiles_too() -> None:
    stage = Stage()
    fd = stage.open(4)
    stage.uplink.full = True
    stage.feed(fd, up(Kind.PROFILE, device_pb2.Profile(change=1, tags=["a"])))
    assert stage.reactor.paused == {fd}


def test_system_tags_come_from_attributes_only() -> None:
    stage = Stage()
    fd = stage.open(4)
    profile = device_pb2.Profile(
        change=2,
        tags=["news", "lang:fr", "city:Bonn"],
        attributes={"lang": "de", "color": "red"},
    )
    stage.feed(fd, up(Kind.PROFILE, profile))
    ((_, report),) = stage.uplink.reports
    written = log_pb2.Profile.FromString(report.profile)
    assert (written.index, written.change) == (7, 2)
    assert list(written.tags) == ["city:Bonn", "lang:de", "news"]


def test_a_profile_without_tags_is_a_profile_too() -> None:
    stage = Stage()
    fd = stage.open(4, device=0)
    stage.feed(fd, up(Kind.PROFILE, device_pb2.Profile(change=1)))
    stage.sessions.on_durable(stage.uplink.reports[0][1])
    assert kinds(stage.take(fd)) == [Kind.PROFILE_ACK]


# Time.


def test_a_silent_session_ends_and_any_frame_is_life() -> None:
    stage = Stage(heartbeat_min_s=30)
    signs = [
        PING,
        receipts(1, 5),
        up(Kind.PROFILE, device_pb2.Profile(change=1)),
        up(Kind.HEARTBEAT, device_pb2.Heartbeat(heartbeat_s=210)),
        up(0xF0),
    ]
    timeout = server_timeout_s(210)
    for n in range(len(signs)):
        stage.open(10 + n, device=10 + n)
    stage.sessions.on_clock(0.0, 100.0)
    for n, sign in enumerate(signs):
        stage.feed(10 + n, sign)
    stage.open(30, device=30)
    silent = stage.open(31, device=31)
    stage.sessions.on_clock(0.0, 100.0 + timeout - 5)
    assert all(stage.table.state[fd] == State.OPEN for fd in range(10, 15))
    for n in range(len(signs)):
        stage.feed(10 + n, PING)
    stage.sessions.on_clock(0.0, 100.0 + timeout + 9)
    assert goaway_of(stage.take(silent)).code == CloseCode.HEARTBEAT_TIMEOUT
    assert stage.sessions.closes["heartbeat_timeout"] == 2
    assert all(stage.table.state[fd] == State.OPEN for fd in range(10, 15))


def test_a_half_frame_is_no_life() -> None:
    stage = Stage()
    fd = stage.open(4)
    stage.sessions.on_clock(0.0, server_timeout_s(210) - 1)
    stage.feed(fd, PING[:1])
    stage.sessions.on_clock(0.0, server_timeout_s(210) + 8)
    assert goaway_of(stage.take(fd)).code == CloseCode.HEARTBEAT_TIMEOUT


def test_another_interval_counts_from_the_frame_that_says_so() -> None:
    stage = Stage(heartbeat_min_s=30)
    fd = stage.open(4)
    stage.feed(fd, up(Kind.HEARTBEAT, device_pb2.Heartbeat(heartbeat_s=1)))
    assert stage.take(fd) == b""
    stage.sessions.on_clock(0.0, server_timeout_s(30))
    assert stage.take(fd) == b"", "the shortest interval is the edge's to say"
    stage.sessions.on_clock(0.0, server_timeout_s(30) + 8)
    assert goaway_of(stage.take(fd)).code == CloseCode.HEARTBEAT_TIMEOUT


def test_a_session_that_we_do_not_read_is_not_silent() -> None:
    stage = Stage()
    fd = stage.open(4)
    stage.uplink.full = True
    stage.feed(fd, receipts(1, 5))
    stage.sessions.on_clock(0.0, 4000.0)
    assert stage.table.state[fd] == State.OPEN


def test_hello_and_welcome_have_their_time() -> None:
    stage = Stage(hello_timeout_s=8, register_timeout_s=4)
    stage.accept(4), stage.accept(5)
    stage.open(6)
    stage.feed(5, stage.hello(device=8))
    stage.feed(4, stage.hello()[:-1])
    stage.sessions.on_clock(0.0, 4.0)
    assert stage.take(4) == b"" and stage.take(5) == b""
    stage.sessions.on_clock(0.0, 7.0)
    assert goaway_of(stage.take(5)).code == CloseCode.STORE_UNAVAILABLE
    stage.sessions.on_clock(0.0, 9.0)
    assert goaway_of(stage.take(4)).code == CloseCode.HELLO_TIMEOUT
    assert stage.take(6) == b""


def test_what_we_have_not_read_yet_makes_nobody_late() -> None:
    stage = Stage(hello_timeout_s=8)
    late, slow, silent = stage.accept(4), stage.accept(5), stage.open(6)
    stage.feed(slow, stage.hello()[:-1])
    stage.reactor.unread = {late, slow, silent}
    stage.sessions.on_clock(0.0, 9.0)
    assert stage.take(late) == b""
    assert goaway_of(stage.take(slow)).code == CloseCode.HELLO_TIMEOUT, "a byte at a time"
    stage.sessions.on_clock(0.0, 4000.0)
    assert stage.table.state[silent] == State.OPEN
    stage.reactor.unread.clear()
    stage.sessions.on_clock(0.0, 8000.0)
    assert goaway_of(stage.take(late)).code == CloseCode.HELLO_TIMEOUT
    assert goaway_of(stage.take(silent)).code == CloseCode.HEARTBEAT_TIMEOUT


def test_a_device_that_does_not_read_is_closed_without_a_word() -> None:
    stage = Stage()
    fd = stage.open(4)
    stage.reactor.stuck_now = [fd]
    stage.sessions.on_clock(100.0, 1.0)
    assert stage.reactor.closed == [fd] and stage.take(fd) == b""
    assert stage.sessions.closes == {"too_slow": 1}


# A new edge number for sessions that stand.


def test_standing_sessions_are_registered_again_with_the_epoch_they_had() -> None:
    stage = Stage()
    stage.open(4, device=device_id(1, 7), connection=3)
    stage.accept(5)
    stage.feed(5, stage.hello(device=8))
    epoch = stage.table.epoch[4]
    ((p, again),) = stage.sessions.continue_all()
    assert (p, again.device, again.connection, again.prior) == (1, 7, 3, epoch)


def test_a_continued_session_notices_nothing() -> None:
    stage = Stage()
    stage.open(4)
    stage.registrar.registered.append(stage.sessions.continue_all()[0])
    stage.answer(value=900)
    assert stage.take(4) == b"" and stage.table.epoch[4] == 900
    stage.hang_up(4)
    assert stage.registrar.unregistered == [(0, 7, 900)]


def test_a_session_whose_device_is_elsewhere_by_now_is_not_continued() -> None:
    stage = Stage()
    stage.open(4)
    stage.registrar.registered.append(stage.sessions.continue_all()[0])
    stage.answer(status=Status.STALE, value=9)
    assert goaway_of(stage.take(4)).code == CloseCode.REPLACED
    stage.hang_up(4)
    assert stage.registrar.unregistered == []


def test_a_session_that_cannot_be_continued_for_now_may_come_back() -> None:
    """REPLACED would keep the device away for good, though no newer session stands."""
    stage = Stage()
    stage.open(4)
    stage.registrar.registered.append(stage.sessions.continue_all()[0])
    stage.answer(status=Status.FENCED_SINCE)
    assert goaway_of(stage.take(4)).code == CloseCode.GOING_AWAY


def test_being_told_of_ones_own_continued_session_does_not_end_it() -> None:
    """The node sees the session under the new number before the edge has its answer."""
    stage = Stage()
    stage.open(4)
    epoch = stage.table.epoch[4]
    stage.registrar.registered.append(stage.sessions.continue_all()[0])
    stage.sessions.drop_replaced(0, 7, epoch + 50)
    assert stage.take(4) == b""
    stage.answer(value=epoch + 50)
    assert stage.take(4) == b"" and stage.table.fd_of(7) == 4


# While the edge drains.


def test_a_session_that_opens_while_the_edge_drains_is_sent_on_at_once() -> None:
    stage = Stage()
    stage.accept(4)
    stage.feed(4, stage.hello())
    stage.sessions.draining = True
    stage.answer()
    sent = stage.take(4)
    assert kinds(sent) == [Kind.WELCOME, Kind.GOAWAY]
    assert goaway_of(sent).code == CloseCode.GOING_AWAY
