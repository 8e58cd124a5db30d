"""Columba beside Redis pub/sub, Mosquitto, NATS and nginx nchan, on this machine: `make bench-peers`.

Each server is started by the benchmark with settings that it tells, on a port of loopback, gets as many
subscribers as the others from the same driver, and is ended before the next. What is not installed is
told and left out (Debian: redis-server mosquitto nats-server nginx libnginx-mod-nchan). Prints a table
and, as its last line, one JSON object; progress goes to stderr.

Of each server: resident memory for a subscriber that is idle (the kernel's sockets not counted, which
are about the same for all); subscriptions a second, 512 of them in flight and 64, and the CPU of one; then
one message of 100 bytes to all, and five at once: CPU of all processes of the server for a message to a
subscriber, less what they use when idle, and the time until the last subscriber has read the last
message, medians of the rounds. A bare loop of write(2) over as many connections, the floor, takes its
turn between any two rounds; ratios are those of the medians.

For Columba a subscription is a registration, which is durable before it is answered; a message is
durable too before any device gets it; and each device sends a receipt, which is held back until all have
the message, so that its cost (`receipt_cpu_us`) stands beside that of the delivery. The others keep nothing.
"""

import argparse
import json
import os
import platform
import resource
import signal
import sys
from http.client import HTTPException
from typing import Any

from loadtest.control import ChildFailed
from loadtest.service import ServiceFailed
from tests.benchmarks.peers.measure import FloorBeside, Tell, floor_beside, measure
from tests.benchmarks.peers.publishers import PublishFailed
from tests.benchmarks.peers.servers import PEERS, Peer, ServerFailed
from tests.benchmarks.peers.subscribers import MAX_CONNECTIONS
from tests.benchmarks.peers.table import markdown, to_columba

FAILURES = (ChildFailed, HTTPException, OSError, PublishFailed, ServerFailed, ServiceFailed)


def run(peers: list[Peer], connections: int, rounds: int, tell: Tell) -> dict[str, Any]:
    """One object with all figures. A server that fails is told in `failed`. Raises ChildFailed."""
    before = os.getloadavg()
    servers: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with floor_beside(connections) as beside:
        for peer in peers:
            if peer.installed():
                _measure_one(peer, connections, rounds, beside, tell, servers, failed)
            else:
                tell(f"{peer.title}: not installed")
    return {
        "connections": connections,
        "rounds": rounds,
        "machine": {"cores": os.cpu_count(), "kernel": platform.release()},
        "load_before": [round(each, 2) for each in before],
        "load_after": [round(each, 2) for each in os.getloadavg()],
        "floor_connects_per_s": round(beside.connects_per_s, 1),
        "servers": servers,
        "to_columba": to_columba(servers),
        "not_installed": [peer.name for peer in peers if not peer.installed()],
        "failed": failed,
    }


def _measure_one(
    peer: Peer,
    connections: int,
    rounds: int,
    beside: FloorBeside,
    tell: Tell,
    servers: dict[str, Any],
    failed: dict[str, str],
) -> None:
    try:
        servers[peer.name] = measure(peer, connections, rounds, beside, tell)
    except FAILURES as error:
        # One that does not run here is no reason to leave out the others.
        failed[peer.name] = f"{type(error).__name__}: {error}"
        tell(f"{peer.title}: {failed[peer.name]}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--connections", type=int, default=10_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--only", action="append", choices=[peer.name for peer in PEERS])
    parser.add_argument("--json", action="store_true", help="no table, only the JSON object")
    given = parser.parse_args()
    if not 1 <= given.connections <= MAX_CONNECTIONS:
        parser.error(f"--connections: 1 to {MAX_CONNECTIONS}")
    if given.rounds < 1:
        parser.error("--rounds: 1 or more")
    return given


def main() -> int:
    given = _arguments()
    # As on Ctrl-C, what was started is ended and temporary files go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # All that is started inherits it: a server that does not raise its own limit has room as well.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    peers = [peer for peer in PEERS if not given.only or peer.name in given.only]

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    told = run(peers, given.connections, given.rounds, tell)
    if not given.json:
        titles = {peer.name: peer.title for peer in PEERS}
        print(markdown(told["servers"], titles, told["floor_connects_per_s"]))
        for name in told["not_installed"]:
            print(f"not installed: {titles[name]}")
        for name, why in told["failed"].items():
            print(f"failed: {titles[name]}: {why}")
        print(f"load average {told['load_before'][0]} before, {told['load_after'][0]} behind\n")
    print(json.dumps(told))
    return 1 if told["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
