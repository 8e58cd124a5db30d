"""What the tests of the edge share: narrow recorders for its ports, devices, a running edge."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

from gateway import config
from gateway.edge.output import Item
from gateway.edge.process import EdgeProcess
from gateway.edge.sessions import Sessions
from gateway.edge.table import Table
from gateway.edge.uplink import Report
from gateway.metrics import decode_stats
from gateway.rpc import Method, RpcClient
from gateway.secretfiles import Secrets
from gateway.store import keys, ownership
from gateway.store.apps import App, NewApp
from gateway.store.client import Store
from gateway.store.errors import StoreError
from gateway.store.leases import Identity
from gateway.store.sessions import Answer, Status, Up
from gateway.tokens import Sealer, Token
from protocol import frames
from protocol.codes import MAX_BODY_DOWN, Kind
from protocol.credentials import registration_proof
from protocol.schema import device_pb2, log_pb2, rpc_pb2
from tests.waiting import PATIENCE_S

"""For what must happen; a test that waits longer has failed."""
NOW_MS = 1_800_000_000_000
SECRETS = Secrets({1: bytes(32)}, 1, bytes(32))
DEMO = App("demo", 1, "the access key", ())


def up(kind: int, body: Any = None) -> bytes:
    """A frame of a device."""
    return frames.encode(kind, body.SerializeToString() if body else b"")


def registration(
    app: App | NewApp = DEMO,
    *,
    installation: bytes = b"i" * 16,
    time_ms: int = NOW_MS,
    nonce: bytes = b"",
    key: str = "",
    connection: int = 1,
    **fields: Any,
) -> device_pb2.Hello:
    """HELLO of a device that registers."""
    nonce = nonce or os.urandom(16)
    proof = registration_proof(key or app.access_key, app.app_id, installation, time_ms, nonce)
    hello = device_pb2.Hello(
        version_min=1, version_max=1, app=app.app_id, connection=connection, heartbeat_s=210
    )
    hello.registration.CopyFrom(
        device_pb2.Registration(
            installation_id=installation, time_ms=time_ms, nonce=nonce, proof=proof
        )
    )
    for name, value in fields.items():
        setattr(hello, name, value)
    return hello


def with_token(token: bytes, *, connection: int = 1, app: str = "demo") -> device_pb2.Hello:
    """HELLO of a device that comes back."""
    return device_pb2.Hello(
        version_min=1,
        version_max=1,
        app=app,
        connection=connection,
        heartbeat_s=210,
        token=token,
    )


def receipts(seq: int, *push_ids: int, state: str = "RECEIVED") -> bytes:
    body = device_pb2.Receipts(seq=seq)
    for push_id in push_ids:
        body.receipts.add(push_id=push_id, state=state, at_ms=NOW_MS)
    return up(Kind.RECEIPTS, body)


def message(push_id: int, text: str = "text") -> bytes:
    """A MESSAGE frame."""
    content = device_pb2.Content(data={"text": text})
    return up(Kind.MESSAGE, device_pb2.Message(push_id=push_id, ttl_s=60, content=content))


# The ports of Sessions.


class ReactorRecorder:
    """Bytes that would have gone out, and what would have been closed."""

    def __init__(self) -> None:
        self.out: defaultdict[int, bytes] = defaultdict(bytes)
        self.finished: dict[int, bytes] = {}
        self.closed: list[int] = []
        self.paused: set[int] = set()
        self.postponed: list[int] = []
        """Connections of answers that may come later."""
        self.stuck_now: list[int] = []
        self.full: set[int] = set()
        """Connections whose output is full."""
        self.unread: set[int] = set()
        """Connections whose bytes had no turn yet."""
        self.silent = False

    def may_send(self) -> bool:
        return not self.silent

    def has_unread(self, fd: int) -> bool:
        return fd in self.unread

    def send(self, fd: int, data: bytes) -> None:
        self.out[fd] += data

    def postpone(self, fd: int, data: bytes) -> None:
        self.postponed.append(fd)
        self.send(fd, data)

    def put(self, fd: int, item: Item) -> None:
        self.send(fd, bytes(item.data))

    def offer(self, fd: int, message: Item) -> bool:
        if fd in self.full:
            return False
        self.put(fd, message)
        return True

    def drop_messages(self, fd: int) -> None: ...

    def recall(self, push_id: int) -> None: ...

    def flush(self) -> None: ...

    def finish(self, fd: int, last: bytes) -> None:
        if fd not in self.finished and fd not in self.closed:
            self.finished[fd] = last
            self.send(fd, last)

    def close(self, fd: int) -> None:
        if fd not in self.closed:
            self.closed.append(fd)

    def pause(self, fd: int) -> None:
        self.paused.add(fd)

    def resume(self, fd: int) -> None:
        self.paused.discard(fd)

    def stuck(self, now: float) -> list[int]:
        return self.stuck_now

    def sweep_lingering(self, now: float) -> None: ...


class RegistrarRecorder:
    def __init__(self) -> None:
        self.registered: list[tuple[int, Up]] = []
        self.unregistered: list[tuple[int, int, int]] = []
        self.refusal: StoreError | None = None

    def register(self, p: int, up: Up) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.registered.append((p, up))

    def unregister(self, p: int, device: int, epoch: int) -> None:
        self.unregistered.append((p, device, epoch))


class UplinkRecorder:
    def __init__(self) -> None:
        self.reports: list[tuple[int, Report]] = []
        self.full = False

    def report(self, p: int, report: Report) -> None:
        self.reports.append((p, report))


class Stage:
    """Sessions of an edge between recorders; the test plays reactor, store and clock."""

    def __init__(self, *, size: int = 64, partitions: int = 2, **edge: Any) -> None:
        self.config = config.Edge(**edge)
        self.table = Table(size)
        self.sealer = Sealer(SECRETS.master_keys, SECRETS.current)
        self.now_ms = NOW_MS
        self.sessions = Sessions(
            self.config, partitions, self.table, self.sealer, lambda: self.now_ms
        )
        self.reactor = ReactorRecorder()
        self.registrar = RegistrarRecorder()
        self.uplink = UplinkRecorder()
        self.asked: list[tuple[str, Callable[[App | StoreError | None], None]]] = []
        """Apps that the store was asked for: (app id, where the answer goes)"""
        self.sessions.attach(
            self.reactor,  # type: ignore[arg-type]
            self.registrar,  # type: ignore[arg-type]
            self.uplink,  # type: ignore[arg-type]
            {"demo": DEMO},  # type: ignore[arg-type]
            lambda app_id, found: self.asked.append((app_id, found)),
            self._note_paused,
        )
        self._next_epoch = 100
        self.told_paused = 0

    def _note_paused(self) -> None:
        self.told_paused += 1

    def accept(self, fd: int) -> int:
        self.sessions.on_accept(fd)
        return fd

    def feed(self, fd: int, data: bytes) -> None:
        """As the reactor does it: what comes after the end is dropped."""
        if data and fd not in self.reactor.finished and fd not in self.reactor.closed:
            self.sessions.on_bytes(fd, data)

    def hang_up(self, fd: int) -> None:
        self.sessions.on_closed(fd)
        self.reactor.out.pop(fd, None)
        self.reactor.finished.pop(fd, None)
        if fd in self.reactor.closed:
            self.reactor.closed.remove(fd)

    def take(self, fd: int) -> bytes:
        """What went out since the last look."""
        return self.reactor.out.pop(fd, b"")

    def answer(
        self, *, device: int = 7, status: Status = Status.REGISTERED, value: int | None = None
    ) -> Up:
        """The store answers the oldest registration."""
        p, first = self.registrar.registered.pop(0)
        index = device if first.installation else first.device
        if value is None:
            self._next_epoch += 1
            value = self._next_epoch
        self.sessions.on_answer(p, first, Answer(status, index, value))
        return first

    def open(self, fd: int, device: int = 7, connection: int = 1) -> int:
        """A device comes in with a token; what was sent for that is taken."""
        self.accept(fd)
        self.feed(fd, self.hello(device, connection))
        self.answer()
        self.take(fd)
        return fd

    def hello(self, device: int = 7, connection: int = 1) -> bytes:
        return up(Kind.HELLO, with_token(self.token(device), connection=connection))

    def token(self, device: int, app: int = 1, issued_s: int = NOW_MS // 1000) -> bytes:
        return self.sealer.seal(Token(app, device, 0, issued_s))


def goaway_of(data: bytes) -> device_pb2.GoAway:
    """The GOAWAY that ends these bytes."""
    cut, used = frames.split(data, MAX_BODY_DOWN)
    assert used == len(data) and cut, "not whole frames"
    kind, body = cut[-1]
    assert kind == Kind.GOAWAY, f"ends with kind {kind}"
    return device_pb2.GoAway.FromString(body)


def kinds(data: bytes) -> list[Kind]:
    cut, used = frames.split(data, MAX_BODY_DOWN)
    assert used == len(data), "not whole frames"
    return [Kind(kind) for kind, _ in cut]


# The real store.


async def fence_off(store: Store, edge: Identity, p: int = 0) -> None:
    """As the owner of a partition does it with an edge whose lease has run out."""
    fence = await ownership.take_fence(store, p, 1, 1)
    record = log_pb2.Record(edges_down=[log_pb2.EdgeDown(edge=edge.number, start=edge.start)])
    await ownership.declare_edge_down(
        store,
        p,
        fence=fence,
        edge=edge.number,
        start=edge.start,
        record=record.SerializeToString(),
    )


async def records(store: Store, p: int = 0) -> list[log_pb2.Record]:
    """Everything in the log of a partition."""
    entries = await store.call("XRANGE", keys.log(p), "-", "+")
    return [log_pb2.Record.FromString(fields[1]) for _, fields in entries]


# A running edge.


class Device:
    """A connection to an edge that says exactly what the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = frames.FrameBuffer(MAX_BODY_DOWN)
        self._frames: list[frames.Frame] = []
        self.id = 0
        self.token = b""

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def hello(self, hello: device_pb2.Hello) -> None:
        self.send(up(Kind.HELLO, hello))

    async def next(self) -> tuple[Kind, bytes]:
        """The next frame; EOFError at the end."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._frames:
                data = await self._reader.read(65536)
                if not data:
                    raise EOFError
                self._frames += self._buffer.feed(data)
        kind, body = self._frames.pop(0)
        return Kind(kind), body

    async def expect(self, kind: Kind) -> bytes:
        got, body = await self.next()
        assert got is kind, f"{got.name} instead of {kind.name}"
        return body

    async def welcome(self) -> device_pb2.Welcome:
        welcome = device_pb2.Welcome.FromString(await self.expect(Kind.WELCOME))
        self.id = welcome.device_id
        self.token = welcome.token or self.token
        return welcome

    async def goaway(self) -> device_pb2.GoAway:
        """GOAWAY, and then a regular end: no reset."""
        goaway = device_pb2.GoAway.FromString(await self.expect(Kind.GOAWAY))
        await self.end()
        return goaway

    async def end(self) -> None:
        try:
            kind, _ = await self.next()
        except EOFError:
            return
        raise AssertionError(f"{kind.name} instead of the end")

    async def message(self) -> int:
        """Push id of the next message."""
        return device_pb2.Message.FromString(await self.expect(Kind.MESSAGE)).push_id

    async def ack(self) -> int:
        return device_pb2.ReceiptAck.FromString(await self.expect(Kind.RECEIPT_ACK)).seq

    async def ping(self) -> None:
        self.send(frames.PING)
        await self.expect(Kind.PONG)

    def pause_reading(self) -> None:
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def has_ended(self) -> bool:
        return self._reader.at_eof() or bool(self._reader._eof)  # type: ignore[attr-defined]

    def stop_sending(self) -> None:
        self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class RunningEdge:
    """An edge in this process's loop, with the real store, and devices that come to it."""

    def __init__(self, edge: EdgeProcess, said: dict[str, Any], task: "asyncio.Task[None]") -> None:
        self.process = edge
        self.said = said
        self.task = task
        self.devices: list[Device] = []
        self.rpc = RpcClient(said["rpc"], SECRETS.rpc_secret)
        self.rpc.start()

    @property
    def port(self) -> int:
        return int(self.said["own"].rpartition(":")[2])

    async def connect(self) -> Device:
        device = Device(*await asyncio.open_connection("127.0.0.1", self.port))
        self.devices.append(device)
        return device

    async def device(self, app: NewApp, installation: bytes = b"h" * 16, **fields: Any) -> Device:
        """A device with a session."""
        device = await self.connect()
        now_ms = time.time_ns() // 1_000_000
        device.hello(registration(app, installation=installation, time_ms=now_ms, **fields))
        await device.welcome()
        return device

    async def deliver(
        self, frame: bytes, *device_ids: int, fence: int = 1
    ) -> list[tuple[list[int], list[int]]]:
        """(gone, slow) of each partition's Refused."""
        await self.rpc.wait_up()
        refused = []
        for p in sorted({device >> 32 for device in device_ids}):
            indexes = [device & 0xFFFF_FFFF for device in device_ids if device >> 32 == p]
            body = await self.rpc.call(
                Method.DELIVER, deliver(p, (frame, indexes), fence=fence), PATIENCE_S
            )
            refused += [
                (list(r.gone), list(r.slow)) for r in rpc_pb2.Delivered.FromString(body).refused
            ]
        return refused

    async def stat(self, name: str, **labels: str) -> float:
        await self.rpc.wait_up()
        _, samples = decode_stats(await self.rpc.call(Method.STATS, b"", PATIENCE_S))
        return sum(value for n, have, value in samples if n == name and have == labels)

    async def stop(self) -> None:
        """As the supervisor does it."""
        if not self.task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            await self.task


@contextlib.asynccontextmanager
async def running_edge(
    store_url: str, data_dir: Path, *, lease_s: float = 5.0, **edge: Any
) -> AsyncIterator[RunningEdge]:
    edge = {"listen": "127.0.0.1:0", "drain_s": 0.0, "spread_ms": 50, **edge}
    settings = config.Config(
        service=config.Service(data_dir=str(data_dir), partitions=2),
        store=config.Store(url=store_url, lease_s=lease_s),
        edge=config.Edge(**edge),
    )
    ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    process = EdgeProcess(settings, SECRETS, store_url)
    task = asyncio.create_task(process.run(ready.set_result))
    either: list[asyncio.Future[Any]] = [ready, task]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await task  # raises what kept it from starting
    running = RunningEdge(process, await ready, task)
    try:
        yield running
    finally:
        for device in running.devices:
            await device.close()
        await running.rpc.close()
        await running.stop()


def deliver(
    p: int,
    *deliveries: tuple[bytes, Iterable[int] | bytes],
    fence: int = 1,
    restart: bool = True,
) -> bytes:
    """A Deliver: (frame, indexes or serialised bitmap) each."""
    request = rpc_pb2.Deliver(partition=p, fence=fence)
    for frame, to in deliveries:
        if isinstance(to, bytes):
            request.deliveries.add(frame=frame, bitmap=to, restart=restart)
        else:
            request.deliveries.add(frame=frame, index=to, restart=restart)
    return request.SerializeToString()


def reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
