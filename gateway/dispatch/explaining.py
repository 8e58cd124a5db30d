"""Why a device has a push, or not: asked by people who help its user.

The owner of the device's partition answers, from the state, from what sending knows, and from the
partition's log as far as it reaches back.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from gateway.audience import Audience, AudienceError, Bound, Leaf
from gateway.audience import leaves as leaves_of
from gateway.dispatch import audiences, matching, reasons
from gateway.dispatch.campaign import Push, Single
from gateway.dispatch.ledger import MOST_STEPS, Facts, Told, is_personal, state_of, steps
from gateway.dispatch.owned import Owned
from gateway.dispatch.partition import OFFLINE
from gateway.dispatch.queries import catch_up
from gateway.dispatch.reasons import Meant
from gateway.dispatch.trail import SESSIONS, Origin, Trail, Whereabouts
from gateway.rpc import RpcError
from gateway.store.client import Store
from gateway.store.errors import StoreUnavailable
from gateway.store.history import History, Reach
from gateway.store.log import position_key
from gateway.store.pushes import PushHead, push_head
from protocol.ids import push_place, split_device_id
from protocol.schema import rpc_pb2

_AFTER: Final = Reach(entries=10_000, bytes=32 << 20, seconds=0.15)
"""How much of the log since the accept is read for one answer, ..."""
_BEFORE: Final = Reach(entries=2_000, bytes=8 << 20, seconds=0.05)
"""... and before it, to find out where the device was then."""
_SLICE_S: Final = 0.002
"""Looking through records is cut into slices of this length, so that the fold has its turn."""
_WAITING: Final = 15
"""Questions that may wait for each other, one reading after the other: people ask one, not thousands,
and who would wait longer than the caller does hears so at once."""


class Explaining:
    """The RPC handler over the partitions of a node."""

    def __init__(
        self,
        store: Store,
        owned: Mapping[int, Owned],
        may_act: Callable[[], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._owned = owned
        self._may_act = may_act
        self._now_ms = now_ms
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def ledger(self, body: bytes) -> bytes:
        """columba.rpc.LedgerRequest -> LedgerReply. RpcError not_owner, busy, unavailable.

        A push and a device of two apps: the device is known, the push is not.
        """
        request = rpc_pb2.LedgerRequest.FromString(body)
        p, index = split_device_id(request.device_id)
        owned = self._owner(p)
        if self._waiting >= _WAITING:
            raise RpcError("busy", "too many questions wait")
        self._waiting += 1
        try:
            reply = await self._explain(owned, request.push_id, index)
        except StoreUnavailable as error:
            raise RpcError("unavailable", str(error)) from None
        finally:
            self._waiting -= 1
        # Looked at once more: an owner whose lease has run out meanwhile answers nothing.
        if self._owner(p) is not owned:
            raise RpcError("not_owner", f"partition {p} has changed hands")
        return reply.SerializeToString()

    def _owner(self, p: int) -> Owned:
        owned = self._owned.get(p)
        if owned is None or not owned.live or not self._may_act():
            raise RpcError("not_owner", f"partition {p} is not owned here")
        return owned

    async def _explain(self, owned: Owned, push_id: int, index: int) -> rpc_pb2.LedgerReply:
        partition = owned.partition
        place = push_place(push_id)
        head = None
        if place.several:
            # Before the log: a part that the record no longer waits for stands in there by now.
            head = await push_head(self._store, place.partition, push_id, owned.p)
        caught_up = await catch_up(self._store, owned)
        app, edge = partition.app_of(index), partition.edge_of(index)
        reply = rpc_pb2.LedgerReply(device_known=bool(app), app=app, edge=edge)
        push = partition.pushes.get(push_id)
        if not app:
            return reply
        if push is None:
            if not caught_up:
                raise RpcError("unavailable", f"partition {owned.p} is behind its log")
            if head is not None and head.app == app:
                _elsewhere(reply, head)
        elif push.app == app:
            async with self._turn:
                await self._fill(reply, owned, push, index, head)
        return reply

    async def _fill(
        self,
        reply: rpc_pb2.LedgerReply,
        owned: Owned,
        push: Push,
        index: int,
        head: PushHead | None,
    ) -> None:
        partition, push_id = owned.partition, push.push_id
        trail = Trail(push_id, push.app, index)
        history = await self._follow(owned, push, trail)
        before = await self._look_back(owned, push, index, trail, trimmed=bool(history.trimmed))
        tree, matched, meant = await self._match(owned, push, index, trail, head)
        # From here on nothing is waited for: state, log and sending are of one moment.
        now_push = partition.pushes.get(push_id)
        if now_push is None:
            return  # forgotten just now
        state, events = state_of(now_push, index)
        personal = is_personal(now_push, index)
        if personal and state == "stopped" and tree is not None:
            trail.taken_back_from({leaf.account for leaf in matched if isinstance(leaf, Bound)})
        if state == "pending" and push_id in partition.controls.paused:
            events.append("paused")
        facts = Facts(
            state,
            events,
            push.accepted_ms,
            push.ttl_s,
            partition.edge_of(index),
            owned.sending.state_of(now_push, index, time.monotonic()),
            self._now_ms(),
            personal,
        )
        told = Told(
            trail.steps(partition.position),
            _ms(history.trimmed) if history.trimmed else 0,
            _ms(history.position) if history.cut_short else 0,
        )
        found = steps(facts, told)
        terms = matching.terms(tree, matched) if tree is not None else []
        reply.push_known, reply.state, reply.edge = True, state, facts.edge
        reply.why = reasons.why(facts, told, meant, before)
        for step in found[:MOST_STEPS]:
            reply.steps.add(**step._asdict())
        for term in terms:
            reply.terms.add(term=term.term, matches=term.matches)
        reply.notes = "\n".join(reasons.notes(facts, told, meant, len(found), len(terms)))

    async def _follow(self, owned: Owned, push: Push, trail: Trail) -> History:
        """Read the log since the accept, up to what has been folded."""
        history = History(self._store, owned.p, push.accepted_ms, _AFTER)
        while True:
            folded = owned.partition.position
            end = time.perf_counter() + _SLICE_S
            for entry in await history.next():
                trail.feed(entry)
                if time.perf_counter() >= end:
                    await asyncio.sleep(0)
                    end = time.perf_counter() + _SLICE_S
            # What was folded while we read stands behind what we read.
            if history.cut_short or (history.at_end and owned.partition.position == folded):
                return history

    async def _look_back(
        self, owned: Owned, push: Push, index: int, trail: Trail, *, trimmed: bool
    ) -> Whereabouts:
        """Where the device was at the accept, if that matters and what follows does not tell."""
        if trail.before is not None:
            return trail.before
        sessions = [s for s in trail.steps(owned.partition.position) if s.event in SESSIONS]
        offline = owned.partition.edge_of(index) == OFFLINE
        unclear = sessions[0].event == "session_up" if sessions else offline
        if trimmed or not (unclear or trail.in_doubt):
            return Whereabouts()
        origin = Origin(index)
        history = History(self._store, owned.p, push.accepted_ms, _BEFORE, backwards=True)
        while not (history.at_end or history.cut_short):
            entries = await history.next()
            if any(origin.feed(entry) for entry in entries):
                trail.began_at(origin.found.edge or OFFLINE)
                break
            await asyncio.sleep(0)
        return origin.found

    async def _match(
        self, owned: Owned, push: Push, index: int, trail: Trail, head: PushHead | None
    ) -> tuple[Audience | None, dict[Leaf, bool], Meant]:
        """(the audience if one is known, which of its leaves match now, what that means)"""
        raw = named = None
        if trail.push is not None:
            raw, named = trail.push.audience, index in trail.push.index
        elif head is not None:
            raw = head.audience
        elif isinstance(push, Single) and not is_personal(push, push.index):
            raw, named = b"", index == push.index
        if not raw:
            return None, {}, Meant(None if raw is None else True, named=named)
        try:
            tree = audiences.read(raw)
        except AudienceError:
            return None, {}, Meant(None)  # of a later build
        bitmap = audiences.leaves(owned.partition, push.app, self._now_ms())
        matched: dict[Leaf, bool] = {}
        for leaf in leaves_of(tree):
            if leaf not in matched:
                matched[leaf] = index in bitmap(leaf)
                await asyncio.sleep(0)  # each may be a pass over all devices
        return tree, matched, Meant(False, matching.mismatch(tree, matched))


def _elsewhere(reply: rpc_pb2.LedgerReply, head: PushHead) -> None:
    """A push that the partition does not know, by its record."""
    reply.push_known = True
    if head.waits:
        return  # on its way here: whom it is for is not settled yet
    reply.state = "not_targeted"
    reply.why = reasons.ELSEWHERE
    reply.steps.add(at_ms=head.accepted_ms, event="accepted")


def _ms(position: str) -> int:
    return position_key(position)[0]
