"""When pushes run out, and how long what is left of them is kept. Milliseconds of the store's clock.

Pure: it only proposes; what happens enters the log as a `due` record first.
"""

import heapq
from typing import NamedTuple

from gateway.dispatch.campaign import Campaign, Push, Tally
from gateway.dispatch.partition import Partition


class Keeping(NamedTuple):
    """How long things live."""

    live_only_s: float
    """A push with ttl 0 expires after this."""
    keep_s: float
    """Rows of finished pushes, from their accept."""
    keep_counts_s: float
    """Counts of finished campaigns, from their accept."""
    keep_bytes: int
    """Memory of rows in a partition; beyond it the oldest finished ones go earlier."""


class Due(NamedTuple):
    """Push ids whose time has come."""

    expired: list[int]
    shrunk: list[int]
    forgotten: list[int]


class Retention:
    """Watches the pushes of one partition."""

    def __init__(self, partition: Partition, keeping: Keeping) -> None:
        self._partition = partition
        self._keeping = keeping
        self._expiring: list[tuple[int, int]] = []
        self._kept: list[tuple[int, int]] = []

    def add(self, push: Push) -> None:
        """Watch a push, new or restored."""
        if not push.final:
            heapq.heappush(self._expiring, (self._expires_ms(push), push.push_id))
        heapq.heappush(self._kept, (self._keep_until_ms(push), push.push_id))

    def due(self, now_ms: int, most: int) -> Due:
        """What has come due; at most `most` of each, the rest the next time."""
        expired: list[int] = []
        pushes = self._partition.pushes
        while self._expiring and self._expiring[0][0] <= now_ms and len(expired) < most:
            _, push_id = heapq.heappop(self._expiring)
            if push_id in pushes and not pushes[push_id].final:
                expired.append(push_id)
        shrunk, forgotten = self._over(now_ms, most)
        return Due(expired, shrunk, forgotten)

    def _over(self, now_ms: int, most: int) -> tuple[list[int], list[int]]:
        shrunk: list[int] = []
        forgotten: list[int] = []
        crowded = self._partition.estimated_bytes() > self._keeping.keep_bytes
        for _ in range(min(most, len(self._kept))):
            at, push_id = self._kept[0]
            if at > now_ms and not crowded:
                break
            heapq.heappop(self._kept)
            push = self._partition.pushes.get(push_id)
            if push is None:
                continue
            if not push.final:
                # Not finished: it stays, full or not, and expiry will finish it. When it is crowded it
                # goes behind all others, which must have their turn.
                again_ms = max(now_ms, self._expires_ms(push)) + 1000
                if crowded:
                    again_ms = max(again_ms, now_ms + int(self._keeping.keep_s * 1000))
                heapq.heappush(self._kept, (again_ms, push_id))
            elif isinstance(push, Campaign):
                shrunk.append(push_id)
                until_ms = push.accepted_ms + int(self._keeping.keep_counts_s * 1000)
                heapq.heappush(self._kept, (until_ms, push_id))
            else:
                forgotten.append(push_id)
        return shrunk, forgotten

    def _expires_ms(self, push: Push) -> int:
        return push.accepted_ms + (push.ttl_s * 1000 or int(self._keeping.live_only_s * 1000))

    def _keep_until_ms(self, push: Push) -> int:
        keep_s = self._keeping.keep_counts_s if isinstance(push, Tally) else self._keeping.keep_s
        return push.accepted_ms + int(keep_s * 1000)
