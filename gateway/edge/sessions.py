"""Sessions: frames of devices in, frames and records out. The same code behind every door.

Works on rows of the table; the session table of `protocol.states` says which frame is allowed when.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from google.protobuf.message import DecodeError

from gateway.config import Edge
from gateway.edge.answers import Welcomes, goaway, profile_ack, receipt_ack
from gateway.edge.credentials import Admitted, Refused, admit
from gateway.edge.early import EarlyMessages
from gateway.edge.pauses import Pauses
from gateway.edge.reactor import Reactor
from gateway.edge.recalls import Recall, Recalls
from gateway.edge.registrar import Registrar
from gateway.edge.reports import read_profile, read_receipts
from gateway.edge.table import Table
from gateway.edge.uplink import Report, Uplink
from gateway.store.apps import App, Apps
from gateway.store.errors import ProducerFull, StoreError
from gateway.store.sessions import Answer, Status, Up
from gateway.tokens import Sealer, Token
from protocol.codes import DOOR_BYTES, MAX_BODY_UP, CloseCode, Kind, server_timeout_s
from protocol.errors import RemoteProtocolError
from protocol.frames import PONG, needed, split
from protocol.ids import device_id, split_device_id
from protocol.schema import device_pb2
from protocol.states import Side, State, on_received

# Plain numbers: on the way of each receipt and heartbeat an enum costs as much as a dict of our own.
_OPEN: Final = int(State.OPEN)
_CONNECTED: Final = int(State.CONNECTED)
_PING: Final = int(Kind.PING)
_RECEIPTS: Final = int(Kind.RECEIPTS)
_STAY_OPEN: Final = frozenset(
    {k for k in (_PING, _RECEIPTS) if on_received(Side.EDGE, State.OPEN, k) is State.OPEN}
)
"""What most frames are, asked of the session table once."""


class Sessions:
    """The handler behind the reactor: one set of rows, every session of this edge."""

    def __init__(
        self, config: Edge, partitions: int, table: Table, sealer: Sealer, now_ms: Callable[[], int]
    ) -> None:
        self._config = config
        self._partitions = partitions
        self.table = table
        self._sealer = sealer
        self._now_ms = now_ms
        self._welcomes = Welcomes(config)
        self._partial: dict[int, tuple[bytearray, int]] = {}
        """Frames that have not come whole: the bytes, and how many make the frame."""
        self.early = EarlyMessages(config.output_cap_bytes)
        self.recalls = Recalls()
        self._wishes: dict[int, tuple[int, bool]] = {}
        """Heartbeat asked for, and whether a new token is due, of rows that register."""
        self._continuing: set[int] = set()
        """Rows that are being registered again under a new edge number."""
        self.draining = False
        """No session is to stay: who comes all the same is sent on."""
        self.elsewhere: Callable[[], str] = lambda: ""
        """While draining: the address of another edge, if there is one."""
        self.closes: Counter[str] = Counter()
        self.frames = [0] * 256
        """Frames received, by kind."""
        self.handshakes_total = 0

    def attach(
        self,
        reactor: Reactor,
        registrar: Registrar,
        uplink: Uplink,
        apps: Apps,
        look_up: Callable[[str, Callable[[App | StoreError | None], None]], None],
        paused: Callable[[], None],
    ) -> None:
        """The acting parts, made in the child once there is a loop. `paused`: see `gateway.edge.pauses`."""
        self.reactor = reactor
        self.registrar = registrar
        self.uplink = uplink
        self._apps = apps
        self._look_up = look_up
        self.pauses = Pauses(reactor, lambda: self.uplink.full, paused)

    # What the reactor tells, and asks.

    def room(self) -> int:
        return self._config.handshakes_max - self.table.greeted

    def on_accept(self, fd: int) -> None:
        self.table.add(fd)
        self.table.set_handshake(fd, self._config.hello_timeout_s)

    def on_bytes(self, fd: int, data: bytes) -> None:
        partial = self._partial.get(fd)
        if partial is not None:
            held, need = partial
            held += data
            if len(held) < need:
                return
            data = bytes(held)
            del self._partial[fd]
        elif self.table.state[fd] == _CONNECTED and data[0] != Kind.HELLO:
            self._refuse_door(fd, data[0])
            return
        try:
            frames, used = split(data, MAX_BODY_UP)
            if used < len(data):
                rest = bytearray(data[used:])
                self._partial[fd] = (rest, needed(rest))
            for kind, body in frames:
                self._on_frame(fd, kind, body)
        except RemoteProtocolError as error:
            self.refuse(fd, error.code, detail=str(error))
        except DecodeError:
            self.refuse(
                fd, CloseCode.PROTOCOL_ERROR, detail="a body is not the message it should be"
            )

    def on_overflow(self, fd: int) -> None:
        # Its buffers are full: no GOAWAY would get through.
        self._count(CloseCode.TOO_SLOW.name.lower())

    def on_closed(self, fd: int) -> None:
        table = self.table
        self._partial.pop(fd, None)
        if self.early.take(fd):
            self.table.begin_anew(*split_device_id(self.table.device[fd]))
        self._wishes.pop(fd, None)
        self.pauses.discard(fd)
        self._continuing.discard(fd)
        epoch = table.epoch[fd]
        if epoch and table.state[fd] in (State.OPEN, State.LEAVING):
            partition, index = split_device_id(table.device[fd])
            self.registrar.unregister(partition, index, epoch)
        table.remove(fd)

    def _refuse_door(self, fd: int, first: int) -> None:
        what = "a door that is not open here" if first in DOOR_BYTES else "no HELLO"
        self.refuse(fd, CloseCode.PROTOCOL_ERROR, detail=f"first byte 0x{first:02x}: {what}")

    # Frames.

    def _on_frame(self, fd: int, kind: int, body: bytes) -> None:
        table = self.table
        self.frames[kind] += 1
        number = table.state[fd]
        if number == _OPEN and kind in _STAY_OPEN:
            table.seen(fd)
            if kind == _RECEIPTS:
                self._on_receipts(fd, body)
            elif kind == _PING:
                self.reactor.send(fd, PONG)
            return
        state = State(number)
        after = on_received(Side.EDGE, state, kind)
        if state is State.OPEN:
            table.seen(fd)
        if after is None:
            return  # optional and unknown: skipped
        if state is State.LEAVING and not table.epoch[fd]:
            return  # sent away before it was registered: there is no device to speak for
        if kind == Kind.PING:
            self.reactor.send(fd, PONG)
        elif kind == Kind.RECEIPTS:
            self._on_receipts(fd, body)
        elif kind == Kind.HELLO:
            if state is State.CONNECTED:
                self._on_hello(fd, body)
        elif kind == Kind.PROFILE:
            self._on_profile(fd, body)
        elif kind == Kind.HEARTBEAT:
            wanted = device_pb2.Heartbeat.FromString(body).heartbeat_s
            table.set_timeout(fd, server_timeout_s(self._clamped(wanted)))
        elif kind == Kind.BYE:
            if state is State.OPEN:  # else the end is counted already
                self._count("bye")
                table.leave(fd)  # what still comes is of no consequence
            self.reactor.close(fd)

    def _on_receipts(self, fd: int, body: bytes) -> None:
        seq, receipts = read_receipts(body)
        partition, index = split_device_id(self.table.device[fd])
        self._report(partition, Report(fd, self.table.generation[fd], seq, index, receipts, b""))

    def _on_profile(self, fd: int, body: bytes) -> None:
        partition, index = split_device_id(self.table.device[fd])
        change, profile = read_profile(body, index)
        generation = self.table.generation[fd]
        self._report(partition, Report(fd, generation, change, index, (), profile))

    def _report(self, partition: int, report: Report) -> None:
        self.uplink.report(partition, report)
        if self.uplink.full:
            self.pauses.add(report.fd)

    def on_durable(self, report: Report) -> None:
        """A report stands in the log: acknowledge it, if the connection still stands."""
        fd = report.fd
        if self.table.generation[fd] == report.row:
            if report.profile:
                self.reactor.send(fd, profile_ack(report.number))
            elif self.table.state[fd] != _OPEN:
                self.reactor.send(fd, receipt_ack(report.number))  # it is about to hang up
            else:
                self.reactor.postpone(fd, receipt_ack(report.number))

    # HELLO to WELCOME.

    def _on_hello(self, fd: int, body: bytes) -> None:
        hello = device_pb2.Hello.FromString(body)
        self.table.greet(fd)
        generation = self.table.generation[fd]
        self.table.set_handshake(fd, self._config.register_timeout_s)
        app = self._apps.get(hello.app)
        if app is not None:
            self._admit(fd, hello, app)
            return

        def found(result: App | StoreError | None) -> None:
            if not self.table.is_row(fd, generation) or self.table.state[fd] != State.GREETED:
                return
            if isinstance(result, StoreError):
                self.send_away(fd, CloseCode.STORE_UNAVAILABLE)
            elif result is None:
                self.refuse(fd, CloseCode.UNKNOWN_APP, detail="no such app")
            else:
                self._admit(fd, hello, result)

        self._look_up(hello.app, found)

    def _admit(self, fd: int, hello: device_pb2.Hello, app: App) -> None:
        try:
            admitted = admit(
                hello,
                app,
                self._sealer,
                now_ms=self._now_ms(),
                token_days=self._config.token_days,
                partitions=self._partitions,
            )
            self._register(fd, hello, app, admitted)
        except Refused as error:
            self.refuse(fd, error.code, detail=str(error), server_time_ms=error.server_time_ms)
        except ProducerFull:
            self.send_away(fd, CloseCode.OVERLOADED)

    def _register(self, fd: int, hello: device_pb2.Hello, app: App, admitted: Admitted) -> None:
        table = self.table
        up = Up(
            fd,
            table.generation[fd],
            hello.connection,
            app.number,
            admitted.device,
            admitted.installation,
            admitted.nonce,
            0,
        )
        self.registrar.register(admitted.partition, up)
        table.app[fd] = app.number
        table.connection[fd] = hello.connection
        self._wishes[fd] = (hello.heartbeat_s, bool(admitted.installation) or admitted.token_stale)
        if not admitted.installation:
            table.arrive(fd, device_id(admitted.partition, admitted.device))

    def on_answer(self, p: int, up: Up, answer: Answer) -> None:
        """The store has answered a registration whose row still stands."""
        fd = up.fd
        if up.prior:
            self._on_continued(fd, answer)
            return
        if self.table.state[fd] != State.GREETED:
            # Sent away while it registered; the session must not stay behind.
            if answer.status is Status.REGISTERED:
                self.registrar.unregister(p, answer.device, answer.value)
            return
        match answer.status:
            case Status.REGISTERED:
                self._welcome(fd, device_id(p, answer.device), answer.value)
            case Status.STALE:
                self.refuse(fd, CloseCode.STALE_CONNECTION, connection=answer.value)
            case Status.NONCE_SEEN:
                self.refuse(
                    fd,
                    CloseCode.WRONG_CLOCK,
                    detail="this nonce was used before",
                    server_time_ms=self._now_ms(),
                )
            case Status.FENCED_SINCE:
                self.send_away(fd, CloseCode.GOING_AWAY)
            case Status.UNKNOWN_DEVICE:
                self.refuse(fd, CloseCode.BAD_TOKEN, detail="no such device in this app")

    def _welcome(self, fd: int, device: int, epoch: int) -> None:
        table = self.table
        wanted_s, new_token = self._wishes.pop(fd)
        heartbeat_s = self._clamped(wanted_s)
        token = b""
        now_ms = self._now_ms()
        if new_token:
            token = self._sealer.seal(Token(table.app[fd], device, 0, now_ms // 1000))
        older = table.open(fd, device, epoch)
        if older is not None:
            self.refuse(older, CloseCode.REPLACED)
        table.set_timeout(fd, server_timeout_s(heartbeat_s))
        frame = self._welcomes.build(
            epoch=epoch,
            heartbeat_s=heartbeat_s,
            now_ms=now_ms,
            device=device,
            token=token,
            recalled=self.recalls.welcome(table.app[fd]),
        )
        self.handshakes_total += 1
        self.reactor.send(fd, frame)
        held = self.early.take(fd)
        if held and not self.reactor.may_send():
            table.begin_anew(*split_device_id(device))  # nothing may overtake what is lost here
            held = ()
        for message in held:
            self.reactor.put(fd, message)
        if self.draining:
            self.depart(fd, self.elsewhere())

    def recall(self, recalls: Iterable[Recall]) -> None:
        """No copy of these pushes leaves this edge from here on."""
        for push_id in self.recalls.add(recalls, self._now_ms()):
            self.reactor.recall(push_id)
            self.early.recall(push_id)

    # Sessions that go on under a new edge number.

    def continue_all(self) -> list[tuple[int, Up]]:
        """Registrations for the standing rows, after this edge has lost its lease."""
        table = self.table
        ups = []
        for p, rows in table.rows.items():
            for index, fd in rows.items():
                self._continuing.add(fd)
                generation, connection = table.generation[fd], table.connection[fd]
                app, epoch = table.app[fd], table.epoch[fd]
                ups.append((p, Up(fd, generation, connection, app, index, b"", b"", epoch)))
        return ups

    def _on_continued(self, fd: int, answer: Answer) -> None:
        self._continuing.discard(fd)
        if answer.status is Status.REGISTERED:
            self.table.epoch[fd] = answer.value
        elif answer.status is Status.FENCED_SINCE:
            self.send_away(fd, CloseCode.GOING_AWAY)
        else:
            self.table.epoch[fd] = 0
            self.refuse(fd, CloseCode.REPLACED)

    # Ends.

    def refuse(
        self,
        fd: int,
        code: CloseCode,
        *,
        detail: str = "",
        server_time_ms: int = 0,
        connection: int = 0,
        retry_after_ms: int = 0,
        address: str = "",
    ) -> None:
        """Send GOAWAY with a code, then close."""
        if self.table.state[fd] in (State.CLOSED, State.LEAVING):
            return
        self._count(code.name.lower())
        self.early.hand_over(fd, self.table, self.reactor)
        self.table.leave(fd)
        frame = goaway(
            code,
            detail=detail,
            server_time_ms=server_time_ms,
            connection=connection,
            retry_after_ms=retry_after_ms,
            address=address,
        )
        self.reactor.finish(fd, frame)

    def send_away(self, fd: int, code: CloseCode, address: str = "") -> None:
        """GOAWAY with a retry time that is spread at random."""
        retry_ms = random.randint(1, self._config.spread_ms)
        self.refuse(fd, code, retry_after_ms=retry_ms, address=address)

    def depart(self, fd: int, address: str) -> None:
        """GOAWAY of a draining edge: the device leaves by itself, its last receipts still count.

        Who is told another edge dials it at once, since departures are spread already; without one there
        is only the shared door, where we may be the one who comes back.
        """
        if self.table.state[fd] != State.OPEN:
            return
        self._count(CloseCode.GOING_AWAY.name.lower())
        self.table.leave(fd)
        self.reactor.drop_messages(fd)  # none may follow; they are pending still
        wait_ms = 1 if address else random.randint(1, self._config.spread_ms)
        last = goaway(CloseCode.GOING_AWAY, retry_after_ms=wait_ms, address=address)
        self.reactor.send(fd, last)

    def drop_replaced(self, partition: int, index: int, epoch: int) -> None:
        """A later session (of `epoch`) of this device stands at another edge: close ours."""
        fd = self.table.fd_of(device_id(partition, index))
        if fd in self._continuing:
            return  # perhaps it is our own: the answer of the store will tell
        if fd is not None and self.table.epoch[fd] < epoch:
            self.table.epoch[fd] = 0  # fenced: its end is no news to the store
            self.refuse(fd, CloseCode.REPLACED)

    # Time.

    def on_clock(self, now: float, seconds: float) -> None:
        """Several times a second, `seconds` after the start: close those that are silent, slow or late.

        Who has sent what is not read yet is none of them: it is we who are late.
        """
        for fd in self.table.sweep_handshakes(seconds):
            if self.table.state[fd] != _CONNECTED:
                self.send_away(fd, CloseCode.STORE_UNAVAILABLE)
            elif fd in self._partial or not self.reactor.has_unread(fd):
                self.send_away(fd, CloseCode.HELLO_TIMEOUT)
            else:
                self.table.set_handshake(fd, self._config.hello_timeout_s)
        for fd in self.table.sweep(seconds):
            if fd in self.pauses or self.reactor.has_unread(fd):
                self.table.seen(fd)
            else:
                self.refuse(fd, CloseCode.HEARTBEAT_TIMEOUT)
        for fd in self.reactor.stuck(now):
            self.on_overflow(fd)
            self.reactor.close(fd)
        self.reactor.sweep_lingering(now)

    def _clamped(self, wanted_s: int) -> int:
        return min(max(wanted_s, self._config.heartbeat_min_s), self._config.heartbeat_max_s)

    def _count(self, reason: str) -> None:
        self.closes[reason] += 1
