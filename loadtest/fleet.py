"""Many simulated devices in one process: real protocol, one epoll, one row a device.

`Fleet.turn` is the whole loop: dial who may, read what came, answer, beat, report. Nothing runs
between two calls of it.
"""

import os
import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from google.protobuf.message import DecodeError

from loadtest.counters import Counters
from loadtest.device_table import CLOSED, CONNECTED, ENDED, GREETED, OPEN, DeviceTable
from loadtest.dialler import Dialler
from loadtest.histogram import Histogram
from loadtest.ledger import Ledger, Shown
from loadtest.links import WRITABLE, Address, Links
from loadtest.plan import Plan
from loadtest.profile_desk import ProfileDesk
from loadtest.receipt_desk import ReceiptDesk
from loadtest.schedule import Schedule
from loadtest.wire import Greeting, parse_message
from protocol.codes import (
    MAX_BODY_DOWN,
    MAX_RECEIPTS,
    NONCE_BYTES,
    WELCOME_TIMEOUT_S,
    CloseCode,
    Kind,
    Verdict,
)
from protocol.errors import RemoteProtocolError
from protocol.frames import PING, encode, split
from protocol.schema import device_pb2
from protocol.states import TABLE, UPWARD, Side, State, on_received

__all__ = ["Fleet", "Plan"]

_BYE: Final = encode(Kind.BYE)
# Plain numbers: for each frame an enum costs as much as the rest of the choice.
_MESSAGE: Final = int(Kind.MESSAGE)
_PONG: Final = int(Kind.PONG)
_RECEIPT_ACK: Final = int(Kind.RECEIPT_ACK)
_DIAL_TIMEOUT_S: Final = 10.0
"""For TCP; then as long again from HELLO to WELCOME, both as client_sdk.options has them."""
_PARSES: Final = 1024
"""Parsed messages kept under their bytes; all are dropped when so many have gathered."""
_ALLOWED: Final = frozenset(
    (int(state), int(kind))
    for side, state, kind in TABLE
    if side is Side.DEVICE and kind not in UPWARD
)
"""(phase, kind) that a device may receive: as `on_received` says, without its price for each frame."""


class Fleet:
    """`plan.devices` devices, rows 0 to devices - 1. Not connected until `dial`."""

    def __init__(
        self, plan: Plan, clock: Callable[[], float] = time.monotonic, random: Random | None = None
    ) -> None:
        self.plan = plan
        self.table = DeviceTable(plan.devices, plan.seed.encode())
        self.counters = Counters()
        self.ledger = Ledger(plan.devices, plan.remember)
        self.journals: dict[int, list[tuple[int, float]]] = {}
        """Row -> (push id, time.monotonic()) of each first showing, in its order; with plan.journal."""
        self.welcome_latency = Histogram()
        """Nanoseconds from connect(2) to WELCOME, told to the turn."""
        self.latency = Histogram()
        """Nanoseconds from `sent_ns` to here, of devices that were connected all that time."""
        self.latency_late = Histogram()
        """The same of those that came back after the message was sent."""
        self.desk = ReceiptDesk(self.table, plan.receipt_delay_s, plan.think_s)
        self.profiles = ProfileDesk(self.table)
        self.links = Links()
        self._dialler = Dialler(self.table, plan.in_flight, random or Random())
        self._random = random or Random()
        self._clock = clock
        self._greeting = Greeting(plan.app, plan.access_key, plan.heartbeat_s)
        self._heartbeat_s = plan.heartbeat_s
        self._beats = Schedule(1.0)
        self._handshakes = Schedule(0.25)
        self._parsed: dict[bytes, tuple[Shown, int]] = {}
        self._elsewhere: dict[int, Address] = {}
        self._clock_offset_ms = 0
        self._flying = 0
        self._now = clock()
        self._wall_ms = 0
        self._on_watched: dict[int, Callable[[], None]] = {}

    def dial(self, rows: Iterable[int], per_s: float | None = None) -> int:
        """Let these devices connect, and come back whenever they lose it. How many were idle."""
        self._dialler.per_s = per_s
        return self._dialler.enqueue(rows)

    def set_in_flight(self, in_flight: int) -> None:
        """As plan.in_flight, from now on."""
        self._dialler.in_flight = in_flight

    def disconnect(self, rows: Iterable[int]) -> None:
        """These say BYE, leave and stay away until they are dialled again."""
        for row in rows:
            fd = self.table.fd[row]
            if fd >= 0:
                if self.table.phase[row] == OPEN and not self.plan.bare:
                    self.links.write(fd, _BYE)
                self._drop(row, fd)
            if self.table.phase[row] != ENDED:
                self.table.phase[row] = CLOSED

    def cut(self, rows: Iterable[int]) -> None:
        """These lose their connection without a word and come back as after any loss."""
        for row in rows:
            if self.table.fd[row] >= 0:
                self._lost(row)

    def watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` in a turn in which this descriptor (no device's) can be read."""
        self.links.watch(fd)
        self._on_watched[fd] = on_readable

    def close(self) -> None:
        """Cut all connections; the fleet is of no use afterwards."""
        self.links.close_all()

    def turn(self, timeout_s: float) -> None:
        """One round: waits at most `timeout_s` for something to happen, less if something is due."""
        self._tick()
        self._act()
        self._dial_due()
        due = self._now
        events = self.links.poll(self._patience(timeout_s))
        self._tick()
        row_of = self.links.row_of
        for fd, mask in events:
            row = row_of[fd]
            if row < 0:
                if fd in self._on_watched:
                    self._on_watched[fd]()
                else:
                    self.links.forget(fd)
                continue
            if mask & WRITABLE:
                self._on_writable(row, fd)
            if mask != WRITABLE and row_of[fd] == row:
                self._on_readable(row, fd)
        # Behind the reads: a fleet that got no core for a while has the answer lying there.
        self._beat_due(due)
        self._give_up_handshakes(due)
        self._report()
        self.links.bury()

    # What a fleet whose devices differ does otherwise: loadtest.engine.lively_fleet.

    def _act(self) -> None:
        """What devices do by themselves, before the turn's own work."""

    def _acts_at(self) -> float | None:
        """When `_act` has something to do by the clock alone."""
        return None

    def _connect(self, row: int, address: Address) -> int:
        return self.links.dial(row, address, self.plan.source)

    def _greeting_of(self, row: int) -> Greeting:
        return self._greeting

    def _interval_s(self, row: int) -> int:
        return self._heartbeat_s

    def _agree_interval(self, row: int, seconds: int) -> None:
        self._heartbeat_s = seconds

    def _read(self, row: int, fd: int) -> bytes | None:
        return self.links.read(fd)

    def _on_first_shown(self, row: int, push_id: int) -> None:
        """Behind the `received` of a message that the device has not had."""

    def _report(self) -> None:
        """What the devices have to say after all that came in: profiles first, as the SDK does."""
        for row, frame in self.profiles.frames():
            self.counters.profiles_sent += 1
            if not self.links.write(self.table.fd[row], frame):
                self._lost(row)
        self.desk.release(self._now)
        for row, frame in self.desk.frames():
            self.counters.receipts_sent += 1
            if not self.links.write(self.table.fd[row], frame):
                self._lost(row)

    def _tick(self) -> None:
        """One reading of the clocks serves a whole batch: receipts are told to the turn."""
        self._now = self._clock()
        self._wall_ms = int(time.time() * 1e3) + self._clock_offset_ms

    def _patience(self, timeout_s: float) -> float:
        schedules = (
            self._dialler.next_at(self._now),
            self._beats.next_at(),
            self._handshakes.next_at(),
            self.desk.next_at(),
            self._acts_at(),
        )
        due = min((at for at in schedules if at is not None), default=self._now + timeout_s)
        return min(timeout_s, max(0.0, due - self._now))

    def _dial_due(self) -> None:
        for row in self._dialler.take(self._now, self._flying):
            address = self._elsewhere.pop(row, self.plan.address)
            try:
                fd = self._connect(row, address)
            except OSError:
                # Out of descriptors or ports, or refused at once: it tries again like any other.
                self.counters.dial_failures += 1
                self._dialler.redial(row, self._now, Verdict.LATER, 0)
                continue
            self.counters.dialled += 1
            self.counters.first_dial_at = self.counters.first_dial_at or self._now
            self._flying += 1
            self.table.fd[row] = fd
            self.table.phase[row] = CONNECTED
            self.table.since[row] = self._now
            self._be_patient(row, _DIAL_TIMEOUT_S)

    def _be_patient(self, row: int, seconds: float) -> None:
        """With its handshake, from now on."""
        self.table.beat_tick[row] = self._handshakes.put(row, self._now + seconds)

    def _beat_due(self, now: float) -> None:
        table = self.table
        for tick, rows in self._beats.take(now):
            for row in rows:
                if table.beat_tick[row] != tick or table.phase[row] != OPEN:
                    continue
                if not table.heard[row]:
                    self.counters.silent += 1
                    self._lost(row)
                    continue
                table.heard[row] = 0
                self.counters.pings += 1
                table.beat_tick[row] = self._beats.put(row, self._now + self._interval_s(row))
                if not self.links.write(table.fd[row], PING):
                    self._lost(row)

    def _give_up_handshakes(self, now: float) -> None:
        table = self.table
        for tick, rows in self._handshakes.take(now):
            for row in rows:
                if table.beat_tick[row] == tick and table.phase[row] in (CONNECTED, GREETED):
                    self.counters.given_up += 1
                    self._lost(row)

    def _on_writable(self, row: int, fd: int) -> None:
        if self.table.phase[row] != CONNECTED:
            if not self.links.flush(fd):
                self._lost(row)
            return
        self.links.established(fd)
        if self.plan.bare:
            self._opened(row)
        elif self.links.write(fd, self._hello(row)):
            self.table.phase[row] = GREETED
            self._be_patient(row, WELCOME_TIMEOUT_S)
        else:
            self._lost(row)

    def _hello(self, row: int) -> bytes:
        table = self.table
        table.connection[row] += 1
        greeting = self._greeting_of(row)
        if token := table.token(row):
            return greeting.with_token(token, table.connection[row])
        return greeting.with_proof(
            table.installation_id(row),
            table.connection[row],
            self._wall_ms,
            os.urandom(NONCE_BYTES),
        )

    def _on_readable(self, row: int, fd: int) -> None:
        try:
            chunk = self._read(row, fd)
        except OSError:
            chunk = b""
        if chunk is None:
            return
        if not chunk:
            self._lost(row)
            return
        self.table.heard[row] = 1
        known = self._parsed.get(chunk)
        if known is not None and self.table.phase[row] == OPEN:
            self._on_message(row, *known)
            return
        try:
            self._on_frames(row, fd, chunk)
        except (RemoteProtocolError, DecodeError, ValueError):
            self.counters.protocol_errors += 1
            self._lost(row)

    def _on_frames(self, row: int, fd: int, chunk: bytes) -> None:
        frames, used = split(chunk, MAX_BODY_DOWN)
        if used < len(chunk):
            self.links.keep(fd, chunk[used:])
        alone = chunk if len(frames) == 1 and used == len(chunk) else None
        for kind, body in frames:
            self._on_frame(row, kind, body, alone)
            if self.links.row_of[fd] != row:
                return  # that frame ended the connection

    def _on_frame(self, row: int, kind: int, body: bytes, alone: bytes | None) -> None:
        """`alone`: the frame's bytes if it came by itself, as a broadcast's does."""
        if (self.table.phase[row], kind) not in _ALLOWED:
            # Raises what is wrong with it.
            on_received(Side.DEVICE, State(self.table.phase[row]), kind)
            return
        if kind == _MESSAGE:
            self._on_message(row, *self._parse(body, alone))
        elif kind == _PONG:
            self.counters.pongs += 1
        elif kind == _RECEIPT_ACK:
            acked = device_pb2.ReceiptAck.FromString(body)
            self.counters.receipts_acked += self.desk.on_ack(row, acked.seq)
        elif kind == Kind.PROFILE_ACK:
            safe = device_pb2.ProfileAck.FromString(body)
            self.counters.profiles_acked += self.profiles.on_ack(row, safe.change)
        elif kind == Kind.WELCOME:
            self._on_welcome(row, device_pb2.Welcome.FromString(body))
        elif kind == Kind.GOAWAY:
            self._on_goaway(row, device_pb2.GoAway.FromString(body))

    def _parse(self, body: bytes, alone: bytes | None) -> tuple[Shown, int]:
        # Frames begin with the kind (0x05), bodies with the tag of push_id (0x09): one dict has both.
        known = self._parsed.get(body)
        if known is None:
            if len(self._parsed) >= _PARSES:
                self._parsed.clear()
            message = parse_message(body)
            known = (self.ledger.of(message.push_id), message.sent_ns)
            self._parsed[alone or body] = known
            self.counters.frame_bytes = len(alone or encode(Kind.MESSAGE, body))
        return known

    def _on_message(self, row: int, shown: Shown, sent_ns: int) -> None:
        self.counters.messages += 1
        if not shown.add(row):
            self.counters.redelivered += 1
            if not self.plan.bare:
                self.desk.on_repeated(row, shown.push_id, self._now, self._wall_ms)
            return
        self.counters.shown += 1
        if self.plan.journal:
            self.journals.setdefault(row, []).append((shown.push_id, time.monotonic()))
        if sent_ns:
            live = sent_ns > self.table.since[row] * 1e9
            (self.latency if live else self.latency_late).record(time.monotonic_ns() - sent_ns)
        if not self.plan.bare:
            self.desk.on_shown(row, shown.push_id, self._now, self._wall_ms)
            self._on_first_shown(row, shown.push_id)

    def _on_welcome(self, row: int, welcome: device_pb2.Welcome) -> None:
        table, counters = self.table, self.counters
        if not table.registered[row]:
            table.registered[row] = 1
            table.device_id[row] = welcome.device_id
        else:
            counters.reconnected += 1
            if table.device_id[row] != welcome.device_id:
                counters.identity_changes += 1
                table.device_id[row] = welcome.device_id
        if not table.token(row):
            self.profiles.on_registered(row)
        if welcome.token:
            counters.registered += not table.token(row)
            table.keep_token(row, welcome.token)
        if welcome.heartbeat_s:
            self._agree_interval(row, welcome.heartbeat_s)
        if 0 < welcome.limits.max_receipts <= MAX_RECEIPTS:
            self.desk.max_receipts = welcome.limits.max_receipts
        if welcome.HasField("backoff"):
            backoff = welcome.backoff
            self._dialler.base_ms = backoff.base_ms
            self._dialler.factor = backoff.factor
            self._dialler.max_ms = backoff.max_ms
        self._opened(row)

    def _opened(self, row: int) -> None:
        table = self.table
        self._flying -= 1
        table.phase[row] = OPEN
        self.welcome_latency.record(int((self._now - table.since[row]) * 1e9))
        table.since[row] = self._now
        self.counters.open += 1
        self.counters.welcomed += 1
        self.counters.last_welcome_at = self._now
        if self.plan.bare:
            return
        self.desk.on_open(row)
        self.profiles.on_open(row)
        # Spread over the interval: else a fleet that connected at once beats at once.
        table.heard[row] = 1
        first = self._now + self._random.random() * self._interval_s(row)
        table.beat_tick[row] = self._beats.put(row, first)

    def _on_goaway(self, row: int, goaway: device_pb2.GoAway) -> None:
        code = CloseCode(goaway.code) if goaway.code in _CODES else CloseCode.GOING_AWAY
        self.counters.goaways[goaway.code] = self.counters.goaways.get(goaway.code, 0) + 1
        verdict = code.verdict
        if code in (CloseCode.BAD_TOKEN, CloseCode.TOKEN_EXPIRED):
            self.counters.tokens_refused += 1
            self.table.keep_token(row, b"")
            verdict = Verdict.LATER  # never with that token: it registers anew
        elif code is CloseCode.STALE_CONNECTION:
            self.table.connection[row] = max(self.table.connection[row], goaway.connection)
        elif code is CloseCode.WRONG_CLOCK:
            self._clock_offset_ms = goaway.server_time_ms - int(time.time() * 1e3)
        elif code is CloseCode.GOING_AWAY and ":" in goaway.address:
            host, _, port = goaway.address.rpartition(":")
            self._elsewhere[row] = (host, int(port))
        self._lost(row, verdict, goaway.retry_after_ms)

    def _lost(self, row: int, verdict: Verdict = Verdict.LATER, retry_after_ms: int = 0) -> None:
        """The connection has ended or is no good any more; the device comes back by `verdict`."""
        if self.table.phase[row] == OPEN:
            self._dialler.stood(row, self._now - self.table.since[row])
        self._drop(row, self.table.fd[row])
        self.counters.lost += 1
        if verdict is Verdict.NEVER:
            self.counters.ended += 1
            self.table.phase[row] = ENDED
            return
        self._dialler.redial(row, self._now, verdict, retry_after_ms)

    def _drop(self, row: int, fd: int) -> None:
        phase = self.table.phase[row]
        self._flying -= phase in (CONNECTED, GREETED)
        self.counters.open -= phase == OPEN
        self.links.close(fd)
        self.table.fd[row] = -1
        self.table.phase[row] = CLOSED
        self.desk.on_closed(row)
        self.profiles.on_closed(row)


_CODES: Final = frozenset(CloseCode)
