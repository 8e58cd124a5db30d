"""Leases: who is alive, under which number, on the store's clock.

A number belongs to one process start. `Lease` holds one and renews it; `Roster` is everybody's
view of all of them, and judges who is gone: only after the store itself has answered for a whole
lease period, because after its own downtime every lease looks expired.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, Self

from gateway.store import keys
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import StoreError, StoreUnavailable

Role = Literal["edge", "node", "api"]
HIGHEST: dict[Role, int] = {"edge": 65_535, "node": 4_095, "api": 255}
"""Numbers of a role: edges stand as u16 in locations, API processes as 8 bits in push ids."""

_RETRY_S: Final = 0.05


class Identity(NamedTuple):
    """One process start under a number."""

    role: Role
    number: int
    start: int

    @property
    def member(self) -> str:
        return f"{self.role}:{self.number}"


class Holder(NamedTuple):
    """One lease as the roster sees it."""

    identity: Identity
    expires_ms: int
    down: bool
    """Declared dead (edges only); stays until every partition has folded it."""
    info: Mapping[str, Any]


class LeaseLost(StoreError):
    """The lease ran out and somebody said so: what was held under it is held no more."""


class Lease:
    """A number leased for this process; `keep` renews it until it is lost or ended."""

    def __init__(self, store: Store, clock: StoreClock, identity: Identity, lease_s: float) -> None:
        self._store = store
        self._clock = clock
        self.identity = identity
        self._lease_s = lease_s
        self._deadline = 0.0
        self.lapses = 0
        """Times a renewal came after it had run out: others may have judged in between."""

    @classmethod
    async def take(
        cls, store: Store, clock: StoreClock, role: Role, lease_s: float, info: Mapping[str, Any]
    ) -> Self:
        """Lease the lowest free number of `role`. Raises StoreError when none is free, StoreUnavailable
        when the store has not answered for a lease period.

        Until then it is asked again under the same request. A lease whose reply was lost, and that
        nobody renews, would count as alive until it runs out: a node's share of the partitions would
        have no owner so long.
        """
        request = keys.lease_request(secrets.token_hex(8))
        end = time.monotonic() + lease_s
        while True:
            sent = time.monotonic()
            try:
                number, start, now_ms = await store.run(
                    "lease_take",
                    [keys.LEASES, keys.LEASE_INFO, keys.LEASE_START, request],
                    [role, HIGHEST[role], int(lease_s * 1000), json.dumps(dict(info))],
                )
                break
            except StoreUnavailable:
                if time.monotonic() >= end:
                    raise
                await asyncio.sleep(_RETRY_S)
        if not number:
            raise StoreError(f"no number is free for another {role} process")
        clock.correct(float(now_ms), sent, time.monotonic())
        lease = cls(store, clock, Identity(role, number, start), lease_s)
        lease._deadline = sent + lease_s
        return lease

    @property
    def valid(self) -> bool:
        """By our own clock; once false, act no more until a renewal has succeeded."""
        return self.left_s > 0

    @property
    def left_s(self) -> float:
        """By our own clock, seconds; below zero once it has run out."""
        return self._deadline - time.monotonic()

    async def say(self, **info: Any) -> None:
        """Renew with news of ourselves, which others see in the roster. Raises LeaseLost, StoreUnavailable."""
        await self.renew(json.dumps(info))

    async def renew(self, news: str = "") -> None:
        """Raises LeaseLost, StoreUnavailable."""
        sent = time.monotonic()
        now_ms = await self._store.run(
            "lease_renew",
            [keys.LEASES, keys.LEASE_INFO],
            [self.identity.member, self.identity.start, int(self._lease_s * 1000), news],
        )
        if not now_ms:
            raise LeaseLost(f"the lease of {self.identity.member} is lost")
        self._clock.correct(float(now_ms), sent, time.monotonic())
        if not self.valid:
            self.lapses += 1
        self._deadline = sent + self._lease_s

    async def keep(self) -> None:
        """Renew three times a lease period; returns only by raising LeaseLost."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            await self.renew_patiently()

    async def renew_patiently(self) -> None:
        """Renew as soon as the store answers: nobody is judged while it is away. Raises LeaseLost."""
        while True:
            try:
                return await self.renew()
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_S)
                await self._store.wait_up(keys.LEASES)

    async def end(self) -> None:
        """Leave: others need not wait for the lease to run out."""
        self._deadline = 0.0
        await end(self._store, self.identity, "left")


async def end(store: Store, identity: Identity, how: Literal["left", "expired"]) -> bool:
    """End a lease; False if it stands after all ('expired', but renewed meanwhile)."""
    return bool(
        await store.run(
            "lease_end",
            [keys.LEASES, keys.LEASE_INFO],
            [identity.member, identity.start, how],
        )
    )


async def release(store: Store, identity: Identity) -> bool:
    """End the lease of a process that is known to be dead (its parent has reaped it)."""
    return await end(store, identity, "left")


async def folded(store: Store, edge: int, start: int, partition: int, partitions: int) -> bool:
    """Note that a partition has folded the end of an edge; True when its number became free."""
    return bool(
        await store.run(
            "lease_folded",
            [keys.LEASES, keys.LEASE_INFO, keys.folded(edge)],
            [edge, start, partition, partitions],
        )
    )


class Roster:
    """All leases, polled; knows who lives and who may be declared dead."""

    def __init__(self, store: Store, clock: StoreClock, lease_s: float) -> None:
        self._store = store
        self._clock = clock
        self._lease_s = lease_s
        self._answering_since: float | None = None
        self._losses = store.losses
        self.holders: list[Holder] = []

    async def poll(self) -> None:
        """Read the leases once. Raises StoreUnavailable, and then nobody may be judged for a while."""
        sent = time.monotonic()
        try:
            reply = await self._store.run("lease_list", [keys.LEASES, keys.LEASE_INFO], [])
        except StoreError:
            self._answering_since = None
            raise
        received = time.monotonic()
        if received - sent > self._lease_s / 2:
            self._answering_since = None
        elif self._answering_since is None or self._store.losses != self._losses:
            # A connection lost since the last poll is a break, though no poll ran into it.
            self._answering_since = received
        self._losses = self._store.losses
        self._clock.correct(float(reply[0]), sent, received)
        self.holders = [
            _holder(reply[i].decode(), float(reply[i + 1]), reply[i + 2])
            for i in range(1, len(reply), 3)
        ]

    def live(self, role: Role, now_ms: int) -> list[Holder]:
        """Holders whose lease runs, and those nobody may judge yet."""
        judged = self.may_judge(time.monotonic())
        return [
            h
            for h in self.holders
            if h.identity.role == role and not h.down and (h.expires_ms >= now_ms or not judged)
        ]

    def may_judge(self, monotonic: float) -> bool:
        """Has the store answered without a break for one whole lease period?"""
        since = self._answering_since
        return since is not None and monotonic - since >= self._lease_s

    def dead_edges(self, now_ms: int) -> list[Holder]:
        """Edges to declare dead: those that left, and the expired where judging is allowed."""
        judged = self.may_judge(time.monotonic())
        return [
            h
            for h in self.holders
            if h.identity.role == "edge" and (h.down or (judged and h.expires_ms < now_ms))
        ]

    def expired_others(self, now_ms: int) -> list[Holder]:
        """Nodes and API processes that died without a word, where judging is allowed."""
        judged = self.may_judge(time.monotonic())
        return [
            h
            for h in self.holders
            if h.identity.role != "edge" and judged and h.expires_ms < now_ms
        ]


def _holder(member: str, expires_ms: float, raw: bytes) -> Holder:
    role, _, number = member.partition(":")
    info = json.loads(raw)
    identity = Identity(role, int(number), int(info.get("start", 0)))  # type: ignore[arg-type]
    return Holder(identity, int(expires_ms), bool(info.get("down")), info)
