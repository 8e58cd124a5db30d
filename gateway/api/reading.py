"""A push and a device as their app may see them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from gateway.api.errors import ApiError, Errno
from gateway.api.nodes import Nodes
from gateway.api.service import Backend
from gateway.store.apps import App
from gateway.store.pushes import record_app
from protocol.ids import push_place, split_device_id
from protocol.schema import rpc_pb2

_FOLDED_S: Final = 0.5
"""A push that was accepted just now is waited for this long: its owners are about to fold it."""
_LOOK_S: Final = 0.02


T = TypeVar("T", rpc_pb2.Counts, rpc_pb2.CutReply)


async def push_counts(nodes: Nodes, app: App, push_id: int) -> rpc_pb2.Counts:
    """Raises ApiError where there is no such push of this app (yet), NodesAway."""
    return await _folded(nodes, app, push_id, nodes.counts)


async def push_cuts(nodes: Nodes, app: App, push_id: int, by: Sequence[str]) -> rpc_pb2.CutReply:
    """Raises ApiError where there is no such push of this app (yet), NodesAway."""
    return await _folded(nodes, app, push_id, lambda number: nodes.cuts(number, by))


async def _folded(nodes: Nodes, app: App, push_id: int, ask: Callable[[int], Awaitable[T]]) -> T:
    if not nodes.exists(push_place(push_id).partition):
        raise ApiError(Errno.NO_PUSH)
    deadline = time.monotonic() + _FOLDED_S
    while True:
        found = await ask(push_id)
        if found.known:
            if found.app != app.number:
                raise ApiError(Errno.NO_PUSH)
            return found
        if not nodes.young(push_id):
            raise ApiError(Errno.NO_PUSH)
        if time.monotonic() > deadline:
            raise ApiError(Errno.NOT_COUNTED_YET)
        await asyncio.sleep(_LOOK_S)


def state_of(counts: rpc_pb2.Counts) -> str:
    """What a push as a whole is doing: running, paused, stopped, recalled or finished."""
    if not counts.pending:
        if counts.recalled:
            return "recalled"
        return "stopped" if counts.stopped else "finished"
    return "paused" if counts.paused else "running"


async def check_theirs(backend: Backend, app: App, push_id: int) -> None:
    """That the push is one of this app's. Raises ApiError, NodesAway, StoreUnavailable."""
    several, home = push_place(push_id)
    if several and backend.nodes.exists(home) and backend.nodes.young(push_id):
        # Accepted, and perhaps in no log yet. Its record tells whose it is, so nobody can have a
        # decision remembered about a push that is not theirs.
        owner = await record_app(backend.store, home, push_id)
        if owner is not None:
            if owner != app.number:
                raise ApiError(Errno.NO_PUSH)
            return
    await push_counts(backend.nodes, app, push_id)


async def device_state(nodes: Nodes, app: App, device: int) -> rpc_pb2.DeviceState:
    """Raises ApiError where there is no such device of this app, NodesAway."""
    partition, _ = split_device_id(device)
    if not nodes.exists(partition):
        raise ApiError(Errno.NO_DEVICE)
    state = await nodes.device(device)
    if not state.known or state.app != app.number:
        raise ApiError(Errno.NO_DEVICE)
    return state
