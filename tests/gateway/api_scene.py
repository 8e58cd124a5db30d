"""An API process over HTTP: a store, two apps, and a node that answers as a dispatch node would."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.api.errors import MEANINGS, Errno
from gateway.metrics import encode_stats
from gateway.rpc import Method, RpcError, RpcServer
from gateway.store import keys
from gateway.store.apps import Apps
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.leases import Lease
from gateway.store.ownership import take_fence
from protocol.ids import device_id, push_place
from protocol.schema import rpc_pb2
from tests.gateway.account_owners import AccountOwners
from tests.gateway.api_stage import (
    PARTITIONS,
    SECRETS,
    Stage,
    StoreServer,
    add_devices,
    bearer,
    config,
)

DEVICES = [1, 5]
"""Indexes that the app `shop` has in each partition."""


class Node:
    """Answers as the owner of all partitions but those it is told to hide."""

    def __init__(self) -> None:
        self.counts: dict[int, rpc_pb2.Counts] = {}
        self.devices: dict[int, rpc_pb2.DeviceState] = {}
        self.hidden: set[int] = set()
        self.audiences: list[rpc_pb2.AudienceRequest] = []
        self.tags: list[rpc_pb2.TagRequest] = []
        self.tag_errors: dict[int, str] = {}
        """index -> what the owner says of it"""
        self.cuts: dict[int, rpc_pb2.CutReply] = {}
        self.cut_by: list[str] = []
        self.accounts = AccountOwners(PARTITIONS, DEVICES)
        self.lookups: list[rpc_pb2.LookupRequest] = []
        self.ledgers: dict[tuple[int, int], rpc_pb2.LedgerReply] = {}
        """(push id, device id) -> what the owner says"""
        self.controls: list[rpc_pb2.ControlRequest] = []
        self.on_controlled: Callable[[rpc_pb2.ControlRequest], None] = lambda _: None
        """What a decision does to what is told of the push."""
        self.undecided: set[int] = set()
        """Partitions that fold no decisions."""
        self.server = RpcServer(
            {
                Method.COUNTS: self.on_counts,
                Method.DEVICE: self.on_device,
                Method.AUDIENCE: self.on_audience,
                Method.TAG: self.on_tag,
                Method.CUT: self.on_cut,
                Method.ACCOUNT: self.on_account,
                Method.HOLDER: self.on_holder,
                Method.LOOKUP: self.on_lookup,
                Method.LEDGER: self.on_ledger,
                Method.CONTROL: self.on_control,
                Method.STATS: lambda _: encode_stats(
                    "node", [("columba_records_total", {"kind": "push"}, 5.0)]
                ),
            },
            SECRETS.rpc_secret,
        )

    def on_counts(self, body: bytes) -> bytes:
        push_id = rpc_pb2.CountsRequest.FromString(body).push_id
        answer = rpc_pb2.Counts()
        answer.CopyFrom(self.counts.get(push_id, answer))
        answer.partitions.extend(p for p in range(PARTITIONS) if p not in self.hidden)
        return answer.SerializeToString()

    def on_audience(self, body: bytes) -> bytes:
        """In each partition ten devices and its number."""
        request = rpc_pb2.AudienceRequest.FromString(body)
        self.audiences.append(request)
        answer = rpc_pb2.AudienceReply()
        for p in range(PARTITIONS):
            if p not in self.hidden:
                answer.partitions.add(partition=p, devices=10 + p, seconds=0.001)
                if request.explain:
                    answer.terms.add(term="vip", devices=2, seconds=0.002)
                    answer.terms.add(term="city:gz", devices=30, seconds=0.0005)
                    answer.sample.extend(device_id(p, index) for index in range(4))
        return answer.SerializeToString()

    def on_tag(self, body: bytes) -> bytes:
        request = rpc_pb2.TagRequest.FromString(body)
        if request.partition in self.hidden:
            raise RpcError("not_owner", "another node has this partition")
        self.tags.append(request)
        errors = [self.tag_errors.get(item.index, "") for item in request.items]
        return rpc_pb2.TagReply(errors=errors).SerializeToString()

    def on_cut(self, body: bytes) -> bytes:
        request = rpc_pb2.CutRequest.FromString(body)
        self.cut_by = list(request.by)
        answer = rpc_pb2.CutReply()
        answer.CopyFrom(self.cuts.get(request.push_id, answer))
        answer.partitions.extend(p for p in range(PARTITIONS) if p not in self.hidden)
        return answer.SerializeToString()

    def on_control(self, body: bytes) -> bytes:
        request = rpc_pb2.ControlRequest.FromString(body)
        self.controls.append(request)
        self.on_controlled(request)
        place = push_place(request.push_id)
        concerned = range(PARTITIONS) if place.several else [place.partition]
        folded = [p for p in concerned if p not in self.undecided]
        return rpc_pb2.ControlReply(partitions=folded).SerializeToString()

    def on_ledger(self, body: bytes) -> bytes:
        request = rpc_pb2.LedgerRequest.FromString(body)
        if request.device_id >> 32 in self.hidden:
            raise RpcError("not_owner", "another node has this partition")
        found = self.ledgers.get((request.push_id, request.device_id), rpc_pb2.LedgerReply())
        return found.SerializeToString()

    def on_account(self, body: bytes) -> bytes:
        request = rpc_pb2.AccountRequest.FromString(body)
        self.check_shown(request.partition)
        return self.accounts.account(request).SerializeToString()

    def on_holder(self, body: bytes) -> bytes:
        request = rpc_pb2.HolderRequest.FromString(body)
        self.check_shown(request.partition)
        return self.accounts.holder(request).SerializeToString()

    def on_lookup(self, body: bytes) -> bytes:
        request = rpc_pb2.LookupRequest.FromString(body)
        self.check_shown(request.partition)
        self.lookups.append(request)
        return self.accounts.lookup(request).SerializeToString()

    def check_shown(self, p: int) -> None:
        if p in self.hidden:
            raise RpcError("not_owner", "another node has this partition")

    def on_device(self, body: bytes) -> bytes:
        device = rpc_pb2.DeviceRequest.FromString(body).device_id
        if device >> 32 in self.hidden:
            raise RpcError("not_owner", "another node has this partition")
        return self.devices.get(device, rpc_pb2.DeviceState()).SerializeToString()


class Edge:
    """Confirms recalls as an edge does, when it is let."""

    def __init__(self, store: Store, address: str) -> None:
        self._store = store
        self._address = address
        self.asked: list[rpc_pb2.RecalledPush] = []
        self.known_before: list[bool] = []
        """Had the store been told when the edge was asked?"""
        self.answers = asyncio.Event()
        self.answers.set()
        self.server = RpcServer({Method.RECALLS: self.on_recalls}, SECRETS.rpc_secret)
        self.lease: Lease

    async def on_recalls(self, body: bytes) -> bytes:
        for recall in rpc_pb2.Recalls.FromString(body).pushes:
            self.asked.append(recall)
            member = f"{recall.app} {recall.push_id}"
            self.known_before.append(bool(await self._store.call("ZSCORE", keys.RECALLS, member)))
        await self.answers.wait()
        return b""

    async def join(self, clock: StoreClock) -> None:
        """Listens, and takes its lease."""
        await self.server.start(self._address)
        self.lease = await Lease.take(
            self._store, clock, "edge", 3600.0, {"rpc": self.server.address}
        )

    async def leave(self) -> None:
        await self.lease.end()
        await self.server.stop()


class Scene:
    """A stage with two apps, a few devices and a node."""

    def __init__(self, stage: Stage, node: Node, key: str, other_key: str) -> None:
        self.stage = stage
        self.node = node
        self.key = key
        self.other_key = other_key

    def push(
        self, body: Any, headers: dict[str, str] | None = None, app: str = "shop"
    ) -> tuple[int, dict[str, str], Any]:
        path = f"/v1/apps/{app}/pushes"
        return self.stage.request("POST", path, body, {**bearer(self.key), **(headers or {})})

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        return self.stage.request(method, f"/v1/apps/shop/{path}", body, bearer(self.key))

    def get(self, path: str, key: str | None = None) -> tuple[int, dict[str, str], Any]:
        return self.stage.get(path, self.key if key is None else key)


@contextmanager
def played(folder: Path, **api: Any) -> Iterator[Scene]:
    """One scene in a folder. `api`: settings of the API process."""
    server = StoreServer(folder).start()
    settings = {"max_body": 200_000, "max_devices": 100, **api}
    stage = Stage(config(folder, **settings), server.url).start()
    node = Node()
    backend = stage.service.backend
    assert backend is not None

    async def furnish() -> tuple[str, str]:
        apps = Apps(backend.store)
        shop, other = await apps.create("shop"), await apps.create("other")
        await backend.apps.refresh()
        await add_devices(backend.store, shop.number, {p: DEVICES for p in range(PARTITIONS)})
        await node.server.start(f"unix:{folder}/node.sock")
        info = {"rpc": node.server.address}
        lease = await Lease.take(backend.store, backend.clock, "node", 3600.0, info)
        for p in range(PARTITIONS):
            await take_fence(backend.store, p, lease.identity.number, lease.identity.start)
        await backend.roster.poll()
        return shop.api_key, other.api_key

    yield Scene(stage, node, *stage.do(furnish()))
    stage.do(node.server.stop())
    stage.stop()
    server.kill()


def error_of(answer: tuple[int, dict[str, str], Any]) -> dict[str, Any]:
    """Checks the shape every error has."""
    status, headers, body = answer
    error: dict[str, Any] = body["error"]
    assert set(error) - {"retry"} == {"code", "errno", "status", "message", "trace_id"}
    meaning = MEANINGS[Errno(error["errno"])]
    assert error["code"] == status == error["errno"] // 100
    assert error["status"] == meaning.status and error["message"] and error["trace_id"]
    assert ("retry" in error) == bool(meaning.retry_ms) == ("retry-after" in headers)
    if meaning.retry_ms:
        assert int(headers["retry-after"]) * 1000 >= error["retry"]["after_ms"] > 0
    return error
