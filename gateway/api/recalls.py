"""Taking a push back: known to the store first, then folded by its partitions and confirmed by every edge.

The store first, so that there is no gap: an edge that takes its lease later reads the recall there. One that
had a lease when the store knew is asked; it drops the copies that wait in it and refuses later ones. So the
partitions may fold it before, at the same time or after.
"""

import asyncio
import time
from typing import Final

from gateway.api.nodes import Nodes
from gateway.api.peers import Peers
from gateway.rpc import Method, RpcError, RpcUnavailable
from gateway.store import recalls as stored
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.leases import Identity, Roster
from gateway.store.recalls import StoredRecall
from protocol.schema import log_pb2, rpc_pb2

WAITING: Final = 500
"""Recalls under way; beyond it the next one is refused before anything is done."""
_ANSWER_S: Final = 1.0
_AGAIN_S: Final = 0.2


class EdgesAway(Exception):
    """An edge with a live lease has not confirmed; saying it again is harmless."""


class RecallsBusy(Exception):
    """Too many recalls are under way: nothing was done."""


class Recalling:
    """Of one API process."""

    def __init__(
        self,
        store: Store,
        nodes: Nodes,
        roster: Roster,
        clock: StoreClock,
        peers: Peers,
        lease_s: float,
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._roster = roster
        self._clock = clock
        self._peers = peers
        # A frozen edge is waited for until its lease has run out. Then the roster must see that, for which
        # the store must have answered for as long.
        self._confirm_s = 2 * lease_s + _ANSWER_S
        self._waiting = 0

    async def recall(self, recall: StoredRecall) -> None:
        """Returns when no edge with a lease sends the push any more, and nobody else does later.

        Raises RecallsBusy; NodesAway, EdgesAway, StoreUnavailable: some of it may be done.
        """
        if self._waiting >= WAITING:
            raise RecallsBusy
        self._waiting += 1
        try:
            await stored.add(self._store, recall, self._clock.now_ms())
            control = rpc_pb2.ControlRequest(
                push_id=recall.push_id,
                app=recall.app,
                action=log_pb2.RECALL,
                until_ms=recall.until_ms,
            )
            # Both to their end: what fails in one leaves as little as possible undone in the other.
            ends = await asyncio.gather(
                self._nodes.control(control), self._confirmed(recall), return_exceptions=True
            )
        finally:
            self._waiting -= 1
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _confirmed(self, recall: StoredRecall) -> None:
        """Raises EdgesAway, StoreUnavailable."""
        body = rpc_pb2.Recalls(
            pushes=[
                rpc_pb2.RecalledPush(
                    push_id=recall.push_id, app=recall.app, until_ms=recall.until_ms
                )
            ]
        ).SerializeToString()
        confirmed: set[Identity] = set()
        deadline = time.monotonic() + self._confirm_s
        while True:
            await self._roster.poll()  # after the store has it: later edges read it there
            asked = [
                (holder.identity, str(holder.info.get("rpc")))
                for holder in self._roster.live("edge", self._clock.now_ms())
                if holder.identity not in confirmed
            ]
            if not asked:
                return
            if time.monotonic() > deadline:
                raise EdgesAway
            answers = await asyncio.gather(*(self._ask(address, body) for _, address in asked))
            confirmed.update(
                identity for (identity, _), good in zip(asked, answers, strict=True) if good
            )
            if not all(answers):
                await asyncio.sleep(_AGAIN_S)

    async def _ask(self, address: str, body: bytes) -> bool:
        try:
            await self._peers.call(address, Method.RECALLS, body, _ANSWER_S)
        except (RpcError, RpcUnavailable):
            return False
        return True
