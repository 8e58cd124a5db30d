"""Writing one partition down: when it is due, what has to be written, and what that took."""

import time
from typing import Final

from gateway.config import Dispatch
from gateway.dispatch import pieces
from gateway.dispatch.footprint import Footprint
from gateway.dispatch.partition import Partition
from gateway.slices import in_slices
from gateway.store.errors import StoreError
from gateway.store.snapshots import Snapshots

_RETRY_MIN_S: Final = 1.0
_RETRY_MAX_S: Final = 60.0
"""Between two tries while the store does not take one: each may write all that has changed."""


class Snapshotting:
    """Of a partition that its owner has just loaded."""

    def __init__(self, partition: Partition, snapshots: Snapshots, config: Dispatch) -> None:
        self._partition = partition
        self._snapshots = snapshots
        self._config = config
        self._records = 0
        """The partition's, at the last snapshot."""
        self._dirty_before: set[str] | None = None
        """What had changed at the last snapshot; None before our first one, which is complete."""
        self._tried_at = 0.0
        """When one could not be written (monotonic seconds)."""
        self._failures = 0
        """Since the last one that was written."""
        self.failures_total = 0
        self.footprint = Footprint(partition)

    @property
    def replay_records(self) -> int:
        """Folded since the last snapshot: the next owner would fold them again."""
        return self._partition.records - self._records

    def may_try(self, now: float, most_s: float = _RETRY_MAX_S) -> bool:
        """Not too soon after one that could not be written, whatever the next one is due for; after `most_s` at
        the latest."""
        if not self._failures:
            return True
        wait_s = _RETRY_MIN_S * 2.0 ** min(self._failures - 1, 16)
        return now - self._tried_at >= min(wait_s, most_s)

    def due(self, now: float) -> bool:
        if not self.may_try(now):
            return False
        records, config = self.replay_records, self._config
        if records >= config.snapshot_records:
            return True
        return records > 0 and now - max(self.written_at, self._tried_at) >= config.snapshot_s

    @property
    def written_at(self) -> float:
        """Of the last one, or when this owner began (monotonic seconds)."""
        return self._snapshots.written_at

    async def write(self) -> None:
        """Write what changed since the last one and trim the log, while the fold goes on.

        Raises StoreError, Fenced among them: it is still to do then, as after a cancellation.
        """
        partition = self._partition
        records = partition.records
        dirty = set(partition.changes.dirty)
        complete = self._dirty_before is None
        before = pieces.names(partition) if self._dirty_before is None else self._dirty_before
        unwritten = dirty
        try:
            with pieces.freeze(partition, dirty | before) as frozen:
                await self._snapshots.write(frozen.position, frozen.pieces(), complete=complete)
            unwritten = set()
        except StoreError:
            self._tried_at = time.monotonic()
            self._failures += 1
            self.failures_total += 1
            raise
        finally:
            partition.changes.dirty |= unwritten
        self._failures = 0
        self._records = records
        self._dirty_before = dirty
        await in_slices(self.footprint.look())
