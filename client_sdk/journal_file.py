"""The journal's file: appended and synced record by record, written anew when most of it is stale."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from client_sdk import disk, entries
from client_sdk.entries import Entry

COMPACT_BYTES: Final = 256 * 1024
"""A file below this is not worth writing anew."""
COMPACT_FACTOR: Final = 2
"""... nor one that has not tripled since it was: so that each byte is rewritten half a time."""
_ENTRIES_A_RECORD: Final = 256
"""In a rewritten file: a flipped bit costs one record of them."""


class Loaded(NamedTuple):
    entries: list[Entry]
    aside: Path | None
    """Where a damaged file was moved; `entries` are those that could still be read."""


class JournalFile:
    """One open journal file. Blocking; one caller at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._size = 0
        self._torn = False
        self._name_synced = True
        self._fresh_size = 0

    def load(self) -> Loaded:
        """Opens the file, or makes an empty one; raises OSError where that cannot be done."""
        # A crash while the file was written anew leaves this behind; the old file still counts.
        self._path.with_name(self._path.name + ".new").unlink(missing_ok=True)
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            self.replace([])
            return Loaded([], None)
        found = entries.scan(data)
        if found.damaged or found.end == 0:  # a file is never without its seal, see `replace`
            aside = disk.set_aside(self._path)
            self.replace(found.entries)
            return Loaded(found.entries, aside)
        self._descriptor = os.open(self._path, os.O_RDWR)
        # A process that was killed between write and sync left a record that is not on disk yet,
        # and what is read here will be acted on: receipts say that messages are safe.
        os.fsync(self._descriptor)
        self._sync_name()
        self._size = found.end
        # Not the whole file: an app that starts often would never have it written anew.
        self._fresh_size = found.sealed
        self._torn = len(data) > found.end
        return Loaded(found.entries, None)

    def append(self, batch: Iterable[Entry]) -> None:
        """One record, on disk when this returns. After an OSError it is as if never written."""
        data = entries.record(batch)
        if not self._name_synced:
            self._sync_name()
        if self._torn:
            os.ftruncate(self._descriptor, self._size)
        # Until the sync has succeeded nobody knows which of these bytes are on disk: even when it
        # is tried again, a kernel may report success for pages that it had dropped. So the record
        # counts as torn, is cut off, and all its bytes are written again.
        self._torn = True
        disk.write_all(self._descriptor, data, self._size)
        self._size += len(data)
        self._torn = False

    @property
    def wants_compaction(self) -> bool:
        return self._size > COMPACT_BYTES + (1 + COMPACT_FACTOR) * self._fresh_size

    def replace(self, state: Sequence[Entry]) -> None:
        """A new file with these entries in place of the old, atomically. After an OSError the
        journal is whole, and not asked for compaction again before it has grown further.

        Its last record is an empty one, the seal: nothing up to there can be torn, so when an
        earlier record is not readable, the readable seal behind it tells that it was damaged.
        """
        self._fresh_size = self._size
        cuts = range(0, len(state), _ENTRIES_A_RECORD)
        parts = [entries.record(state[at : at + _ENTRIES_A_RECORD]) for at in cuts]
        data = b"".join(parts) + entries.record(())
        descriptor = disk.write_new(self._path, data)
        self.close()
        self._descriptor = descriptor
        self._size = self._fresh_size = len(data)
        self._torn = False
        self._sync_name()

    def _sync_name(self) -> None:
        """Until this has succeeded a crash may bring the old file back: append nothing before."""
        self._name_synced = False
        disk.sync_directory(self._path.parent)
        self._name_synced = True

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
