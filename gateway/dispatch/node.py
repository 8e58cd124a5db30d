"""A dispatch node: owns its share of the partitions, reads their logs, delivers, answers."""

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Final

import structlog

from gateway.config import Config
from gateway.dispatch.assignment import share_of
from gateway.dispatch.binding import Binding
from gateway.dispatch.contents import Contents
from gateway.dispatch.controlling import Controlling
from gateway.dispatch.effects import Effects
from gateway.dispatch.explaining import Explaining
from gateway.dispatch.fanouts import Overdue
from gateway.dispatch.links import Links
from gateway.dispatch.owned import Owned, Surroundings
from gateway.dispatch.peers import Peers
from gateway.dispatch.permits import Permits
from gateway.dispatch.queries import Queries
from gateway.dispatch.tagging import Tagging, TagLimits
from gateway.dispatch.transmission import QUEUED_SENDS
from gateway.dispatch.turns import Turns
from gateway.dispatch.unanswered import OF_ALL, Unanswered
from gateway.lanes import WEIGHTS
from gateway.loopstall import LoopStall
from gateway.metrics import Sample, encode_stats, process_samples, queue_samples
from gateway.rpc import Handler, Method
from gateway.store import leases, ownership
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import (
    Fenced,
    ProducerFull,
    Replaced,
    StoreError,
    StoreUnavailable,
    Trimmed,
)
from gateway.store.leases import Holder, Lease, Roster
from gateway.store.log import Entry, LogReader, Pace, length
from gateway.store.pushes import push_producer
from protocol.schema import log_pb2, rpc_pb2

_log = structlog.get_logger("columba.dispatch")

_TIMER_S: Final = 0.1
_ROSTER_S: Final = 0.5
_SLICE_S: Final = 0.002
"""Folding is cut into slices of this length, so that RPC and timers have their turn."""


class Node:
    """One start of a dispatch node under its lease; ends when the lease is lost."""

    def __init__(
        self,
        config: Config,
        store: Store,
        reader_store: Store,
        clock: StoreClock,
        lease: Lease,
        secret: bytes,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._lease = lease
        self._partitions = config.service.partitions
        self.owned: dict[int, Owned] = {}
        self.roster = Roster(store, clock, config.store.lease_s)
        self.links = Links(secret, self._on_link_up, self._on_link_down)
        self.contents = Contents(store, config.dispatch.content_cache_bytes)
        self.queries = Queries(store, self.owned, self.may_act, clock.now_ms)
        self.explaining = Explaining(store, self.owned, self.may_act, clock.now_ms)
        turns = Turns(store, self.owned, self.may_act)
        limits = TagLimits(config.dispatch.tags_per_device, config.dispatch.tags_per_app)
        self.tagging = Tagging(turns, limits)
        per_account = config.dispatch.devices_per_account
        self.binding = Binding(turns, per_account)
        self.controlling = Controlling(self.owned, self.may_act)
        self.peers = Peers(secret)
        self.permits = Permits(store, lease.identity, self.owned, self.may_act, self.peers)
        self._reader = LogReader(reader_store)
        self._looks = asyncio.Event()
        self._around = Surroundings(
            config.dispatch,
            store,
            lease.identity,
            clock.now_ms,
            self.may_act,
            self.links,
            {priority: Unanswered() for priority in WEIGHTS},
            self.contents,
            self._looks.set,
        )
        self._pushes = push_producer(store, lease.identity, Pace(busy_s=0.02), accepted=True)
        self._overdue = Overdue(store, self._pushes)
        self._seqs: dict[int, int] = {}
        self._declared: set[tuple[int, int, int]] = set()
        """(partition, edge, start) of ends that this node has written to a log"""
        self._heard: dict[int, float] = {}
        """partition -> its log is folded as it was then, `time.monotonic()`"""
        self.loop_stall = LoopStall()
        self.records_total = 0
        self.takeovers_total = 0
        self.fanouts_total = 0

    def may_act(self) -> bool:
        """An owner past its own lease deadline sends and answers nothing."""
        return self._lease.valid

    def handlers(self) -> dict[Method, Handler]:
        """What this node answers to other processes."""
        return {
            Method.COUNTS: self.queries.counts,
            Method.DEVICE: self.queries.device,
            Method.AUDIENCE: self.queries.audience,
            Method.CUT: self.queries.cut,
            Method.TAG: self.tagging.tag,
            Method.CONTROL: self.controlling.control,
            Method.ACCOUNT: self.binding.account,
            Method.HOLDER: self.binding.holder,
            Method.LOOKUP: self.binding.lookup,
            Method.PERMIT: self.permits.permit,
            Method.LEDGER: self.explaining.ledger,
            Method.STATS: lambda _: encode_stats("node", self.samples()),
        }

    async def run(self) -> None:
        """Until cancelled, or LeaseLost."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.keep())
            group.create_task(self._follow_roster())
            group.create_task(self._read())
            group.create_task(self._run_timers())
            group.create_task(self._run_looks())
            group.create_task(self._housekeeping())
            group.create_task(self._write_snapshots())
            group.create_task(self.loop_stall.watch())
            group.create_task(self.permits.run())

    async def stop(self) -> None:
        """Let go of everything. Snapshots shorten the next owner's replay; they are not needed."""
        try:
            for owned in self.owned.values():
                if owned.live and owned.snapshotting.replay_records:
                    await owned.snapshot()
        finally:
            for owned in self.owned.values():
                owned.stop()
            self._pushes.close()
            await self._reader.close()
            await self.links.close()
            await self.peers.close()

    # Who lives, and what is ours.

    async def _follow_roster(self) -> None:
        while True:
            try:
                await self.roster.poll()
                now_ms = self._clock.now_ms()
                self.links.follow(self.roster.live("edge", now_ms))
                self.peers.follow(self.roster.live("node", now_ms))
                await self._take_share(now_ms)
                await self._declare_dead_edges(now_ms)
                for holder in self.roster.expired_others(now_ms):
                    await leases.end(self._store, holder.identity, "expired")
            except StoreUnavailable:
                await self._store.wait_up()
            await asyncio.sleep(_ROSTER_S)

    async def _take_share(self, now_ms: int) -> None:
        nodes = [h.identity for h in self.roster.live("node", now_ms)]
        me = self._lease.identity
        wanted = share_of(me, nodes, self._partitions) if me in nodes else set()
        for p in [p for p, owned in self.owned.items() if p not in wanted or owned.deposed]:
            self._let_go(p)
        for p in sorted(wanted - self.owned.keys()):
            if not self.may_act():
                return
            await self._take(p)

    async def _take(self, p: int) -> None:
        """Fence first, then load: the old owner's writes are refused before we read."""
        me = self._lease.identity
        began = time.monotonic()
        try:
            fence = await ownership.take_fence(self._store, p, me.number, me.start)
            owned = Owned(p, fence, self._seqs.get(p, 0), self._around)
            position = await owned.load()
        except (Fenced, StoreUnavailable):
            return  # another has taken it, or its server is away or was replaced; others are not
        self.owned[p] = owned
        self._reader.follow(p, position, fence.given_by)
        self.takeovers_total += 1
        _log.debug(
            "partition taken",
            partition=p,
            fence=fence,
            position=position,
            ms=int((time.monotonic() - began) * 1000),
        )

    def _let_go(self, p: int) -> None:
        owned = self.owned.pop(p)
        self._seqs[p] = owned.seq
        owned.stop()
        self._reader.cursors.pop(p, None)
        self._heard.pop(p, None)
        # Should it come back to us, what was declared may be of the past: `_declare` looks again.
        self._declared = {key for key in self._declared if key[0] != p}

    # Edges that are no more.

    async def _declare_dead_edges(self, now_ms: int) -> None:
        for holder in self.roster.dead_edges(now_ms):
            # Atomically with its expiry: a renewal that comes first wins, one that comes later fails.
            if holder.down or await leases.end(self._store, holder.identity, "expired"):
                for owned in list(self.owned.values()):
                    if owned.live:
                        await self._declare(owned, holder)

    async def _declare(self, owned: Owned, holder: Holder) -> None:
        _, edge, start = holder.identity
        key = (owned.p, edge, start)
        if key in self._declared:
            return
        record = log_pb2.Record(edges_down=[log_pb2.EdgeDown(edge=edge, start=start)])
        try:
            new = await ownership.declare_edge_down(
                self._store,
                owned.p,
                fence=owned.fence,
                edge=edge,
                start=start,
                record=record.SerializeToString(),
            )
        except Fenced:
            owned.deposed = True
            return
        self._declared.add(key)
        if not new:
            # An earlier owner wrote it, and perhaps died before it had cleaned up.
            left = await ownership.sessions_of(self._store, owned.p, edge, start)
            await self._clean_up_after(owned, edge, start, left)

    async def _clean_up_after(self, owned: Owned, edge: int, start: int, left: list[int]) -> None:
        try:
            await ownership.sweep_sessions(
                self._store, owned.p, fence=owned.fence, edge=edge, start=start, indexes=left
            )
            await leases.folded(self._store, edge, start, owned.p, self._partitions)
        except Fenced:
            owned.deposed = True

    # The log.

    async def _read(self) -> None:
        while True:
            try:
                entries = await self._reader.read()
            except (Trimmed, Replaced) as lost:
                p = lost.args[0]
                trimmed = isinstance(lost, Trimmed)
                reason = "log trimmed past our position" if trimmed else "another server has it"
                _log.warning("loading a partition again", partition=p, reason=reason)
                if p in self.owned:
                    self._let_go(p)
                continue
            except StoreUnavailable:
                await asyncio.sleep(0.05)
                continue
            at_end = self._reader.at_end
            if entries:
                await self._fold(entries)
            else:
                await asyncio.sleep(0)
            self._heard.update(at_end)

    async def _fold(self, entries: Iterable[Entry]) -> None:
        end = time.perf_counter() + _SLICE_S
        for entry in entries:
            owned = self.owned.get(entry.partition)
            if owned is None:
                continue
            effects = owned.on_entry(entry)
            self.records_total += 1
            if effects.replaced and owned.live:
                self._tell_replaced(owned.p, effects)
            for edge, start, devices in effects.ended:
                await self._end_of_edge(owned, edge, start, list(devices))
            if time.perf_counter() >= end:
                await asyncio.sleep(0)
                end = time.perf_counter() + _SLICE_S

    def _tell_replaced(self, p: int, effects: Effects) -> None:
        by_edge: dict[int, list[rpc_pb2.ReplacedSession]] = {}
        for edge, index, epoch in effects.replaced:
            session = rpc_pb2.ReplacedSession(partition=p, index=index, epoch=epoch)
            by_edge.setdefault(edge, []).append(session)
        for edge, sessions in by_edge.items():
            self.links.tell_replaced(edge, sessions)

    async def _end_of_edge(self, owned: Owned, edge: int, start: int, left: list[int]) -> None:
        if not owned.live:
            return  # of the past; who declared it, or `_declare`, cleans up
        try:
            await self._clean_up_after(owned, edge, start, left)
        except StoreUnavailable:
            self._declared.discard((owned.p, edge, start))  # `_declare` will do it again

    # Links and time.

    def _on_link_up(self, edge: int) -> None:
        for owned in self.owned.values():
            owned.on_link_up(edge)

    def _on_link_down(self, edge: int) -> None:
        for owned in self.owned.values():
            owned.on_link_down(edge)

    async def _run_timers(self) -> None:
        while True:
            await asyncio.sleep(_TIMER_S)
            now = time.monotonic()
            for owned in list(self.owned.values()):
                owned.on_timer(now, self._heard.get(owned.p, -math.inf))

    async def _run_looks(self) -> None:
        """Who has arrived, or has room for more. All of one fold or one step come together, and between
        two steps, of whatever partitions, everything else has its turn."""
        while True:
            await self._looks.wait()
            self._looks.clear()
            while waiting := [owned for owned in self.owned.values() if owned.waits_for_look]:
                for owned in waiting:
                    owned.look()
                    await asyncio.sleep(0)

    async def _housekeeping(self) -> None:
        """Once a second: expiry, contents and fan-outs of all partitions, side by side."""
        while True:
            await asyncio.sleep(1.0)
            if self.may_act():
                live = [owned for owned in self.owned.values() if owned.live]
                await asyncio.gather(*[self._keep_house(owned) for owned in live])

    async def _keep_house(self, owned: Owned) -> None:
        try:
            owned.log_length = await length(self._store, owned.p)
            await owned.append_due()
            await owned.drop_contents()
            await self._complete_fanouts(owned.p)
        except (StoreUnavailable, ProducerFull):
            pass  # the next second
        except Fenced:
            owned.deposed = True  # let go at the next look at the roster
        except StoreError as error:
            _log.error("housekeeping failed", partition=owned.p, reason=str(error))

    async def _write_snapshots(self) -> None:
        """One partition after the other, so that the store has never more than one to take."""
        while True:
            await asyncio.sleep(1.0)
            for owned in list(self.owned.values()):
                if self.may_act() and owned.snapshot_due(time.monotonic()):
                    await owned.snapshot()

    async def _complete_fanouts(self, p: int) -> None:
        before_ms = self._clock.now_ms() - int(self._config.dispatch.fanout_overdue_s * 1000)
        self.fanouts_total += await self._overdue.complete(p, before_ms)

    # Numbers.

    def samples(self) -> Iterable[Sample]:
        yield from process_samples()
        live = [owned for owned in self.owned.values() if owned.live]
        yield "columba_loop_stall_seconds", {}, self.loop_stall.largest_s
        yield "columba_partitions", {"state": "live"}, len(live)
        yield "columba_partitions", {"state": "loading"}, len(self.owned) - len(live)
        yield "columba_links", {}, len(self.links.up)
        yield "columba_records_total", {}, self.records_total
        yield "columba_late_receipts_total", {}, sum(o.late_receipts_total for o in live)
        last_ms = max((o.last_receipt_ms for o in live), default=0)
        yield "columba_last_receipt_timestamp_seconds", {}, last_ms / 1000
        yield "columba_takeovers_total", {}, self.takeovers_total
        yield "columba_fanouts_completed_total", {}, self.fanouts_total
        yield "columba_delivers_total", {}, self.links.delivers_total
        yield "columba_delivers_unanswered_total", {}, self.links.unanswered_total
        yield "columba_content_cache_bytes", {}, self.contents.bytes
        yield "columba_devices", {}, sum(len(d) for o in live for d in o.partition.apps.values())
        yield "columba_online", {}, sum(len(d) for o in live for d in o.partition.online.values())
        yield "columba_open_campaigns", {}, sum(len(o.partition.campaigns) for o in live)
        yield "columba_pending_singles", {}, sum(len(o.partition.inbox) for o in live)
        lanes = len(WEIGHTS)
        yield from queue_samples(
            "sends", sum(o.queued for o in live), len(live) * lanes * QUEUED_SENDS
        )
        unanswered = sum(lane.total for lane in self._around.unanswered.values())
        yield from queue_samples("unanswered", unanswered, lanes * OF_ALL)
        heard = min((self._heard.get(o.p, o.taken_at) for o in live), default=time.monotonic())
        yield "columba_log_behind_seconds", {}, time.monotonic() - heard
        yield "columba_paced_devices", {}, sum(len(o.sending.held) for o in live)
        for owned in live:
            yield from _partition_samples(owned)


def _partition_samples(owned: Owned) -> Iterable[Sample]:
    """How large one partition is."""
    partition, labels = owned.partition, {"partition": str(owned.p)}
    yield "columba_partition_devices", labels, sum(map(len, partition.apps.values()))
    yield "columba_partition_online", labels, sum(map(len, partition.online.values()))
    yield "columba_partition_tags", labels, len(partition.tags.own) + len(partition.tags.bound)
    yield "columba_partition_pushes", labels, len(partition.pushes)
    yield "columba_partition_bytes", labels, owned.snapshotting.footprint.bytes
    yield "columba_partition_log_length", labels, owned.log_length
    yield "columba_partition_log_limit", labels, owned.log_limit
    yield "columba_partition_replay_records", labels, owned.snapshotting.replay_records
    yield "columba_partition_snapshot_seconds", labels, owned.snapshots.last.seconds
    yield "columba_partition_snapshot_bytes", labels, owned.snapshots.last.bytes
    failures = owned.snapshotting.failures_total
    yield "columba_partition_snapshot_failures_total", labels, failures
    age_s = time.monotonic() - owned.snapshots.written_at
    yield "columba_partition_snapshot_age_seconds", labels, age_s
