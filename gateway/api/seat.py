"""The number this process works under, and what stands and falls with it.

A `Tenure` is one lease with the push ids drawn and the producers that append under it. When the lease
is lost, or a newer start has fenced a producer off, the `Seat` takes another.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import structlog

from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.leases import Lease
from gateway.store.log import Pace, Producer
from gateway.store.pushes import PushPart, push_producer
from protocol.ids import PushIds

_log = structlog.get_logger("columba.api")

QUIET_S: Final = 0.2
"""No push ids are drawn for this long under a new number. The process that had it before may have
drawn some within the same sixteenth of a second: an ended lease is free at once."""
_RETRY_S: Final = 0.5


class Tenure(NamedTuple):
    lease: Lease
    ids: PushIds
    producer: Producer[PushPart, bytes]
    """Of new pushes: their append is their accept."""
    parts: Producer[PushPart, bytes]
    """Of pushes that have been accepted by their record."""
    fenced: asyncio.Event
    """Set by whoever is told that a newer start has this number."""

    @property
    def waiting(self) -> int:
        """Parts that wait for the logs."""
        return self.producer.waiting + self.parts.waiting


class Seat:
    """Holds a tenure, and takes the next when it is lost."""

    def __init__(
        self,
        store: Store,
        clock: StoreClock,
        *,
        lease_s: float,
        pace: Pace,
        info: Mapping[str, Any],
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease_s = lease_s
        self.pace = pace
        self._info = info
        self._current: Tenure | None = None
        self._changed = asyncio.Event()
        self._past: set[asyncio.Task[None]] = set()
        self.taken_total = 0

    @property
    def current(self) -> Tenure | None:
        """The tenure to act under now; None while there is none, or its lease is not renewed."""
        tenure = self._current
        return tenure if tenure is not None and tenure.lease.valid else None

    @property
    def number(self) -> int:
        """0 before the first lease."""
        return self._current.lease.identity.number if self._current is not None else 0

    async def taken(self) -> Tenure:
        """The tenure, once there is one; it may not be valid any more."""
        while self._current is None:
            await self._changed.wait()
        return self._current

    async def _take(self) -> None:
        """Take a lease. Raises StoreError (StoreUnavailable; no number is free)."""
        lease = await Lease.take(self._store, self._clock, "api", self._lease_s, self._info)
        await asyncio.sleep(QUIET_S)
        producer = push_producer(self._store, lease.identity, self.pace)
        parts = push_producer(self._store, lease.identity, self.pace, accepted=True)
        ids = PushIds(lease.identity.number)
        self._current = Tenure(lease, ids, producer, parts, asyncio.Event())
        self.taken_total += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def keep(self) -> None:
        """Take a lease, renew it, take another when it is lost; for ever."""
        while True:
            tenure = self._current
            if tenure is not None:
                await self._until_lost(tenure)
                _log.warning("lease lost, taking another", number=tenure.lease.identity.number)
                self._current = None
                self._retire(tenure)
            try:
                await self._take()
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_S)
                await self._store.wait_up()
            except StoreError as error:
                _log.warning("no lease yet", reason=str(error))
                await asyncio.sleep(_RETRY_S)

    async def next(self, lost: Tenure) -> Tenure:
        """The tenure after one whose producer was fenced off."""
        lost.fenced.set()
        while self._current is lost:
            await self._changed.wait()
        return await self.taken()

    async def leave(self, wait_s: float) -> None:
        """Append what is queued, for at most so long; then end the lease."""
        tenure, self._current = self._current, None
        if tenure is not None:
            self._retire(tenure)
        if self._past:
            _, late = await asyncio.wait(self._past, timeout=wait_s)
            if late:
                _log.warning("left with pushes queued that nobody was told were accepted")
            for task in late:
                task.cancel()
        if tenure is not None and self._store.up:
            try:
                await tenure.lease.end()
            except StoreError:
                pass  # it runs out by itself

    async def _until_lost(self, tenure: Tenure) -> None:
        renewing = asyncio.create_task(tenure.lease.keep())
        fenced = asyncio.create_task(tenure.fenced.wait())
        both = {renewing, fenced}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            # LeaseLost is what was waited for; any other StoreError loses the lease as well.
            await asyncio.gather(*both, return_exceptions=True)

    def _retire(self, tenure: Tenure) -> None:
        """Let it append what it still has: its ids are unique, and a fenced one is refused."""
        for producer in (tenure.producer, tenure.parts):
            task = asyncio.create_task(_finish(producer))
            self._past.add(task)
            task.add_done_callback(self._past.discard)


async def _finish(producer: Producer[PushPart, bytes]) -> None:
    try:
        await producer.drain()
    finally:
        producer.close()
