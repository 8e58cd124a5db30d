"""An edge as a dispatch node sees it: a lease, an RPC address, and answers as the test says."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pyroaring import BitMap

from gateway.rpc import Method, RpcError, RpcServer
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.leases import Identity, Lease
from gateway.store.sessions import Answer, Up
from protocol.codes import Kind
from protocol.frames import split
from protocol.schema import device_pb2, rpc_pb2
from tests.gateway.dispatch.records import app_of
from tests.gateway.store.sessions_desk import SessionsDesk


class Got(NamedTuple):
    device: int
    push_id: int
    text: str


class ScriptedEdge:
    """Takes what is delivered, refuses what the test says."""

    def __init__(self, store: Store, folder: Path, name: str = "e1") -> None:
        self._store = store
        self._address = f"unix:{folder}/{name}"
        self._server = RpcServer({Method.DELIVER: self._deliver, Method.REPLACED: self._told}, b"")
        self.got: list[Got] = []
        self.got_at: list[float] = []
        """Monotonic time of each."""
        self.fences: list[int] = []
        self.replaced: list[tuple[int, int]] = []
        """(index, epoch)"""
        self.not_here: set[int] = set()
        """Devices refused as gone, for as long as they stand here."""
        self.refusals = 0
        self.deposes = False
        self._rows = 0

    async def start(self) -> None:
        await self._server.start(self._address)
        info = {"rpc": self._address}
        self.lease = await Lease.take(self._store, StoreClock(), "edge", 600.0, info)
        self.sessions = SessionsDesk(self._store, *self.identity[1:])

    async def stop(self) -> None:
        await self._server.stop()

    @property
    def identity(self) -> Identity:
        return self.lease.identity

    async def connect(self, *devices: int, connection: int = 1) -> list[Answer]:
        """Register sessions; devices are drawn in the order of their first connect."""
        ups = []
        for device in devices:
            self._rows += 1
            installation = device.to_bytes(16, "big")
            nonce = bytes((self.identity.number,)) + self._rows.to_bytes(15, "big")
            ups.append(Up(5, self._rows, connection, app_of(device), 0, installation, nonce, 0))
        return [answer for answer in await self.sessions.call(*ups) if answer]

    def devices_of(self, push_id: int) -> list[int]:
        return [got.device for got in self.got if got.push_id == push_id]

    def _deliver(self, body: bytes) -> bytes:
        request = rpc_pb2.Deliver.FromString(body)
        if self.deposes:
            raise RpcError("fenced", "a newer owner has spoken")
        self.fences.append(request.fence)
        reply = rpc_pb2.Delivered()
        for position, delivery in enumerate(request.deliveries):
            devices: Iterable[int] = (
                BitMap.deserialize(delivery.bitmap) if delivery.bitmap else delivery.index
            )
            ((kind, frame),), _ = split(delivery.frame, 1 << 20)
            assert kind == Kind.MESSAGE
            message = device_pb2.Message.FromString(frame)
            gone = [device for device in devices if device in self.not_here]
            if gone:
                self.refusals += 1
                reply.refused.add(delivery=position, gone=gone)
            text = message.content.notification.title
            got = [Got(d, message.push_id, text) for d in devices if d not in gone]
            self.got += got
            self.got_at += [time.monotonic()] * len(got)
        return reply.SerializeToString()

    def _told(self, body: bytes) -> bytes:
        for session in rpc_pb2.Replaced.FromString(body).sessions:
            self.replaced.append((session.index, session.epoch))
        return b""
