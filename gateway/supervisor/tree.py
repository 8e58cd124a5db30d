"""The tree of processes: started in order, stopped in the reverse.

    supervisor -- store (unless store.url names another)
               -- dispatch
               -- api
               -- zygote -- edge, edge, ...

Edges drain first, so that what they still have to report finds dispatch and the store. Every process ends with its parent, and shares the lock of the
data directory until it has.
"""

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from gateway import datadir, logs
from gateway.config import Config, cores
from gateway.config_sources import ConfigError
from gateway.demokeys import DemoKeys
from gateway.handover import USER_ERROR, raise_descriptor_limit, tell_error
from gateway.network import split_address
from gateway.secretfiles import Secrets
from gateway.store.embedded import LOCK_WAIT_S, EmbeddedServer
from gateway.store.errors import StoreError
from gateway.store.start_errors import users_error
from gateway.supervisor.keepers import EdgeKeeper, RoleKeeper, StartFailed
from gateway.supervisor.storeside import StoreSide

_LEASE_ROLES: Final = {"dispatch": "node", "api": "api"}
"""What leases call a process of ours."""


class Side(Protocol):
    """The supervisor's view of the store; see storeside.py."""

    async def demo_keys(self, data_dir: Path) -> DemoKeys: ...

    async def release(self, role: str, said: Mapping[str, object]) -> None: ...

    async def close(self) -> None: ...


class Programs(msgspec.Struct, frozen=True, kw_only=True):
    """What the processes run, as `module:function`; empty: the real thing. Tests set their own."""

    dispatch: str = ""
    api: str = ""
    edge: str = ""
    open_side: Callable[[Config], Awaitable[Side]] = StoreSide.open


Announce = Callable[[dict[str, object]], None]


async def serve(
    config: Config, secrets: Secrets, announce: Announce, programs: Programs | None = None
) -> int:
    """Run the service until SIGTERM, SIGINT or SIGHUP. Returns the exit code.

    `announce` gets the ready line once every process is ready. What the user has to mend is told in
    one line on standard error, exit code 2; whatever the end, no process is left behind.
    """
    raise_descriptor_limit()
    supervisor = Supervisor(config, secrets, programs or Programs())
    loop = asyncio.get_running_loop()
    signals = [signal.SIGTERM, signal.SIGINT]
    # Under nohup SIGHUP is ignored, and stays so. (SIGINT is too in a shell's background jobs, but
    # there it is only sent on purpose.)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    for signo in signals:
        loop.add_signal_handler(signo, supervisor.on_signal)
    starting = asyncio.create_task(supervisor.start(), name="start")
    stop_asked = asyncio.create_task(supervisor.stop_asked.wait(), name="stop-asked")
    try:
        await asyncio.wait([starting, stop_asked], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            announce(starting.result())
            await stop_asked
        return 0
    except StartFailed as failure:
        if str(failure):
            tell_error(str(failure))
        return failure.code
    except Exception as error:  # passed on, unless it is the user's to mend
        text = users_error(error)
        if text is None:
            raise
        tell_error(text)
        return USER_ERROR
    finally:
        starting.cancel()
        stop_asked.cancel()
        await asyncio.wait([starting, stop_asked])
        await supervisor.stop()


class Supervisor:
    """Owns the processes. `start` once, `stop` once, whatever became of the start."""

    def __init__(self, config: Config, secrets: Secrets, programs: Programs) -> None:
        self._config = config
        self._secrets = secrets
        self._programs = programs
        self._root = Path(config.service.data_dir).absolute()
        self._lock: datadir.Lock | None = None
        self._embedded: EmbeddedServer | None = None
        self._side: Side | None = None
        self._roles: dict[str, RoleKeeper] = {}
        self._edges: EdgeKeeper | None = None
        self.stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._log = logs.get()

    def on_signal(self) -> None:
        """The first one asks for a graceful stop, a further one hastens it."""
        if self.stop_asked.is_set():
            self._hurry.set()
        self.stop_asked.set()

    async def start(self) -> dict[str, object]:
        """Start everything in order. Returns the ready line.

        Raises ConfigError, DataDirError, EmbeddedError, DeploymentError, StoreError, StartFailed.
        """
        datadir.prepare(self._root)
        self._lock = await datadir.take_lock(
            self._root,
            wait_s=LOCK_WAIT_S + self._config.edge.drain_s,
            on_wait=lambda: self._log.warning("waiting for an earlier run to end"),
        )
        edge_listen = free_address(self._config.edge.listen, "edge.listen")
        api_listen = free_address(self._config.api.listen, "api.listen")
        store_url = self._config.store.url
        if not store_url:
            self._embedded = EmbeddedServer(self._root, lock=self._lock, on_change=self._write_pids)
            await self._embedded.start()
            store_url = self._embedded.url
        replace = msgspec.structs.replace
        self._config = replace(
            self._config,
            service=replace(self._config.service, data_dir=str(self._root)),
            store=replace(self._config.store, url=store_url),
            edge=replace(self._config.edge, listen=edge_listen),
            api=replace(self._config.api, listen=api_listen),
        )
        self._side = await self._programs.open_side(self._config)
        keys = await self._side.demo_keys(self._root)
        await self._start_processes(self._lock.handle)
        self._log.info("ready", devices=edge_listen, api=api_listen)
        addresses = {"devices": edge_listen, "api": f"http://{api_listen}", "store": store_url}
        datadir.write_private(
            self._root / datadir.RUN / datadir.ADDRESSES, json.dumps(addresses).encode()
        )
        return {
            "event": "ready",
            "devices": addresses["devices"],
            "api": addresses["api"],
            "rpc": self._roles["api"].said.get("rpc"),
            "app": keys.app,
            "access_key": keys.access_key,
            "api_key": keys.api_key,
            "store": store_url,
            "pids": self.pids(),
        }

    async def _start_processes(self, lock_fd: int) -> None:
        for role, run in (("dispatch", self._programs.dispatch), ("api", self._programs.api)):
            self._roles[role] = RoleKeeper(
                role,
                self._config,
                self._secrets,
                run=run,
                lock_fd=lock_fd,
                on_change=self._write_pids,
                on_gone=self._release_as(_LEASE_ROLES[role]),
            )
        self._edges = EdgeKeeper(
            self._config,
            self._secrets,
            count=self._config.edge.count or cores(),
            run=self._programs.edge,
            lock_fd=lock_fd,
            on_change=self._write_pids,
            on_gone=self._release_as("edge"),
        )
        # All at once: each waits for its peers. The first failure ends the start.
        starts = [asyncio.create_task(role.start()) for role in self._roles.values()]
        starts.append(asyncio.create_task(self._edges.start()))
        try:
            done, _ = await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
            for start in done:
                start.result()
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    def _release_as(self, role: str) -> Callable[[Mapping[str, object]], Awaitable[None]]:
        async def release(said: Mapping[str, object]) -> None:
            if self._side is not None:
                try:
                    await self._side.release(role, said)
                except StoreError as error:
                    self._log.warning("lease not released", role=role, error=str(error))

        return release

    async def stop(self) -> None:
        """Edges drain, API, dispatch, store; then the lock is free."""
        if self._edges is not None:
            self._log.info("stopping: edges drain", seconds=self._config.edge.drain_s)
            await self._edges.stop(self._hurry)
        for role in ("api", "dispatch"):
            if role in self._roles:
                self._log.info(f"stopping: {role}")
                await self._roles[role].stop(self._hurry)
        if self._side is not None:
            await self._side.close()
        if self._embedded is not None:
            self._log.info("stopping: store")
            await self._embedded.stop()
        if self._lock is not None:
            for name in (datadir.PIDS, datadir.ADDRESSES):
                with contextlib.suppress(FileNotFoundError):
                    (self._root / datadir.RUN / name).unlink()
            self._lock.release()
            self._log.info("stopped")

    def pids(self) -> dict[str, object]:
        """Of every process that runs, as in the ready line."""
        edges = self._edges
        return {
            "supervisor": os.getpid(),
            "store": None if self._embedded is None else self._embedded.pid,
            "dispatch": self._roles["dispatch"].pids if "dispatch" in self._roles else [],
            "api": self._roles["api"].pids if "api" in self._roles else [],
            "edges": [] if edges is None else edges.pids,
            "zygote": None if edges is None else edges.zygote_pid,
        }

    def _write_pids(self) -> None:
        try:
            path = self._root / datadir.RUN / datadir.PIDS
            datadir.write_private(path, json.dumps(self.pids()).encode())
        except OSError as error:
            # A full disk must not end the supervisor; `columba status` shows older pids meanwhile.
            self._log.warning("cannot write pids.json", error=error.strerror)


def free_address(listen: str, key: str) -> str:
    """The address, with a free port in place of 0. Raises ConfigError when it is taken.

    Asked without SO_REUSEPORT, or the port of a running service, shared by its edges, would look
    free; with SO_REUSEADDR, or connections in TIME_WAIT of the last run would look like a listener.
    """
    host, port = split_address(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            chosen: int = probe.getsockname()[1]
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        why = "is in use by another process" if name == "EADDRINUSE" else f"cannot be used: {error}"
        raise ConfigError(f"{key}: {listen} {why}") from error
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{chosen}"
