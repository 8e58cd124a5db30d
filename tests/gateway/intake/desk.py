"""An intake on the real store, with a lease of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from gateway.api.intake import WAITING_BYTES, Intake
from gateway.api.order import Order
from gateway.api.seat import Seat
from gateway.config import Api
from gateway.store.apps import App
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.log import Pace
from tests.gateway.api_stage import PARTITIONS

APP = App("shop", 7, "access", ())
OTHER = App("other", 8, "access", ())


class Desk:
    """One intake with its own connection and lease."""

    def __init__(
        self, store: Store, partitions: int, limits: Api, lease_s: float, waiting_bytes: int
    ) -> None:
        self.store = store
        clock = StoreClock()
        pace = Pace(quiet_s=0.0, busy_s=0.0, waiting=limits.queue_max)
        self.seat = Seat(store, clock, lease_s=lease_s, pace=pace, info={})
        self.intake = Intake(
            store, self.seat, clock, limits, partitions, waiting_bytes=waiting_bytes
        )
        self.keeping = asyncio.create_task(self.seat.keep())

    async def close(self) -> None:
        self.keeping.cancel()
        await asyncio.gather(self.keeping, return_exceptions=True)
        await self.intake.drain(1)
        await self.seat.leave(1)
        await self.store.close()


@contextlib.asynccontextmanager
async def desk(
    url: str,
    *,
    partitions: int = PARTITIONS,
    queue_max: int = 1000,
    lease_s: float = 5.0,
    waiting_bytes: int = WAITING_BYTES,
    log_records: int = 0,
) -> AsyncIterator[Desk]:
    limits = Api(queue_max=queue_max)
    store = await Store.connect(url, log_records=log_records)
    opened = Desk(store, partitions, limits, lease_s, waiting_bytes)
    await opened.seat.taken()
    try:
        yield opened
    finally:
        await opened.close()


def to(devices: Sequence[int], **changed: object) -> Order:
    order = Order(APP, b"", devices, b"\x12\x00", 60)
    return order._replace(**changed)  # type: ignore[arg-type]
