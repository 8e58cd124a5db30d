"""`Store`: commands and functions, sent to the server that has their keys, never repeated by us.

One server gets everything over one pipelined connection. Of a cluster each primary has a connection
of its own (link.py, cluster.py). Where `replicas` says so, what is acknowledged to somebody counts
only once so many replicas have it (shard.py).
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, Self

from gateway.config_sources import ConfigError
from gateway.store import cluster
from gateway.store.cluster import Cluster, Servers, Single
from gateway.store.dial import Address, Dial
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.link import Argument, Command, Link, Primary, Reply, UnknownScript
from gateway.store.scripts import script
from gateway.store.shard import Request, Shard
from gateway.store.slots import first_key

__all__ = ["Argument", "Primary", "Reply", "Store"]

_RETRY_MIN_S: Final = 0.05
_RETRY_MAX_S: Final = 2.0

_UNREPLICATED: Final = frozenset(
    (
        # They read.
        "known",
        "lease_list",
        # A renewal that a failover loses is made again before anybody may judge.
        "lease_renew",
        # A push that is spread twice arrives once.
        "fanout_done",
        # All that is written to a server reaches its replicas in one order: who has a snapshot has
        # the log up to it, and who has not been told to trim has not trimmed.
        "snapshot_aside",
        "snapshot_chunk",
        "snapshot_commit",
    )
)


class Store:
    """The store as one process sees it; made by `connect`. Connections come back by themselves.

    `call`, `write` and `run` raise StoreUnavailable at once while there is no connection, and for
    commands whose reply was lost: their outcome is unknown, repeat them under their seq.
    """

    def __init__(
        self, url: str, dial: Dial, servers: Servers, replicas: int, log_records: int
    ) -> None:
        self.url = url
        self.log_records = log_records
        """See config.Store; 0 = no limit."""
        self._dial = dial
        self._servers = servers
        self._replicas = replicas
        # Where there is one server, most commands need no more than this.
        self._only = servers.plain if isinstance(servers, Single) else None
        self._readers: set[Link] = set()

    @classmethod
    async def connect(
        cls, url: str, *, timeout_s: float = 5.0, replicas: int = 0, log_records: int = 0
    ) -> Self:
        """Connect once; StoreUnavailable if that fails. `replicas`, `log_records`: see config.Store."""
        dial = Dial(url, timeout_s)
        links = [Link(dial, seed) for seed in dial.seeds]
        servers: Servers | None = None
        try:
            async with asyncio.timeout(timeout_s):
                servers = await _servers(dial, await _first_up(links), replicas)
        except (TimeoutError, StoreError) as error:
            why = next((link.failure for link in links if link.failure is not None), error)
            raise StoreUnavailable(f"the store at {dial.shown} does not answer: {why}") from error
        finally:
            for link in links:
                if not (isinstance(servers, Single) and servers.plain is link):
                    await link.close()
        return cls(url, dial, servers, replicas, log_records)

    @classmethod
    async def connect_patiently(
        cls, url: str, *, timeout_s: float = 5.0, replicas: int = 0, log_records: int = 0
    ) -> Self:
        """As `connect`, again and again: the store may start after us."""
        delay = _RETRY_MIN_S
        while True:
            try:
                return await cls.connect(
                    url, timeout_s=timeout_s, replicas=replicas, log_records=log_records
                )
            except StoreUnavailable:
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _RETRY_MAX_S)

    async def another(self) -> "Store":
        """Further connections to the same store."""
        return await Store.connect(
            self.url,
            timeout_s=self._dial.timeout_s,
            replicas=self._replicas,
            log_records=self.log_records,
        )

    async def close(self) -> None:
        for link in list(self._readers):
            await self.close_reader(link)
        await self._servers.close()

    # How it is.

    @property
    def is_cluster(self) -> bool:
        return isinstance(self._servers, Cluster)

    @property
    def up(self) -> bool:
        """Of a cluster: some part of it answers."""
        return self._servers.up

    async def wait_up(self, key: str | None = None) -> None:
        """Until it answers; of a cluster, who has `key`, or any of it."""
        await self._servers.wait_up(None if key is None else self._servers.slot_of(key))

    @property
    def up_since(self) -> float | None:
        """Loop time since which nothing of it was lost; None while it is down."""
        return self._servers.up_since

    @property
    def losses(self) -> int:
        """Breaks so far: connections lost, and slots that have another primary than before."""
        return self._servers.losses

    async def identify(self, key: str) -> Primary | None:
        """Who has `key`, asked now; None if it does not say. Raises StoreUnavailable."""
        return await self.shard(self._servers.slot_of(key)).identify()

    # Commands.

    def call(self, *command: Argument) -> asyncio.Future[Reply]:
        """Send a command at the end of this turn of the loop; the future is its reply."""
        if self._only is not None:
            return self._only.send(command)
        return self._send(command, first_key(command))

    def write(self, *command: Argument) -> asyncio.Future[Reply]:
        """As `call`, for what is acknowledged to somebody: it counts once the replicas have it."""
        return self._send(command, first_key(command), replicated=True)

    async def run(
        self,
        name: str,
        keys: Sequence[str],
        args: Sequence[Argument],
        *,
        on: Primary | None = None,
    ) -> Reply:
        """Call a script of `scripts/`. Raises Fenced, StoreUnavailable or StoreError.

        `on`: Fenced, and nothing done, if another one than this has the keys now.
        """
        function = script(name)
        replicated = self._replicas > 0 and name not in _UNREPLICATED
        numbered = (len(keys), *keys, *args)
        try:
            command = ("EVALSHA", function.sha, *numbered)
            return await self._send(command, keys[0], replicated=replicated, on=on)
        except UnknownScript:
            pass
        # The server has forgotten it (restart, another primary): EVAL loads it by the way.
        command = ("EVAL", function.source, *numbered)
        return await self._send(command, keys[0], replicated=replicated, on=on)

    async def each(self, *command: Argument) -> list[tuple[Address, Reply]]:
        """Ask every primary. Raises StoreUnavailable."""
        links = [shard.plain for shard in self._servers.primaries()]
        replies = await asyncio.gather(*(link.send(command) for link in links))
        return [(link.address, reply) for link, reply in zip(links, replies, strict=True)]

    def _send(
        self,
        command: Command,
        key: str | None,
        *,
        replicated: bool = False,
        on: Primary | None = None,
    ) -> asyncio.Future[Reply]:
        if self._only is not None and on is None and not (replicated and self._replicas):
            return self._only.send(command)
        slot = 0 if key is None else self._servers.slot_of(key)
        request = Request(command, slot, replicated=replicated, on=on)
        if key is None:
            request.fail(StoreError(f"{command[0]!r} names no key: which server is it for?"))
        else:
            self._servers.send(request)
        return request.future

    # For blocking reads (log.py), which need connections of their own.

    @property
    def timeout_s(self) -> float:
        return self._dial.timeout_s

    @property
    def servers(self) -> Servers:
        return self._servers

    def shard(self, slot: int) -> Shard:
        """Who has the slot. Raises StoreUnavailable if nobody has."""
        shard = self._servers.shard_of(slot)
        if shard is None:
            raise StoreUnavailable(f"no server of the cluster has slot {slot}")
        return shard

    def open_reader(self, address: Address, changed: Callable[[], None]) -> Link:
        """A link of the caller's own; closed with the store, if not before."""
        link = Link(self._dial, address, changed)
        self._readers.add(link)
        return link

    async def close_reader(self, link: Link) -> None:
        self._readers.discard(link)
        await link.close()


async def _first_up(links: Sequence[Link]) -> Link:
    """Raises StoreError if the credentials are refused."""
    tasks = [asyncio.create_task(link.settled.wait()) for link in links]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    settled = [link for link in links if link.settled.is_set()]
    for link in settled:
        if link.up:
            return link
    raise settled[0].failure or StoreUnavailable("the connection was lost at once")


async def _servers(dial: Dial, first: Link, replicas: int) -> Servers:
    if first.in_cluster:
        return Cluster(dial, await cluster.view_from(first), replicas)
    if len(dial.seeds) > 1:
        raise ConfigError(
            f"store.url {dial.shown} names several servers, and {first.address} is in no cluster"
        )
    return Single(dial, first, replicas)
