"""Full disks: the store's, and that of devices of the SDK."""

import asyncio
from typing import Final

from tests.faults.field import Field, scenario
from tests.faults.roles import RoleFailed

_AGAIN_S: Final = 0.3


@scenario(small_disks=("store",))
async def full_disk_store(field: Field) -> None:
    """The server ends at the first write that finds no room (`appendfsync always`). Whatever keeps it
    starts it again and again; each time it serves until the next write."""
    store, disk = field.deployment.roles["store"], field.deployment.disks["store"]
    disk.fill([store.pid])
    loop = asyncio.get_running_loop()
    end = loop.time() + field.during_s
    ends = 0
    while loop.time() < end:
        await asyncio.sleep(_AGAIN_S)
        store.note()
        if not store.lives:
            ends += 1
            await _try_to_start(field)
    store.note()
    disk.free([store.pid] if store.lives else [])
    assert ends, "the store did not notice that its disk is full"
    store.ended_by_itself.clear()
    if not store.lives:
        await store.start()


async def _try_to_start(field: Field) -> None:
    try:
        await field.deployment.roles["store"].start()
    except RoleFailed:
        pass  # it found no room even for that; the next turn tries again


@scenario(
    small_disks=("sdk",),
    allowed={"out_of_order": "what a device could not store comes later, as docs/sdk.md says"},
)
async def full_disk_sdk(field: Field) -> None:
    """The journal cannot be appended to, nor the state replaced; kills go on meanwhile."""
    disk = field.deployment.disks["sdk"]
    children = field.deployment.sdk.children
    disk.fill([child.pid for child in children if child.lives])
    await field.last()
    disk.free([child.pid for child in children if child.lives])
