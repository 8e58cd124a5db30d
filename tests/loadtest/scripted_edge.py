"""A small edge that does what a test tells it, over real sockets and the real wire.

It runs in the test's own thread: the test takes turns between the fleet and this, so there is
nothing to wait for. On loopback what one end wrote can be read by the other at once.
"""

import select
import socket
from typing import Self

from google.protobuf.message import Message

from loadtest.fleet import Fleet
from protocol.codes import MAX_BODY_UP, CloseCode, Kind
from protocol.frames import PONG, Frame, FrameBuffer, encode
from protocol.schema import device_pb2

TURNS = 50
"""More than any exchange here takes: a test that needs more has failed."""
TOKEN = b"token-of-%d"


class Peer:
    """One accepted connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._buffer = FrameBuffer(MAX_BODY_UP)
        self.frames: list[Frame] = []
        self.ended = False

    def read(self) -> list[Frame]:
        """Frames that have come since the last call."""
        try:
            while chunk := self.connection.recv(65536):
                self.frames += self._buffer.feed(chunk)
            self.ended = True
        except BlockingIOError:
            pass
        frames, self.frames = self.frames, []
        return frames

    def send(self, kind: Kind, message: Message | None = None) -> None:
        self.connection.sendall(encode(kind, message.SerializeToString() if message else b""))

    def close(self) -> None:
        self.connection.close()


class ScriptedEdge:
    """Accepts, welcomes and notes; sends what the test says."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.address = ("127.0.0.1", self._listener.getsockname()[1])
        self.hellos: list[device_pb2.Hello] = []
        self._installations: dict[bytes, int] = {}
        self.first_id = 100
        self._peers: list[Peer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for peer in self._peers:
            peer.close()

    def is_dialled(self) -> bool:
        """A connection waits to be accepted."""
        return bool(select.select([self._listener], [], [], 0)[0])

    def accept_bare(self) -> Peer:
        """A connection that has been made. Raises BlockingIOError if there is none."""
        peer = Peer(self._listener.accept()[0])
        self._peers.append(peer)
        return peer

    def accept(self, fleet: Fleet) -> Peer:
        """Turn the fleet until one of its devices has dialled and said HELLO; note that HELLO."""
        peer = None
        for _ in range(TURNS):
            fleet.turn(0)
            if peer is None:
                try:
                    peer = self.accept_bare()
                except BlockingIOError:
                    continue
            frames = peer.read()
            if frames:
                [(kind, body)] = frames
                assert kind == Kind.HELLO
                self.hellos.append(device_pb2.Hello.FromString(body))
                return peer
        raise AssertionError("no device has dialled")

    def welcome(self, peer: Peer, *, base_ms: int = 10, heartbeat_s: int = 60) -> int:
        """WELCOME for the last HELLO: the device's id follows from its installation or token."""
        hello = self.hellos[-1]
        welcome = device_pb2.Welcome(version=1, epoch=len(self.hellos), heartbeat_s=heartbeat_s)
        welcome.backoff.base_ms, welcome.backoff.factor, welcome.backoff.max_ms = base_ms, 2.0, 1000
        if hello.WhichOneof("credential") == "token":
            welcome.device_id = int(hello.token.rpartition(b"-")[2])
        else:
            installation = hello.registration.installation_id
            welcome.device_id = self._installations.setdefault(
                installation, self.first_id + len(self._installations)
            )
            welcome.token = TOKEN % welcome.device_id
        peer.send(Kind.WELCOME, welcome)
        return welcome.device_id

    def connect(self, fleet: Fleet) -> Peer:
        """`accept` and `welcome`, until the device has taken it in."""
        before = fleet.counters.welcomed
        peer = self.accept(fleet)
        self.welcome(peer)
        turn_until(fleet, lambda: fleet.counters.welcomed == before + 1)
        return peer


def turn_until(fleet: Fleet, reached: object) -> None:
    assert callable(reached)
    for _ in range(TURNS):
        if reached():
            return
        fleet.turn(0)
    raise AssertionError("the fleet did not get there")


def receipts_of(frames: list[Frame]) -> list[tuple[int, int, int]]:
    """(seq of the frame, push id, state) of each receipt in the RECEIPTS among these."""
    found: list[tuple[int, int, int]] = []
    for kind, body in frames:
        if kind == Kind.RECEIPTS:
            message = device_pb2.Receipts.FromString(body)
            found += [(message.seq, entry.push_id, entry.state) for entry in message.receipts]
    return found


def message(push_id: int, **data: str) -> device_pb2.Message:
    content = device_pb2.Content(notification=device_pb2.Notification(title="t"), data=data)
    return device_pb2.Message(push_id=push_id, ttl_s=60, content=content)


def goaway(code: CloseCode, **fields: object) -> device_pb2.GoAway:
    return device_pb2.GoAway(code=int(code), **fields)  # type: ignore[arg-type]


def pong_all(peer: Peer) -> int:
    """Answer the PINGs that have come; how many."""
    pings = sum(kind == Kind.PING for kind, _ in peer.read())
    for _ in range(pings):
        peer.connection.sendall(PONG)
    return pings
