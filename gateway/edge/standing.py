"""The lease that an edge stands by: taken, renewed, and taken anew under another number when it is lost."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog

from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import StoreError
from gateway.store.leases import Identity, Lease, LeaseLost

_log = structlog.get_logger("columba.edge")

_RETRY_S: Final = 0.2


class Standing:
    """Who recalls a push asks the edges whose leases stand. So messages go out only while ours does, and not
    before we know what was recalled while it did not (`may_send`)."""

    def __init__(
        self,
        store: Store,
        clock: StoreClock,
        lease_s: float,
        *,
        said: Callable[[], Mapping[str, Any]],
        learn_recalls: Callable[[], Awaitable[None]],
        begin: Callable[[Identity], None],
    ) -> None:
        """`said`: what the lease tells of this edge. `begin`: a new number stands; what goes by it begins."""
        self._store = store
        self._clock = clock
        self._lease_s = lease_s
        self._said = said
        self._learn_recalls = learn_recalls
        self._begin = begin
        self._learned = 0
        """Lapses of the lease behind which the recalls were read."""
        self.lease = Lease(store, clock, Identity("edge", 0, 0), lease_s)
        """At first nobody's, which does not stand."""
        self.lost_total = 0

    def may_send(self) -> bool:
        return self.lease.valid and self.lease.lapses == self._learned

    @property
    def identity(self) -> Identity:
        return self.lease.identity

    async def take(self) -> None:
        """For the first time. Raises StoreError."""
        await self._stand_by(await self._another())

    async def keep(
        self, fenced: Callable[[], bool], lost: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Renew for ever; each time the lease was lost, or `fenced` says that it counts as lost, `lost` runs under
        the next one. That goes on beside it: what `lost` does for 20,000 sessions may take longer than a lease.
        """
        async with asyncio.TaskGroup() as group:
            continuing: asyncio.Task[None] | None = None
            while True:
                try:
                    await self._renew_until_lost(fenced)
                except LeaseLost:
                    self.lost_total += 1
                    number = self.identity.number
                    _log.warning("lease lost, going on under a new number", edge=number)
                if continuing is not None:
                    continuing.cancel()  # the next one begins with all of them
                await self._retake()
                continuing = group.create_task(lost())

    async def _another(self) -> Lease:
        return await Lease.take(self._store, self._clock, "edge", self._lease_s, self._said())

    async def _stand_by(self, lease: Lease) -> None:
        """Raises LeaseLost, StoreUnavailable; may be tried again with the same lease then."""
        while True:
            said, lapses = self._said(), lease.lapses
            await lease.say(**said)
            # Behind the lease: who recalls asks all edges that have one, and writes to the store before that.
            await self._learn_recalls()
            if self._said() == said:  # else it was drained meanwhile, or the reverse
                break
        self.lease, self._learned = lease, lapses
        self._begin(lease.identity)

    async def _renew_until_lost(self, fenced: Callable[[], bool]) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            if fenced():
                raise LeaseLost("a partition has declared this edge dead")
            await self.lease.renew_patiently()
            lapses = self.lease.lapses
            if self._learned != lapses:
                # A recall may have been acknowledged without us. Unread, they are read behind the next renewal.
                with suppress(StoreError):
                    await self._learn_recalls()
                    self._learned = lapses

    async def _retake(self) -> None:
        last = self.lease
        lease: Lease | None = None
        while True:
            try:
                lease = lease or await self._another()
                await self._stand_by(lease)
                break
            except LeaseLost:
                lease = None
            except StoreError:
                pass
            await asyncio.sleep(_RETRY_S)
        with suppress(StoreError):  # it runs out by itself
            await last.end()
