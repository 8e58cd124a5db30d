"""Paced pushes at a node: asks for permits for the devices it could send to, and deals them out where
it owns the push's partition. `holding` and `speed` decide; here questions and answers travel.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import structlog

from gateway.dispatch.assignment import owner_of
from gateway.dispatch.owned import Owned
from gateway.dispatch.peers import Peers
from gateway.dispatch.speed import Dealer
from gateway.rpc import Method, RpcError, RpcUnavailable
from gateway.store import ownership
from gateway.store.client import Store
from gateway.store.errors import StoreError
from gateway.store.leases import Identity
from protocol.ids import push_place
from protocol.schema import rpc_pb2

_log = structlog.get_logger("columba.dispatch")

_TICK_S: Final = 0.02
"""Between questions. Far below the time that a bucket holds, so that a late tick loses nothing."""
_IDLE_S: Final = 0.1
"""Between looks while no device waits for a permit."""
_ANSWER_S: Final = 1.0
_CONFIRMED_S: Final = 0.25
"""For so long after the store has named us as the owner we deal."""
_HANDOVER_S: Final = 0.3
"""For so long after a takeover we do not: by then no earlier owner does. Two dealers at a time would let
a push go at twice its speed."""


class _Desk:
    """Where the owner of one partition deals, under one fence."""

    def __init__(self, fence: int) -> None:
        self.fence = fence
        self.dealer = Dealer()
        self.confirmed_at = float("-inf")


class Permits:
    """Both sides of a permit."""

    def __init__(
        self,
        store: Store,
        identity: Identity,
        owned: Mapping[int, Owned],
        may_act: Callable[[], bool],
        peers: Peers,
    ) -> None:
        self._store = store
        self._identity = identity
        self._owned = owned
        self._may_act = may_act
        self._peers = peers
        self._desks: dict[int, _Desk] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}
        """push id -> its open question"""
        self._turns: dict[int, int] = {}
        """push id -> partition that was served last"""

    # Dealing.

    async def permit(self, body: bytes) -> bytes:
        """columba.rpc.PermitRequest -> PermitReply. RpcError 'not_owner'."""
        request = rpc_pb2.PermitRequest.FromString(body)
        granted = await self._deal(request)
        if granted is None:
            raise RpcError("not_owner", f"push {request.push_id} is not dealt out here")
        return rpc_pb2.PermitReply(granted=granted).SerializeToString()

    async def _deal(self, request: rpc_pb2.PermitRequest) -> int | None:
        """None if that is not ours to do."""
        p = push_place(request.push_id).partition
        owned = self._owned.get(p)
        if owned is None:
            self._desks.pop(p, None)
            return None
        desk = self._desks.get(p)
        if desk is None or desk.fence != owned.fence:
            desk = self._desks[p] = _Desk(owned.fence)
        # Nothing is awaited between the confirmation and the answer.
        if not await self._confirm(desk, owned) or not owned.live or not self._may_act():
            return None
        return desk.dealer.ask(
            request.push_id, request.speed, request.asker, request.wanted, time.monotonic()
        )

    async def _confirm(self, desk: _Desk, owned: Owned) -> bool:
        """Do we own the partition, and nobody else? A node that others have given up learns that late."""
        asked = time.monotonic()
        if asked - desk.confirmed_at >= _CONFIRMED_S:
            if owned.fence > 1 and asked - owned.taken_at < _HANDOVER_S:
                return False
            try:
                fence = await ownership.fence_of(self._store, owned.p)
            except StoreError:
                return False
            if fence != owned.fence:
                owned.deposed = True
                return False
            desk.confirmed_at = max(desk.confirmed_at, asked)
        return time.monotonic() - desk.confirmed_at < _CONFIRMED_S

    # Asking.

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                waiting = self._ask_all()
                await asyncio.sleep(_TICK_S if waiting else _IDLE_S)
        finally:
            for task in self._asking.values():
                task.cancel()

    def _ask_all(self) -> bool:
        """One question for each push that has devices waiting; False if there is none."""
        if not self._may_act():
            return False
        now = time.monotonic()
        wanted: dict[int, dict[int, int]] = {}
        speeds: dict[int, int] = {}
        for p, owned in self._owned.items():
            if owned.live:
                for push_id, count in owned.sending.wanted(now).items():
                    push = owned.partition.campaigns.get(push_id)
                    if push is not None:
                        wanted.setdefault(push_id, {})[p] = count
                        speeds[push_id] = push.speed
        for push_id in [i for i in self._turns if i not in wanted]:
            del self._turns[push_id]
        for push_id, by_partition in wanted.items():
            if push_id not in self._asking:
                task = asyncio.create_task(self._ask(push_id, by_partition, speeds[push_id]))
                self._asking[push_id] = task
                task.add_done_callback(partial(self._asked, push_id))
        return bool(wanted)

    def _asked(self, push_id: int, task: asyncio.Task[None]) -> None:
        del self._asking[push_id]
        if not task.cancelled() and task.exception() is not None:
            _log.error("permits not asked for", push_id=str(push_id), reason=repr(task.exception()))

    async def _ask(self, push_id: int, wanted: dict[int, int], speed: int) -> None:
        request = rpc_pb2.PermitRequest(
            push_id=push_id,
            speed=speed,
            wanted=sum(wanted.values()),
            asker=self._identity.number,
        )
        granted = await self._deal(request)
        if granted is None:
            granted = await self._ask_owner(request)
        if granted and self._may_act():
            self._give(push_id, granted, wanted)

    async def _ask_owner(self, request: rpc_pb2.PermitRequest) -> int:
        """0 if nobody can be asked now: no permit, no sends."""
        owner = owner_of(push_place(request.push_id).partition, self._peers.live)
        if owner is None or owner == self._identity:
            return 0
        try:
            body = request.SerializeToString()
            reply = await self._peers.call(owner, Method.PERMIT, body, _ANSWER_S)
        except (RpcError, RpcUnavailable):
            return 0
        return rpc_pb2.PermitReply.FromString(reply).granted

    def _give(self, push_id: int, granted: int, partitions: Mapping[int, int]) -> None:
        """One partition after the other, so that a tick costs few deliver calls."""
        last = self._turns.get(push_id, -1)
        for p in sorted(partitions, key=lambda p: (p <= last, p)):
            owned = self._owned.get(p)
            if owned is None:
                continue
            self._turns[push_id] = p
            granted -= owned.release(push_id, granted)
            if granted <= 0:
                return
