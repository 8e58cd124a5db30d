"""Pause, resume, stop and recall, decided by app servers: written to the log, answered once folded.

The record is the owner's own, so whoever has the answer knows that nothing of a push that is paused,
stopped or recalled is sent any more, by this owner or a later one.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from gateway.dispatch.owned import Owned
from gateway.rpc import RpcError
from gateway.store.errors import Fenced, StoreUnavailable
from protocol.ids import push_place
from protocol.schema import log_pb2, rpc_pb2

_WAITING: Final = 1_000
"""Requests that may wait for the store."""
_ACTIONS: Final = frozenset({log_pb2.PAUSE, log_pb2.RESUME, log_pb2.STOP, log_pb2.RECALL})


class Controlling:
    """The RPC handler over the partitions of a node."""

    def __init__(self, owned: Mapping[int, Owned], may_act: Callable[[], bool]) -> None:
        self._owned = owned
        self._may_act = may_act
        self._waiting = 0

    async def control(self, body: bytes) -> bytes:
        """columba.rpc.ControlRequest -> ControlReply. RpcError 'invalid', 'not_owner' or 'busy'.

        A partition that is lost meanwhile, or whose outcome is unknown, is not in the reply: ask again,
        the same decision twice does no harm.
        """
        request = rpc_pb2.ControlRequest.FromString(body)
        if request.action not in _ACTIONS:
            raise RpcError("invalid", f"{request.action} is no action")
        place = push_place(request.push_id)
        concerned = [
            owned
            for p, owned in self._owned.items()
            if owned.live and (place.several or p == place.partition)
        ]
        if not concerned or not self._may_act():
            raise RpcError("not_owner", "no partition of this push is owned here")
        if self._waiting >= _WAITING:
            raise RpcError("busy", "too many decisions about pushes wait")
        control = log_pb2.Control(
            push_id=request.push_id,
            app=request.app,
            action=request.action,  # type: ignore[arg-type]
            until_ms=request.until_ms,
        )
        record = log_pb2.Record(controls=[control]).SerializeToString()
        self._waiting += 1
        try:
            ends = await asyncio.gather(*(_write(owned, record) for owned in concerned))
        finally:
            self._waiting -= 1
        folded = [owned.p for owned, end in zip(concerned, ends, strict=True) if end]
        return rpc_pb2.ControlReply(partitions=folded).SerializeToString()


async def _write(owned: Owned, record: bytes) -> bool:
    """True once it is folded."""
    try:
        await owned.append_and_fold(record)
    except (Fenced, StoreUnavailable):
        return False
    return True
