"""Links to edges: one RPC connection each, for as long as the edge's lease stands."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from gateway.rpc import Method, RpcClient, RpcError, RpcUnavailable
from gateway.store.leases import Holder, Identity
from protocol.schema import rpc_pb2

_log = structlog.get_logger("columba.dispatch")

_DEADLINE_S: Final = 10.0
"""An edge that has not answered a deliver by then is stopped or cut off; its devices are retried."""

Answered = Callable[[rpc_pb2.Delivered | None, bool], None]
"""(reply, or None if there was none; was it because a newer owner had spoken?)"""


class Links:
    """Who of the edges can be reached."""

    def __init__(
        self, secret: bytes, on_up: Callable[[int], None], on_down: Callable[[int], None]
    ) -> None:
        self._secret = secret
        self._on_up = on_up
        self._on_down = on_down
        self._links: dict[Identity, RpcClient] = {}
        self._by_edge: dict[int, RpcClient] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.delivers_total = 0
        self.unanswered_total = 0

    def follow(self, edges: Iterable[Holder]) -> None:
        """Keep a link to each of these edges, and to no other."""
        wanted = {h.identity: str(h.info.get("rpc", "")) for h in edges}
        for identity in [i for i in self._links if i not in wanted]:
            client = self._links.pop(identity)
            if self._by_edge.get(identity.number) is client:
                del self._by_edge[identity.number]
                self._on_down(identity.number)
            task = asyncio.create_task(client.close())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for identity, address in wanted.items():
            if identity not in self._links and address:
                self._begin(identity, address)

    def _begin(self, identity: Identity, address: str) -> None:
        number = identity.number
        client = RpcClient(
            address,
            self._secret,
            on_up=lambda: self._on_up(number),
            on_down=lambda: self._on_down(number) if self._is_current(number, client) else None,
        )
        self._links[identity] = client
        self._by_edge[number] = client
        client.start()

    def _is_current(self, number: int, client: RpcClient) -> bool:
        return self._by_edge.get(number) is client

    @property
    def up(self) -> list[int]:
        return [number for number, client in self._by_edge.items() if client.up]

    def deliver(self, edge: int, request: rpc_pb2.Deliver, answered: Answered) -> None:
        """Send a Deliver; `answered` is called exactly once, later."""
        client = self._by_edge.get(edge)
        loop = asyncio.get_running_loop()
        if client is None:
            loop.call_soon(answered, None, False)
            return
        self.delivers_total += 1
        future = client.call_nowait(Method.DELIVER, request.SerializeToString())
        late = loop.call_later(_DEADLINE_S, future.cancel)

        def done(future: "asyncio.Future[bytes]") -> None:
            late.cancel()
            reply: rpc_pb2.Delivered | None = None
            deposed = False
            if not future.cancelled():
                error = future.exception()
                if error is None:
                    reply = _delivered(future.result(), edge)
                elif isinstance(error, RpcError):
                    deposed = error.code == "fenced"
                elif not isinstance(error, RpcUnavailable):
                    _log.error("deliver failed", edge=edge, reason=repr(error))
            if reply is None:
                self.unanswered_total += 1
            answered(reply, deposed)

        future.add_done_callback(done)

    def tell_replaced(self, edge: int, sessions: Sequence[rpc_pb2.ReplacedSession]) -> None:
        """Tell an edge which of its sessions a later one elsewhere has fenced; best effort."""
        client = self._by_edge.get(edge)
        if client is not None and client.up:
            body = rpc_pb2.Replaced(sessions=sessions).SerializeToString()
            # Unheard, the old connection stays until its heartbeat ends: a waste, not an error.
            client.call_nowait(Method.REPLACED, body).add_done_callback(_forget_outcome)

    async def close(self) -> None:
        for client in self._links.values():
            await client.close()
        self._links.clear()
        self._by_edge.clear()


def _delivered(body: bytes, edge: int) -> rpc_pb2.Delivered | None:
    """None for what is none: nobody would hear of that deliver otherwise."""
    try:
        return rpc_pb2.Delivered.FromString(body)
    except DecodeError as error:
        _log.error("deliver answered with something else", edge=edge, reason=repr(error))
        return None


def _forget_outcome(future: "asyncio.Future[bytes]") -> None:
    if not future.cancelled():
        future.exception()
