"""Everything of a `Device` that can be set; the defaults suit an app on one machine."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext

from protocol.codes import WELCOME_TIMEOUT_S


def _one_network() -> str:
    return "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Each with unit, default and reason. What the server tells in WELCOME (probing, backoff,
    limits) is not here: it holds as told, and until the first WELCOME as `Probing()`, `Backoff()`."""

    ssl: SSLContext | None = None
    """For a TLS door: `ssl.create_default_context()`. Default: plain text, which servers refuse
    beyond loopback unless they were told otherwise."""
    network: Callable[[], str] = _one_network
    """Label of the network in use (Wi-Fi name, carrier), asked at each dial: heartbeats are
    learnt for each. Default: one label, right for a machine that stays where it is."""
    heartbeat_s: int | None = None
    """Keep this interval, seconds, and probe nothing. Default: probe, which saves radio time."""
    permission: bool | None = None
    """May the app show notifications? Told at each connect. Default: not known."""
    max_ids: int = 20_000
    """Messages remembered at a time. At the bound new ones are not taken until old ones run out,
    since a forgotten id could be shown twice. About 400 B of memory and 60 B of disk each."""
    max_content_bytes: int = 16 * 1024 * 1024
    """Content of messages that are not finished, bytes of memory and of disk; bounded like ids."""
    max_waiting: int = 256
    """Messages that wait for the app; then nothing is read until half of them are taken, so the
    server learns that this device is slow and holds the rest. Several windows of a server's (32)."""
    gather_s: float = 0.02
    """Receipts are gathered this long into one frame: less radio time, and hardly a delay. So are
    changes of the profile, from the last one on: a burst sends only what it ends with."""
    dial_timeout_s: float = 10.0
    """For a TCP (and TLS) handshake; mars waits as long."""
    welcome_timeout_s: float = WELCOME_TIMEOUT_S
    """From HELLO to WELCOME; then another dial. Longer than any edge holds a HELLO."""
    write_timeout_s: float = 60.0
    """A peer that takes no byte for this long is gone; 64 KiB at 1 KiB/s take as long."""
    disk_retry_s: float = 5.0
    """After a disk error while a message was about to be handed out, until it is tried again."""
    close_flush_s: float = 3.0
    """Closing waits this long for receipts to be acknowledged, for which a busy edge may take a second; what is left
    is sent next time."""
    clock: Callable[[], float] = time.time
    """Seconds since the Unix epoch. For tests."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds that only grow. For tests."""
    rng: Callable[[], float] = random.random
    """Uniform in [0, 1), for jitter. For tests."""
