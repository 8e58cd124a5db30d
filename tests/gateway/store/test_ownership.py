"""Fencing: what an owner writes is refused once another has taken the partition."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.store import keys, ownership
from gateway.store.client import Store
from gateway.store.errors import Fenced, StoreUnavailable
from gateway.store.leases import Identity
from gateway.store.snapshots import Snapshots
from tests.gateway.store.sessions_desk import SessionsDesk, registration
from tests.gateway.store.valkey import Valkey, log_of

NODE = Identity("node", 1, 5)

Write = Callable[[Store, int], Awaitable[object]]


async def due(store: Store, fence: int, seq: int = 1, identity: Identity = NODE) -> None:
    await ownership.append_as_owner(
        store, 0, identity, fence=fence, seq=seq, record=b"due %d" % seq
    )


OWNERS_WRITES: dict[str, Write] = {
    "a record of its own": due,
    "the end of an edge": lambda store, fence: ownership.declare_edge_down(
        store, 0, fence=fence, edge=1, start=10, record=b"r"
    ),
    "removing session entries": lambda store, fence: ownership.sweep_sessions(
        store, 0, fence=fence, edge=1, start=10, indexes=[0]
    ),
    "a chunk of a snapshot": lambda store, fence: store.run(
        "snapshot_chunk", [keys.chunks(0), keys.owner(0)], [fence, "x#0@1", b"x"]
    ),
    "a manifest, and with it the trim": lambda store, fence: Snapshots(store, 0, fence).write(
        "9-0", []
    ),
}


@pytest.mark.parametrize("name", OWNERS_WRITES)
async def test_a_deposed_owner_writes_nothing(store: Store, name: str) -> None:
    await SessionsDesk(store, 1, 10).up(registration())
    write = OWNERS_WRITES[name]
    old = await ownership.take_fence(store, 0, 1, 5)
    await ownership.take_fence(store, 0, 2, 6)
    before = {key: await store.call("DUMP", key) for key in await store.call("KEYS", "*")}
    with pytest.raises(Fenced):
        await write(store, old)
    after = {key: await store.call("DUMP", key) for key in await store.call("KEYS", "*")}
    assert after == before


@pytest.mark.parametrize("name", OWNERS_WRITES)
async def test_the_owner_writes(store: Store, name: str) -> None:
    fence = await ownership.take_fence(store, 0, 1, 5)
    await OWNERS_WRITES[name](store, fence)


async def test_fences_rise_and_tell_who_owns(store: Store) -> None:
    fences = [await ownership.take_fence(store, 0, node, 20 + node) for node in (1, 2, 1)]
    assert fences == sorted(set(fences))
    await ownership.take_fence(store, 2, 7, 30)
    assert await ownership.owners(store, 3) == [(3, 1, 21), (0, 0, 0), (1, 7, 30)]


async def test_an_owners_record_is_appended_once(store: Store) -> None:
    fence = await ownership.take_fence(store, 0, 1, 5)
    for seq in (1, 2, 2, 1):
        await due(store, fence, seq)
    assert [record for _, record in await log_of(store, 0)] == [b"due 1", b"due 2"]


async def test_sweeping_spares_sessions_that_stand_elsewhere_by_now(store: Store) -> None:
    """The list was made before; a device may have come back since."""
    dead = SessionsDesk(store, 1, 10)
    ups = [registration(n, installation=bytes((n,)) * 16) for n in range(1, 4)]
    await dead.call(*ups)
    await SessionsDesk(store, 2, 11).up(registration(9, 9, installation=bytes((1,)) * 16))
    await SessionsDesk(store, 1, 12).up(registration(9, 9, installation=bytes((2,)) * 16))
    fence = await ownership.take_fence(store, 0, 1, 5)
    await ownership.sweep_sessions(store, 0, fence=fence, edge=1, start=10, indexes=[0, 1, 2, 3])
    assert await store.call("HKEYS", keys.sessions(0)) == [b"0", b"1"]


async def test_sweeping_many_goes_in_slices(store: Store) -> None:
    count = 1234
    await store.call(
        "HSET",
        keys.sessions(0),
        *[part for i in range(count) for part in (i, f"{i + 1} 1 10 {i} 1")],
    )
    fence = await ownership.take_fence(store, 0, 1, 5)
    left = await ownership.sessions_of(store, 0, 1, 10)
    assert sorted(left) == list(range(count))
    await ownership.sweep_sessions(store, 0, fence=fence, edge=1, start=10, indexes=left)
    assert await store.call("EXISTS", keys.sessions(0)) == 0


async def test_asking_for_the_owners_of_a_store_that_is_away_leaves_no_answer_unread(
    valkey: Valkey,
) -> None:
    """An API process asks twice a second: each partition's refusal would be an error in its log."""
    unread: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unread.append(context))
    store = await Store.connect(valkey.url)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await ownership.owners(store, 8)
    await asyncio.sleep(0)
    gc.collect()
    assert not unread
