"""The fleet against a scripted edge: real sockets, manual clock, no sleeps."""

import time
from random import Random

from loadtest.device_table import ENDED, GREETED, DeviceTable
from loadtest.dialler import Dialler
from loadtest.fleet import Fleet, Plan
from protocol.codes import CloseCode, Kind, Verdict
from protocol.credentials import registration_proof
from protocol.frames import encode
from protocol.schema import device_pb2
from tests.loadtest.fleet_setting import Setting
from tests.loadtest.scripted_edge import (
    Peer,
    ScriptedEdge,
    goaway,
    message,
    pong_all,
    receipts_of,
    turn_until,
)

RECEIVED, DISPLAYED = device_pb2.RECEIVED, device_pb2.DISPLAYED


def show(fleet: Fleet, peer: Peer, push_id: int, **data: str) -> None:
    before = fleet.counters.messages
    peer.send(Kind.MESSAGE, message(push_id, **data))
    turn_until(fleet, lambda: fleet.counters.messages == before + 1)


def test_registers_with_a_proof_that_fits(setting: Setting) -> None:
    fleet = setting.fleet()
    setting.edge.connect(fleet)
    [hello] = setting.edge.hellos
    registration = hello.registration
    assert hello.app == "demo" and hello.connection == 1
    assert registration.proof == registration_proof(
        "key", "demo", registration.installation_id, registration.time_ms, registration.nonce
    )
    assert abs(registration.time_ms - time.time() * 1e3) < 60_000
    assert fleet.counters.registered == fleet.counters.open == 1
    assert fleet.table.device_id[0] == 100


def test_same_seed_is_the_same_device(setting: Setting) -> None:
    for seed in ("a", "a", "b"):
        setting.edge.connect(setting.fleet(seed=seed)).close()
    first, again, other = (hello.registration.installation_id for hello in setting.edge.hellos)
    assert first == again != other


def test_message_is_shown_and_reported(setting: Setting) -> None:
    fleet = setting.fleet()
    peer = setting.edge.connect(fleet)
    show(fleet, peer, 7, sent_ns=str(time.monotonic_ns()))
    fleet.turn(0)
    assert receipts_of(peer.read()) == [(1, 7, RECEIVED), (1, 7, DISPLAYED)]
    assert fleet.counters.shown == 1 and fleet.ledger.pushes[7].rows() == [0]
    assert fleet.latency.count == 1


def test_broadcast_is_parsed_once_and_shown_to_each(setting: Setting) -> None:
    fleet = setting.fleet(devices=3)
    peers = [setting.edge.connect(fleet) for _ in range(3)]
    for peer in peers:
        show(fleet, peer, 9, sent_ns="1")
    assert fleet.ledger.pushes[9].rows() == [0, 1, 2]
    assert fleet.counters.frame_bytes == len(
        encode(Kind.MESSAGE, message(9, sent_ns="1").SerializeToString())
    )
    for peer in peers:
        assert receipts_of(peer.read()) == [(1, 9, RECEIVED), (1, 9, DISPLAYED)]


def test_redelivery_is_acknowledged_and_not_shown(setting: Setting) -> None:
    fleet = setting.fleet(think_s=None)
    peer = setting.edge.connect(fleet)
    for _ in range(2):
        show(fleet, peer, 7)
    fleet.turn(0)
    assert receipts_of(peer.read()) == [(1, 7, RECEIVED), (2, 7, RECEIVED)]
    assert (fleet.counters.shown, fleet.counters.redelivered) == (1, 1)


def test_frames_that_come_together_or_in_pieces(setting: Setting) -> None:
    fleet = setting.fleet(think_s=None)
    peer = setting.edge.connect(fleet)
    both = b"".join(encode(Kind.MESSAGE, message(i).SerializeToString()) for i in (1, 2))
    peer.connection.sendall(both + both[:5])
    turn_until(fleet, lambda: fleet.counters.messages == 2)
    for at in range(5, len(both)):
        peer.connection.sendall(both[at : at + 1])
        fleet.turn(0)
    turn_until(fleet, lambda: fleet.counters.messages == 4)
    assert receipts_of(peer.read())[:2] == [(1, 1, RECEIVED), (1, 2, RECEIVED)]
    assert fleet.counters.redelivered == 2


def test_zero_is_a_device_id(setting: Setting) -> None:
    fleet = setting.fleet()
    setting.edge.first_id = 0
    setting.edge.connect(fleet).close()
    turn_until(fleet, lambda: fleet.counters.lost == 1)
    setting.clock.now += 1
    setting.edge.connect(fleet)
    assert (fleet.counters.reconnected, fleet.table.device_id[0]) == (1, 0)


def test_comes_back_with_its_token_and_a_raised_counter(setting: Setting) -> None:
    fleet = setting.fleet()
    setting.edge.connect(fleet).close()
    turn_until(fleet, lambda: fleet.counters.lost == 1)
    setting.clock.now += 1
    setting.edge.connect(fleet)
    first, second = setting.edge.hellos
    assert second.token == b"token-of-100" and not second.HasField("registration")
    assert (first.connection, second.connection) == (1, 2)
    assert (fleet.counters.reconnected, fleet.counters.identity_changes) == (1, 0)


def test_an_answer_that_has_come_counts_however_late_the_fleet_looks(setting: Setting) -> None:
    fleet = setting.fleet()
    peer = setting.edge.accept(fleet)
    setting.edge.welcome(peer)
    setting.later(fleet, 30)
    assert (fleet.counters.welcomed, fleet.counters.lost) == (1, 0)
    setting.later(fleet, 90)
    assert pong_all(peer) == 1
    setting.later(fleet, 90)
    assert fleet.counters.silent == 0, "the PONG was there"


def test_patience_for_welcome_begins_with_hello(setting: Setting) -> None:
    fleet = setting.fleet()
    setting.clock.step = 8.0
    fleet.turn(0)
    assert fleet.counters.dialled == 1
    setting.edge.accept_bare()
    setting.clock.step = 0.0
    turn_until(fleet, lambda: fleet.table.phase[0] == GREETED)
    setting.later(fleet, 9)
    assert fleet.counters.lost == 0, "17 s after the dial, 9 s after HELLO"
    setting.later(fleet, 1.5)
    assert fleet.counters.lost == 1


class _Slowest(Random):
    def uniform(self, a: float, b: float) -> float:
        return b


def test_backoff_is_that_of_the_sdk() -> None:
    table = DeviceTable(1, b"seed")
    dialler = Dialler(table, 1, _Slowest())

    def delay_s(verdict: Verdict, retry_after_ms: int = 0) -> int:
        dialler.redial(0, 0.0, verdict, retry_after_ms)
        at = dialler.next_at(0.0)
        assert at is not None and dialler.take(at, 0) == [0]
        return round(at)

    assert [delay_s(Verdict.LATER) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 64, 120, 120]
    assert (delay_s(Verdict.NOW), delay_s(Verdict.NOW, 3000)) == (1, 3)
    assert table.attempt[0] == 9, "now is no reason to wait longer the next time"
    dialler.stood(0, 119.0)
    assert delay_s(Verdict.LATER, 5000) == 125
    dialler.stood(0, 120.0)
    assert delay_s(Verdict.LATER) == 1


def test_first_retry_waits_too(setting: Setting) -> None:
    fleet = setting.fleet()
    setting.edge.connect(fleet).close()
    turn_until(fleet, lambda: fleet.counters.lost == 1)
    fleet.turn(0)
    assert fleet.counters.dialled == 1, "full jitter: it does not dial in the same turn"
    setting.later(fleet, 0.02)
    assert fleet.counters.dialled == 2, "but within base_ms (10)"


def test_receipts_go_out_again_until_they_are_acknowledged(setting: Setting) -> None:
    fleet = setting.fleet(think_s=None)
    peer = setting.edge.connect(fleet)
    for push_id in (1, 2):
        show(fleet, peer, push_id)
    fleet.turn(0)
    assert receipts_of(peer.read()) == [(1, 1, RECEIVED), (2, 2, RECEIVED)]
    peer.send(Kind.RECEIPT_ACK, device_pb2.ReceiptAck(seq=1))
    turn_until(fleet, lambda: fleet.counters.receipts_acked == 1)
    peer.close()
    turn_until(fleet, lambda: fleet.counters.lost == 1)
    setting.clock.now += 1
    peer = setting.edge.connect(fleet)
    fleet.turn(0)
    assert receipts_of(peer.read()) == [(1, 2, RECEIVED)], "counted from 1 on each connection"
    peer.send(Kind.RECEIPT_ACK, device_pb2.ReceiptAck(seq=1))
    turn_until(fleet, lambda: fleet.counters.receipts_acked == 2)
    assert fleet.desk.outstanding() == 0


def test_held_receipts_wait_for_their_release(setting: Setting) -> None:
    fleet = setting.fleet(think_s=None)
    fleet.desk.held = True
    peer = setting.edge.connect(fleet)
    show(fleet, peer, 7)
    setting.later(fleet, 1000)
    assert receipts_of(peer.read()) == []
    fleet.desk.held = False
    fleet.turn(0)
    assert receipts_of(peer.read()) == [(1, 7, RECEIVED)]


def test_receipts_fall_due_after_their_delays(setting: Setting) -> None:
    fleet = setting.fleet(receipt_delay_s=2.0, think_s=3.0)
    peer = setting.edge.connect(fleet)
    show(fleet, peer, 7)
    setting.later(fleet, 1.9)
    assert receipts_of(peer.read()) == []
    setting.later(fleet, 0.2)
    assert receipts_of(peer.read()) == [(1, 7, RECEIVED)]
    setting.later(fleet, 3.0)
    assert receipts_of(peer.read()) == [(2, 7, DISPLAYED)]


def test_beats_at_the_interval_and_gives_up_a_silent_edge(setting: Setting) -> None:
    fleet = setting.fleet()
    peer = setting.edge.accept(fleet)
    setting.edge.welcome(peer, heartbeat_s=10)
    turn_until(fleet, lambda: fleet.counters.open == 1)
    setting.later(fleet, 11)
    assert pong_all(peer) == 1
    turn_until(fleet, lambda: fleet.counters.pongs == 1)
    setting.later(fleet, 11)
    assert fleet.counters.pings == 2
    setting.later(fleet, 11)
    assert (fleet.counters.silent, fleet.counters.open) == (1, 0)


def test_without_welcome_it_dials_again(setting: Setting) -> None:
    fleet = setting.fleet()
    setting.edge.accept(fleet)
    setting.later(fleet, 9)
    assert fleet.counters.lost == 0
    setting.later(fleet, 2)
    assert fleet.counters.lost == 1 == fleet.counters.given_up


def test_goaway_later_waits_for_the_time_told(setting: Setting) -> None:
    fleet = setting.fleet()
    peer = setting.edge.accept(fleet)
    peer.send(Kind.GOAWAY, goaway(CloseCode.OVERLOADED, retry_after_ms=5000))
    turn_until(fleet, lambda: fleet.counters.lost == 1)
    setting.later(fleet, 4.9)
    assert fleet.counters.dialled == 1
    setting.later(fleet, 1.0)
    assert fleet.counters.dialled == 2
    assert fleet.counters.goaways == {CloseCode.OVERLOADED: 1}


def test_goaway_never_is_obeyed(setting: Setting) -> None:
    fleet = setting.fleet()
    peer = setting.edge.connect(fleet)
    peer.send(Kind.GOAWAY, goaway(CloseCode.REPLACED))
    turn_until(fleet, lambda: fleet.counters.ended == 1)
    setting.later(fleet, 1000)
    assert fleet.table.phase[0] == ENDED and fleet.counters.dialled == 1
    assert fleet.dial([0]) == 0


def test_refused_token_leads_to_a_new_registration(setting: Setting) -> None:
    fleet = setting.fleet()
    setting.edge.connect(fleet).close()
    turn_until(fleet, lambda: fleet.counters.lost == 1)
    setting.clock.now += 1
    peer = setting.edge.accept(fleet)
    peer.send(Kind.GOAWAY, goaway(CloseCode.BAD_TOKEN))
    turn_until(fleet, lambda: fleet.counters.tokens_refused == 1)
    setting.clock.now += 2
    setting.edge.connect(fleet).close()
    hellos = setting.edge.hellos
    assert hellos[2].registration.installation_id == hellos[0].registration.installation_id
    assert fleet.counters.identity_changes == 0


def test_stale_counter_is_raised_above_the_one_told(setting: Setting) -> None:
    fleet = setting.fleet()
    peer = setting.edge.accept(fleet)
    peer.send(Kind.GOAWAY, goaway(CloseCode.STALE_CONNECTION, connection=41))
    turn_until(fleet, lambda: fleet.counters.lost == 1)
    setting.clock.now += 1
    setting.edge.connect(fleet).close()
    assert setting.edge.hellos[-1].connection == 42


def test_wrong_clock_takes_the_servers(setting: Setting) -> None:
    fleet = setting.fleet()
    peer = setting.edge.accept(fleet)
    theirs = int(time.time() * 1e3) + 3_600_000
    peer.send(Kind.GOAWAY, goaway(CloseCode.WRONG_CLOCK, server_time_ms=theirs))
    turn_until(fleet, lambda: fleet.counters.lost == 1)
    setting.clock.now += 1
    setting.edge.accept(fleet).close()
    assert abs(setting.edge.hellos[-1].registration.time_ms - theirs) < 60_000


def test_goaway_may_name_another_address(setting: Setting) -> None:
    with ScriptedEdge() as elsewhere:
        fleet = setting.fleet()
        peer = setting.edge.connect(fleet)
        address = "{}:{}".format(*elsewhere.address)
        peer.send(Kind.GOAWAY, goaway(CloseCode.GOING_AWAY, address=address))
        turn_until(fleet, lambda: fleet.counters.lost == 1)
        setting.clock.now += 1
        elsewhere.accept(fleet)


def test_frame_out_of_place_ends_the_connection(setting: Setting) -> None:
    fleet = setting.fleet()
    peer = setting.edge.accept(fleet)
    peer.send(Kind.MESSAGE, message(1))
    turn_until(fleet, lambda: fleet.counters.protocol_errors == 1)
    assert fleet.counters.shown == 0 and fleet.counters.open == 0


def test_disconnected_devices_stay_away_until_dialled(setting: Setting) -> None:
    fleet = setting.fleet(devices=2)
    peers = [setting.edge.connect(fleet) for _ in range(2)]
    fleet.disconnect([1])
    fleet.turn(0)
    assert [kind for kind, _ in peers[1].read()] == [Kind.BYE] and peers[1].ended
    setting.later(fleet, 1000)
    assert fleet.counters.open == 1 and fleet.counters.dialled == 2
    fleet.dial([1])
    peers.append(setting.edge.connect(fleet))
    assert fleet.counters.open == 2


def test_one_that_is_called_back_before_its_turn_dials_once(setting: Setting) -> None:
    """Two connections of one row would be taken for one: the first stays and speaks for nobody."""
    fleet = setting.fleet()
    fleet.disconnect(range(1))
    fleet.dial(range(1))
    setting.edge.connect(fleet)
    fleet.turn(0)
    assert fleet.counters.dialled == fleet.counters.open == 1


def test_cut_devices_come_back_by_themselves(setting: Setting) -> None:
    fleet = setting.fleet()
    peer = setting.edge.connect(fleet)
    fleet.cut([0])
    fleet.turn(0)
    assert peer.read() == [] and peer.ended
    setting.clock.now += 1
    setting.edge.connect(fleet).close()


def test_connects_are_bounded_in_flight(setting: Setting) -> None:
    fleet = setting.fleet(devices=5, in_flight=2)
    for _ in range(5):
        fleet.turn(0)
    assert fleet.counters.dialled == 2
    setting.edge.connect(fleet)
    fleet.turn(0)
    assert fleet.counters.dialled == 3


def test_connects_keep_to_a_rate(setting: Setting) -> None:
    fleet = setting.fleet(devices=100)
    fleet.dial([], per_s=16)
    setting.clock.now = float(int(setting.clock.now))  # sixteenths then add up exactly
    fleet.turn(0)
    for _ in range(16):
        setting.later(fleet, 1 / 16)
    assert fleet.counters.dialled == 16


def test_dials_from_the_source_address(setting: Setting) -> None:
    fleet = setting.fleet(source="127.0.0.9")
    peer = setting.edge.accept(fleet)
    assert peer.connection.getpeername()[0] == "127.0.0.9"


def test_refused_connections_back_off(setting: Setting) -> None:
    with ScriptedEdge() as gone:
        pass
    fleet = Fleet(Plan(address=gone.address, devices=1), setting.clock, Random(1))
    setting.fleets.append(fleet)
    fleet.dial([0])
    turn_until(fleet, lambda: fleet.counters.lost + fleet.counters.dial_failures == 1)
    setting.later(fleet, 0.5)
    turn_until(fleet, lambda: fleet.counters.lost + fleet.counters.dial_failures == 2)


def test_bare_fleet_only_reads(setting: Setting) -> None:
    fleet = setting.fleet(bare=True)
    fleet.turn(0)
    peer = setting.edge.accept_bare()
    turn_until(fleet, lambda: fleet.counters.open == 1)
    show(fleet, peer, 3)
    fleet.turn(0)
    assert peer.read() == [] and fleet.counters.shown == 1
