"""A dispatch node as a process: store, lease, RPC, and a Node for as long as the lease lasts."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway.config import Config
from gateway.datadir import RUN, socket_dir
from gateway.dispatch.node import Node
from gateway.garbage import keep_collections_short
from gateway.rpc import Handler, Method, RpcServer
from gateway.secretfiles import Secrets
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import StoreUnavailable
from gateway.store.leases import Lease, LeaseLost

_log = structlog.get_logger("columba.dispatch")

Ready = Callable[[dict[str, object]], None]


async def run(config: Config, secrets: Secrets, store_url: str, ready: Ready) -> None:
    """Run one dispatch node in this process until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    keep_collections_short()
    store = await Store.connect_patiently(store_url, **config.store.terms())
    reader_store = await store.another()
    handlers: dict[Method, Handler] = {}
    server = RpcServer(handlers, secrets.rpc_secret)
    await server.start(_rpc_address(config))
    serving = asyncio.create_task(
        _serve_nodes(config, secrets, (store, reader_store), server, handlers, ready)
    )
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait((serving, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if serving.done():
        serving.result()  # it only ends by an error
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await server.stop()
    await reader_store.close()
    await store.close()


def _rpc_address(config: Config) -> str:
    if config.dispatch.rpc_listen:
        return f"tcp:{config.dispatch.rpc_listen}"
    name = f"node-{os.getpid()}.sock"
    return f"unix:{socket_dir(Path(config.service.data_dir), RUN, name) / name}"


async def _serve_nodes(
    config: Config,
    secrets: Secrets,
    stores: tuple[Store, Store],
    server: RpcServer,
    handlers: dict[Method, Handler],
    ready: Ready,
) -> None:
    """A Node under a lease; when the lease is lost, another under a new one."""
    store, reader_store = stores
    clock = StoreClock()
    told = False
    while True:
        info = {"rpc": server.address, "pid": os.getpid()}
        lease = await _take_lease(store, clock, config.store.lease_s, info)
        node = Node(config, store, reader_store, clock, lease, secrets.rpc_secret)
        handlers.update(node.handlers())
        if not told:
            told = True
            role = {"role": "dispatch", "number": lease.identity.number}
            ready({**role, "start": lease.identity.start, **info})
        try:
            await node.run()
        except* LeaseLost:
            _log.warning("lease lost, starting again", node=lease.identity.number)
        finally:
            await _stop(node, lease)


async def _take_lease(
    store: Store, clock: StoreClock, lease_s: float, info: dict[str, object]
) -> Lease:
    while True:
        try:
            return await Lease.take(store, clock, "node", lease_s, info)
        except StoreUnavailable:
            await asyncio.sleep(0.05)
            await store.wait_up()


async def _stop(node: Node, lease: Lease) -> None:
    try:
        async with asyncio.timeout(5.0):
            await node.stop()
            await lease.end()
    except (StoreUnavailable, TimeoutError):
        pass  # the lease runs out by itself, the next owner replays a little more
