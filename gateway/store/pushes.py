"""Accepting pushes in the store: one append where one partition is concerned, else a push record."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gateway.store import keys
from gateway.store.client import Argument, Store
from gateway.store.leases import Identity
from gateway.store.log import Pace, Producer, Room
from protocol.frames import varint


class PushPart(NamedTuple):
    """What one partition's log gets of a push."""

    push_id: int
    app: int
    push: bytes
    """columba.log.Push without indexes and content, encoded."""
    indexes: bytes
    """u32 LE each; empty with an audience."""
    content: bytes
    """columba.device.Content; empty where it stands in a push record."""


def encode_push(  # a columba.log.Push; built by hand because it is built for every push
    push_id: int,
    app: int,
    ttl_s: int,
    *,
    audience: bytes,
    accepted_ms: int = 0,
    home: int = 0,
    options: bytes = b"",
) -> bytes:
    """columba.log.Push without indexes and content. `options`: further fields of it, encoded."""
    record = b"\x09" + push_id.to_bytes(8, "little") + b"\x10" + varint(app)
    if ttl_s:
        record += b"\x18" + varint(ttl_s)
    if audience:
        record += b"\x22" + varint(len(audience)) + audience
    if accepted_ms:
        record += b"\x28" + varint(accepted_ms)
    if home:
        record += b"\x30" + varint(home)
    return record + options


def push_producer(
    store: Store, identity: Identity, pace: Pace, *, accepted: bool = False
) -> Producer[PushPart, bytes]:
    """Appends parts of pushes; the result names the indexes (u32 LE each) the app does not have.

    A full log refuses them: their futures raise LogFull. `accepted`: parts of pushes whose record
    stands already. They have room beyond that of new pushes, whoever brings them, and so calls of
    their own: a call is refused as a whole.
    """
    room, channel = (Room.REPORTS, "f") if accepted else (Room.PUSHES, "p")

    async def send(p: int, seq: int, items: Sequence[PushPart]) -> Sequence[bytes]:
        args: list[Argument] = [
            identity.number, channel + identity.role[0], identity.start, seq, room.of(store),
        ]  # fmt: skip
        for part in items:
            args += (str(part.push_id), part.app, part.push, part.indexes, part.content)
        unknown: Sequence[bytes] = await store.run(
            "push", [keys.log(p), keys.producers(p), keys.apps(p), keys.content(p)], args
        )
        return unknown

    return Producer(send, pace, store, refusing=True)


class Claim(NamedTuple):
    """An idempotency key as it stands in the store."""

    key_digest: str
    body_digest: str
    answer: bytes
    kept_s: int


def claim_digest(app: int, key: str) -> str:
    """SHA-256 over app number and idempotency key, hex."""
    return hashlib.sha256(app.to_bytes(2, "big") + key.encode()).hexdigest()


class PushRecord(NamedTuple):
    """A push that concerns several partitions, as its home keeps it."""

    push_id: int
    app: int
    ttl_s: int
    audience: bytes
    """JSON form of a tree (`"all"` is everybody); empty where devices are listed."""
    content: bytes
    targets: Mapping[int, bytes]
    """partition -> indexes (u32 LE each; empty with an audience)"""
    options: bytes = b""
    """Fields of columba.log.Push that say how it is sent, encoded."""


Parts = Sequence[tuple[int, PushPart]]
"""(partition, what its log gets)"""


def parts_of(record: PushRecord, accepted_ms: int, home: int) -> Parts:
    """A part for each partition of a push record, which keeps the content at its home."""
    push = encode_push(
        record.push_id,
        record.app,
        record.ttl_s,
        audience=record.audience,
        accepted_ms=accepted_ms,
        home=home,
        options=record.options,
    )
    return [
        (p, PushPart(record.push_id, record.app, push, indexes, b""))
        for p, indexes in record.targets.items()
    ]


class Winner(NamedTuple):
    """The call that claimed an idempotency key before."""

    push_id: int
    body_digest: str
    answer: bytes


_KEPT_AFTER_EXPIRY_S = 3600
"""A push record outlives its push by this much, for a reader that is behind."""


async def accept(
    store: Store, home: int, record: PushRecord, claim: Claim | None
) -> tuple[int, None] | tuple[None, Winner]:
    """Claim and accept in one step: (accepted_ms, None), or (None, who came first).

    A repetition under the same push id after a lost reply gives the first call's time. Raises
    LogFull where home's log is: then nothing was accepted.
    """
    record_key = keys.push_record(home, record.push_id)
    args: list[Argument] = [
        str(record.push_id),
        claim.body_digest if claim else "",
        claim.answer if claim else "",
        (claim.kept_s if claim else 0) * 1000,
        (record.ttl_s + _KEPT_AFTER_EXPIRY_S) * 1000,
        record.app,
        record.ttl_s,
        record.audience,
        record.content,
        record.options,
        Room.PUSHES.of(store),
    ]
    for p, indexes in record.targets.items():
        args += (p, indexes)
    idem_key = keys.idempotency(home, claim.key_digest) if claim else record_key
    done, value = await store.run(
        "accept", [record_key, keys.fanouts(home), idem_key, keys.log(home)], args
    )
    if done:
        return int(value), None
    push_id, body_digest, answer = value.split(b" ", 2)
    if int(push_id) == record.push_id:  # our own, repeated after a lost reply
        accepted = await store.call("HGET", record_key, "accepted_ms")
        return int(accepted or 0), None
    return None, Winner(int(push_id), body_digest.decode(), answer)


async def fanout_done(store: Store, home: int, push_id: int, partitions: Sequence[int]) -> int:
    """Note partitions as reached; returns how many are left."""
    return int(
        await store.run(
            "fanout_done",
            [keys.push_record(home, push_id), keys.fanouts(home)],
            [str(push_id), *partitions],
        )
    )


class Fanout(NamedTuple):
    """A push that has partitions left."""

    accepted_ms: int
    push_id: int


async def overdue_fanouts(
    store: Store, home: int, before_ms: int, after: Fanout | None = None, count: int = 100
) -> list[Fanout]:
    """The oldest `count` pushes with partitions left, of those accepted up to `before_ms` and, where it is
    given, behind `after` (which may be finished by now)."""
    key, least = keys.fanouts(home), "-inf"
    rows: list[bytes] = []
    if after is not None:
        # What was accepted within the same millisecond stands in the order of the members' bytes.
        ms, last = after.accepted_ms, str(after.push_id).encode()
        alike = await store.call("ZRANGEBYSCORE", key, ms, min(ms, before_ms), "WITHSCORES")
        for member, score in zip(alike[::2], alike[1::2], strict=True):
            if member > last:
                rows += (member, score)
        least = f"({ms}"
    rows = rows[: 2 * count]
    left = count - len(rows) // 2
    if left:
        rows += await store.call(
            "ZRANGEBYSCORE", key, least, before_ms, "WITHSCORES", "LIMIT", 0, left
        )
    return [Fanout(int(score), int(i)) for i, score in zip(rows[::2], rows[1::2], strict=True)]


async def read_record(store: Store, home: int, push_id: int) -> tuple[PushRecord, int] | None:
    """The record with the partitions that are left, and accepted_ms; None if it has expired."""
    flat = await store.call("HGETALL", keys.push_record(home, push_id))
    if not flat:
        return None
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    targets = {int(name[2:]): value for name, value in fields.items() if name.startswith(b"t:")}
    record = PushRecord(
        push_id=push_id,
        app=int(fields[b"app"]),
        ttl_s=int(fields[b"ttl_s"]),
        audience=fields[b"audience"],
        content=fields[b"content"],
        targets=targets,
        options=fields.get(b"options", b""),
    )
    return record, int(fields[b"accepted_ms"])


async def record_content(store: Store, home: int, push_id: int) -> bytes | None:
    """Content of a push whose record stands at `home`."""
    content: bytes | None = await store.call("HGET", keys.push_record(home, push_id), "content")
    return content


async def record_app(store: Store, home: int, push_id: int) -> int | None:
    """App of a push whose record stands at `home`; None if there is no record."""
    app = await store.call("HGET", keys.push_record(home, push_id), "app")
    return None if app is None else int(app)


class PushHead(NamedTuple):
    """What a push record tells one partition."""

    app: int
    accepted_ms: int
    audience: bytes
    waits: bool
    """The log of the partition has yet to get its part."""


async def push_head(store: Store, home: int, push_id: int, p: int) -> PushHead | None:
    """Of a push whose record stands at `home`; None if there is no record."""
    app, accepted_ms, audience, part = await store.call(
        "HMGET", keys.push_record(home, push_id), "app", "accepted_ms", "audience", f"t:{p}"
    )
    if app is None:
        return None
    return PushHead(int(app), int(accepted_ms), audience, part is not None)


async def contents(store: Store, p: int, push_ids: Sequence[int]) -> list[bytes | None]:
    """Contents of pushes that live in partition `p` alone."""
    if not push_ids:
        return []
    found: list[bytes | None] = await store.call("HMGET", keys.content(p), *map(str, push_ids))
    return found


async def content_ids(store: Store, p: int) -> list[int]:
    """Pushes whose content is kept in partition `p`."""
    found: list[int] = []
    cursor: bytes | int = 0
    while True:
        cursor, rows = await store.call("HSCAN", keys.content(p), cursor, "COUNT", 1000)
        found += [int(push_id) for push_id in rows[::2]]
        if int(cursor) == 0:
            return found


async def drop_contents(store: Store, p: int, push_ids: Sequence[int]) -> None:
    """Forget the contents of pushes that are final."""
    if push_ids:
        await store.call("HDEL", keys.content(p), *map(str, push_ids))


async def unknown_devices(store: Store, p: int, app: int, indexes: bytes) -> bytes:
    """Those of `indexes` (u32 LE each) that the app does not have in partition `p`."""
    unknown: bytes = await store.run("known", [keys.apps(p)], [app, indexes])
    return unknown
