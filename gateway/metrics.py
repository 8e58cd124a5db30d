"""Numbers that a process keeps about itself, and how they travel to the API's /metrics.

A process counts in plain ints and answers Method.STATS with `encode_stats`; the API asks all of
them and adds the label `process`. A name's ending says its kind: `_total` a counter, `_bucket` with
`_sum` and `_count` a histogram, anything else a gauge. No device ids in labels, ever.
"""

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from protocol.schema import rpc_pb2

Sample = tuple[str, dict[str, str], float]
"""(name, labels, value); names begin with `columba_`."""

PREFIX: Final = "columba_"

HELP: Final[dict[str, str]] = {
    "columba_queue_items": "Items waiting in a bounded queue",
    "columba_queue_limit": "Items the queue takes before it refuses, or what is behind it waits",
    "columba_process_cpu_seconds_total": "Processor time of the process, user and system",
    "columba_process_memory_bytes": "Resident memory of the process",
    "columba_loop_stall_seconds": "Longest time of the last minute that the event loop was late",
    "columba_log_behind_seconds": "How long ago the log furthest behind was as it is folded; up to 1 s "
    "at rest",
    "columba_last_receipt_timestamp_seconds": "Unix time at which a receipt was counted last; 0: none was",
    "columba_pending_singles": "Pushes to single devices that are still to be received",
    "columba_draining": "1 while an edge sends its sessions away and takes no new ones",
    "columba_partition_devices": "Devices of the partition",
    "columba_partition_online": "Devices of the partition with a session",
    "columba_partition_tags": "Different tags in the partition",
    "columba_partition_pushes": "Pushes of which the partition has more than the log",
    "columba_partition_bytes": "Memory of the partition's state, estimated",
    "columba_partition_log_length": "Entries of the partition's log in the store",
    "columba_partition_log_limit": "Entries from which on the log takes no more pushes",
    "columba_log_full_total": "Calls of the store that a full log refused, by what they were to append",
    "columba_partition_replay_records": "Records since the last snapshot, which a takeover replays",
    "columba_partition_snapshot_seconds": "How long the last snapshot took",
    "columba_partition_snapshot_bytes": "How much the last snapshot wrote",
    "columba_partition_snapshot_failures_total": "Snapshots that could not be written, since the takeover; "
    "tried again after 1 s, then less often, at the least once a minute",
    "columba_partition_snapshot_age_seconds": "Since the last snapshot, or since the takeover",
    "columba_process_answered": "1 if a live process answered when asked for its numbers, else 0",
    "columba_http_requests_total": "HTTP answers by route and status",
    "columba_pushes_total": "Pushes by result: accepted, repeated (same idempotency key), refused",
    "columba_app_refused_total": "Pushes refused by quota of their app: rate, day",
    "columba_accept_seconds": "From a push being read to its accept being durable",
    "columba_fanouts_left_total": "Fan-outs left to the dispatch nodes after a durable accept",
    "columba_law_broken_total": "Counts whose states did not sum up to targeted",
    "columba_leases_taken_total": "Leases this process has taken; more than one: it lost some",
    "columba_paced_devices": "Devices that wait for their turn in a push with a speed",
    "columba_store_losses_total": "Connections to the store that were lost",
    "columba_store_calls_total": "Calls of the store's push function",
    "columba_store_retries_total": "Calls repeated because their outcome was unknown",
    "columba_rpc_requests_total": "Calls served for other processes",
    "columba_rpc_refused_total": "Peers refused because they did not know the secret",
}
"""What a metric means. One that is not here is served with its name for a text."""

SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Bounds for durations of one request: from one append (0.3 ms) to the longest wait."""


class Counter:
    """Counts by the values of a fixed list of labels."""

    __slots__ = ("_counts", "_labels", "_name")

    def __init__(self, name: str, *labels: str) -> None:
        self._name = name
        self._labels = labels
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, *values: str) -> None:
        self._counts[values] = self._counts.get(values, 0) + 1

    def value(self, *values: str) -> int:
        return self._counts.get(values, 0)

    def samples(self) -> Iterator[Sample]:
        for values, count in self._counts.items():
            yield self._name, dict(zip(self._labels, values, strict=True)), count


class Histogram:
    """Observations by upper bound, kept as plain ints; `le` is cumulative as Prometheus wants it."""

    __slots__ = ("_bounds", "_counts", "_name", "_sum")

    def __init__(self, name: str, bounds: Sequence[float] = SECONDS) -> None:
        self._name = name
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self) -> Iterator[Sample]:
        total = 0
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        for bound, count in zip(bounds, self._counts, strict=True):
            total += count
            yield f"{self._name}_bucket", {"le": bound}, total
        yield f"{self._name}_sum", {}, self._sum
        yield f"{self._name}_count", {}, total


def queue_samples(queue: str, items: int, limit: int) -> Iterator[Sample]:
    """How full a bounded queue is, beside its limit."""
    yield "columba_queue_items", {"queue": queue}, items
    yield "columba_queue_limit", {"queue": queue}, limit


def process_samples() -> Iterator[Sample]:
    """Processor time and memory of the calling process."""
    times = os.times()
    yield "columba_process_cpu_seconds_total", {}, times.user + times.system
    with open("/proc/self/statm", "rb") as file:
        pages = int(file.read().split()[1])
    yield "columba_process_memory_bytes", {}, pages * os.sysconf("SC_PAGE_SIZE")


def encode_stats(role: str, samples: Iterable[Sample]) -> bytes:
    """A columba.rpc.Stats: the answer to Method.STATS."""
    stats = rpc_pb2.Stats(role=role)
    for name, labels, value in samples:
        stats.samples.add(name=name, labels=labels, value=value)
    return stats.SerializeToString()


def decode_stats(body: bytes) -> tuple[str, list[Sample]]:
    """(role, samples). Raises google.protobuf.message.DecodeError."""
    stats = rpc_pb2.Stats.FromString(body)
    return stats.role, [(s.name, dict(s.labels), s.value) for s in stats.samples]


def family(name: str) -> tuple[str, str]:
    """(family, kind) of a sample's name; see the ending rules above.

    `_sum` and `_count` belong to a histogram: no other metric may end so.
    """
    if name.endswith("_total"):
        return name, "counter"
    for ending in ("_bucket", "_sum", "_count"):
        if name.endswith(ending):
            return name.removesuffix(ending), "histogram"
    return name, "gauge"
