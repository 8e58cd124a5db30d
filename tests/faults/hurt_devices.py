"""Devices that vanish, flap, or hardly read."""

import asyncio

from tests.faults.field import FLOODED, Field, scenario
from tests.faults.hurt_network import ON_ITS_WAY

_BREATH_S = 0.5


@scenario()
async def vanish(field: Field) -> None:
    """Their connections lead nowhere, again and again, and no end is told: as out of a tunnel."""
    lost = 0
    for _ in range(4):
        lost += field.deployment.device_door.lose(0.25)
        await field.last(0.25)
    assert lost, "nobody has vanished"


@scenario()
async def flap(field: Field) -> None:
    """Half of the devices leaves and comes back all the time, mostly within a tenth of a second."""
    flapping = asyncio.create_task(field.simulated.flap(0.5, (0.0, 0.15)))
    await field.last()
    flapping.cancel()
    await asyncio.gather(flapping, return_exceptions=True)
    await field.simulated.dial()


@scenario(allowed=ON_ITS_WAY)
async def byte_a_second(field: Field) -> None:
    """Some devices take one byte a second, and are sent messages all the same."""
    with field.deployment.device_door.slowed(1, share=0.1):
        await field.last()


@scenario(allowed=ON_ITS_WAY)
async def read_nothing(field: Field) -> None:
    """Kernel buffers fill up, then the edge's, for devices that the bulk of the messages is for.

    Again and again, each time for too short to lose them: what waits goes on afterwards.
    """
    field.flood(field.simulated.steady[-FLOODED:])
    for _ in range(3):
        with field.deployment.device_door.stalled():
            await field.last(1 / 3)
        await asyncio.sleep(_BREATH_S)
