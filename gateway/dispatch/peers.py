"""Connections to other dispatch nodes: one each, made at the first question, for as long as it lives."""

import asyncio
from collections.abc import Iterable

from gateway.rpc import Method, RpcClient, RpcUnavailable
from gateway.store.leases import Holder, Identity


class Peers:
    """Never more connections than there are live nodes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._addresses: dict[Identity, str] = {}
        self._clients: dict[Identity, RpcClient] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def follow(self, nodes: Iterable[Holder]) -> None:
        """These live; connections to others are closed."""
        self._addresses = {h.identity: str(h.info.get("rpc", "")) for h in nodes}
        for identity in [i for i in self._clients if i not in self._addresses]:
            task = asyncio.create_task(self._clients.pop(identity).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def __len__(self) -> int:
        """Connections, those being made among them."""
        return len(self._clients)

    @property
    def live(self) -> list[Identity]:
        return list(self._addresses)

    async def call(self, node: Identity, method: Method, body: bytes, deadline_s: float) -> bytes:
        """Raises RpcError, RpcUnavailable (also while the connection is being made)."""
        client = self._clients.get(node)
        if client is None:
            address = self._addresses.get(node)
            if not address:
                raise RpcUnavailable(f"{node.member} has no address")
            client = self._clients[node] = RpcClient(address, self._secret)
            client.start()
        return await client.call(method, body, deadline_s)

    async def close(self) -> None:
        clients, self._clients = self._clients, {}
        self._addresses = {}
        for client in clients.values():
            await client.close()
