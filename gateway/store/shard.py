"""`Shard`: one primary of the store, with a second connection for what replicas must have first.

That second one sends in groups: what gathers while a WAIT is open goes together, with one WAIT behind
it. A WAIT for each would make every call wait for the ones before it, and nothing else (leases,
reads) would come through while a replica is away. WAIT counts everything that this connection has
seen executed, so the repetition of a call that was executed before is covered as well.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.store.errors import Fenced, StoreError, StoreUnavailable
from gateway.store.link import Again, Command, Link, Primary, Reply

_WAIT_MAX_S: Final = 1.0


class Request:
    """A command on its way to the server that has its slot."""

    __slots__ = ("asking", "command", "future", "hops", "on", "replicated", "slot")

    def __init__(
        self, command: Command, slot: int, *, replicated: bool = False, on: Primary | None = None
    ) -> None:
        self.command = command
        self.slot = slot
        self.replicated = replicated
        """Counts once the replicas have it."""
        self.on = on
        """The only one that may execute it; another would have another history."""
        self.asking = False
        self.hops = 0
        """How often a server has named another one."""
        self.future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def fail(self, error: StoreError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def may_go(self, link: Link) -> bool:
        """False if the one it is meant for does not answer there; then it has failed."""
        # A server in the course of handing a slot over says itself who has the key already.
        if self.on is None or self.asking or link.primary == self.on:
            return True
        if link.primary is None:
            self.fail(StoreUnavailable(f"no connection to the store at {link.address}"))
        else:
            self.fail(Fenced(f"another server answers at {link.address} than the one it is for"))
        return False


class Shard:
    """One primary, reached by one or two links. `open_link` makes them."""

    def __init__(self, plain: Link, open_link: Callable[[], Link], replicas: int) -> None:
        self.plain = plain
        self._groups: _Groups | None = None
        if replicas:
            wait_s = min(_WAIT_MAX_S, plain.timeout_s / 2)
            self._groups = _Groups(open_link(), replicas, int(wait_s * 1000))

    @property
    def up(self) -> bool:
        return all(link.up for link in self.links)

    @property
    def opening(self) -> bool:
        return any(link.opening for link in self.links)

    @property
    def idle(self) -> bool:
        return all(link.idle for link in self.links)

    @property
    def links(self) -> tuple[Link, ...]:
        return (self.plain,) if self._groups is None else (self.plain, self._groups.link)

    def send(self, request: Request, again: Again | None = None) -> None:
        if request.replicated and self._groups is not None:
            self._groups.send(request, again)
        elif request.may_go(self.plain):
            self.plain.send(request.command, request.future, again, asking=request.asking)

    async def identify(self) -> Primary | None:
        """Who answers, asked now. Raises StoreUnavailable."""
        told = await asyncio.gather(*(link.identify() for link in self.links))
        if any(other != told[0] for other in told):
            raise StoreUnavailable(f"two servers answer at {self.plain.address}")
        return told[0]

    async def close(self) -> None:
        for link in self.links:
            await link.close()


class _Groups:
    """Sends what has gathered, with one WAIT behind it, as soon as the last WAIT is answered."""

    def __init__(self, link: Link, replicas: int, wait_ms: int) -> None:
        self.link = link
        self._replicas = replicas
        self._wait_ms = wait_ms
        self._queue: list[tuple[Request, Again | None]] = []
        self._open = False

    def send(self, request: Request, again: Again | None) -> None:
        self._queue.append((request, again))
        if not self._open:
            self._open = True
            # With all that comes in this turn of the loop.
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        queue, self._queue = self._queue, []
        group = [
            (self.link.send(request.command, None, again, asking=request.asking), request)
            for request, again in queue
            if request.may_go(self.link)
        ]
        if not group:
            self._open = False
            return
        waiting = self.link.send(("WAIT", self._replicas, self._wait_ms))
        waiting.add_done_callback(lambda waited: self._answered(group, waited))

    def _answered(
        self, group: list[tuple[asyncio.Future[Reply], Request]], waited: asyncio.Future[Reply]
    ) -> None:
        error = waited.exception()
        if error is None and waited.result() < self._replicas:
            error = StoreUnavailable(
                f"{waited.result()} of {self._replicas} replicas have it (store.replicas)"
            )
        for reply, request in group:
            if not reply.done():
                continue  # sent on to another server
            refusal = reply.exception()
            if request.future.done():
                continue  # nobody waits for it any more
            if refusal is not None:
                request.future.set_exception(refusal)
            elif error is not None:
                request.future.set_exception(error)
            else:
                request.future.set_result(reply.result())
        if self._queue:
            self._flush()
        else:
            self._open = False
