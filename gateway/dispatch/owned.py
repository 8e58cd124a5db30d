"""One owned partition at work: replay, fold, send, timers, snapshots. Decisions are made in
`partition`, `sending` and `pieces`; here they are carried out.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import structlog
from pyroaring import BitMap

from gateway.config import Dispatch
from gateway.dispatch import pieces
from gateway.dispatch.campaign import Push, Single
from gateway.dispatch.contents import Contents
from gateway.dispatch.effects import Effects
from gateway.dispatch.links import Links
from gateway.dispatch.partition import Partition
from gateway.dispatch.retention import Keeping, Retention
from gateway.dispatch.sending import Sending
from gateway.dispatch.sends import Pacing
from gateway.dispatch.snapshotting import Snapshotting
from gateway.dispatch.transmission import Transmission, Ways
from gateway.dispatch.unanswered import Unanswered
from gateway.slices import in_slices
from gateway.store import ownership
from gateway.store import pushes as store_pushes
from gateway.store.client import Store
from gateway.store.errors import Fenced, LogFull, StoreError, StoreUnavailable
from gateway.store.leases import Identity
from gateway.store.log import Entry, Room, position_key, tail
from gateway.store.snapshots import Snapshots
from protocol.schema import log_pb2

_log = structlog.get_logger("columba.dispatch")

_DUE: Final = 1_000
"""Push ids in one `due` record."""
_LONG_LOG_S: Final = 1.0
"""Between two snapshots that are written because the log is long."""
_LONG_LOG_RETRY_S: Final = 5.0
"""Between two that fail, at most: pushes may be refused until one has succeeded."""
_FOLDED_S: Final = 10.0
"""A record of ours that is not folded after so long: the log is not read any more, or far behind."""


class Surroundings(NamedTuple):
    """What all partitions of a node share."""

    config: Dispatch
    store: Store
    identity: Identity
    now_ms: Callable[[], int]
    may_act: Callable[[], bool]
    """False once the node's own lease has run out: then nothing is sent and nothing answered."""
    links: Links
    unanswered: Mapping[int, Unanswered]
    """Of each lane, at all edges."""
    contents: Contents
    wake: Callable[[], None] = lambda: None
    """Hears that a partition has something to `look` at."""


class Owned:
    """A partition under this node's fencing token."""

    def __init__(self, p: int, fence: int, seq: int, around: Surroundings) -> None:
        self.p = p
        self.fence = fence
        self.taken_at = time.monotonic()
        """Not before the fence was taken."""
        self.seq = seq
        """Of this node's last own append to the partition's log."""
        self._around = around
        self.snapshots = Snapshots(around.store, p, fence)
        self._begin(Partition(p))
        self.log_length = 0
        """Entries in the store when it was last asked: those since the last snapshot but one."""
        self.live = False
        """Replayed up to where the log ended when we took over: from then on we send."""
        self._live_from = (0, 0)
        self._old_contents: list[int] = []
        self._finals: list[int] = []
        self._append_turn = asyncio.Lock()
        self.late_receipts_total = 0
        self.last_receipt_ms = 0
        """When a receipt was folded last, since the takeover; 0: none was."""
        self.deposed = False
        """A newer owner exists: the node lets go of this partition."""

    # Taking over: fence (done by the node), then snapshot, then log.

    def _begin(self, partition: Partition) -> None:
        config = self._around.config
        self.partition = partition
        self.sending = Sending(
            partition,
            Pacing(config.resend_s, config.resend_max_s, config.not_there_s, config.window),
            self._around.wake,
        )
        around = self._around
        self.transmission = Transmission(
            partition,
            self.sending,
            self.fence,
            Ways(
                around.links,
                around.unanswered,
                around.contents,
                around.now_ms,
                around.may_act,
                self._on_deposed,
            ),
        )
        self.snapshotting = Snapshotting(partition, self.snapshots, config)
        self._retention = Retention(
            partition,
            Keeping(config.live_only_s, config.keep_s, config.keep_counts_s, config.keep_bytes),
        )

    async def load(self) -> str:
        """Restore the newest snapshot; returns the log position to read from."""
        store = self._around.store
        while (snapshot := await self.snapshots.load()) is not None:
            partition = Partition(self.p)
            try:
                # Nobody knows this object yet; other partitions of the node have their turn meanwhile.
                await in_slices(pieces.restoring(partition, snapshot.position, snapshot.pieces))
            # Whatever a piece that passed its checksum does to its decoder: the one before it gets its turn.
            except Exception as error:
                await self.snapshots.set_aside(f"cannot be restored: {error!r}")
            else:
                self._begin(partition)
                break
        else:
            await self._rebuild()
        await in_slices(map(self._retention.add, self.partition.singles()))
        await in_slices(self.snapshotting.footprint.look())
        self._old_contents = await store_pushes.content_ids(store, self.p)
        self._live_from = position_key(await tail(store, self.p))
        self.transmission.start()
        self._go_live_if_caught_up()
        return self.partition.position

    async def _rebuild(self) -> None:
        """No snapshot to be had. If the log does not reach back to the beginning either, devices and
        sessions are taken from the store's own registers; replaying what is left brings them up to date.
        """
        trimmed = await self.snapshots.trimmed()
        if position_key(trimmed) == (0, 0):
            return
        _log.error(
            "no snapshot can be read and the log is trimmed: pushes and profiles before it are lost",
            partition=self.p,
            position=trimmed,
        )
        partition = Partition(self.p)
        partition.restore_devices(await ownership.devices_of(self._around.store, self.p))
        online: dict[int, BitMap] = {}
        for index, edge in (await ownership.online_of(self._around.store, self.p)).items():
            online.setdefault(edge, BitMap()).add(index)
        for edge, devices in online.items():
            partition.restore_online(edge, devices)
        partition.position = trimmed
        self._begin(partition)

    def _go_live_if_caught_up(self) -> None:
        if self.live or position_key(self.partition.position) < self._live_from:
            return
        self.live = True
        # Singles, of which there are many, are watched since the load.
        for push in self.partition.others():
            self._retention.add(push)
        pushes = self.partition.pushes
        self._finals += [i for i in self._old_contents if i not in pushes or pushes[i].final]
        self._old_contents.clear()
        self.sending.on_live()
        for edge in self._around.links.up:
            self.on_link_up(edge)

    def stop(self) -> None:
        """Let go: nothing is sent from here on."""
        self.deposed = True
        self.live = False
        self.transmission.stop()

    def _on_deposed(self) -> None:
        self.deposed = True

    # Folding.

    def on_entry(self, entry: Entry) -> Effects:
        """Fold one entry and queue what follows from it."""
        effects = self.partition.fold(entry.position, entry.record)
        for push_id, content in effects.contents.items():
            self._around.contents.put(push_id, content)
        if not self.live:
            for push in effects.fresh:
                if isinstance(push, Single):
                    self._retention.add(push)
            self._go_live_if_caught_up()
            return effects
        self.late_receipts_total += effects.late_receipts
        self._finals += effects.final
        self.sending.on_final(effects.final)
        if effects.arrived:
            self.sending.on_arrived(effects.arrived)
        for push in effects.fresh:
            self._retention.add(push)
        fresh = [push for push in effects.fresh if push.ttl_s or not self._is_too_late(push)]
        if fresh:
            self.transmission.queue(self.sending.on_fresh(fresh))
        if effects.resumed:
            self.transmission.queue(self.sending.on_resumed(effects.resumed))
        if effects.receipted:
            self.last_receipt_ms = self._around.now_ms()
            self.sending.on_receipted(effects.receipted)
        for push, devices in effects.recalled:
            self.transmission.tell_recalled(push.push_id, devices)
        return effects

    def _is_too_late(self, push: Push) -> bool:
        """A push of ttl 0 that comes when it would have expired: its part waited for room in the log, or we
        are behind. Its one attempt is over, and it expires with the next `due` record."""
        late_ms = self._around.now_ms() - push.accepted_ms
        return late_ms >= self._around.config.live_only_s * 1000

    # Sending.

    def on_link_up(self, edge: int) -> None:
        if self.live:
            self.sending.on_link_up(edge)

    def on_link_down(self, edge: int) -> None:
        self.sending.on_link_down(edge)
        self.transmission.on_link_down(edge)

    @property
    def waits_for_look(self) -> bool:
        return self.live and bool(self.sending.waiting)

    def look(self) -> None:
        """A turn of the devices that wait for what is pending for them."""
        if self.waits_for_look:
            self.transmission.queue(self.sending.look())

    def on_timer(self, now: float, heard: float) -> None:
        """`heard`: the log is folded as it was then."""
        due = self.sending.next_timer()
        if self.live and due is not None and due <= now:
            self.transmission.queue(self.sending.on_timer(now, heard))

    def release(self, push_id: int, count: int) -> int:
        """Permits for `count` devices of a paced push; returns how many were let go."""
        if not self.live:
            return 0
        sends = self.sending.release(push_id, count, time.monotonic())
        self.transmission.queue(sends)
        return sum(len(send.devices) for send in sends)

    @property
    def queued(self) -> int:
        """Sends."""
        return len(self.transmission)

    # Timers that enter the log as records before they are acted on.

    async def append_due(self) -> None:
        """Write pushes whose time is over, or whose rows may go, to the log."""
        if not self.live:
            return
        found = self._retention.due(self._around.now_ms(), _DUE)
        if not any(found):
            return
        due = log_pb2.Due(**found._asdict())
        try:
            await self._append(log_pb2.Record(due=due).SerializeToString())
        except StoreError:
            for push_id in itertools.chain(*found):
                push = self.partition.pushes.get(push_id)
                if push is not None:
                    self._retention.add(push)  # not written: it comes due again
            raise

    async def _append(self, record: bytes, room: Room | None = None) -> str:
        """Until its outcome is known; a lost reply is repeated under its seq. Its position, "" if the first
        reply was lost. Raises Fenced when deposed, LogFull."""
        around = self._around
        async with self._append_turn:  # a second call under a greater seq would make this one old
            self.seq += 1
            while not self.deposed:
                try:
                    return await ownership.append_as_owner(
                        around.store,
                        self.p,
                        around.identity,
                        fence=self.fence,
                        seq=self.seq,
                        record=record,
                        room=room,
                    )
                except LogFull:
                    raise
                except StoreUnavailable:
                    await asyncio.sleep(0.2)
                    await around.store.wait_up()
                except Fenced:
                    self.deposed = True
        raise Fenced(f"partition {self.p} has another owner")

    @property
    def log_limit(self) -> int:
        """Entries of the log from which on it takes no more pushes; 0 = no limit."""
        return Room.PUSHES.of(self._around.store)

    async def append_and_fold(self, record: bytes, room: Room | None = None) -> None:
        """Append a record of the owner's and wait until it is folded. `room`: None for what ends things,
        which a full log takes as well. Raises Fenced, StoreUnavailable (LogFull among them)."""
        position = await self._append(record, room) or await tail(self._around.store, self.p)
        end, deadline = position_key(position), time.monotonic() + _FOLDED_S
        while position_key(self.partition.position) < end:
            if self.deposed:
                raise Fenced(f"partition {self.p} has another owner")
            if time.monotonic() >= deadline:
                raise StoreUnavailable(f"partition {self.p} is behind its log")
            await asyncio.sleep(0.002)

    async def drop_contents(self) -> None:
        """Contents of pushes that are final go from the store."""
        finals, self._finals = self._finals[:_DUE], self._finals[_DUE:]
        for push_id in finals:
            self._around.contents.drop(push_id)
        try:
            await store_pushes.drop_contents(self._around.store, self.p, finals)
        except StoreUnavailable:
            self._finals += finals

    # Snapshots.

    def snapshot_due(self, now: float) -> bool:
        if not self.live:
            return False
        if self._log_is_long(now):
            return self.snapshotting.may_try(now, _LONG_LOG_RETRY_S)
        return self.snapshotting.may_try(now) and self.snapshotting.due(now)

    def _log_is_long(self, now: float) -> bool:
        """And a snapshot makes it shorter, even if nothing has happened since the last one: a log that takes
        no more records would wait for the next one for ever."""
        long = 0 < self.log_limit <= 2 * self.log_length
        behind = position_key(self.snapshots.trimmed_to) < position_key(self.partition.position)
        return long and behind and now - self.snapshots.written_at >= _LONG_LOG_S

    async def snapshot(self) -> None:
        """Write what changed since the last one and trim the log."""
        try:
            await self.snapshotting.write()
        except StoreError as error:
            if isinstance(error, Fenced):
                self.deposed = True
            _log.warning("snapshot not written", partition=self.p, reason=str(error))
