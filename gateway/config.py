"""Configuration: frozen values, each with its unit, default and reason, parsed once at the start.

Strength rises from the TOML file over the environment (`COLUMBA_EDGE_LISTEN`) to flags
(`--set edge.listen=...`). `gateway.config_sources` reads them; the rest of the service takes a section of
this tree in its constructors and reads nothing else.
"""

import os
from typing import Annotated, TypedDict

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class Service(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    data_dir: str = "columba-data"
    """Everything durable of this machine: the embedded store, secrets, logs. Mode 0700."""
    partitions: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Slices of the devices. Set once for a deployment: the first start writes it to the store."""
    log_level: str = "info"
    """debug, info, warning or error. Hot paths count and do not log at any level."""


class StoreTerms(TypedDict):
    """What every process tells its connections to the store (gateway.store.client)."""

    timeout_s: float
    replicas: int
    log_records: int


class Store(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: str = ""
    """redis://host:port/db or unix:///path; redis://host:port,host:port for a cluster, of which any
    servers will do to find the others. Empty: the embedded server in the data directory."""
    lease_s: Seconds = 5.0
    """A process that has not renewed its lease for this long counts as gone."""
    timeout_s: Seconds = 5.0
    """Without an answer for this long a connection to the store is given up."""
    replicas: Annotated[int, Meta(ge=0)] = 0
    """What is acknowledged to anybody is on so many replicas of its primary, so that it survives a
    failover. While fewer answer, nothing is accepted."""
    log_records: Positive = 1_000_000
    """Entries of a partition's log from which on pushes and what app servers set are refused. Profile
    changes and receipts wait from 5/4 of it on, registrations from 6/4 on. A snapshot shortens it."""
    insecure_durability: bool = False
    """Accept a store without AOF or with an evicting memory policy. It will lose messages."""

    def terms(self) -> StoreTerms:
        return StoreTerms(
            timeout_s=self.timeout_s, replicas=self.replicas, log_records=self.log_records
        )


class Edge(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:7070"
    """Device port, shared by all edges of this machine (SO_REUSEPORT)."""
    allow_plaintext: bool = False
    """Plain connections from beyond loopback are refused at start unless this is set."""
    count: Annotated[int, Meta(ge=0)] = 0
    """Edge processes on this machine; 0 = one a core."""
    rpc_listen: str = ""
    """host:port for dispatch nodes on other machines; empty: a unix socket in the data directory."""
    rpc_advertise: str = ""
    """host:port under which they reach it, where that is another one (a container, a forwarded port)."""
    heartbeat_min_s: Positive = 30
    heartbeat_max_s: Positive = 600
    """Bounds for the interval a device asks for, seconds."""
    probe_start_s: Positive = 210
    probe_step_s: Positive = 60
    probe_max_s: Positive = 580
    probe_successes: Positive = 5
    probe_failures: Positive = 2
    probe_back_s: Positive = 20
    """How devices probe for the longest interval (Tencent mars: 210 s, +60 s after 5, -80 s after 2)."""
    backoff_base_ms: Positive = 1_000
    backoff_factor: Annotated[float, Meta(ge=1)] = 2.0
    backoff_max_ms: Positive = 120_000
    """Reconnect delays of devices: random between 0 and base * factor^attempt, at most max."""
    spread_ms: Positive = 5_000
    """Devices sent away together come back spread over this time."""
    hello_timeout_s: Seconds = 8.0
    """From accept to a complete HELLO."""
    register_timeout_s: Seconds = 8.0
    """A HELLO that cannot be registered for this long (store away) is sent away with a retry time."""
    gather_ms: Annotated[float, Meta(ge=0)] = 5.0
    """Registrations are gathered at most this long into one call of the store."""
    gather_count: Positive = 512
    """... or until so many are there."""
    registrations_max: Positive = 20_000
    """Registrations waiting for the store; beyond it a HELLO is answered with OVERLOADED."""
    receipts_max: Positive = 200_000
    """Receipts waiting for the store; beyond it RECEIPTS frames are not read."""
    output_cap_bytes: Positive = 256 * 1024
    """Unsent bytes a connection may hold; beyond it the device counts as not there."""
    slow_close_s: Seconds = 30.0
    """A connection whose output has not moved for this long is closed with TOO_SLOW."""
    descriptors_high: Annotated[float, Meta(gt=0, lt=1)] = 0.95
    descriptors_low: Annotated[float, Meta(gt=0, lt=1)] = 0.90
    """The listener closes at the high part of the descriptor limit and opens again at the low one."""
    accepts_per_s: Positive = 10_000
    """Accept budget of an edge, with a burst of as many: refused before any costly work."""
    handshakes_max: Positive = 1_000
    """Devices whose HELLO waits for the store; while there are so many, no more connections are accepted:
    a crowd that comes back waits in the kernel's queue, which costs nothing, and is served in its turn."""
    drain_s: Annotated[float, Meta(ge=0)] = 2.0
    """GOAWAY is spread over this time when an edge stops."""
    token_days: Positive = 400
    """A device token older than this is refused; older than half of it, it is renewed at connect."""


class Dispatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rpc_listen: str = ""
    """host:port for API processes and nodes on other machines; empty: a unix socket in the data directory."""
    snapshot_records: Positive = 50_000
    snapshot_s: Seconds = 60.0
    """A partition is written down after so many records, or so long after the last time."""
    resend_s: Seconds = 30.0
    """A message without receipt is sent again after this long, then after twice that, and so on."""
    resend_max_s: Seconds = 600.0
    window: Positive = 32
    """Messages of a backlog that are under way to one device at a time."""
    not_there_s: Seconds = 1.0
    """A device that an edge did not have, or whose output was full, is looked at again after this."""
    live_only_s: Seconds = 30.0
    """A push with ttl 0 that is not receipted after this long is expired."""
    keep_s: Seconds = 86_400.0
    """Rows of finished pushes stay for this long; then only the counts of campaigns do."""
    keep_counts_s: Seconds = 30 * 86_400.0
    """... and those for this long."""
    keep_bytes: Positive = 64 * 1024 * 1024
    """... within so much memory a partition (estimated)."""
    tags_per_device: Positive = 100
    """Tags a device may carry (TPNS allows 100)."""
    tags_per_app: Positive = 10_000
    """Different tags an app may have, counted in each partition (TPNS allows 10,000)."""
    devices_per_account: Positive = 100
    """Devices an account may have (TPNS allows 100)."""
    fanout_overdue_s: Seconds = 2.0
    """A fan-out that its API process left half done is completed after this long."""
    content_cache_bytes: Positive = 64 * 1024 * 1024
    """Contents of running campaigns held in memory."""


class Api(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:7080"
    """HTTP for app servers."""
    allow_plaintext: bool = False
    """Plain HTTP beyond loopback is refused at start unless this is set."""
    rpc_listen: str = ""
    """host:port for internal services on other machines; empty: a unix socket in the data directory."""
    connections_max: Positive = 4096
    """HTTP connections at once, and no more than half of the descriptors; one more closes the oldest idle one, and is
    answered 503 where all are busy."""
    max_body: Positive = 1024 * 1024
    """A request body over this is refused with 413, bytes."""
    max_devices: Positive = 10_000
    """Devices that one push may name."""
    max_ttl_s: Positive = 28 * 86_400
    default_ttl_s: Annotated[int, Meta(ge=0)] = 86_400
    inbox_cap: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    """Single messages that may wait for one device; beyond it the oldest of the lowest priority overflows."""
    queue_max: Positive = 20_000
    """Pushes waiting for the store; beyond it the answer is 503 with Retry-After."""
    app_pushes_per_s: Annotated[int, Meta(ge=0)] = 0
    """Pushes a second of one app, shared by the API processes; beyond it 429 with Retry-After. 0: any."""
    app_pushes_per_day: Annotated[int, Meta(ge=0)] = 0
    """Pushes of one app in a day (UTC); beyond it 429. 0: any."""
    patience_s: Annotated[float, Meta(ge=0)] = 8.0
    """A partition without a dispatch node that answers is asked again for this long: about what the next
    node takes to be its owner, lease included. Then the answer is 503."""
    idempotency_s: Positive = 86_400
    """The same idempotency key gives the same answer for this long."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    service: Service = Service()
    store: Store = Store()
    edge: Edge = Edge()
    dispatch: Dispatch = Dispatch()
    api: Api = Api()


def cores() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0))
