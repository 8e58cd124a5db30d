"""Changes that app servers make, in turn: the owner checks them against the state, writes them to the
log, and answers once they are folded.

One batch of a kind is open at a time in a partition, so limits hold and who asks afterwards finds what
was set. An owner that has been given up without knowing finds out before it answers: by what it writes,
or by asking the store.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from gateway.dispatch.owned import Owned
from gateway.dispatch.queries import catch_up
from gateway.rpc import Method, RpcError
from gateway.store import ownership
from gateway.store.client import Store
from gateway.store.errors import Fenced, StoreUnavailable
from gateway.store.log import Room

_WAITING: Final = 1_000
"""Batches that may wait, over all partitions and kinds."""


class Turns:
    """Of the partitions of one node."""

    def __init__(
        self, store: Store, owned: Mapping[int, Owned], may_act: Callable[[], bool]
    ) -> None:
        self._store = store
        self._owned = owned
        self._may_act = may_act
        self._locks: defaultdict[tuple[Method, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waiting = 0
        self._broken: set[tuple[Method, int]] = set()
        """Whose last turn did not end well: its record may be in the log and not folded yet, and what is
        checked without it would be wrong."""

    @asynccontextmanager
    async def turn(self, kind: Method, p: int) -> AsyncIterator[Owned]:
        """The partition's turn for one batch. RpcError 'not_owner', 'busy' or 'unavailable'."""
        self.owner(p)
        if self._waiting >= _WAITING:
            raise RpcError("busy", "too many changes of tags and accounts wait")
        self._waiting += 1
        try:
            async with self._locks[kind, p]:
                with as_rpc_errors():
                    if (kind, p) in self._broken:
                        await self._catch_up(self.owner(p))
                    self._broken.add((kind, p))
                    # Asked only now: a batch that has waited for longer than our lease would come
                    # after what other owners have answered meanwhile.
                    yield self.owner(p)
                    self._broken.discard((kind, p))
        finally:
            self._waiting -= 1

    def owner(self, p: int) -> Owned:
        """RpcError 'not_owner'."""
        owned = self._owned.get(p)
        if owned is None or not owned.live or not self._may_act():
            raise RpcError("not_owner", f"partition {p} is not owned here")
        return owned

    async def know(self, owned: Owned, app: int, indexes: Iterable[int]) -> None:
        """A device that is not known may have registered just now: then its session stands in the log.
        Raises StoreUnavailable."""
        devices = owned.partition.devices_of(app)
        if not all(index in devices for index in indexes):
            await self._catch_up(owned)

    async def _catch_up(self, owned: Owned) -> None:
        if not await catch_up(self._store, owned):
            raise StoreUnavailable(f"partition {owned.p} is behind its log")

    async def write(self, owned: Owned, record: bytes) -> None:
        """Returns once it is folded. Raises Fenced, StoreUnavailable (LogFull among them)."""
        if record:
            await owned.append_and_fold(record, Room.PUSHES)
        else:
            await self.confirm(owned)  # that nothing is to change is an answer from the state, too

    async def confirm(self, owned: Owned) -> None:
        """That no other node has the partition. Raises Fenced, StoreUnavailable.

        What others changed was answered once it was folded, by the owner of that time: while we are
        still the owner that was us.
        """
        if await ownership.fence_of(self._store, owned.p) != owned.fence:
            raise Fenced(f"partition {owned.p} has another owner")


@contextmanager
def as_rpc_errors() -> Iterator[None]:
    """Fenced is 'not_owner' to the caller, StoreUnavailable 'unavailable'."""
    try:
        yield
    except Fenced:
        raise RpcError("not_owner", "another node has taken the partition") from None
    except StoreUnavailable as error:
        raise RpcError("unavailable", str(error)) from None
