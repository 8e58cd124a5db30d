"""Snapshots of a partition: chunks of at most 256 KiB, the manifest last.

Two generations take turns: a snapshot is written on the base of the last but one and shares no chunk
with the one before it, which stays as a fallback, and the log is trimmed up to that fallback only. So
whatever turns out to be unreadable costs a longer replay, not the state. What is written each time is
what changed since the last but one.
"""

import asyncio
import time
import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
import structlog

from gateway.store import keys
from gateway.store.client import Store

_log = structlog.get_logger("columba.store")

CHUNK_BYTES: Final = 256 * 1024
"""A larger value would stall everybody: one SET of 64 MB under appendfsync always took 170 ms."""
_FORMAT: Final = 1


class Stored(NamedTuple):
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


class Snapshots:
    """Loads and writes the snapshots of one partition for its owner."""

    def __init__(self, store: Store, p: int, fence: int) -> None:
        self._store = store
        self._p = p
        self._fence = fence
        self._writes = 0
        self._manifest: Manifest | None = None
        self._previous: Manifest | None = None
        self._loaded_from = keys.manifest(p)
        self._orphans: set[str] = set()
        self.written_at = time.monotonic()
        """When the last one was written, or this owner began (monotonic seconds)."""

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
                pieces = {n: await self._piece(n, s) for n, s in manifest.pieces.items()}
            except CorruptSnapshot as error:
                await self._set_aside(key, str(error))
                continue
            self._manifest = manifest
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
        await self._store.run("snapshot_aside", [key, kept_as, keys.owner(self._p)], [self._fence])
        _log.error("snapshot set aside", partition=self._p, reason=reason, kept_as=kept_as)

    async def write(
        self,
        position: str,
        changed: Iterable[tuple[str, bytes]],
        removed: Iterable[str],
        *,
        complete: bool = False,
    ) -> None:
        """Write the manifest after what changed since the last but one (or all there is: `complete`).

        Raises Fenced, StoreUnavailable: then nothing of it counts.
        """
        base = self._previous.pieces if self._previous is not None and not complete else {}
        pieces = dict(base)
        for name in removed:
            pieces.pop(name, None)
        for name, blob in changed:
            pieces[name] = await self._write_piece(name, blob)
        manifest = Manifest(format=_FORMAT, position=position, pieces=pieces)
        await self._commit(manifest)
        self._previous, self._manifest = self._manifest, manifest
        self.written_at = time.monotonic()

    async def _write_piece(self, name: str, blob: bytes) -> Stored:
        self._writes += 1
        version = f"{self._fence}.{self._writes}"
        parts = max(1, -(-len(blob) // CHUNK_BYTES))
        for i in range(parts):
            part = blob[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]
            field = f"{name}#{i}@{version}"
            self._orphans.add(field)  # until a manifest refers to it
            began = time.monotonic()
            await self._store.run(
                "snapshot_chunk",
                [keys.chunks(self._p), keys.owner(self._p)],
                [self._fence, field, part],
            )
            if parts > 1 or len(part) > CHUNK_BYTES // 8:
                # Paced: the store is at most half of the time busy with us.
                await asyncio.sleep(time.monotonic() - began)
        return Stored(version, parts, zlib.crc32(blob))

    async def _commit(self, manifest: Manifest) -> None:
        current = self._manifest
        kept = _fields(manifest) | (_fields(current) if current else set())
        dropped = (self._orphans | (_fields(self._previous) if self._previous else set())) - kept
        await self._store.run(
            "snapshot_commit",
            [
                keys.manifest(self._p),
                keys.previous_manifest(self._p),
                keys.trimmed(self._p),
                keys.log(self._p),
                keys.chunks(self._p),
                keys.owner(self._p),
            ],
            [
                self._fence,
                _encode(manifest),
                _encode(current) if current else b"",
                current.position if current else "0-0",
                *sorted(dropped),
            ],
        )
        self._orphans.clear()

    async def _piece(self, name: str, stored: Stored) -> bytes:
        fields = [f"{name}#{i}@{stored.version}" for i in range(stored.parts)]
        parts = await self._store.call("HMGET", keys.chunks(self._p), *fields)
        if any(part is None for part in parts):
            raise CorruptSnapshot(f"a chunk of {name} is missing")
        blob = b"".join(parts)
        if zlib.crc32(blob) != stored.crc:
            raise CorruptSnapshot(f"the checksum of {name} does not match")
        return blob

    async def _find_orphans(self) -> None:
        """Chunks of a snapshot that was begun and never committed go with the next commit."""
        raw = await self._store.call("GET", keys.previous_manifest(self._p))
        if raw is not None:
            try:
                self._previous = _decode(raw)
            except CorruptSnapshot:
                self._previous = None
        known = set()
        for manifest in (self._manifest, self._previous):
            known |= _fields(manifest) if manifest else set()
        fields = await self._store.call("HKEYS", keys.chunks(self._p))
        self._orphans = {f.decode() for f in fields} - known


def _fields(manifest: Manifest) -> set[str]:
    return {
        f"{name}#{i}@{stored.version}"
        for name, stored in manifest.pieces.items()
        for i in range(stored.parts)
    }


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
