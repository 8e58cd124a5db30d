"""Registering sessions: compare-and-set in the session hash and a record in the log, in one step."""

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from gateway.store import keys
from gateway.store.client import Argument, Store
from gateway.store.leases import Identity
from gateway.store.log import Pace, Producer, Room
from protocol.codes import CLOCK_SKEW_MS

_ANSWER: Final = struct.Struct("<BIQ")


class Status(IntEnum):
    """Answer of scripts/sessions.lua to one registration."""

    REGISTERED = 0
    STALE = 1
    NONCE_SEEN = 2
    FENCED_SINCE = 3
    UNKNOWN_DEVICE = 4


class Up(NamedTuple):
    """A session to register."""

    fd: int
    row: int
    """Generation of the row: unique within one edge process."""
    connection: int
    app: int
    device: int
    """Index, when a token named it; else the installation stands below."""
    installation: bytes
    nonce: bytes
    prior: int
    """Epoch of the session that this one continues under a new edge number; else 0."""


class Down(NamedTuple):
    """A session to unregister, named by its epoch."""

    device: int
    """Index in its partition."""
    epoch: int


class Answer(NamedTuple):
    """What became of an Up."""

    status: Status
    device: int
    """Index in its partition."""
    value: int
    """Epoch if registered; the registered connection counter if stale."""


Change = Up | Down


def session_producer(
    store: Store,
    identity: Identity,
    pace: Pace,
    *,
    wanted: Callable[[Change], bool],
    done: Callable[[int, Sequence[Change], Sequence[Answer | None]], None],
) -> Producer[Change, Answer | None]:
    """Registers and unregisters in batches; `done` gets an Answer for each Up, None for a Down."""

    async def send(p: int, seq: int, items: Sequence[Change]) -> Sequence[Answer | None]:
        ups = [item for item in items if isinstance(item, Up)]
        args: list[Argument] = [
            identity.number, "s", identity.start, seq, 2 * CLOCK_SKEW_MS, len(ups),
            Room.SESSIONS.of(store),
        ]  # fmt: skip
        for up in ups:
            kind, device = ("r", up.installation) if up.installation else ("t", str(up.device))
            args += (up.row, up.connection, up.app, kind, device, up.nonce, up.prior)
        for item in items:
            if isinstance(item, Down):
                args += (item.device, item.epoch)
        reply = await store.run(
            "sessions",
            [
                keys.log(p),
                keys.producers(p),
                keys.sessions(p),
                keys.counters(p),
                keys.installs(p),
                keys.apps(p),
                keys.nonces(p),
            ],
            args,
        )
        answers = iter([Answer(Status(s), i, v) for s, i, v in _ANSWER.iter_unpack(reply)])
        return [next(answers) if isinstance(item, Up) else None for item in items]

    return Producer(send, pace, store, wanted=wanted, done=done)
