"""Which servers there are: `Single`, or `Cluster`, which follows what the servers say of themselves.

A cluster's servers refuse what is not theirs with MOVED (the slot is another's) or ASK (the key is
already another's), and have not executed it then: it is sent again to the one they name, in the order
in which the refusals come. Everything else that goes wrong is the caller's to repeat.
"""

import asyncio
import random
from collections.abc import Iterable
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog
from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError

from gateway.store import slots
from gateway.store.dial import Address, Dial
from gateway.store.errors import Fenced, StoreError, StoreUnavailable
from gateway.store.link import Command, Link, Reply
from gateway.store.shard import Request, Shard
from gateway.store.slots import SLOTS, View, view_of

_log = structlog.get_logger("columba.store")

_T = TypeVar("_T")

_HOPS: Final = 5
"""How often a command is sent on before it is the caller's again."""
_LOOK_MIN_S: Final = 0.05
_LOOK_MAX_S: Final = 0.5
"""Between two looks at a cluster in which something is not well."""
_LOOK_S: Final = 30.0
"""The same where all is well: a server that has left without a word is noticed then."""
_CALM_S: Final = 3.0
"""After a look at which nothing has happened for this long, the next one comes soon."""
_ANSWER_S: Final = 1.0
_VIEW: Final[Command] = ("CLUSTER", "SLOTS")
_STATE: Final[Command] = ("CLUSTER", "INFO")


class Servers(Protocol):
    """The servers of one store, by slot."""

    @property
    def losses(self) -> int: ...

    @property
    def up(self) -> bool: ...

    @property
    def up_since(self) -> float | None: ...

    async def wait_up(self, slot: int | None) -> None: ...

    def slot_of(self, key: str) -> int: ...

    def address_of(self, slot: int) -> Address | None: ...

    def shard_of(self, slot: int) -> Shard | None: ...

    def primaries(self) -> list[Shard]: ...

    def send(self, request: Request) -> None: ...

    def moved(self, slot: int, refusal: ResponseError, asked: Address) -> None: ...

    def suspect(self) -> None: ...

    async def close(self) -> None: ...


class Single:
    """One server that has every key. `plain` is its link."""

    def __init__(self, dial: Dial, plain: Link, replicas: int) -> None:
        self.plain = plain
        self._shard = Shard(plain, lambda: Link(dial, plain.address), replicas)

    @property
    def losses(self) -> int:
        return sum(link.losses for link in self._shard.links)

    @property
    def up(self) -> bool:
        return self.plain.up

    @property
    def up_since(self) -> float | None:
        return self.plain.up_since

    async def wait_up(self, slot: int | None) -> None:
        for link in self._shard.links:
            await link.wait_up()

    def slot_of(self, key: str) -> int:
        return 0

    def address_of(self, slot: int) -> Address | None:
        return self.plain.address

    def shard_of(self, slot: int) -> Shard | None:
        return self._shard

    def primaries(self) -> list[Shard]:
        return [self._shard]

    def send(self, request: Request) -> None:
        self._shard.send(request)

    def moved(self, slot: int, refusal: ResponseError, asked: Address) -> None:
        """It has nowhere to go."""

    def suspect(self) -> None:
        """There is nothing to look at."""

    async def close(self) -> None:
        await self._shard.close()


class Cluster:
    """The primaries of a cluster, as far as they are needed; links are opened when first used."""

    def __init__(self, dial: Dial, view: View, replicas: int) -> None:
        self._dial = dial
        self._replicas = replicas
        self._slots: list[Address | None] = [None] * SLOTS
        self._others: list[Address] = []
        """Whom to ask about the cluster when no primary answers."""
        self._shards: dict[Address, Shard] = {}
        self._refusing: set[Address] = set()
        """Primaries that have answered CLUSTERDOWN and have not been well since."""
        self._witness: Address | None = None
        """Who got a slot last, as far as we were told: it knows the cluster best."""
        self._stale = asyncio.Event()
        self._change = asyncio.Event()
        """Set, and replaced, whenever something has changed."""
        self._closing: set[asyncio.Task[None]] = set()
        self.losses = 0
        self._unbroken_since = asyncio.get_running_loop().time()
        self._apply(view)
        self._follower = asyncio.create_task(self._follow())

    # What callers ask.

    @property
    def up(self) -> bool:
        """Some part of it answers: what another part refuses, its callers repeat."""
        shards = self._shards.items()
        return not shards or any(s.plain.up and a not in self._refusing for a, s in shards)

    @property
    def up_since(self) -> float | None:
        return self._unbroken_since if self.up else None

    async def wait_up(self, slot: int | None) -> None:
        """Of the slot's primary; of any one without a slot."""
        while not (self.up if slot is None else self._serves(slot)):
            await self._change.wait()

    def _serves(self, slot: int) -> bool:
        address = self._slots[slot]
        return address is not None and address not in self._refusing and self._shard(address).up

    def slot_of(self, key: str) -> int:
        return slots.slot_of(key)

    def address_of(self, slot: int) -> Address | None:
        return self._slots[slot]

    def shard_of(self, slot: int) -> Shard | None:
        address = self._slots[slot]
        return None if address is None else self._shard(address)

    def primaries(self) -> list[Shard]:
        return [self._shard(address) for address in self._named()]

    # Commands, to where they belong.

    def send(self, request: Request) -> None:
        address = self._slots[request.slot]
        if address is None:
            self._stale.set()
            request.fail(StoreUnavailable(f"no server of the cluster has slot {request.slot}"))
        else:
            self._send_to(address, request)

    def _send_to(self, address: Address, request: Request) -> None:
        self._shard(address).send(request, partial(self._refused, request, address))

    def _refused(self, request: Request, asked: Address, refusal: ResponseError) -> bool:
        """Whether the command has been sent elsewhere, or need not be answered any more."""
        if not isinstance(refusal, AskError):
            self._heed(refusal, asked)
            return False
        request.hops += 1
        request.asking = not isinstance(refusal, MovedError)
        self.moved(request.slot, refusal, asked)
        if request.future.done():
            pass
        elif request.hops > _HOPS:
            request.fail(StoreUnavailable(f"the cluster does not agree on slot {request.slot}"))
        elif request.asking:
            self._send_to(_named_by(refusal, asked), request)
        elif request.on is not None:
            request.fail(Fenced("another server has this slot than the one it is for"))
        else:
            self.send(request)
        return True

    def moved(self, slot: int, refusal: ResponseError, asked: Address) -> None:
        """Take note of a MOVED that `asked` has answered."""
        if isinstance(refusal, MovedError):
            address = self._witness = _named_by(refusal, asked)
            if self._slots[slot] != address:
                self._slots[slot] = address
                self._on_break()
            self._stale.set()

    def suspect(self) -> None:
        """A connection that is not one of ours was lost: look whether the cluster is as it was."""
        self._stale.set()

    def _heed(self, refusal: ResponseError, asked: Address) -> None:
        if isinstance(refusal, ClusterDownError):
            self._refusing.add(asked)
            self._stale.set()

    # Links.

    def _shard(self, address: Address) -> Shard:
        shard = self._shards.get(address)
        if shard is None:
            shard = Shard(self._open(address), lambda: self._open(address), self._replicas)
            self._shards[address] = shard
        return shard

    def _open(self, address: Address) -> Link:
        seen = 0

        def on_change() -> None:
            nonlocal seen
            if link.losses != seen:
                seen = link.losses
                self._on_break()
            elif link.up:
                self._notify()
            else:
                self._stale.set()

        link = Link(self._dial, address, on_change)
        return link

    def _on_break(self) -> None:
        self.losses += 1
        self._unbroken_since = asyncio.get_running_loop().time()
        self._stale.set()
        self._notify()

    def _notify(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    # What the cluster looks like.

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        delay_s, looked_at = _LOOK_MIN_S, 0.0
        while True:
            if self._is_well():
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await self._stale.wait()
                except TimeoutError:
                    pass  # now and then
            if loop.time() - looked_at > _CALM_S:
                delay_s = _LOOK_MIN_S
            # However many say that something has changed, it is looked at so often.
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 1.5, _LOOK_MAX_S)
            self._stale.clear()
            looked_at = loop.time()
            try:
                await self._look()
            # A defect must not end the following of the cluster unheard.
            except Exception:
                _log.exception("the cluster could not be looked at")

    def _is_well(self) -> bool:
        known = None not in self._slots and not self._refusing
        return known and all(shard.up or shard.opening for shard in self._shards.values())

    async def _look(self) -> None:
        await self._look_after_refusing()
        if not self._shards and self._named():
            # A store that only reads has none yet.
            self._shard(random.choice(sorted(self._named())))
        plain = [shard.plain for shard in self._shards.values()]
        links = [link for link in plain if link.up or link.opening]
        for link in sorted(_shuffled(links), key=lambda link: link.address != self._witness):
            view = await self._view(link)
            if view is not None:
                return self._apply(view)
        asked = {link.address for link in links}
        for address in _shuffled({*self._others, *self._dial.seeds} - asked):
            link = Link(self._dial, address)
            try:
                view = await self._view(link)
            finally:
                await link.close()
            if view is not None:
                return self._apply(view)

    async def _look_after_refusing(self) -> None:
        """Who has answered CLUSTERDOWN is not asked for data until it calls itself well."""
        for address in list(self._refusing):
            shard = self._shards.get(address)
            said = b"" if shard is None else await self._ask(shard.plain, _STATE)
            if shard is None or (said and b"cluster_state:ok" in said):
                self._refusing.discard(address)
                self._notify()

    async def _view(self, link: Link) -> View | None:
        reply = await self._ask(link, _VIEW)
        return None if reply is None else view_of(reply, link.address)

    async def _ask(self, link: Link, command: Command) -> Reply:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await link.send(command)
        except (StoreError, TimeoutError):
            return None

    def _apply(self, view: View) -> None:
        before, self._slots = self._slots, view.primaries
        self._others = view.replicas
        if any(
            old is not None and old != new for old, new in zip(before, self._slots, strict=True)
        ):
            self._on_break()
            _log.warning("slots have moved", primaries=sorted(map(str, self._named())))
        named = self._named()
        for address in [a for a, s in self._shards.items() if a not in named and s.idle]:
            self._refusing.discard(address)
            task = asyncio.create_task(self._shards.pop(address).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._notify()

    def _named(self) -> set[Address]:
        return {address for address in self._slots if address is not None}

    async def close(self) -> None:
        self._follower.cancel()
        await asyncio.gather(self._follower, *self._closing, return_exceptions=True)
        for shard in self._shards.values():
            await shard.close()
        self._shards.clear()


def _named_by(refusal: AskError, asked: Address) -> Address:
    """A server that does not know the other's host means its own."""
    host = refusal.host if refusal.host not in ("", "?") else asked.host
    return Address(host, refusal.port)


def _shuffled(of: Iterable[_T]) -> list[_T]:
    """One that sees the cluster wrongly must not be the one that is always asked."""
    found = list(of)
    random.shuffle(found)
    return found


async def view_from(link: Link) -> View:
    """The cluster as this server sees it. Raises StoreUnavailable if it sees none."""
    view = view_of(await link.send(_VIEW), link.address)
    if view is None:
        raise StoreUnavailable(f"{link.address} is in a cluster that has given nobody a slot yet")
    return view
