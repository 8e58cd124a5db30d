"""Snapshots of a partition: chunks of at most 256 KiB, the manifest last.

Two generations take turns: a snapshot is written on the base of the last but one and shares no chunk
with the one before it, which stays as a fallback, and the log is trimmed up to that fallback only. So
whatever turns out to be unreadable costs a longer replay, not the state. What is written each time is
what changed since the last but one.
"""

import asyncio
import itertools
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec
import structlog

from gateway.slices import Slices
from gateway.store import keys
from gateway.store.client import Store
from gateway.store.errors import StoreError
from gateway.store.fence import giver

_log = structlog.get_logger("columba.store")

CHUNK_BYTES: Final = 256 * 1024
"""A larger value would stall everybody: one SET of 64 MB under appendfsync always took 170 ms."""
_FIELDS: Final = 256
"""Chunks in one call, written or dropped: a hundred microseconds of the store's thread."""
_READ_PARTS: Final = 8
"""Chunks read in one call, 2 MiB at most."""
_FORMAT: Final = 1


class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a piece of state stands: `parts` chunks "name#i@version", CRC-32 over all of them."""

    version: str
    parts: int
    crc: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot consists of."""

    format: int
    position: str
    """Log position that the state stands for."""
    pieces: dict[str, Stored]


class CorruptSnapshot(Exception):
    """A manifest or chunk cannot be read back."""


class Snapshot(NamedTuple):
    """A loaded snapshot."""

    position: str
    pieces: dict[str, bytes]


class Written(NamedTuple):
    """What the last snapshot cost."""

    seconds: float
    bytes: int


class Snapshots:
    """Loads and writes the snapshots of one partition for its owner."""

    def __init__(self, store: Store, p: int, fence: int) -> None:
        self._store = store
        self._p = p
        self._fence = fence
        self._writes = 0
        self._manifest: Manifest | None = None
        self._text = b""
        """`_manifest` as it stands in the store."""
        self._previous: Manifest | None = None
        self._loaded_from = keys.manifest(p)
        self._orphans: set[str] = set()
        """Chunks that no manifest refers to, or not yet: they go after the next commit."""
        self.written_at = time.monotonic()
        """When the last one was written, or this owner began (monotonic seconds)."""
        self.last = Written(0.0, 0)

    @property
    def trimmed_to(self) -> str:
        """Position up to which the log has been trimmed: that of the snapshot before the last one."""
        return self._previous.position if self._previous is not None else "0-0"

    async def load(self) -> Snapshot | None:
        """The newest readable snapshot, or None: then the log is replayed from its beginning.

        Raises Fenced where one is unreadable and a newer owner exists.
        """
        for key in (keys.manifest(self._p), keys.previous_manifest(self._p)):
            raw = await self._store.call("GET", key)
            if raw is None:
                continue
            try:
                manifest = _decode(raw)
                pieces = await self._read(manifest)
            except CorruptSnapshot as error:
                await self._set_aside(key, str(error))
                continue
            self._manifest, self._text = manifest, raw
            self._loaded_from = key
            await self._find_orphans()
            return Snapshot(manifest.position, pieces)
        await self._find_orphans()
        return None

    async def trimmed(self) -> str:
        """Position before which the log no longer has everything; "0-0" if it is whole."""
        raw = await self._store.call("GET", keys.trimmed(self._p))
        return raw.decode() if raw else "0-0"

    async def set_aside(self, reason: str) -> None:
        """The snapshot just loaded makes no sense: the next `load` gives the one before it."""
        self._manifest = None
        await self._set_aside(self._loaded_from, reason)

    async def _set_aside(self, key: str, reason: str) -> None:
        kept_as = keys.corrupt_manifest(self._p)
        touched = [key, kept_as, keys.owner(self._p)]
        await self._store.run("snapshot_aside", touched, [int(self._fence)], on=giver(self._fence))
        _log.error("snapshot set aside", partition=self._p, reason=reason, kept_as=kept_as)

    async def write(
        self,
        position: str,
        changed: Iterable[tuple[str, bytes | None]],
        *,
        complete: bool = False,
    ) -> None:
        """Write the manifest after what changed since the last but one (or all there is: `complete`).

        `changed` gives (name, blob), None for a blob if nothing is left of that piece; between two of
        them others have their turn. Raises Fenced, StoreUnavailable: then nothing of it counts.
        """
        began = time.monotonic()
        base = self._previous.pieces if self._previous is not None and not complete else {}
        pieces = dict(base)
        chunks = _Chunks(self._store, self._p, self._fence, self._orphans)
        slices = Slices()
        for name, blob in changed:
            if blob is None:
                pieces.pop(name, None)
            else:
                self._writes += 1
                pieces[name] = await chunks.put(name, f"{self._fence}.{self._writes}", blob)
            await slices.turn()
        await chunks.flush()
        await self._commit(Manifest(format=_FORMAT, position=position, pieces=pieces))
        await self._drop_orphans()
        self.written_at = time.monotonic()
        self.last = Written(self.written_at - began, chunks.bytes)

    async def _commit(self, manifest: Manifest) -> None:
        current, text = self._manifest, _encode(manifest)
        await self._store.run(
            "snapshot_commit",
            [
                keys.manifest(self._p),
                keys.previous_manifest(self._p),
                keys.trimmed(self._p),
                keys.log(self._p),
                keys.owner(self._p),
            ],
            [
                int(self._fence),
                text,
                self._text if current is not None else b"",
                current.position if current is not None else "0-0",
            ],
            on=giver(self._fence),
        )
        left, self._previous = self._previous, current
        self._manifest, self._text = manifest, text
        slices = Slices()
        for field in _fields(left):
            self._orphans.add(field)
            await slices.turn()
        for kept in (manifest, current):
            for field in _fields(kept):
                self._orphans.discard(field)
                await slices.turn()

    async def _drop_orphans(self) -> None:
        """A little at a time, since the store does nothing else meanwhile."""
        while self._orphans:
            some = list(itertools.islice(self._orphans, _FIELDS))
            try:
                await self._store.run(
                    "snapshot_drop",
                    [keys.chunks(self._p), keys.owner(self._p)],
                    [int(self._fence), *some],
                    on=giver(self._fence),
                )
            except StoreError:
                return  # after the next one, or our heir finds them
            self._orphans.difference_update(some)

    async def _read(self, manifest: Manifest) -> dict[str, bytes]:
        """All pieces. Raises CorruptSnapshot."""
        pieces: dict[str, bytes] = {}
        window: dict[str, Stored] = {}
        parts = 0
        for name, stored in manifest.pieces.items():
            window[name] = stored
            parts += stored.parts
            if parts >= _READ_PARTS:
                pieces |= await self._read_some(window)
                window, parts = {}, 0
        return pieces | await self._read_some(window)

    async def _read_some(self, wanted: Mapping[str, Stored]) -> dict[str, bytes]:
        fields = [f for name, stored in wanted.items() for f in _fields_of(name, stored)]
        if not fields:
            return {}
        chunks = iter(await self._store.call("HMGET", keys.chunks(self._p), *fields))
        pieces = {}
        for name, stored in wanted.items():
            parts = list(itertools.islice(chunks, stored.parts))
            if any(part is None for part in parts):
                raise CorruptSnapshot(f"a chunk of {name} is missing")
            blob = pieces[name] = b"".join(parts)
            if zlib.crc32(blob) != stored.crc:
                raise CorruptSnapshot(f"the checksum of {name} does not match")
        return pieces

    async def _find_orphans(self) -> None:
        """Chunks of a snapshot that was begun and never committed go with the next commit."""
        raw = await self._store.call("GET", keys.previous_manifest(self._p))
        if raw is not None:
            try:
                self._previous = _decode(raw)
            except CorruptSnapshot:
                self._previous = None
        fields = await self._store.call("HKEYS", keys.chunks(self._p))
        self._orphans = set(map(bytes.decode, fields))
        slices = Slices()
        for manifest in (self._manifest, self._previous):
            for field in _fields(manifest):
                self._orphans.discard(field)
                await slices.turn()


class _Chunks:
    """The chunks of one snapshot, several in a call where they are small."""

    def __init__(self, store: Store, p: int, fence: int, orphans: set[str]) -> None:
        self._store = store
        self._keys = [keys.chunks(p), keys.owner(p)]
        self._fence = fence
        self._orphans = orphans
        self._waiting: list[str | bytes] = []
        self._size = 0
        self.bytes = 0

    async def put(self, name: str, version: str, blob: bytes) -> Stored:
        """Raises Fenced, StoreUnavailable."""
        stored = Stored(version, max(1, -(-len(blob) // CHUNK_BYTES)), zlib.crc32(blob))
        self.bytes += len(blob)
        for i, field in enumerate(_fields_of(name, stored)):
            part = blob[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]
            if self._size + len(part) > CHUNK_BYTES or len(self._waiting) >= 2 * _FIELDS:
                await self.flush()
            self._orphans.add(field)  # until a manifest refers to it
            self._waiting += (field, part)
            self._size += len(part)
        return stored

    async def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        call, self._waiting, self._size = self._waiting, [], 0
        began = time.monotonic()
        await self._store.run(
            "snapshot_chunk", self._keys, [int(self._fence), *call], on=giver(self._fence)
        )
        # Paced: the store is at most half of the time busy with us.
        await asyncio.sleep(time.monotonic() - began)


def _fields(manifest: Manifest | None) -> Iterator[str]:
    if manifest is not None:
        for name, stored in manifest.pieces.items():
            yield from _fields_of(name, stored)


def _fields_of(name: str, stored: Stored) -> list[str]:
    return [f"{name}#{i}@{stored.version}" for i in range(stored.parts)]


def _encode(manifest: Manifest) -> bytes:
    """CRC-32 in hex, a space, JSON: a digit that flips in JSON leaves good JSON behind."""
    text = msgspec.json.encode(manifest)
    return b"%08x " % zlib.crc32(text) + text


def _decode(raw: bytes) -> Manifest:
    crc, _, text = raw.partition(b" ")
    if crc != b"%08x" % zlib.crc32(text):
        raise CorruptSnapshot("the checksum of the manifest does not match")
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # the latter is none of msgspec's
        raise CorruptSnapshot(f"the manifest is not readable: {error}") from error
    if manifest.format != _FORMAT:
        raise CorruptSnapshot(f"format {manifest.format}, this build reads {_FORMAT}")
    return manifest
