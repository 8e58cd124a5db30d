"""Blocking reads of logs: a `Tap` for each slot (for a single server: one), over a link of its own."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from redis.exceptions import ResponseError

from gateway.store import keys
from gateway.store.client import Primary, Reply, Store
from gateway.store.dial import Address
from gateway.store.errors import StoreError
from gateway.store.link import Argument

_UNBLOCK_S: Final = 0.005
_LOOK_S: Final = 0.05


class Tap:
    """Reads the logs of one slot at the server that has it.

    `ended` is called with the tap when a read has ended, `changed` when its link is up or lost.
    """

    def __init__(
        self,
        store: Store,
        slot: int,
        address: Address,
        ended: Callable[["Tap"], None],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self.slot = slot
        self._ended = ended
        self.link = store.open_reader(address, changed)
        self.asked: dict[int, str] = {}
        """Partition -> position after which the last read began."""
        self.primary: Primary | None = None
        """Who was asked, as it said ..."""
        self.said_at = 0.0
        """... at this loop time."""
        self.asked_at = 0.0
        """When the last read began, `time.monotonic()`."""
        self.busy = False
        self._rests_until = 0.0
        self._read: asyncio.Future[Reply] | None = None
        self._trimmed: asyncio.Future[Reply] | None = None
        self._interrupting: asyncio.Task[None] | None = None

    @property
    def may_ask(self) -> bool:
        rests = asyncio.get_running_loop().time() < self._rests_until
        return self.link.up and not self.busy and not rests

    def rest(self) -> None:
        """Do not ask for a moment: the answer was a refusal."""
        self._rests_until = asyncio.get_running_loop().time() + _LOOK_S

    def ask(self, positions: Mapping[int, str], count: int, block_ms: int) -> None:
        """At most `count` entries of each after its position; none after `block_ms` (0: at once)."""
        self.busy = True
        self.asked, self.asked_at = dict(positions), time.monotonic()
        self.primary, self.said_at = self.link.primary, self.link.up_since or 0.0
        block: tuple[Argument, ...] = ("BLOCK", block_ms) if block_ms else ()
        logs, after = map(keys.log, positions), positions.values()
        read = ("XREAD", "COUNT", count, *block, "STREAMS", *logs, *after)
        self._read = self.link.send(read, again=self._refused)
        # After the read, on the same connection: what is trimmed later was there to be read.
        trimmed = ("MGET", *map(keys.trimmed, positions))
        self._trimmed = self.link.send(trimmed, again=self._refused)
        self._trimmed.add_done_callback(self._on_end)

    def taken(self) -> tuple[Reply, Sequence[bytes | None]]:
        """(answer to XREAD, position up to which each log was trimmed). Raises StoreError."""
        assert self._read is not None and self._trimmed is not None
        return self._read.result(), self._trimmed.result()

    def interrupt(self) -> None:
        """End the read under way: it was asked for too little."""
        if self._interrupting is None or self._interrupting.done():
            self._interrupting = asyncio.create_task(self._unblock())

    async def close(self) -> None:
        if self._interrupting is not None:
            self._interrupting.cancel()
        await self._store.close_reader(self.link)

    def _refused(self, refusal: ResponseError) -> bool:
        self._store.servers.moved(self.slot, refusal, self.link.address)
        return False

    def _on_end(self, _: object) -> None:
        self.busy = False
        for future in (self._read, self._trimmed):
            if future is not None:
                future.exception()  # perhaps nobody asks any more; then it is no news
        self._ended(self)

    async def _unblock(self) -> None:
        read = self._read
        # Again until it has ended: the first may come before the server has begun to block.
        while self.busy and self._read is read and self.link.client_id:
            try:
                plain = self._store.shard(self.slot).plain
                await plain.send(("CLIENT", "UNBLOCK", self.link.client_id))
            except StoreError:
                return  # refused or away: the read ends by itself
            await asyncio.sleep(_UNBLOCK_S)


class Taps:
    """A tap for each slot that has to be read. `ended`: those whose read has ended."""

    def __init__(self, store: Store, count: int, block_ms: int) -> None:
        self._store = store
        self._count = count
        self._block_ms = block_ms
        self._taps: dict[int, Tap] = {}
        self._all_asked = False
        self._event = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self.ended: deque[Tap] = deque()

    def tend(
        self,
        positions: Mapping[int, str],
        doubts: Callable[[Primary | None, Iterable[int]], Sequence[int]],
    ) -> bool:
        """Ask after these positions where nothing is asked. Returns whether anything is under way.

        `doubts(primary, partitions)`: is this the wrong one for any of them? Then it is not asked
        to block: whether it serves them at all is to be known at once.
        """
        self._event.clear()
        wanted: dict[int, dict[int, str]] = {}
        for p, position in positions.items():
            wanted.setdefault(self._slot(p), {})[p] = position
        for unwanted in [tap for slot, tap in self._taps.items() if slot not in wanted]:
            self.drop(unwanted)
        self._all_asked, under_way = True, False
        for slot, after in wanted.items():
            tap = self._tap(slot)
            if tap is not None and tap.may_ask:
                block_ms = 0 if doubts(tap.link.primary, after) else self._block_ms
                tap.ask(after, self._count, block_ms)
            busy = tap is not None and tap.busy
            self._all_asked = self._all_asked and busy
            under_way = under_way or busy or (tap is not None and tap.link.opening)
        return under_way

    async def wait(self) -> None:
        """Until a read has ended, or `tend` has something to do."""
        if self._all_asked and self._taps:
            await self._event.wait()
            return
        try:
            # Who could not be asked is looked at again soon.
            async with asyncio.timeout(_LOOK_S):
                await self._event.wait()
        except TimeoutError:
            pass

    def read_at_once(self, p: int) -> None:
        """A partition is new, or is read from elsewhere."""
        tap = self._taps.get(self._slot(p))
        if tap is not None and tap.busy:
            tap.interrupt()
        self._event.set()

    def drop(self, tap: Tap) -> None:
        """Close it; if its slot is still wanted, it gets a new one."""
        if self._taps.get(tap.slot) is tap:
            del self._taps[tap.slot]
            task = asyncio.create_task(tap.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        for tap in list(self._taps.values()):
            self.drop(tap)
        await asyncio.gather(*self._closing)

    def _slot(self, p: int) -> int:
        return self._store.servers.slot_of(keys.log(p))

    def _tap(self, slot: int) -> Tap | None:
        """At the server that has the slot now; None if nobody has."""
        servers = self._store.servers
        address = servers.address_of(slot)
        tap = self._taps.get(slot)
        if tap is not None and tap.link.address != address:
            self.drop(tap)
            tap = None
        elif tap is not None and not tap.link.up and not tap.link.opening:
            servers.suspect()
        if tap is None and address is not None:
            tap = Tap(self._store, slot, address, self._on_end, self._event.set)
            self._taps[slot] = tap
        return tap

    def _on_end(self, tap: Tap) -> None:
        self.ended.append(tap)
        self._event.set()
