"""Everybody's numbers, for /metrics and /v1/status: one question to each live process."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.api.peers import Peers
from gateway.metrics import HELP, Sample, decode_stats, family
from gateway.rpc import Method, RpcError, RpcUnavailable
from gateway.store.clock import StoreClock
from gateway.store.leases import Holder, Role, Roster

ANSWER_S: Final = 0.5
"""A process that has not answered for this long counts as not answering."""
FRESH_S: Final = 0.5
"""Questions within this time share one answer: /v1/status is open to anybody."""
ROLES: Final[tuple[Role, ...]] = ("edge", "node", "api")


class Entry(NamedTuple):
    """One live process."""

    holder: Holder
    samples: list[Sample] | None
    """None: it did not answer."""


class Census:
    def __init__(
        self,
        roster: Roster,
        clock: StoreClock,
        peers: Peers,
        own: Callable[[Holder], list[Sample] | None],
    ) -> None:
        """`own(holder)`: this process's samples if the lease is its own, else None."""
        self._roster = roster
        self._clock = clock
        self._peers = peers
        self._own = own
        self._entries: list[Entry] = []
        self._taken_at = float("-inf")
        self._lock = asyncio.Lock()

    async def take(self) -> list[Entry]:
        """All live processes, edges first, by number."""
        async with self._lock:
            if time.monotonic() - self._taken_at > FRESH_S:
                now_ms = self._clock.now_ms()
                holders = [h for role in ROLES for h in self._roster.live(role, now_ms)]
                holders.sort(key=lambda h: (ROLES.index(h.identity.role), h.identity.number))
                self._entries = list(await asyncio.gather(*map(self._ask, holders)))
                self._taken_at = time.monotonic()
            return self._entries

    async def _ask(self, holder: Holder) -> Entry:
        own = self._own(holder)
        if own is not None:
            return Entry(holder, own)
        address = holder.info.get("rpc")
        if not isinstance(address, str):
            return Entry(holder, None)
        try:
            answer = await self._peers.call(address, Method.STATS, b"", ANSWER_S)
            return Entry(holder, decode_stats(answer)[1])
        except (RpcError, RpcUnavailable, DecodeError):
            return Entry(holder, None)


def status(entries: Iterable[Entry], now_ms: int) -> dict[str, list[dict[str, Any]]]:
    """role -> its processes with their numbers."""
    by_role: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
    for holder, samples in entries:
        by_role[holder.identity.role].append(
            {
                "number": holder.identity.number,
                "start": holder.identity.start,
                "lease_ms": max(0, holder.expires_ms - now_ms),
                "answered": samples is not None,
                "stats": {_flat(name, labels): value for name, labels, value in samples or ()},
            }
        )
    return by_role


def _flat(name: str, labels: dict[str, str]) -> str:
    if not labels:
        return name
    return f"{name}{{{','.join(f'{key}={value}' for key, value in sorted(labels.items()))}}}"


def exposition(entries: Iterable[Entry]) -> bytes:
    """Prometheus text; each sample gets the label `process`, such as edge:3."""
    labelled: list[Sample] = []
    for holder, samples in entries:
        process = holder.identity.member
        answered = 0.0 if samples is None else 1.0
        labelled.append(("columba_process_answered", {"process": process}, answered))
        for name, labels, value in samples or ():
            labelled.append((name, {**labels, "process": process}, value))
    return generate_latest(_Gathered(labelled))


class _Gathered(Collector):
    """Samples as prometheus_client wants them: by family, each family once."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for name, labels, value in self._samples:
            base, kind = family(name)
            metric = families.get(base)
            if metric is None:
                # The library puts `_total` back on when it writes the text.
                bare = base.removesuffix("_total")
                metric = families[base] = Metric(bare, HELP.get(base, base), kind)
            metric.add_sample(name, labels, value)
        yield from families.values()
