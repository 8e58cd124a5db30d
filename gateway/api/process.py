"""One API process: HTTP for app servers, the same push for internal services over RPC.

Start: listen, serve (not ready yet), reach the store, take a lease, be ready. Stop: readiness fails
first, stop accepting, finish requests, finish appends, end the lease.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import structlog
import uvicorn
from starlette.types import ASGIApp

from gateway import datadir
from gateway.api import listen
from gateway.api.app import build
from gateway.api.census import Census
from gateway.api.connections import HttpConnections
from gateway.api.intake import Intake
from gateway.api.nodes import Nodes
from gateway.api.peers import Peers
from gateway.api.quota import Quotas
from gateway.api.recalls import Recalling
from gateway.api.seat import Seat
from gateway.api.service import Backend, Service
from gateway.config import Config
from gateway.garbage import collect_seldom
from gateway.rpc import Method, RpcServer
from gateway.secretfiles import Secrets
from gateway.store.apps import Apps
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.deployment import establish
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.leases import Roster
from gateway.store.log import Pace
from gateway.store.segments import Segments

_log = structlog.get_logger("columba.api")

Ready = Callable[[dict[str, object]], None]

_GARBAGE: Final = 50_000
"""About ten megabytes."""
_READINESS_LEAD_S: Final = 0.5
"""From readiness failing to the listener closing: time for a balancer that looks often."""
_REQUESTS_S: Final = 5
"""Requests under way get this long to finish, then they are cut off."""
_APPENDS_S: Final = 1.5
"""The same for fan-outs, and then for appends: all of it stays below 10 s, when we would be killed."""
_ROSTER_S: Final = 1.0
_CONNECT_MIN_S: Final = 0.1
_CONNECT_MAX_S: Final = 2.0
_KEEP_ALIVE_S: Final = 75
"""Longer than the idle times of usual connection pools and balancers (60 s), so that they close first."""
_GATHER_S: Final = 0.0
"""Pushes gather by themselves while a partition's call is open. At 1,000 a second over 16 partitions a
gathering time of 5 ms saved 13 % of the calls and made the median answer 5.9 ms instead of 1.1."""


async def run(config: Config, secrets: Secrets, store_url: str, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT. Raises ListenError, DeploymentError."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await ApiProcess(config, secrets, store_url).serve(stop, ready)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class ApiProcess:
    """Its parts, started and stopped in order."""

    def __init__(self, config: Config, secrets: Secrets, store_url: str) -> None:
        self._config = config
        self._secret = secrets.rpc_secret
        self._store_url = store_url
        self.service = Service(config)

    async def serve(self, stop: asyncio.Event, ready: Ready) -> None:
        """Until `stop` is set. Raises ListenError, DeploymentError, or what ended a part of it."""
        listener = listen.bind(self._config.api)
        http = _HttpServer(uvicorn_config(build(self.service), self.service.connections))
        stopping = asyncio.create_task(stop.wait())
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        working = asyncio.create_task(self._work(listen.url(listener), ready))
        try:
            await asyncio.wait({stopping, serving, working}, return_when=asyncio.FIRST_COMPLETED)
            self.service.draining = True
            if self.service.backend is not None:
                self.service.backend.nodes.hurry()
            if stop.is_set() and self.service.backend is not None:
                await asyncio.sleep(_READINESS_LEAD_S)
        finally:
            http.should_exit = True
            http_end = await asyncio.gather(serving, return_exceptions=True)
            stopping.cancel()
            working.cancel()
            work_end = await asyncio.gather(working, return_exceptions=True)
            await self._close()
        for end in (*http_end, *work_end):
            if isinstance(end, Exception):
                raise end

    async def _work(self, address: str, ready: Ready) -> None:
        """All that stands behind the routes, for ever."""
        rpc = RpcServer(
            {Method.PUSH: self.service.push, Method.STATS: self.service.stats}, self._secret
        )
        await rpc.start(self._rpc_address())
        self.service.rpc = rpc
        store = await self._reach_store()
        backend = self._backend(store, {"rpc": rpc.address, "http": address, "pid": os.getpid()})
        self.service.backend = backend
        async with asyncio.TaskGroup() as group:
            group.create_task(backend.seat.keep())
            group.create_task(backend.apps.keep_fresh())
            group.create_task(_watch_roster(backend))
            identity = (await backend.seat.taken()).lease.identity
            collect_seldom(_GARBAGE)
            ready(
                {
                    "role": "api",
                    "number": identity.number,
                    "start": identity.start,
                    "http": address,
                    "rpc": rpc.address,
                    "pid": os.getpid(),
                }
            )

    def _rpc_address(self) -> str:
        if self._config.api.rpc_listen:
            return f"tcp:{self._config.api.rpc_listen}"
        # By pid: the address stands in the lease, so it must be known before the lease's number.
        root = datadir.prepare(Path(self._config.service.data_dir))
        name = f"api-{os.getpid()}.sock"
        return f"unix:{datadir.socket_dir(root, datadir.RUN, name) / name}"

    async def _reach_store(self) -> Store:
        """Connect, and check that store and configuration belong together. Raises DeploymentError."""
        delay = _CONNECT_MIN_S
        while True:
            try:
                store = await Store.connect(self._store_url, **self._config.store.terms())
            except StoreUnavailable as error:
                _log.warning("waiting for the store", reason=str(error))
            else:
                try:
                    await establish(store, self._config)
                    return store
                except StoreUnavailable:
                    await store.close()
                except BaseException:
                    await store.close()
                    raise
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, _CONNECT_MAX_S)

    def _backend(self, store: Store, info: Mapping[str, object]) -> Backend:
        config = self._config
        partitions = config.service.partitions
        clock = StoreClock()
        pace = Pace(quiet_s=_GATHER_S, busy_s=_GATHER_S, waiting=config.api.queue_max)
        seat = Seat(store, clock, lease_s=config.store.lease_s, pace=pace, info=info)
        roster = Roster(store, clock, config.store.lease_s)
        peers = Peers(self._secret)
        patience_s = config.api.patience_s
        nodes = Nodes(store, roster, clock, peers, partitions, patience_s=patience_s)
        quotas = Quotas(store, clock, config.api, lambda: len(roster.live("api", clock.now_ms())))
        return Backend(
            store=store,
            clock=clock,
            apps=Apps(store),
            seat=seat,
            roster=roster,
            peers=peers,
            intake=Intake(store, seat, clock, config.api, partitions, quotas=quotas),
            nodes=nodes,
            census=Census(roster, clock, peers, self.service.own_samples),
            segments=Segments(store),
            recalling=Recalling(store, nodes, roster, clock, peers, config.store.lease_s),
            quotas=quotas,
        )

    async def _close(self) -> None:
        if self.service.rpc is not None:
            await self.service.rpc.stop()
        backend = self.service.backend
        if backend is not None:
            await backend.intake.drain(_APPENDS_S)
            await backend.seat.leave(_APPENDS_S)
            await backend.peers.close()
            await backend.store.close()


async def _watch_roster(backend: Backend) -> None:
    while True:
        try:
            await backend.roster.poll()
        except StoreError:
            pass  # what was seen last stands; the next poll tries again
        addresses = {str(holder.info.get("rpc")) for holder in backend.roster.holders}
        await backend.peers.retain(addresses)
        await asyncio.sleep(_ROSTER_S)


class _HttpServer(uvicorn.Server):
    """Without signal handlers of its own: `serve` tells it when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def uvicorn_config(app: ASGIApp, connections: HttpConnections) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=cast(Any, connections.protocol),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        # Below error it logs what strangers send: bad requests are counted by nobody's log.
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=listen.BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_REQUESTS_S,
    )
