"""RPC connections to the other processes, by address, made when first used."""

import asyncio
from collections.abc import Collection

from gateway.rpc import Method, RpcClient, RpcUnavailable


class Peers:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._clients: dict[str, RpcClient] = {}

    async def call(self, address: str, method: Method, body: bytes, deadline_s: float) -> bytes:
        """Connects first where there is no connection yet. Raises RpcError, RpcUnavailable."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = RpcClient(address, self._secret)
            client.start()
        try:
            async with asyncio.timeout(deadline_s):
                await client.wait_up()
                return await client.call_nowait(method, body)
        except TimeoutError:
            raise RpcUnavailable(f"{address} did not answer in {deadline_s:g} s") from None

    async def retain(self, addresses: Collection[str]) -> None:
        """Close the connections to all others: their processes are gone."""
        for address in [a for a in self._clients if a not in addresses]:
            await self._clients.pop(address).close()

    async def close(self) -> None:
        await self.retain(())
