"""What is measured of a server, and the floor that every round has beside it."""

import base64
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import getloadavg
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from loadtest.floor import Floor
from loadtest.process_usage import Memory, cpu_ns, memory
from tests.benchmarks.peers.publishers import Publisher
from tests.benchmarks.peers.servers import (
    FEW_IN_FLIGHT,
    IN_FLIGHT,
    Peer,
    Running,
    ServerFailed,
)
from tests.benchmarks.peers.subscribers import Crowd

PAYLOAD_BYTES: Final = 100
BURST: Final = 5
_WARM: Final = 100
"""Connections that come and go first, so that what a server loads at its first is not counted."""
_IDLE_S: Final = 12.0
"""From the last subscription until the memory is read. Redis gives buffers back that were not used for
5 s, jemalloc pages after 10 s; NATS pings each client once within 3 s."""
_TIMEOUT_S: Final = 120.0
_QUIET_STEP_S: Final = 0.03
_QUIET_NS: Final = 1_000_000
_QUIET_PATIENCE_S: Final = 1.0

Tell = Callable[[str], None]
"""Progress, one line."""


class Round(NamedTuple):
    """One round of messages; CPU is user and system, microseconds for a message to one subscriber.

    What the server uses when idle is not in it.
    """

    cpu_us: float
    """Until all are delivered."""
    wall_s: float
    """From before the publisher's first write until the last subscriber has read the last message."""
    front_cpu_us: float = 0.0
    """Of the processes that hold the connections."""
    receipt_cpu_us: float = 0.0
    """Until all receipts are stored and acknowledged; 0 where there are none."""


class FloorBeside:
    """A bare loop of write(2) over as many connections, read by the same subscribers."""

    def __init__(self, floor: Floor, crowd: Crowd, connections: int) -> None:
        self._floor = floor
        self._crowd = crowd
        self._connections = connections
        self._arrived = 0
        self.connects_per_s = 0.0

    def connect(self) -> None:
        accepting = self._floor.send("accept", count=self._connections, patience_s=_TIMEOUT_S)
        self._crowd.dial(range(self._connections), IN_FLIGHT)
        told = self._crowd.wait("ready", self._connections, _TIMEOUT_S)
        self._floor.collect(accepting, _TIMEOUT_S)
        self.connects_per_s = _per_s(self._connections, told)

    def round(self, messages: int) -> Round:
        frame = base64.b64encode(_payloads(1)[0]).decode()
        self._arrived += messages * self._connections
        began = time.monotonic()
        sent = [self._floor.send("write", frame=frame) for _ in range(messages)]
        costs = [self._floor.collect(each, _TIMEOUT_S)["cpu_ns"] for each in sent]
        told = self._crowd.wait("messages", self._arrived, _TIMEOUT_S)
        each_us = sum(costs) / 1e3 / messages / self._connections
        return Round(each_us, told["last_message_at"] - began)


@contextmanager
def floor_beside(connections: int) -> Iterator[FloorBeside]:
    """Connected. Raises ChildFailed."""
    with (
        Floor() as floor,
        Crowd("bare", floor.address, "127.0.5.1", size=PAYLOAD_BYTES) as crowd,
    ):
        beside = FloorBeside(floor, crowd, connections)
        beside.connect()
        yield beside


class Bench:
    """One running server and its subscribers."""

    def __init__(self, running: Running, crowd: Crowd, connections: int) -> None:
        self._running = running
        self._crowd = crowd
        self._connections = connections
        self._arrived = 0
        self._acked = 0
        self._idle_share = self._front_idle_share = 0.0

    def connect(self, rows: range, in_flight: int) -> tuple[float, float]:
        """Subscriptions a second, and microseconds of the server's CPU for one."""
        before = self._used()
        self._crowd.dial(rows, in_flight)
        told = self._crowd.wait("ready", len(rows), _TIMEOUT_S)
        return _per_s(len(rows), told), (self._used() - before).cpu_ns / 1e3 / len(rows)

    def leave(self) -> None:
        self._crowd.drop()
        self._used()

    def memory(self) -> tuple[Memory, Memory]:
        """Of all its processes, and of those that hold the connections."""
        return _memory(self._running.pids), _memory(self._running.front)

    def idle(self, seconds: float) -> float:
        """Watch for so long what it uses when nobody talks: CPU seconds a second.

        From then on that is not counted to messages.
        """
        before = self._spent()
        time.sleep(seconds)
        used = self._spent() - before
        self._idle_share = used.cpu_ns / used.ns
        self._front_idle_share = used.front_ns / used.ns
        return self._idle_share

    def round(self, messages: int) -> Round:
        with self._running.publisher(messages) as publisher:
            return self._round(publisher, messages)

    def _round(self, publisher: Publisher, messages: int) -> Round:
        deliveries = messages * self._connections
        self._arrived += deliveries
        before = self._used()
        began = time.monotonic()
        publisher.send(_payloads(messages))
        told = self._crowd.wait("messages", self._arrived, _TIMEOUT_S)
        publisher.collect()
        delivered = self._used()
        reports = self._crowd.report()
        if reports:
            self._acked += reports
            self._crowd.wait("acked", self._acked, _TIMEOUT_S)
        stored = self._used() if reports else delivered
        if (arrived := self._crowd.told()["messages"]) != self._arrived:
            raise ServerFailed(f"{arrived} messages arrived of {self._arrived} published")
        delivery, storing = delivered - before, stored - delivered
        return Round(
            cpu_us=self._above_idle(delivery) / 1e3 / deliveries,
            wall_s=told["last_message_at"] - began,
            front_cpu_us=self._front_above_idle(delivery) / 1e3 / deliveries,
            receipt_cpu_us=self._above_idle(storing) / 1e3 / deliveries,
        )

    def _above_idle(self, spent: "Spent") -> float:
        return spent.cpu_ns - self._idle_share * spent.ns

    def _front_above_idle(self, spent: "Spent") -> float:
        return spent.front_ns - self._front_idle_share * spent.ns

    def _spent(self) -> "Spent":
        pids, front = self._running.pids, self._running.front
        return Spent(_cpu_ns(pids), _cpu_ns(front), time.monotonic_ns())

    def _used(self) -> "Spent":
        """`_spent` once it used less than 1 ms above idle within 30 ms, or after a second.

        So what it finishes behind the last byte counts too.
        """
        deadline = time.monotonic() + _QUIET_PATIENCE_S
        before = self._spent()
        while True:
            time.sleep(_QUIET_STEP_S)
            after = self._spent()
            quiet = self._above_idle(after - before) < _QUIET_NS
            if quiet or time.monotonic() >= deadline:
                return after
            before = after


class Spent(NamedTuple):
    """Nanoseconds, as they stand at a moment or between two."""

    cpu_ns: int
    """Of all processes of a server."""
    front_ns: int
    """Of those that hold the connections."""
    ns: int
    """On the clock."""

    def __sub__(self, before: "Spent") -> "Spent":
        return Spent(
            self.cpu_ns - before.cpu_ns, self.front_ns - before.front_ns, self.ns - before.ns
        )


def measure(
    peer: Peer,
    connections: int,
    rounds: int,
    beside: FloorBeside,
    tell: Tell,
    idle_s: float = _IDLE_S,
) -> dict[str, Any]:
    """All figures of one server: memory in bytes, CPU in microseconds, rates a second; see `fanout`.

    Raises ServerFailed, ServiceFailed, ChildFailed, PublishFailed and OSError.
    """
    load = getloadavg()[0]
    tell(f"{peer.title}: starting")
    with (
        tempfile.TemporaryDirectory(prefix="peers-") as place,
        peer.started(Path(place)) as running,
        Crowd(peer.wire, running.address, "127.0.4.1", **running.options) as crowd,
    ):
        bench = Bench(running, crowd, connections)
        told = _connected(bench, peer, connections, tell, idle_s)
        for messages in (1, BURST):
            bench.round(messages)
        for messages, name in ((1, "one"), (BURST, "burst")):
            told[name] = fanout(_rounds(bench, beside, messages, rounds, peer, tell))
        used, _ = bench.memory()
        bench.leave()
        # Other rows, so that a server that knows its subscribers meets new ones here as well.
        few, _ = bench.connect(range(connections, 2 * connections), FEW_IN_FLIGHT)
    return {
        "version": peer.version(),
        "settings": peer.settings,
        "load": round(load, 2),
        "bytes_per_subscriber_after_fanout": round((used.rss - told["rss_empty"]) / connections, 1),
        "connects_per_s_few": round(few, 1),
        **told,
    }


def _connected(
    bench: Bench, peer: Peer, connections: int, tell: Tell, idle_s: float
) -> dict[str, Any]:
    """Everybody is subscribed behind it: what that took."""
    bench.connect(range(min(_WARM, connections)), peer.in_flight)
    bench.leave()
    empty, front_empty = bench.memory()
    tell(f"{peer.title}: connecting {connections}")
    per_s, connect_us = bench.connect(range(connections), peer.in_flight)
    if connect_us <= 0:
        raise ServerFailed("subscribing costs its processes nothing: they are not all known")
    tell(f"{peer.title}: {per_s:.0f} subscriptions a second; {idle_s:g} s idle")
    time.sleep(idle_s / 2)
    share = bench.idle(idle_s / 2)
    full, front_full = bench.memory()
    return {
        "in_flight": peer.in_flight,
        "connects_per_s": round(per_s, 1),
        "connect_cpu_us": round(connect_us, 2),
        "rss_empty": empty.rss,
        "bytes_per_subscriber": round((full.rss - empty.rss) / connections, 1),
        "front_bytes_per_subscriber": round((front_full.rss - front_empty.rss) / connections, 1),
        "pss_bytes_per_subscriber": round((full.pss - empty.pss) / connections, 1),
        "idle_cpu_share": round(share, 4),
    }


def _rounds(
    bench: Bench, beside: FloorBeside, messages: int, rounds: int, peer: Peer, tell: Tell
) -> list[tuple[Round, Round]]:
    """(floor, server), in turns, so that both have the same neighbours on the machine."""
    pairs = []
    for number in range(1, rounds + 1):
        pairs.append((beside.round(messages), bench.round(messages)))
        floor, server = pairs[-1]
        tell(
            f"{peer.title}: {messages} at once, round {number} of {rounds}: "
            f"{server.cpu_us:.2f} us, floor {floor.cpu_us:.2f} us"
        )
    return pairs


def fanout(pairs: list[tuple[Round, Round]]) -> dict[str, Any]:
    """Medians over the rounds, and the ratios of these, as `python -m loadtest fanout` tells them."""
    floors, servers = zip(*pairs, strict=True)
    cpu, floor_cpu = (median(each.cpu_us for each in rounds) for rounds in (servers, floors))
    wall, floor_wall = (median(each.wall_s for each in rounds) for rounds in (servers, floors))
    front = median(each.front_cpu_us for each in servers)
    return {
        "cpu_us": round(cpu, 3),
        "front_cpu_us": round(front, 3),
        "receipt_cpu_us": round(median(each.receipt_cpu_us for each in servers), 3),
        "wall_ms": round(wall * 1e3, 2),
        "floor_cpu_us": round(floor_cpu, 3),
        "floor_wall_ms": round(floor_wall * 1e3, 2),
        "cpu_to_floor": round(cpu / floor_cpu, 3),
        "front_cpu_to_floor": round(front / floor_cpu, 3),
        "wall_to_floor": round(wall / floor_wall, 3),
    }


def _cpu_ns(pids: list[int]) -> int:
    return sum(map(cpu_ns, pids))


def _memory(pids: list[int]) -> Memory:
    return Memory(*map(sum, zip(*map(memory, pids), strict=True)))


def _payloads(count: int) -> list[bytes]:
    """Different ones, so that none is taken for another."""
    return [f"coo {n} ".encode().ljust(PAYLOAD_BYTES, b".") for n in range(count)]


def _per_s(connections: int, told: dict[str, Any]) -> float:
    return connections / float(told["last_ready_at"] - told["first_dial_at"])
