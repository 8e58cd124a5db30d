"""Questions that a dispatch node answers from its state: counts of a push, what is known of a device."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from gateway.dispatch.owned import Owned
from gateway.dispatch.partition import OFFLINE
from gateway.rpc import RpcError
from gateway.store import ownership
from gateway.store.client import Store
from gateway.store.errors import StoreUnavailable
from gateway.store.log import position_key, tail
from protocol.ids import push_place, split_device_id
from protocol.schema import rpc_pb2

_CATCH_UP_S: Final = 1.0


class Queries:
    """RPC handlers over the partitions of a node."""

    def __init__(
        self, store: Store, owned: Mapping[int, Owned], may_act: Callable[[], bool]
    ) -> None:
        self._store = store
        self._owned = owned
        self._may_act = may_act

    async def counts(self, body: bytes) -> bytes:
        """columba.rpc.CountsRequest -> Counts, summed over the partitions of this node."""
        push_id = rpc_pb2.CountsRequest.FromString(body).push_id
        place = push_place(push_id)
        asked = [
            owned
            for p, owned in self._owned.items()
            if owned.live and (place.several or p == place.partition)
        ]
        counts = rpc_pb2.Counts()
        for owned in asked:
            if push_id not in owned.partition.pushes:
                await self._catch_up(owned)
            # Looked at only now: an owner whose lease has run out meanwhile answers nothing.
            if self._may_act() and owned.live:
                _add(counts, owned, push_id)
        return counts.SerializeToString()

    async def device(self, body: bytes) -> bytes:
        """columba.rpc.DeviceRequest -> DeviceState. RpcError 'not_owner' to ask elsewhere."""
        p, index = split_device_id(rpc_pb2.DeviceRequest.FromString(body).device_id)
        owned = self._owned.get(p)
        if owned is None or not owned.live or not self._may_act():
            raise RpcError("not_owner", f"partition {p} is not owned here")
        partition = owned.partition
        if not partition.app_of(index):
            await self._catch_up(owned)
        app = partition.app_of(index)
        edge = partition.edge_of(index)
        epoch = 0
        if edge != OFFLINE:
            try:
                epoch = await ownership.session_epoch(self._store, p, index)
            except StoreUnavailable:
                pass  # the rest of the answer does not need the store
        return rpc_pb2.DeviceState(
            known=bool(app),
            app=app,
            edge=edge,
            pending=len(partition.pending_of(index)),
            tags=partition.tags_of(index),
            epoch=epoch,
        ).SerializeToString()

    async def _catch_up(self, owned: Owned) -> None:
        """Fold what stands in the log now: who asks right after an accept must find it."""
        try:
            async with asyncio.timeout(_CATCH_UP_S):
                end = position_key(await tail(self._store, owned.p))
                while position_key(owned.partition.position) < end:
                    await asyncio.sleep(0.005)
        except (TimeoutError, StoreUnavailable):
            pass  # answer with what is known


def _add(counts: rpc_pb2.Counts, owned: Owned, push_id: int) -> None:
    counts.partitions.append(owned.p)
    push = owned.partition.pushes.get(push_id)
    if push is None:
        return
    counts.known = True
    counts.app = push.app
    counts.ttl_s = push.ttl_s
    counts.accepted_ms = max(counts.accepted_ms, push.accepted_ms)
    for name, number in push.counts():
        setattr(counts, name, getattr(counts, name) + number)
