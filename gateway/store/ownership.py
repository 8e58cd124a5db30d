"""Functions of a partition's owner, all under its fencing token."""

from collections.abc import Sequence
from typing import Final

from gateway.store import keys
from gateway.store.client import Store

_SWEEP: Final = 500
"""Session entries removed in one call: bounds how long the store is busy with it."""


async def take_fence(store: Store, p: int, node: int, start: int) -> int:
    """Become the owner; any older owner's writes are refused from now on."""
    return int(await store.run("fence_take", [keys.owner(p)], [node, start]))


async def owners(store: Store, partitions: int) -> list[tuple[int, int, int]]:
    """(fence, node number, start) of each partition; zeros where nobody has owned it yet."""
    futures = [
        store.call("HMGET", keys.owner(p), "fence", "node", "start") for p in range(partitions)
    ]
    found = []
    for future in futures:
        fence, node, start = await future
        found.append((int(fence or 0), int(node or 0), int(start or 0)))
    return found


async def declare_edge_down(
    store: Store, p: int, *, fence: int, edge: int, start: int, record: bytes
) -> bool:
    """Fence a dead edge off in this partition and tell the log; False if that was done before."""
    return bool(
        await store.run(
            "edge_down",
            [keys.log(p), keys.producers(p), keys.owner(p)],
            [edge, start, record, fence],
        )
    )


async def sweep_sessions(
    store: Store, p: int, *, fence: int, edge: int, start: int, indexes: Sequence[int]
) -> None:
    """Remove the session entries that a dead edge left behind."""
    for at in range(0, len(indexes), _SWEEP):
        await store.run(
            "sessions_sweep",
            [keys.sessions(p), keys.owner(p)],
            [fence, edge, start, *indexes[at : at + _SWEEP]],
        )
