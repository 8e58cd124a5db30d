"""The uplink: receipts and profile changes of devices go to the logs, gathered; then they are acknowledged.

A device keeps what is not acknowledged, so nothing is lost when this process dies. What the store
pays for is appends, not receipts: a batch is grouped by push and state with its indexes packed.
"""

import asyncio
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from gateway.store.client import Store
from gateway.store.leases import Identity
from gateway.store.log import Pace, Producer, append
from protocol.frames import varint
from protocol.schema import log_pb2


class Report(NamedTuple):
    """One RECEIPTS or PROFILE frame of a device."""

    fd: int
    row: int
    """Generation of the row that gets the acknowledgement."""
    number: int
    """seq of RECEIPTS, change of PROFILE"""
    device: int
    """Index in its partition."""
    receipts: Sequence[tuple[int, int]]
    """(push id, state)"""
    profile: bytes
    """columba.log.Profile, encoded; empty with receipts"""


_AT_ONCE: Final = 32
"""Reports of which is told in one turn of the loop: some tenths of a millisecond, if each is a write."""
_WEIGHT_BYTES: Final = 12
"""What a receipt adds to a record, roughly."""

Durable = Callable[[Report], None]


class Uplink:
    """Appends reports; `durable` hears of each once its record is in the log."""

    def __init__(self, store: Store, *, limit: int, durable: Durable) -> None:
        self._store = store
        self._durable = durable
        self._limit = limit
        """Receipts that may wait; above it the session code stops reading."""
        self._producer: Producer[Report, None] | None = None
        self._held: defaultdict[int, deque[Report]] = defaultdict(deque)
        """What is not in the log yet, by partition, in order."""
        self._to_tell: deque[Report] = deque()
        """What is in the log, and nobody has heard of it yet."""
        self.receipts_waiting = 0
        self.receipts_total = 0
        self.profiles_total = 0

    def begin(self, identity: Identity) -> None:
        """Start as a new incarnation, which appends what the last one held.

        Perhaps for the second time: folding makes that harmless. Dropping it would not be, as an
        acknowledgement of a later report of the same connection stands for the earlier ones too.
        """
        if self._producer is not None:
            self._producer.close()
        producer: Producer[Report, None] = Producer(
            lambda p, seq, items: self._append(identity, p, seq, items),
            Pace(quiet_s=0.002, busy_s=0.1, items=4096, waiting=self._limit),
            self._store,
            done=self._done,
        )
        self._producer = producer
        for p, reports in self._held.items():
            for report in reports:
                producer.put(p, report, _WEIGHT_BYTES * _weight(report))

    def report(self, p: int, report: Report) -> None:
        """Queue a report; the caller looks at `full` afterwards."""
        assert self._producer is not None, "begin() comes first"
        if report.profile:
            self.profiles_total += 1
        weight = _weight(report)
        self.receipts_waiting += weight
        self._held[p].append(report)
        self._producer.put(p, report, _WEIGHT_BYTES * weight)

    @property
    def full(self) -> bool:
        return self.receipts_waiting >= self._limit

    @property
    def fenced(self) -> bool:
        return self._producer is not None and self._producer.fenced is not None

    @property
    def calls_total(self) -> int:
        return self._producer.calls_total if self._producer else 0

    @property
    def full_total(self) -> int:
        """Calls that a full log refused."""
        return self._producer.full_total if self._producer else 0

    async def drain(self) -> None:
        if self._producer is not None:
            await self._producer.drain()
        while self._to_tell:
            await asyncio.sleep(0)

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close()

    async def _append(
        self, identity: Identity, p: int, seq: int, items: Sequence[Report]
    ) -> Sequence[None]:
        record = encode_record(items)
        await append(self._store, p, identity, channel="u", seq=seq, record=record)
        return [None] * len(items)

    def _done(self, p: int, items: Sequence[Report], results: Sequence[None]) -> None:
        held = self._held[p]
        for report in items:
            while (first := held.popleft()) is not report:
                self.receipts_waiting -= _weight(first)  # the store has refused it
            self.receipts_total += len(report.receipts)
        if not self._to_tell:
            asyncio.get_running_loop().call_soon(self._tell_some)
        self._to_tell.extend(items)

    def _tell_some(self) -> None:
        """Some thousands of profiles at once, each with a write behind it, would hold everything else up for 50 ms."""
        try:
            for _ in range(min(_AT_ONCE, len(self._to_tell))):
                report = self._to_tell.popleft()
                self.receipts_waiting -= _weight(report)
                self._durable(report)
        finally:
            if self._to_tell:
                asyncio.get_running_loop().call_soon(self._tell_some)


def _weight(report: Report) -> int:
    """In receipts; a profile counts as many as have its size."""
    profile = report.profile
    return len(report.receipts) if not profile else -(-len(profile) // _WEIGHT_BYTES)


def encode_record(reports: Sequence[Report]) -> bytes:
    """A log.Record of reports, receipts grouped by push and state (indexes in order of arrival)."""
    groups: dict[tuple[int, int], array[int]] = {}
    parts: list[bytes] = []
    for report in reports:
        for receipt in report.receipts:
            group = groups.get(receipt)
            if group is None:
                group = groups[receipt] = array("I")
            group.append(report.device)
        if report.profile:
            parts.append(b"\x1a" + varint(len(report.profile)) + report.profile)
    for (push_id, state), indexes in groups.items():
        body = log_pb2.Receipts(push_id=push_id, state=state).SerializeToString()
        packed = indexes.tobytes()
        body += b"\x1a" + varint(len(packed)) + packed
        parts.append(b"\x12" + varint(len(body)) + body)
    return b"".join(parts)
