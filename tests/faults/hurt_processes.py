"""Processes are killed, or stand still."""

import asyncio
from collections.abc import Sequence
from typing import Final

from tests.faults.deployment import EDGES, NODES
from tests.faults.field import Field, scenario

BAR_S: Final = 10.0
_DEAD_S: Final = (0.2, 1.5)
_ALL: Final = (*EDGES, *NODES, "api", "store")


async def kill_and_restart(field: Field, name: str) -> None:
    role = field.deployment.roles[name]
    role.kill()
    await asyncio.sleep(field.chance.uniform(*_DEAD_S))
    await role.start()


async def _freeze(field: Field, name: str) -> None:
    role = field.deployment.roles[name]
    role.freeze()
    try:
        await asyncio.sleep(field.size.freeze_s)
    finally:
        role.thaw()


async def _kill_marked(field: Field, name: str, concerned: Sequence[int]) -> None:
    field.mark(concerned)
    await kill_and_restart(field, name)
    await field.last(0.5)


@scenario(kills_sdk=False)
async def calm(field: Field) -> None:
    """Nothing is hurt: what the checks say of a healthy service."""
    await field.last()


@scenario()
async def kill_sdk(field: Field) -> None:
    """Only the SDK's processes are killed, as beside every other fault."""
    await field.last()


@scenario(bar_s=BAR_S)
async def kill_edge(field: Field) -> None:
    name = field.chance.choice(EDGES)
    await _kill_marked(field, name, await field.devices_at(name))


@scenario(bar_s=BAR_S)
async def kill_node(field: Field) -> None:
    name = field.chance.choice(NODES)
    await _kill_marked(field, name, field.devices_of(name))


@scenario(bar_s=BAR_S)
async def kill_api(field: Field) -> None:
    await _kill_marked(field, "api", field.simulated.steady)


@scenario(bar_s=BAR_S)
async def kill_store(field: Field) -> None:
    await _kill_marked(field, "store", field.simulated.steady)


async def _stop_and_start(field: Field, name: str) -> None:
    """SIGTERM, a few times: nothing may depend on how a process ends."""
    role = field.deployment.roles[name]
    loop = asyncio.get_running_loop()
    end = loop.time() + field.during_s
    while loop.time() < end:
        await asyncio.to_thread(role.stop)
        await role.start()
        await asyncio.sleep(field.chance.uniform(0.5, 2.5))


@scenario()
async def stop_edge(field: Field) -> None:
    await _stop_and_start(field, field.chance.choice(EDGES))


@scenario()
async def stop_node(field: Field) -> None:
    await _stop_and_start(field, field.chance.choice(NODES))


@scenario()
async def stop_api(field: Field) -> None:
    await _stop_and_start(field, "api")


@scenario()
async def kill_again_and_again(field: Field) -> None:
    """One process, killed as soon as it is back, for as long as the fault lasts."""
    name = field.chance.choice(_ALL)
    loop = asyncio.get_running_loop()
    end = loop.time() + field.during_s
    while loop.time() < end:
        await kill_and_restart(field, name)
        await asyncio.sleep(field.chance.uniform(0, 1))


@scenario()
async def kill_everything_at_once(field: Field) -> None:
    """A power cut of the whole machine, but for what the kernel has of its files."""
    roles = field.deployment.roles
    for name in _ALL:
        roles[name].kill()
    await asyncio.sleep(field.chance.uniform(*_DEAD_S))
    await roles["store"].start()
    async with asyncio.TaskGroup() as group:
        for name in _ALL:
            if name != "store":
                group.create_task(roles[name].start())
    await field.last(0.5)


@scenario()
async def freeze_edge(field: Field) -> None:
    await _freeze(field, field.chance.choice(EDGES))


@scenario()
async def freeze_node(field: Field) -> None:
    await _freeze(field, field.chance.choice(NODES))


@scenario()
async def freeze_api(field: Field) -> None:
    await _freeze(field, "api")


@scenario()
async def freeze_store(field: Field) -> None:
    await _freeze(field, "store")


@scenario()
async def everything(field: Field) -> None:
    """Kills in a random order, one after the other, over a device network that breaks frames."""
    names = list(_ALL)
    field.chance.shuffle(names)
    for name in names:
        with field.deployment.device_door.breaking(20_000):
            await kill_and_restart(field, name)
            await asyncio.sleep(field.chance.uniform(0, 1))
