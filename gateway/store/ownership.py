"""Functions of a partition's owner, all under its fencing token."""

import asyncio
from collections.abc import Sequence
from typing import Final

from gateway.store import keys
from gateway.store.client import Store
from gateway.store.fence import Fence, giver
from gateway.store.leases import Identity
from gateway.store.log import Room

_SWEEP: Final = 500
"""Session entries removed in one call: bounds how long the store is busy with it."""


async def take_fence(store: Store, p: int, node: int, start: int) -> Fence:
    """Become the owner; any older owner's writes are refused from now on.

    Raises StoreUnavailable, and Fenced when the partition gets another server meanwhile.
    """
    # Asked each time: a server may give its history another name without having changed it.
    primary = await store.identify(keys.owner(p))
    number = await store.run("fence_take", [keys.owner(p)], [node, start], on=primary)
    return Fence(number, primary)


async def fence_of(store: Store, p: int) -> int:
    """Fencing token of the owner, 0 if nobody has owned the partition yet."""
    return int(await store.call("HGET", keys.owner(p), "fence") or 0)


async def owners(store: Store, partitions: int) -> list[tuple[int, int, int]]:
    """(fence, node number, start) of each partition; zeros where nobody has owned it yet."""
    # Awaited together: one that fails while nobody waits for it would be an unread exception.
    rows = await asyncio.gather(
        *(store.call("HMGET", keys.owner(p), "fence", "node", "start") for p in range(partitions))
    )
    return [(int(fence or 0), int(node or 0), int(start or 0)) for fence, node, start in rows]


async def declare_edge_down(
    store: Store, p: int, *, fence: int, edge: int, start: int, record: bytes
) -> bool:
    """Fence a dead edge off in this partition and tell the log; False if that was done before."""
    return bool(
        await store.run(
            "edge_down",
            [keys.log(p), keys.producers(p), keys.owner(p)],
            [edge, start, record, int(fence)],
            on=giver(fence),
        )
    )


async def append_as_owner(
    store: Store,
    p: int,
    identity: Identity,
    *,
    fence: int,
    seq: int,
    record: bytes,
    room: Room | None = None,
) -> str:
    """Append a record of the owner's own, once; its position, "" if this seq was executed before.

    Raises Fenced, StoreUnavailable; LogFull where there is no `room` for it. None: what ends things (timers
    that fired, stops, recalls) always finds some."""
    position = await store.run(
        "owner_append",
        [keys.log(p), keys.producers(p), keys.owner(p)],
        [
            identity.number,
            "o",
            identity.start,
            seq,
            record,
            int(fence),
            0 if room is None else room.of(store),
        ],
        on=giver(fence),
    )
    return str(position.decode())


async def sessions_of(store: Store, p: int, edge: int, start: int) -> list[int]:
    """Device indexes whose session entry names this edge (starts up to `start`). Reads them all."""
    found: list[int] = []
    cursor: bytes | int = 0
    while True:
        cursor, rows = await store.call("HSCAN", keys.sessions(p), cursor, "COUNT", _SWEEP)
        for index, entry in zip(rows[::2], rows[1::2], strict=True):
            _, its_edge, its_start, *_ = entry.split(b" ")
            if int(its_edge) == edge and int(its_start) <= start:
                found.append(int(index))
        if int(cursor) == 0:
            return found


async def devices_of(store: Store, p: int) -> list[int]:
    """App number of each device of a partition, by index."""
    raw = await store.call("GET", keys.apps(p)) or b""
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]


async def online_of(store: Store, p: int) -> dict[int, int]:
    """index -> edge number of the sessions that stand. Reads them all."""
    found: dict[int, int] = {}
    cursor: bytes | int = 0
    while True:
        cursor, rows = await store.call("HSCAN", keys.sessions(p), cursor, "COUNT", _SWEEP)
        for index, entry in zip(rows[::2], rows[1::2], strict=True):
            found[int(index)] = int(entry.split(b" ", 2)[1])
        if int(cursor) == 0:
            return found


async def session_epoch(store: Store, p: int, index: int) -> int:
    """Epoch of a device's session, 0 if it is offline."""
    entry = await store.call("HGET", keys.sessions(p), index)
    return int(entry.split(b" ", 1)[0]) if entry else 0


async def sweep_sessions(
    store: Store, p: int, *, fence: int, edge: int, start: int, indexes: Sequence[int]
) -> None:
    """Remove the session entries that a dead edge left behind."""
    for at in range(0, len(indexes), _SWEEP):
        await store.run(
            "sessions_sweep",
            [keys.sessions(p), keys.owner(p)],
            [int(fence), edge, start, *indexes[at : at + _SWEEP]],
            on=giver(fence),
        )
