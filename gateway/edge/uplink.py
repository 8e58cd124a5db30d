"""The uplink: receipts and profile changes of devices go to the logs, gathered; then they are acknowledged.

A device keeps what is not acknowledged, so nothing is lost when this process dies. What the store
pays for is appends, not receipts: a batch is grouped by push and state with its indexes packed.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.store import keys
from gateway.store.client import Store
from gateway.store.leases import Identity
from gateway.store.log import Pace, Producer
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


Durable = Callable[[Report], None]


class Uplink:
    """Appends reports; `durable` hears of each once its record is in the log."""

    def __init__(self, store: Store, *, limit: int, durable: Durable) -> None:
        self._store = store
        self._durable = durable
        self._limit = limit
        """Receipts that may wait; above it the session code stops reading."""
        self._producer: Producer[Report, None] | None = None
        self.receipts_waiting = 0
        self.receipts_total = 0
        self.profiles_total = 0

    def begin(self, identity: Identity) -> None:
        """Start as a new incarnation. What the last one held is dropped: devices still keep it."""
        if self._producer is not None:
            self._producer.close()
        self.receipts_waiting = 0
        producer: Producer[Report, None] = Producer(
            lambda p, seq, items: self._append(identity, p, seq, items),
            Pace(quiet_s=0.002, busy_s=0.1, items=4096, waiting=self._limit),
            self._store,
            done=self._done,
        )
        self._producer = producer

    def report(self, p: int, report: Report) -> None:
        """Queue a report; the caller looks at `full` afterwards."""
        assert self._producer is not None, "begin() comes first"
        self.receipts_waiting += len(report.receipts)
        if report.profile:
            self.profiles_total += 1
        self._producer.put(p, report, len(report.profile) + 12 * len(report.receipts))

    @property
    def full(self) -> bool:
        return self.receipts_waiting >= self._limit

    @property
    def fenced(self) -> bool:
        return self._producer is not None and self._producer.fenced is not None

    @property
    def calls_total(self) -> int:
        return self._producer.calls_total if self._producer else 0

    async def drain(self) -> None:
        if self._producer is not None:
            await self._producer.drain()

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close()

    async def _append(
        self, identity: Identity, p: int, seq: int, items: Sequence[Report]
    ) -> Sequence[None]:
        await self._store.run(
            "append",
            [keys.log(p), keys.producers(p)],
            [identity.number, "u", identity.start, seq, encode_record(items)],
        )
        return [None] * len(items)

    def _done(self, p: int, items: Sequence[Report], results: Sequence[None]) -> None:
        for report in items:
            self.receipts_waiting -= len(report.receipts)
            self.receipts_total += len(report.receipts)
            self._durable(report)


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
