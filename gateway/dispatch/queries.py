"""Questions that a dispatch node answers from its state: counts of a push, what is known of a device,
how many an audience means.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from gateway.audience import AudienceError
from gateway.audience_text import to_text
from gateway.dispatch import audiences
from gateway.dispatch.owned import Owned
from gateway.dispatch.partition import OFFLINE, Partition
from gateway.dispatch.selection import Selection
from gateway.rpc import RpcError
from gateway.store import ownership
from gateway.store.client import Store
from gateway.store.errors import StoreUnavailable
from gateway.store.log import position_key, tail
from protocol.ids import device_id, push_place, split_device_id
from protocol.schema import rpc_pb2

_CATCH_UP_S: Final = 1.0
_SAMPLE: Final = 10
"""Device ids that `explain` shows."""


class Queries:
    """RPC handlers over the partitions of a node."""

    def __init__(
        self,
        store: Store,
        owned: Mapping[int, Owned],
        may_act: Callable[[], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._owned = owned
        self._may_act = may_act
        self._now_ms = now_ms

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
                await catch_up(self._store, owned)
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
            await catch_up(self._store, owned)
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
            tags=partition.tags.of(index),
            epoch=epoch,
            account=partition.accounts.holding_of(index).account,
        ).SerializeToString()

    async def audience(self, body: bytes) -> bytes:
        """columba.rpc.AudienceRequest -> AudienceReply, for the partitions of this node."""
        request = rpc_pb2.AudienceRequest.FromString(body)
        try:
            tree = audiences.read(request.audience)
        except AudienceError as error:
            raise RpcError("invalid", str(error)) from None
        reply = rpc_pb2.AudienceReply()
        ms = self._now_ms()
        for p, owned in list(self._owned.items()):
            if not owned.live or not self._may_act():
                continue
            began = time.perf_counter()
            selection = audiences.selection(
                owned.partition, request.app, ms, time.perf_counter if request.explain else None
            )
            if request.explain:
                found = selection.select(tree)
                devices = len(found)
                for index in found[: max(0, _SAMPLE - len(reply.sample))]:
                    reply.sample.append(device_id(p, index))
                _explain(reply, selection)
            else:
                devices = selection.count(tree)
            reply.partitions.add(partition=p, devices=devices, seconds=time.perf_counter() - began)
            await asyncio.sleep(0)  # one partition is a slice; others have their turn between two
        return reply.SerializeToString()

    async def cut(self, body: bytes) -> bytes:
        """columba.rpc.CutRequest -> CutReply: counts of a push by the tags that begin with a name."""
        request = rpc_pb2.CutRequest.FromString(body)
        place = push_place(request.push_id)
        cuts: dict[str, dict[str, int]] = {}
        reply = rpc_pb2.CutReply()
        for p, owned in list(self._owned.items()):
            asked = place.several or p == place.partition
            if not asked or not owned.live or not self._may_act():
                continue
            reply.partitions.append(p)
            push = owned.partition.pushes.get(request.push_id)
            if push is None:
                continue
            reply.known, reply.app = True, push.app
            for tag in _tags_named(owned.partition, push.app, request.by):
                carriers = owned.partition.tags.carriers(push.app, tag)
                counts = cuts.setdefault(tag, {})
                for name, _ in push.counts():
                    here = audiences.in_state(push, name).intersection_cardinality(carriers)
                    counts[name] = counts.get(name, 0) + here
            await asyncio.sleep(0)
        for tag, counts in sorted(cuts.items()):
            reply.cuts.add(tag=tag, counts=counts)
        return reply.SerializeToString()


async def catch_up(store: Store, owned: Owned) -> bool:
    """Fold what stands in the log now: who asks right after an accept must find it. False if that
    did not come about in time: what is known then is all there is to answer with."""
    try:
        async with asyncio.timeout(_CATCH_UP_S):
            end = position_key(await tail(store, owned.p))
            while position_key(owned.partition.position) < end:
                await asyncio.sleep(0.005)
    except (TimeoutError, StoreUnavailable):
        return False
    return True


def _add(counts: rpc_pb2.Counts, owned: Owned, push_id: int) -> None:
    counts.partitions.append(owned.p)
    push = owned.partition.pushes.get(push_id)
    if push is None:
        return
    counts.known = True
    counts.app = push.app
    counts.ttl_s = push.ttl_s
    counts.accepted_ms = max(counts.accepted_ms, push.accepted_ms)
    counts.paused = counts.paused or push_id in owned.partition.controls.paused
    for name, number in push.counts():
        setattr(counts, name, getattr(counts, name) + number)


def _explain(reply: rpc_pb2.AudienceReply, selection: Selection) -> None:
    """Add the terms of one partition to those of the others, in the order of the first."""
    known = {term.term: term for term in reply.terms}
    for cost in selection.costs:
        text = to_text(cost.term)
        term = known.get(text) or reply.terms.add(term=text)
        known[text] = term
        term.devices += cost.devices
        term.seconds += cost.seconds


def _tags_named(partition: Partition, app: int, names: Iterable[str]) -> list[str]:
    """Tags of an app whose name, before the colon, is one of these."""
    wanted = tuple(f"{app}/{name}:" for name in names)
    exact = {f"{app}/{name}" for name in names}
    keys = {k for k in partition.tags.keys_of(app) if k in exact or k.startswith(wanted)}
    return sorted(key.partition("/")[2] for key in keys)
