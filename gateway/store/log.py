"""A partition's log: `Producer` appends in batches, each exactly once; `LogReader` reads in order.

Appending once: a producer has one call open for each partition, numbered by seq within its
incarnation; a call whose reply was lost is repeated under the same seq and changes nothing if it
had been executed (scripts/lib_admit.lua).
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import IntEnum
from typing import Final, Generic, NamedTuple, TypeVar

import structlog

from gateway.store import keys
from gateway.store.client import Primary, Store
from gateway.store.errors import (
    Fenced,
    LogFull,
    ProducerFull,
    Replaced,
    StoreError,
    StoreUnavailable,
    Trimmed,
)
from gateway.store.leases import Identity
from gateway.store.tap import Tap, Taps

_log = structlog.get_logger("columba.store")

Item = TypeVar("Item")
Result = TypeVar("Result")

_RETRY_MIN_S: Final = 0.05
_RETRY_MAX_S: Final = 2.0
_CALLS_HIGH: Final = 400
_CALLS_LOW: Final = 200
"""Calls a second of one producer: above the high mark it gathers longer, below the low one shorter.
What the store pays for is calls, not items: 60 edges x 16 partitions must not become 50,000 a second."""


class Room(IntEnum):
    """How full a log may be for whom, in percent of `store.log_records`. What can be refused stops first; then
    what its senders keep until it is acknowledged; registrations last, since they are how devices come back
    to get what makes the log shorter."""

    PUSHES = 100
    REPORTS = 125
    SESSIONS = 150

    def of(self, store: Store) -> int:
        """In entries; 0 = no limit."""
        return store.log_records * self // 100


class Pace(NamedTuple):
    """How a producer gathers items into calls."""

    quiet_s: float = 0.002
    """Gathering time when little happens."""
    busy_s: float = 0.1
    """Gathering time it may grow to."""
    items: int = 512
    """At most so many in a call."""
    bytes: int = 1 << 20
    """At most so many bytes of items in a call (one item may be larger)."""
    waiting: int = 20_000
    """At most so many items wait, over all partitions; beyond it `submit` raises ProducerFull."""


_Entry = tuple[Item, int, asyncio.Future[Result] | None]
"""item, size in bytes, the future of its result (None: the batch's callback hears of it)"""


class _Queue(Generic[Item, Result]):
    __slots__ = ("busy", "items", "seq")

    def __init__(self) -> None:
        self.items: deque[_Entry[Item, Result]] = deque()
        self.seq = 0
        self.busy = False


class Producer(Generic[Item, Result]):
    """Gathers items for the partitions and has one call open for each.

    `send(partition, seq, items)` makes one call of a store function and returns a result for each
    item; it is repeated with the same arguments until its outcome is known. `wanted(item)` is asked
    when a call is put together: items that nobody waits for any more are left out. `done(partition,
    items, results)` hears of each call that is durable. While a log is full its calls are repeated as
    well, unless `refusing`: then their futures raise LogFull.
    """

    def __init__(
        self,
        send: Callable[[int, int, Sequence[Item]], Awaitable[Sequence[Result]]],
        pace: Pace,
        store: Store,
        *,
        wanted: Callable[[Item], bool] | None = None,
        done: Callable[[int, Sequence[Item], Sequence[Result]], None] | None = None,
        refusing: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._wanted = wanted
        self._done = done
        self._refusing = refusing
        self._pace = pace
        self._store = store
        self._queues: dict[int, _Queue[Item, Result]] = {}
        self._gather_s = pace.quiet_s
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls_at = 0.0
        self._calls = 0
        self.waiting = 0
        self.calls_total = 0
        self.retries_total = 0
        self.full_total = 0
        """Calls that a full log refused."""
        self.fenced: Fenced | None = None

    def submit(self, p: int, item: Item, size: int = 0) -> asyncio.Future[Result]:
        """Queue an item; the future is its result once it is durable.

        It raises Fenced when this incarnation has been fenced off. Raises ProducerFull at once.
        """
        if self.waiting >= self._pace.waiting:
            raise ProducerFull(f"{self.waiting} items wait for the store")
        future: asyncio.Future[Result] = self._loop.create_future()
        if self.fenced is not None:
            future.set_exception(self.fenced)
            return future
        self._queue(p, (item, size, future))
        return future

    def put(self, p: int, item: Item, size: int = 0) -> None:
        """Queue an item that only `done` hears of. Not bounded here: the caller's own bound holds.

        Once fenced it is kept for the next incarnation.
        """
        self._queue(p, (item, size, None))

    def _queue(self, p: int, entry: _Entry[Item, Result]) -> None:
        queue = self._queues.get(p)
        if queue is None:
            queue = self._queues[p] = _Queue()
        queue.items.append(entry)
        self.waiting += 1
        if self._timer is None:
            self._timer = self._loop.call_later(self._gather_s, self._flush)
        if len(queue.items) >= self._pace.items and not queue.busy:
            self._start(p, queue)

    async def drain(self) -> None:
        """Wait until nothing is queued or open."""
        while self._tasks or (self.waiting and self.fenced is None):
            if self._timer is not None:
                self._timer.cancel()
            self._flush()
            if self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0)

    def close(self) -> None:
        """Stop; what is queued or open is cancelled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()
        for queue in self._queues.values():
            for _, _, future in queue.items:
                if future is not None:
                    future.cancel()
            queue.items.clear()
        self.waiting = 0

    def leftovers(self) -> list[tuple[int, Item]]:
        """Items not sent or fenced off, by partition: for the incarnation that takes over."""
        return [(p, item) for p, q in self._queues.items() for item, _, _ in q.items]

    def _flush(self) -> None:
        self._timer = None
        for p, queue in self._queues.items():
            if queue.items and not queue.busy:
                self._start(p, queue)
        self._adapt()

    def _adapt(self) -> None:
        now = self._loop.time()
        elapsed = now - self._calls_at
        if elapsed < self._gather_s or elapsed < 0.02:
            return
        rate = self._calls / elapsed
        if rate > _CALLS_HIGH:
            self._gather_s = min(max(self._gather_s, 0.002) * 1.5, self._pace.busy_s)
        elif rate < _CALLS_LOW:
            self._gather_s = max(self._gather_s / 1.5, self._pace.quiet_s)
        self._calls = 0
        self._calls_at = now

    def _start(self, p: int, queue: _Queue[Item, Result]) -> None:
        if self.fenced is not None:
            return  # what is queued is kept for the next incarnation (`leftovers`)
        batch = self._take(queue)
        if not batch:
            return
        queue.busy = True
        queue.seq += 1
        self._calls += 1
        self.calls_total += 1
        task = asyncio.create_task(self._run(p, queue, queue.seq, batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _take(self, queue: _Queue[Item, Result]) -> list[_Entry[Item, Result]]:
        """The next call's items, within its bounds."""
        batch: list[_Entry[Item, Result]] = []
        size = 0
        wanted = self._wanted
        while queue.items and len(batch) < self._pace.items:
            if batch and size + queue.items[0][1] > self._pace.bytes:
                break
            entry = queue.items.popleft()
            if wanted is not None and not wanted(entry[0]):
                self.waiting -= 1
                continue
            size += entry[1]
            batch.append(entry)
        return batch

    async def _run(
        self, p: int, queue: _Queue[Item, Result], seq: int, batch: list[_Entry[Item, Result]]
    ) -> None:
        items = [item for item, _, _ in batch]
        try:
            results = await self._until_known(p, seq, items)
        except StoreError as error:
            for _, _, future in batch:
                if future is not None and not future.done():
                    future.set_exception(error)
            if isinstance(error, Fenced):
                self._on_fenced(error, queue, batch)
            elif not any(future for _, _, future in batch):
                _log.error("records not appended", partition=p, items=len(batch), reason=str(error))
        else:
            if self._done is not None:
                self._done(p, items, results)
            for (_, _, future), result in zip(batch, results, strict=True):
                if future is not None and not future.done():
                    future.set_result(result)
        finally:
            self.waiting -= len(batch)
            queue.busy = False
            for _, _, future in batch:
                if future is not None:
                    future.cancel()  # only what a cancelled call left open
        if queue.items and self._timer is None:
            self._timer = self._loop.call_later(self._gather_s, self._flush)

    def _on_fenced(
        self, error: Fenced, queue: _Queue[Item, Result], batch: list[_Entry[Item, Result]]
    ) -> None:
        """Callers with a future hear of it and decide; the rest is kept for `leftovers`."""
        self.fenced = error
        queue.items.extendleft(reversed(batch))
        self.waiting += len(batch)
        for each in self._queues.values():
            for _, _, future in each.items:
                if future is not None and not future.done():
                    future.set_exception(error)
            kept = [entry for entry in each.items if entry[2] is None]
            self.waiting -= len(each.items) - len(kept)
            each.items = deque(kept)

    async def _until_known(self, p: int, seq: int, items: list[Item]) -> Sequence[Result]:
        delay, in_doubt = _RETRY_MIN_S, False
        while True:
            try:
                return await self._send(p, seq, items)
            except StoreUnavailable as error:
                if isinstance(error, LogFull):
                    self.full_total += 1
                    if self._refusing and not in_doubt:
                        raise
                    if self._refusing:
                        # An earlier try may still be on its way to the store, and find room there.
                        raise StoreUnavailable(f"outcome unknown: {error}") from error
                else:
                    in_doubt = True
                self.retries_total += 1
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _RETRY_MAX_S)
                await self._store.wait_up(keys.log(p))


async def append(
    store: Store, p: int, identity: Identity, *, channel: str, seq: int, record: bytes
) -> bytes:
    """One call of scripts/append.lua: the entry's id, b"" if this seq was executed before.

    Raises Fenced, StoreUnavailable (LogFull among them)."""
    entry_id: bytes = await store.run(
        "append",
        [keys.log(p), keys.producers(p)],
        [identity.number, channel, identity.start, seq, record, Room.REPORTS.of(store)],
    )
    return entry_id


class Entry(NamedTuple):
    """One entry of a log."""

    partition: int
    position: str
    """Stream id, "ms-seq"; ms is the store's clock."""
    record: bytes


def position_key(position: str) -> tuple[int, int]:
    """A stream id as something that compares in log order."""
    ms, _, seq = position.partition("-")
    return int(ms), int(seq or 0)


class LogReader:
    """Reads the logs of several partitions in order, over blocking connections of its own.

    One server is asked for all of them at once; of a cluster, each slot's server has a connection,
    since a command may name keys of one slot only.
    """

    def __init__(self, store: Store, *, count: int = 256, block_ms: int = 1000) -> None:
        # Less than what makes a link give its connection up.
        self._block_ms = min(block_ms, int(store.timeout_s * 500))
        self._count = count
        self._taps = Taps(store, count, self._block_ms)
        self.cursors: dict[int, str] = {}
        """Position up to which each partition has been read."""
        self.at_end: dict[int, float] = {}
        """Partitions of the read that returned last whose logs it has read to the end, and as of when,
        `time.monotonic()`: none where no server answered."""
        self._primaries: dict[int, tuple[Primary, float]] = {}
        """Whose log each of them is, and since when that is known (loop time); where it is not,
        anybody's will do."""

    def follow(self, p: int, position: str, primary: Primary | None = None) -> None:
        """Read a partition from here on, at once; only from `primary`, if that is given."""
        self.cursors[p] = position
        self._primaries.pop(p, None)
        if primary is not None:
            self._primaries[p] = primary, asyncio.get_running_loop().time()
        self._taps.read_at_once(p)

    async def read(self) -> list[Entry]:
        """The next entries, in log order within a partition; none after block_ms, or earlier.

        Raises Trimmed (with the partition as argument) when entries that were not read have been
        trimmed away: XREAD itself returns the next entry and says nothing. Raises Replaced (the
        same) when another server has the partition now: ids of the one before mean nothing there.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._block_ms / 1000
        self.at_end = {}
        while True:
            while self._taps.ended:
                entries = self._taken(self._taps.ended.popleft())
                if entries is not None:
                    return entries
            under_way = self._taps.tend(self.cursors, self._not_of)
            if not under_way and loop.time() >= end:
                return []
            await self._taps.wait()

    async def close(self) -> None:
        await self._taps.close()

    def _taken(self, tap: Tap) -> list[Entry] | None:
        """None if that has to be asked again, of the same server or another one."""
        try:
            reply, trimmed = tap.taken()
        except StoreUnavailable:
            tap.rest()
            return None
        # The others were given up, or rewound, while they were read.
        current = {p for p, position in tap.asked.items() if self.cursors.get(p) == position}
        for p in self._not_of(tap.primary, current):
            _, known_since = self._primaries[p]
            if tap.said_at > known_since:
                raise Replaced(p)
            # A server may have given its history another name since we connected.
            self._taps.drop(tap)
            return None
        for p, position in zip(tap.asked, trimmed, strict=True):
            behind = position and position_key(position.decode()) > position_key(tap.asked[p])
            if behind and p in current:
                raise Trimmed(p)
        entries = []
        self.at_end = dict.fromkeys(current, tap.asked_at)
        for name, rows in reply or ():
            p = int(name[1 : name.index(b"}")])
            if len(rows) >= self._count:
                self.at_end.pop(p, None)
            if p in current:
                entries += [Entry(p, raw_id.decode(), fields[1]) for raw_id, fields in rows]
                self.cursors[p] = entries[-1].position
        return entries

    def _not_of(self, primary: Primary | None, partitions: Iterable[int]) -> list[int]:
        """Those of them that are to be read from another one than this."""
        known = self._primaries
        return [p for p in partitions if p in known and known[p][0] != primary]


async def length(store: Store, p: int) -> int:
    """Entries of a log."""
    return int(await store.call("XLEN", keys.log(p)))


async def tail(store: Store, p: int) -> str:
    """Position of the last entry of a log; "0-0" if it never had one."""
    rows = await store.call("XREVRANGE", keys.log(p), "+", "-", "COUNT", 1)
    if rows:
        return str(rows[0][0].decode())
    trimmed = await store.call("GET", keys.trimmed(p))
    return trimmed.decode() if trimmed else "0-0"
