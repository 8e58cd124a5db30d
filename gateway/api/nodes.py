"""What only the dispatch nodes know: the counts of a push, the state of a device."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import update_wrapper
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

from gateway.api.peers import Peers
from gateway.rpc import Method, RpcError, RpcUnavailable
from gateway.store import keys
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import StoreUnavailable
from gateway.store.leases import Roster
from gateway.store.ownership import owners
from protocol.ids import EPOCH_MS, push_place, split_device_id
from protocol.schema import rpc_pb2

ANSWER_S: Final = 1.0
"""A node that has not answered for this long is not waited for."""
AUDIENCE_S: Final = 10.0
"""The same where it goes through all devices."""
TAG_S: Final = 5.0
"""The same where it waits for the store to have it on its disk."""
CONTROL_S: Final = 5.0
"""The same where all its partitions write and fold it."""
LEDGER_S: Final = 3.0
"""The same where it reads in a log, after others that ask for that."""
WAITING: Final = 1_000
"""Questions and changes that wait for a partition on the move; beyond it they fail at once."""
_AGAIN_MIN_S: Final = 0.05
_AGAIN_MAX_S: Final = 0.5
_OWNERS_S: Final = 1.0
_OWNERS_MIN_S: Final = 0.05
"""Owners are read no more often than this, however many ask in vain."""
_YOUNG_MS: Final = 10_000
"""A push accepted so short a time ago may not have been folded by its owners."""
_TICK_MS: Final = 62.5

_FIELDS: Final = [field.name for field in rpc_pb2.Counts.DESCRIPTOR.fields]
COUNTED: Final = tuple(_FIELDS[_FIELDS.index("targeted") : _FIELDS.index("held_out") + 1])
"""All that is counted of a push; the schema has the list, in this order."""
STATES: Final = COUNTED[COUNTED.index("received") : COUNTED.index("pending") + 1]
"""Each targeted device is in exactly one of them. The counts behind them are events."""


Looked: TypeAlias = rpc_pb2.AudienceReply
"""What one node found looking at an audience."""


class NodesAway(Exception):
    """A partition that is concerned has no node that answers."""


_ends: ContextVar[list[float] | None] = ContextVar("_ends", default=None)
"""Of a request that has one patience: when that is over, once it has begun."""

P = ParamSpec("P")
T = TypeVar("T")


def patient(
    ask: Callable[Concatenate["Nodes", P], Awaitable[T]],
) -> Callable[Concatenate["Nodes", P], Coroutine[Any, Any, T]]:
    """A method of Nodes that is called again while it raises NodesAway, within the patience.

    It must be harmless to do twice: what was answered with NodesAway may have been done.
    """

    async def asked(self: "Nodes", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.patiently(lambda: ask(self, *args, **kwargs))

    update_wrapper(asked, ask)
    return asked


class Nodes:
    """Questions to the owners of partitions, and changes by them, all of them patient: a partition that
    changes hands has no owner for a moment, of which app servers need not know."""

    def __init__(
        self,
        store: Store,
        roster: Roster,
        clock: StoreClock,
        peers: Peers,
        partitions: int,
        *,
        patience_s: float = 0.0,
    ) -> None:
        """`patience_s`: how long NodesAway is put off; 0: not at all."""
        self._store = store
        self._roster = roster
        self._clock = clock
        self._peers = peers
        self._partitions = partitions
        self._owners: list[tuple[int, int, int]] = []
        self._owners_at = float("-inf")
        self._owners_read_at = float("-inf")
        self._patience_s = patience_s
        self._hurry = asyncio.Event()
        self.waiting = 0

    def hurry(self) -> None:
        """The process is about to end: nothing is waited for any more."""
        self._hurry.set()

    @contextmanager
    def one_patience(self) -> Iterator[None]:
        """All that is asked in the block, one after the other, waits no longer together than one would."""
        token = _ends.set([])
        try:
            yield
        finally:
            _ends.reset(token)

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks again while NodesAway is raised; raises it when the patience is over, or too many wait."""
        deadline = time.monotonic() + self._patience_s
        try:
            return await ask()
        except NodesAway:
            ends = _ends.get()
            if ends is not None:
                deadline = (ends or [deadline])[0]
                ends[:] = [deadline]
            if self.waiting >= WAITING or time.monotonic() >= deadline:
                raise
        self.waiting += 1
        try:
            delay = _AGAIN_MIN_S
            while True:
                await self._pause(min(delay, deadline - time.monotonic()))
                try:
                    return await ask()
                except NodesAway:
                    if self._hurry.is_set() or time.monotonic() >= deadline:
                        raise
                delay = min(2 * delay, _AGAIN_MAX_S)
        finally:
            self.waiting -= 1

    async def _pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                await self._hurry.wait()
        except TimeoutError:
            pass

    def exists(self, partition: int) -> bool:
        return partition < self._partitions

    def young(self, push_id: int) -> bool:
        """Was it drawn just now? (By the time in the id, which anybody may make up.)"""
        return abs(self._clock.now_ms() - drawn_ms(push_id)) < _YOUNG_MS

    def live(self) -> list[str]:
        """Addresses of the live nodes."""
        return sorted(self._addresses().values())

    @patient
    async def counts(self, push_id: int) -> rpc_pb2.Counts:
        """All partitions concerned, added up. Raises NodesAway."""
        place = push_place(push_id)
        body = rpc_pb2.CountsRequest(push_id=push_id).SerializeToString()
        if not place.several:
            answer = await self._ask_owner(place.partition, Method.COUNTS, body)
            counts = rpc_pb2.Counts.FromString(answer)
            if place.partition not in counts.partitions:
                self._owners_at = float("-inf")
                raise NodesAway
            return counts
        total = rpc_pb2.Counts()
        for answer in await self._ask_all(Method.COUNTS, body, ANSWER_S):
            add_counts(total, rpc_pb2.Counts.FromString(answer))
        self._check_whole(total.partitions)
        return total

    @patient
    async def audience(self, app: int, audience: bytes, *, explain: bool) -> list[Looked]:
        """How many devices it means now: the answers of all nodes. Raises NodesAway."""
        request = rpc_pb2.AudienceRequest(app=app, audience=audience, explain=explain)
        body = request.SerializeToString()
        answers = await self._ask_all(Method.AUDIENCE, body, AUDIENCE_S)
        found = [rpc_pb2.AudienceReply.FromString(answer) for answer in answers]
        self._check_whole(part.partition for one in found for part in one.partitions)
        return found

    @patient
    async def cuts(self, push_id: int, by: Sequence[str]) -> rpc_pb2.CutReply:
        """All partitions concerned, a tag as often as nodes tell of it. Raises NodesAway."""
        place = push_place(push_id)
        body = rpc_pb2.CutRequest(push_id=push_id, by=by).SerializeToString()
        if not place.several:
            answer = await self._ask_owner(place.partition, Method.CUT, body, AUDIENCE_S)
            found = rpc_pb2.CutReply.FromString(answer)
            if place.partition not in found.partitions:
                self._owners_at = float("-inf")
                raise NodesAway
            return found
        total = rpc_pb2.CutReply()
        for answer in await self._ask_all(Method.CUT, body, AUDIENCE_S):
            part = rpc_pb2.CutReply.FromString(answer)
            total.partitions.extend(part.partitions)
            if part.known:
                total.known, total.app = True, part.app
                total.cuts.extend(part.cuts)
        self._check_whole(total.partitions)
        return total

    @patient
    async def tag(self, app: int, p: int, items: Sequence[rpc_pb2.TagItem]) -> Sequence[str]:
        """An error for each item, "" = done and durable. Raises NodesAway: some may be done."""
        request = rpc_pb2.TagRequest(partition=p, app=app, items=items)
        answer = await self._ask_owner(p, Method.TAG, request.SerializeToString(), TAG_S)
        errors = rpc_pb2.TagReply.FromString(answer).errors
        if len(errors) != len(items):
            raise NodesAway
        return errors

    def account_home(self, app: int, account: str) -> int:
        """Partition whose owner keeps the list of an account's devices."""
        return keys.account_home(app, account, self._partitions)

    @patient
    async def bind_lists(
        self, app: int, p: int, items: Sequence[rpc_pb2.AccountItem]
    ) -> rpc_pb2.AccountReply:
        """An error for each item, "" = done and durable. Raises NodesAway: some may be done."""
        request = rpc_pb2.AccountRequest(partition=p, app=app, items=items)
        answer = await self._ask_owner(p, Method.ACCOUNT, request.SerializeToString(), TAG_S)
        reply = rpc_pb2.AccountReply.FromString(answer)
        if not len(reply.errors) == len(reply.beside) == len(items):
            raise NodesAway
        return reply

    async def bind_holders(
        self, app: int, p: int, items: Sequence[rpc_pb2.HolderItem]
    ) -> rpc_pb2.HolderReply:
        """The same. Not patient: whose a device is must not be said again once another call may have
        taken the entry from the list; who binds begins anew."""
        request = rpc_pb2.HolderRequest(partition=p, app=app, items=items)
        answer = await self._ask_owner(p, Method.HOLDER, request.SerializeToString(), TAG_S)
        reply = rpc_pb2.HolderReply.FromString(answer)
        if not len(reply.errors) == len(reply.was) == len(reply.binding) == len(items):
            raise NodesAway
        return reply

    @patient
    async def lookup(
        self, app: int, p: int, accounts: Sequence[str] = (), indexes: Sequence[int] = ()
    ) -> rpc_pb2.LookupReply:
        """Lists of accounts at home in a partition, holders of its devices. Raises NodesAway."""
        request = rpc_pb2.LookupRequest(partition=p, app=app, accounts=accounts, index=indexes)
        body = request.SerializeToString()
        answer = await self._ask_owner(p, Method.LOOKUP, body)
        reply = rpc_pb2.LookupReply.FromString(answer)
        whole = len(reply.holders) == len(reply.known) == len(indexes)
        if not whole or len(reply.lists) != len(accounts):
            raise NodesAway
        return reply

    @patient
    async def control(self, request: rpc_pb2.ControlRequest) -> None:
        """Returns when all partitions concerned have folded it. Raises NodesAway: some may have."""
        place = push_place(request.push_id)
        body = request.SerializeToString()
        if place.several:
            answers = await self._ask_all(Method.CONTROL, body, CONTROL_S)
        else:
            answers = [await self._ask_owner(place.partition, Method.CONTROL, body, CONTROL_S)]
        folded = {
            p for answer in answers for p in rpc_pb2.ControlReply.FromString(answer).partitions
        }
        # Twice is no harm: what an owner wrote before it was deposed stands in the log.
        if not folded.issuperset(range(self._partitions) if place.several else (place.partition,)):
            self._owners_at = float("-inf")
            raise NodesAway

    async def _ask_all(self, method: Method, body: bytes, deadline_s: float) -> list[bytes]:
        """What those nodes answered that did."""
        answers = await asyncio.gather(
            *(self._peers.call(a, method, body, deadline_s) for a in self.live()),
            return_exceptions=True,
        )
        found = []
        for answer in answers:
            if isinstance(answer, bytes):
                found.append(answer)
            elif not isinstance(answer, (RpcError, RpcUnavailable)):
                raise answer
        return found

    def _check_whole(self, partitions: Iterable[int]) -> None:
        # A partition that changes hands may be missing, or there twice.
        if sorted(partitions) != list(range(self._partitions)):
            raise NodesAway

    @patient
    async def device(self, device: int) -> rpc_pb2.DeviceState:
        """Raises NodesAway."""
        partition, _ = split_device_id(device)
        body = rpc_pb2.DeviceRequest(device_id=device).SerializeToString()
        return rpc_pb2.DeviceState.FromString(await self._ask_owner(partition, Method.DEVICE, body))

    @patient
    async def ledger(self, push_id: int, device: int) -> rpc_pb2.LedgerReply:
        """Of the device's owner. Raises NodesAway."""
        partition, _ = split_device_id(device)
        body = rpc_pb2.LedgerRequest(push_id=push_id, device_id=device).SerializeToString()
        answer = await self._ask_owner(partition, Method.LEDGER, body, LEDGER_S)
        return rpc_pb2.LedgerReply.FromString(answer)

    async def _ask_owner(
        self, partition: int, method: Method, body: bytes, deadline_s: float = ANSWER_S
    ) -> bytes:
        try:
            address = await self._owner(partition)
            return await self._peers.call(address, method, body, deadline_s)
        except (RpcError, RpcUnavailable, StoreUnavailable) as error:
            self._owners_at = float("-inf")
            raise NodesAway from error

    async def _owner(self, partition: int) -> str:
        now = time.monotonic()
        stale = now - self._owners_at > _OWNERS_S and now - self._owners_read_at > _OWNERS_MIN_S
        if stale or not self._owners:
            self._owners_read_at = now
            self._owners = await owners(self._store, self._partitions)
            self._owners_at = time.monotonic()
        _, number, start = self._owners[partition]
        address = self._addresses().get((number, start))
        if address is None:
            self._owners_at = float("-inf")
            raise NodesAway
        return address

    def _addresses(self) -> dict[tuple[int, int], str]:
        """(number, start) -> address, of live nodes."""
        return {
            (h.identity.number, h.identity.start): str(h.info["rpc"])
            for h in self._roster.live("node", self._clock.now_ms())
            if "rpc" in h.info
        }


def drawn_ms(push_id: int) -> int:
    """When a push id was drawn, by what stands in it: ms since the Unix epoch."""
    return int((push_id >> 29) * _TICK_MS) + EPOCH_MS


def add_counts(total: rpc_pb2.Counts, part: rpc_pb2.Counts) -> None:
    """Add the counts of one node; those that do not know the push only name their partitions."""
    total.partitions.extend(part.partitions)
    if not part.known:
        return
    for name in COUNTED:
        setattr(total, name, getattr(total, name) + getattr(part, name))
    total.known = True
    total.paused = total.paused or part.paused
    total.app, total.ttl_s = part.app, part.ttl_s
    total.accepted_ms = min(part.accepted_ms, total.accepted_ms or part.accepted_ms)


def law_holds(counts: rpc_pb2.Counts) -> bool:
    """targeted is the sum of the states."""
    return bool(counts.targeted == sum(getattr(counts, name) for name in STATES))
