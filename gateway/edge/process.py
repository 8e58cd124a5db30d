"""One edge process: a uvloop loop with timers, RPC and the store client; devices in the reactor."""

import asyncio
import json
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from gateway.config import Config
from gateway.datadir import RUN, socket_dir
from gateway.edge.answers import goaway
from gateway.edge.delivery import Delivery
from gateway.edge.departures import Departures, Target
from gateway.edge.handling import Limits
from gateway.edge.reactor import Reactor
from gateway.edge.recalls import MOST as RECALLS_MAX
from gateway.edge.recalls import Recall
from gateway.edge.registrar import Registrar
from gateway.edge.sessions import Sessions
from gateway.edge.standing import Standing
from gateway.edge.table import Table
from gateway.edge.uplink import Uplink
from gateway.edge.writing import Writing
from gateway.garbage import AtRest
from gateway.lanes import WEIGHTS
from gateway.metrics import Sample, encode_stats
from gateway.network import check_plaintext, split_address
from gateway.rpc import Method, RpcError, RpcServer
from gateway.secretfiles import Secrets
from gateway.store import recalls
from gateway.store.apps import App, Apps
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import StoreError
from gateway.store.leases import Identity, Roster
from gateway.tokens import Sealer
from protocol.codes import CloseCode
from protocol.schema import rpc_pb2

_log = structlog.get_logger("columba.edge")

_CLOCK_S: Final = 0.25
_RESUME_S: Final = 0.02
_LEAVE_S: Final = 3.0
"""How long a stopping edge waits for the store to take its last records."""
_CONTINUE: Final = 500
"""Sessions registered again in one step after a lost lease."""

Ready = Callable[[dict[str, object]], None]


class EdgeProcess:
    """Wires the parts of an edge together and runs them until it is told to stop."""

    def __init__(self, config: Config, secrets: Secrets, store_url: str) -> None:
        self._config = config
        self._secrets = secrets
        self._store_url = store_url
        self._clock = StoreClock()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._descriptors = min(limit, 1 << 20)
        self.table = Table(self._descriptors)
        self.sessions = Sessions(
            config.edge,
            config.service.partitions,
            self.table,
            Sealer(secrets.master_keys, secrets.current),
            self._clock.now_ms,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._own_port = 0
        self._resuming = False
        self._stopping = False

    async def run(self, ready: Ready) -> None:
        """Serve until SIGTERM or SIGINT, then drain."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        edge = self._config.edge
        check_plaintext(edge.listen, allowed=edge.allow_plaintext, setting="edge.allow_plaintext")
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        self.store = await Store.connect_patiently(self._store_url, **self._config.store.terms())
        self._wire(loop)
        await self._open(loop)
        self._garbage = AtRest()
        ready(
            {
                "role": "edge",
                "number": self.standing.identity.number,
                "start": self.standing.identity.start,
                "pid": os.getpid(),
                "devices": self._config.edge.listen,
                "own": self._own_address(),
                "rpc": self.rpc.address,
            }
        )
        tasks = [
            asyncio.create_task(self.standing.keep(self._is_fenced, self._continue)),
            asyncio.create_task(self._apps.keep_fresh()),
            asyncio.create_task(self._run_clock()),
        ]
        stop = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait((stop, *tasks), return_when=asyncio.FIRST_COMPLETED)
        if stop in done:
            await self._drain()
        for task in (stop, *tasks):
            task.cancel()
        await asyncio.gather(stop, *tasks, return_exceptions=True)
        await self._close()
        for task in done - {stop}:
            task.result()  # none ends by itself: an edge without clock or lease must not live on

    # Start.

    def _wire(self, loop: asyncio.AbstractEventLoop) -> None:
        edge = self._config.edge
        sessions = self.sessions
        self._apps = Apps(self.store)
        self.standing = Standing(
            self.store,
            self._clock,
            self._config.store.lease_s,
            said=self._said,
            learn_recalls=self._learn_recalls,
            begin=self._begin,
        )
        self.reactor = Reactor(
            sessions,
            Limits(
                descriptors_high=int(self._descriptors * edge.descriptors_high),
                descriptors_low=int(self._descriptors * edge.descriptors_low),
                accepts_per_s=edge.accepts_per_s,
                output_cap=edge.output_cap_bytes,
                slow_close_s=edge.slow_close_s,
                descriptors=self._descriptors,
            ),
            self.standing.may_send,
        )
        self.registrar = Registrar(
            edge, self.store, is_row=self.table.is_row, answered=sessions.on_answer
        )
        self.uplink = Uplink(self.store, limit=edge.receipts_max, durable=sessions.on_durable)
        self.departures = Departures(self.table, sessions)
        self.writing = Writing(self.table, self.reactor, sessions.early.hold, sessions.recalls)
        self.delivery = Delivery(self.writing, self.reactor)
        sessions.attach(
            self.reactor,
            self.registrar,
            self.uplink,
            self._apps,
            self._look_up,
            self._resume_soon,
        )
        self.rpc = RpcServer(
            {
                Method.DELIVER: self.delivery.deliver,
                Method.REPLACED: self._on_replaced,
                Method.RECALLS: self._on_recalls,
                Method.DEPART: self._on_depart,
                Method.STATS: self._on_stats,
            },
            self._secrets.rpc_secret,
        )

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        config = self._config
        address = config.edge.rpc_listen
        if address:
            await self.rpc.start(f"tcp:{address}")
        else:
            name = f"edge-{os.getpid()}.sock"
            run = socket_dir(Path(config.service.data_dir), RUN, name)
            await self.rpc.start(f"unix:{run / name}")
        await self._apps.refresh()
        host, port = split_address(config.edge.listen)
        # A port of its own too: GOAWAY of another edge can name it.
        self._own_port = self.reactor.listen(host, 0)
        await self.standing.take()
        # The shared port last: from here on devices come.
        self.reactor.listen(host, port)

    def _own_address(self) -> str:
        host, _ = split_address(self._config.edge.listen)
        return f"[{host}]:{self._own_port}" if ":" in host else f"{host}:{self._own_port}"

    def _rpc_address(self) -> str:
        advertised = self._config.edge.rpc_advertise
        return f"tcp:{advertised}" if advertised else self.rpc.address

    async def _learn_recalls(self) -> None:
        stored = await recalls.load(self.store, self._clock.now_ms())
        self.sessions.recall(Recall(*each) for each in stored)

    def _begin(self, identity: Identity) -> None:
        self.registrar.begin(identity)
        self.uplink.begin(identity)

    def _is_fenced(self) -> bool:
        return self.registrar.fenced or self.uplink.fenced

    def _said(self) -> dict[str, Any]:
        return {
            "rpc": self._rpc_address(),
            "own": self._own_address(),
            "pid": os.getpid(),
            "draining": self.sessions.draining,
        }

    def _look_up(self, app_id: str, found: Callable[[App | StoreError | None], None]) -> None:
        """Ask the store for an app that is not cached, beside everything else."""

        async def ask() -> None:
            try:
                found(await self._apps.find(app_id))
            except StoreError as error:
                found(error)

        task = asyncio.create_task(ask())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # While it runs.

    async def _continue(self) -> None:
        """A lost lease means a new number, and every standing session under it."""
        ups = self.sessions.continue_all()
        for at in range(0, len(ups), _CONTINUE):
            for p, up in ups[at : at + _CONTINUE]:
                if self.table.is_row(up.fd, up.row):
                    self.registrar.continue_session(p, up)
            while self.registrar.waiting > 2 * _CONTINUE:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)

    @property
    def identity(self) -> Identity:
        return self.standing.identity

    async def _run_clock(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        seconds = 0.0
        while True:
            now = loop.time()
            # Time in which we stood still is not the devices' silence: what they sent is yet to be read.
            seconds += min(now - last, 2 * _CLOCK_S)
            last = now
            self._garbage.look(time.process_time(), time.monotonic())
            self._mind_lease()
            self.sessions.on_clock(now, seconds)
            if self.reactor.full:
                _log.warning("descriptors run short, not listening", open=self.reactor.open_count)
                self.reactor.stop_listening(goaway(CloseCode.EDGE_FULL, retry_after_ms=1000))
            elif self.reactor.room_again() and not self.sessions.draining:
                self.reactor.resume_listening()
            await asyncio.sleep(_CLOCK_S)

    def _mind_lease(self) -> None:
        """What is to be written asks for itself; here it is set going again."""
        silent = not self.standing.may_send()
        if silent != self.reactor.silent:
            self.reactor.be_silent(silent)

    def _resume_soon(self) -> None:
        """A timer only while connections are paused: an idle edge is one of many on its machine."""
        if not self._resuming:
            self._resuming = True
            asyncio.get_running_loop().call_later(_RESUME_S, self._resume)

    def _resume(self) -> None:
        self._resuming = False
        if self.sessions.pauses.resume():
            self._resume_soon()

    def _on_replaced(self, body: bytes) -> bytes:
        for replaced in rpc_pb2.Replaced.FromString(body).sessions:
            self.sessions.drop_replaced(replaced.partition, replaced.index, replaced.epoch)
        return b""

    def _on_recalls(self, body: bytes) -> bytes:
        pushes = rpc_pb2.Recalls.FromString(body).pushes
        self.sessions.recall(Recall(push.push_id, push.app, push.until_ms) for push in pushes)
        return b""

    async def _on_depart(self, body: bytes) -> bytes:
        """columba.rpc.DepartRequest -> DepartReply. RpcError 'invalid', 'busy' or 'unavailable'."""
        request = rpc_pb2.DepartRequest.FromString(body)
        targets = [Target(target.address, target.sessions) for target in request.targets]
        if request.over_s < 0 or not math.isfinite(request.over_s):
            raise RpcError("invalid", "over_s is a number of seconds")
        if self._stopping:
            raise RpcError("busy", "this edge stops")
        if request.drain:
            self.reactor.stop_listening(goaway(CloseCode.GOING_AWAY, retry_after_ms=1))
            sessions = self.departures.drain(targets, request.over_s)
        elif request.undo:
            self.departures.undo()
            self.reactor.resume_listening()
            sessions = 0
        elif self.sessions.draining or self.departures.under_way:
            raise RpcError("busy", "sessions of this edge are on their way already")
        else:
            sessions = self.departures.move(targets, request.over_s)
            return rpc_pb2.DepartReply(sessions=sessions).SerializeToString()
        try:
            await self.standing.lease.say(draining=self.sessions.draining)
        except StoreError as error:
            raise RpcError("unavailable", str(error)) from None
        return rpc_pb2.DepartReply(sessions=sessions).SerializeToString()

    def _on_stats(self, body: bytes) -> bytes:
        return encode_stats("edge", self._samples())

    def _samples(self) -> Iterable[Sample]:
        s, r = self.sessions, self.reactor
        yield "columba_connections", {}, r.open_count
        yield "columba_sessions", {}, self.table.open_rows
        yield "columba_draining", {}, s.draining
        yield "columba_accepts_total", {}, r.accepts_total
        yield "columba_handshakes_total", {}, s.handshakes_total
        yield "columba_refused_full_total", {}, r.refused_full_total
        yield "columba_messages_total", {}, self.writing.messages_total
        yield "columba_refused_total", {"reason": "gone"}, self.writing.gone_total
        yield "columba_refused_total", {"reason": "slow"}, self.writing.slow_total
        yield "columba_refused_total", {"reason": "recalled"}, self.writing.recalled_total
        yield "columba_receipts_total", {}, self.uplink.receipts_total
        yield "columba_profiles_total", {}, self.uplink.profiles_total
        yield "columba_unregistered_late_total", {}, self.registrar.unregistered_late_total
        yield "columba_leases_lost_total", {}, self.standing.lost_total
        yield "columba_bytes_total", {"direction": "in"}, r.bytes_in_total
        yield "columba_bytes_total", {"direction": "out"}, r.bytes_out_total
        yield "columba_writes_total", {}, r.writes_total
        yield "columba_store_calls_total", {"path": "up"}, self.registrar.calls_total
        yield "columba_store_calls_total", {"path": "back"}, self.uplink.calls_total
        yield "columba_log_full_total", {"of": "sessions"}, self.registrar.full_total
        yield "columba_log_full_total", {"of": "reports"}, self.uplink.full_total
        yield "columba_send_queue_bytes", {}, r.unsent_bytes
        for reason, count in s.closes.items():
            yield "columba_closes_total", {"reason": reason}, count
        for kind, count in enumerate(s.frames):
            if count:
                yield "columba_frames_total", {"kind": f"0x{kind:02x}"}, count
        edge = self._config.edge
        for queue, items, bound in (
            ("registrations", self.registrar.waiting, edge.registrations_max),
            ("receipts", self.uplink.receipts_waiting, edge.receipts_max),
            ("delivers", self.delivery.waiting, len(WEIGHTS) * Delivery.JOBS),
            ("acknowledgements", len(self.reactor.postponed), self._descriptors),
            ("recalls", len(self.sessions.recalls), RECALLS_MAX),
        ):
            yield "columba_queue_items", {"queue": queue}, items
            yield "columba_queue_limit", {"queue": queue}, bound

    # Stop: listeners, GOAWAY spread over the drain time, flush, unregister, lease.

    async def _drain(self) -> None:
        self._stopping = True
        self.reactor.stop_listening(goaway(CloseCode.GOING_AWAY, retry_after_ms=1))
        self.departures.drain(await self._other_edges(), self._config.edge.drain_s)
        await self.departures.finished()
        await self._wait_empty(0.5)

    async def _wait_empty(self, seconds: float) -> None:
        """Devices that got GOAWAY hang up by themselves; their last receipts still count."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self.reactor.open_count and loop.time() < end:
            await asyncio.sleep(0.02)

    async def _other_edges(self) -> list[Target]:
        """All that take connections, in equal shares."""
        roster = Roster(self.store, self._clock, self._config.store.lease_s)
        try:
            async with asyncio.timeout(1.0):
                await roster.poll()
        except (StoreError, TimeoutError):
            return []
        return [
            Target(str(h.info["own"]), 1)
            for h in roster.live("edge", self._clock.now_ms())
            if h.identity != self.identity and h.info.get("own") and not h.info.get("draining")
        ]

    async def _close(self) -> None:
        self.reactor.stop()  # unregisters what is still open
        # Without a store (ours ends with a killed supervisor, too) there is nothing to wait for.
        limit_s = _LEAVE_S if self.store.up else 0.0
        try:
            async with asyncio.timeout(limit_s):
                await self.uplink.drain()
                await self.registrar.drain()
                await self.standing.lease.end()
        except (StoreError, TimeoutError):
            pass  # the lease runs out by itself, devices keep their receipts
        self.uplink.close()
        self.registrar.close()
        self._garbage.end()
        await self.rpc.stop()
        await self.store.close()


async def run(config: Config, secrets: Secrets, store_url: str, ready: Ready) -> None:
    """Run one edge in this process until SIGTERM or SIGINT."""
    await EdgeProcess(config, secrets, store_url).run(ready)


def run_edge(config: Config, secrets: Secrets, slot: int, ready_fd: int) -> int:
    """What a child of the zygote calls: a loop of its own, one line of JSON when it serves."""

    def ready(said: dict[str, object]) -> None:
        os.write(ready_fd, json.dumps({"slot": slot, **said}).encode() + b"\n")

    uvloop.run(run(config, secrets, config.store.url, ready))
    return 0
