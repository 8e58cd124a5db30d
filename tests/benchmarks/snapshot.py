"""What a snapshot of a full partition costs, and whether anything waits for it: `make bench-snapshot`.

One process is the dispatch node: it folds records as the log brings them, while the partition is written
to the embedded store, three times: complete, as after a takeover; then what has changed; then again.
Then another owner loads it (`read` is the part of that which the store answers). A task beside them measures how late it wakes up: that is what a message,
an answer or a timer waits. Prints one JSON object as its last line; what it is doing goes to stderr.

`stall_ms` is the longest time that it was late. `cpu_ms` is the most processor time that the process spent
between two of its turns: on a machine with other work the difference is waiting for a core. `folds_only` is
the same stream of records without any snapshot; `collection_ms` the longest run of the cycle collector.
`state` compares what the partition takes by its own estimate with what the process grew by.
"""

import argparse
import asyncio
import gc
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from gateway.config import Dispatch
from gateway.dispatch import pieces
from gateway.dispatch.contents import Contents
from gateway.dispatch.links import Links
from gateway.dispatch.owned import Owned, Surroundings
from gateway.dispatch.partition import Partition
from gateway.dispatch.unanswered import Unanswered
from gateway.garbage import keep_collections_short
from gateway.lanes import WEIGHTS
from gateway.slices import Slices
from gateway.store import ownership
from gateway.store.client import Store
from gateway.store.embedded import EmbeddedServer
from gateway.store.leases import Identity
from gateway.store.log import Entry
from tests.benchmarks.full_partition import Size, coming_in, end_ms, fill

RECORDS_PER_S: Final = 500
"""Each with 20 devices: ten thousand events a second for this partition alone."""
_RECORDS: Final = 20_000
_TICK_S: Final = 0.004
_FOLDS_ONLY_S: Final = 3.0
ME: Final = Identity("node", 1, 1)


class Stall(NamedTuple):
    ms: float
    cpu_ms: float


class Watch:
    """Wakes up each millisecond and notes by how much it was late."""

    def __init__(self) -> None:
        self._late: list[Stall] = []
        self._collections: list[float] = []
        self._began = 0.0
        gc.callbacks.append(self._on_collection)

    async def run(self) -> None:
        while True:
            at, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            late_ms = (time.perf_counter() - at) * 1000 - 1
            self._late.append(Stall(late_ms, (time.thread_time() - cpu) * 1000))

    def _on_collection(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._collections.append((time.perf_counter() - self._began) * 1000)

    def told(self) -> dict[str, float]:
        """Since the last time."""
        found = {
            "stall_ms": round(max((stall.ms for stall in self._late), default=0), 1),
            "cpu_ms": round(max((stall.cpu_ms for stall in self._late), default=0), 1),
            "collection_ms": round(max(self._collections, default=0), 1),
        }
        self._late.clear()
        self._collections.clear()
        return found


class Stream:
    """Folds records at a steady rate, a few at a time, as a node does between its other turns."""

    def __init__(self, owned: Owned, size: Size) -> None:
        self._owned = owned
        self._records = coming_in(size, _RECORDS)
        self.folded = 0

    async def run(self) -> None:
        began = time.monotonic()
        while True:
            slices = Slices()
            while self.folded < (time.monotonic() - began) * RECORDS_PER_S:
                position = f"{end_ms()}-{self.folded}"
                record = self._records[self.folded % _RECORDS]
                self._owned.on_entry(Entry(0, position, record))
                self.folded += 1
                await slices.turn()
            await asyncio.sleep(_TICK_S)


async def _measured(watch: Watch, work: Callable[[], Awaitable[object]]) -> dict[str, Any]:
    await asyncio.sleep(0.05)
    watch.told()
    began = time.perf_counter()
    await work()
    return {"s": round(time.perf_counter() - began, 2), **watch.told()}


async def run(size: Size, store: Store) -> dict[str, Any]:
    partition = Partition(0)
    began, resident = time.perf_counter(), _resident_bytes()
    fill(partition, size)
    resident = _resident_bytes() - resident
    _say(f"filled in {time.perf_counter() - began:.0f} s, {resident >> 20} MiB")
    owned = await _owner(store, partition)
    watch, stream = Watch(), Stream(owned, size)
    watching = asyncio.create_task(watch.run())
    folding = asyncio.create_task(stream.run())
    told: dict[str, Any] = {"size": size._asdict(), "records_per_s": RECORDS_PER_S}
    told["folds_only"] = await _measured(watch, lambda: asyncio.sleep(_FOLDS_ONLY_S))
    partition.changes.dirty.clear()  # as if it had been loaded: the first one is complete anyway
    for name in ("complete", "changes", "changes_again"):
        told[name] = await _measured(watch, owned.snapshot)
        told[name]["bytes"] = owned.snapshots.last.bytes
        _say(f"{name}: {told[name]}")
    folding.cancel()
    told["pieces"] = _each_piece(partition)
    estimated = owned.snapshotting.footprint.bytes
    told["state"] = {"resident_bytes": resident, "estimated_bytes": estimated}
    heir = await _owner(store, Partition(0))
    told["read"] = await _measured(watch, heir.snapshots.load)
    told["load"] = await _measured(watch, heir.load)
    _say(f"load: {told['load']}")
    watching.cancel()
    heir.stop()
    return told


async def _owner(store: Store, partition: Partition) -> Owned:
    """Live, with nobody to send to."""
    around = Surroundings(
        Dispatch(),
        store,
        ME,
        lambda: int(time.time() * 1000),
        lambda: True,
        Links(b"", lambda _: None, lambda _: None),
        {priority: Unanswered() for priority in WEIGHTS},
        Contents(store, 1 << 20),
    )
    owned = Owned(0, await ownership.take_fence(store, 0, ME.number, ME.start), 0, around)
    owned._begin(partition)
    owned.live = bool(partition.apps)
    return owned


def _each_piece(partition: Partition) -> dict[str, Any]:
    """What the parts of a complete snapshot take by themselves, without a store."""
    began = time.perf_counter()
    names = pieces.names(partition)
    slowest, slowest_ms = "", 0.0
    with pieces.freeze(partition, names) as frozen:
        freeze_ms = (time.perf_counter() - began) * 1000
        for name, ms in _timed(frozen.pieces()):
            if ms > slowest_ms:
                slowest, slowest_ms = name, ms
    return {
        "pieces": len(names),
        "freeze_ms": round(freeze_ms, 1),
        "slowest": slowest,
        "slowest_ms": round(slowest_ms, 2),
    }


def _timed(made: Iterator[tuple[str, bytes | None]]) -> Iterator[tuple[str, float]]:
    while True:
        began = time.perf_counter()
        try:
            name, _ = next(made)
        except StopIteration:
            return
        yield name, (time.perf_counter() - began) * 1000


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _main(size: Size) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    server = EmbeddedServer(folder)
    await server.start()
    try:
        store = await Store.connect(server.url)
        try:
            return await run(size, store)
        finally:
            await store.close()
    finally:
        await server.stop()
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the full size")
    parser.add_argument("--campaigns", type=int, help="open ones, to all devices")
    parser.add_argument("--json", action="store_true", help="the default, and the only form")
    arguments = parser.parse_args()
    size = Size().scaled(arguments.share)
    if arguments.campaigns is not None:
        size = size._replace(campaigns=arguments.campaigns)
    keep_collections_short()  # as a dispatch node does
    print(json.dumps(uvloop.run(_main(size))))


if __name__ == "__main__":
    main()
