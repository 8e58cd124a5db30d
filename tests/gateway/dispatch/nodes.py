"""Dispatch nodes for tests: the real store, quick periods."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from gateway.config import Config, Dispatch, Service
from gateway.config import Store as StoreConfig
from gateway.dispatch import node as node_module
from gateway.dispatch.node import Node
from gateway.dispatch.partition import Partition
from gateway.rpc import Handler, Method, RpcServer
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.leases import Lease
from gateway.store.log import LogReader
from protocol.schema import device_pb2, rpc_pb2
from tests.waiting import until

LEASE_S = 6.0
"""Longer than a busy machine may stop a test for; who waits for the end of one takes SHORT_LEASE_S."""
SHORT_LEASE_S = 0.6
DISPATCH = Dispatch(
    not_there_s=0.05, resend_s=0.3, fanout_overdue_s=0.05, live_only_s=0.5, snapshot_s=600.0
)
_NUMBERS: Final = itertools.count()


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short periods for the tests of a module."""
    monkeypatch.setattr(node_module, "LogReader", partial(LogReader, block_ms=30))
    monkeypatch.setattr(node_module, "_ROSTER_S", 0.03)
    monkeypatch.setattr(node_module, "_TIMER_S", 0.01)


def config(partitions: int = 1, *, lease_s: float = LEASE_S, **dispatch: Any) -> Config:
    return Config(
        service=Service(partitions=partitions),
        store=StoreConfig(lease_s=lease_s),
        dispatch=msgspec.structs.replace(DISPATCH, **dispatch),
    )


class Running:
    """A node with connections and a lease of its own; `crash` leaves everything as it stands."""

    def __init__(self, node: Node, lease: Lease, task: asyncio.Task[None]) -> None:
        self.node = node
        self.lease = lease
        self.task = task

    @property
    def partition(self) -> Partition:
        return self.node.owned[0].partition

    async def crash(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def live(self, count: int = 1) -> None:
        owned = self.node.owned
        await until(lambda: len(owned) == count and all(o.live for o in owned.values()))

    async def counts(self, push_id: int) -> rpc_pb2.Counts:
        body = rpc_pb2.CountsRequest(push_id=push_id).SerializeToString()
        return rpc_pb2.Counts.FromString(await self.node.queries.counts(body))


@asynccontextmanager
async def running(
    store: Store, settings: Config | None = None, folder: Path | None = None
) -> AsyncIterator[Running]:
    """With a folder, other nodes can reach it at a socket there."""
    settings = settings or config()
    own, reading = await store.another(), await store.another()
    clock = StoreClock()
    handlers: dict[Method, Handler] = {}
    server = RpcServer(handlers, b"")
    if folder is not None:
        await server.start(f"unix:{folder}/n{next(_NUMBERS)}")
    lease_s = settings.store.lease_s
    lease = await Lease.take(own, clock, "node", lease_s, {"rpc": server.address})
    node = Node(settings, own, reading, clock, lease, b"")
    handlers.update(node.handlers())
    running = Running(node, lease, asyncio.create_task(node.run()))
    try:
        yield running
    finally:
        await running.crash()
        await server.stop()
        await node.stop()
        await reading.close()
        await own.close()


def content(text: str) -> bytes:
    return device_pb2.Content(notification=device_pb2.Notification(title=text)).SerializeToString()
