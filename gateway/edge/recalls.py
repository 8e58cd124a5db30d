"""Recalled pushes, as one edge knows them: no copy of them may leave it any more.

A device that was away hears of its app's recalls with its WELCOME. Pure: time is an argument, ms of the
store's clock.
"""

import heapq
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from protocol.codes import MAX_RECALLS
from protocol.frames import varint

MOST: Final = 100_000
"""Recalls remembered, over all apps; beyond it the one that ends first is forgotten."""
_FIELD: Final = b"\x62"
"""Tag of columba.device.Welcome.recalled (12, packed)."""


class Recall(NamedTuple):
    push_id: int
    app: int
    until_ms: int
    """After that no device can have use for the message."""


class Recalls:
    """Asked for each delivery, so looking a push up is a look into a dict."""

    def __init__(self) -> None:
        self._apps: dict[int, int] = {}
        """push id -> app number"""
        self._ends: list[tuple[int, int]] = []
        """Heap of (until_ms, push id)"""
        self._of_app: dict[int, set[int]] = {}
        self._encoded: dict[int, bytes] = {}

    def __contains__(self, push_id: int) -> bool:
        return push_id in self._apps

    def __len__(self) -> int:
        return len(self._apps)

    def add(self, recalls: Iterable[Recall], now_ms: int) -> list[int]:
        """Push ids that were not known. Those that have ended are forgotten by the way."""
        new = []
        for push_id, app, until_ms in recalls:
            if push_id not in self._apps and until_ms > now_ms:
                self._apps[push_id] = app
                self._of_app.setdefault(app, set()).add(push_id)
                self._encoded.pop(app, None)
                heapq.heappush(self._ends, (until_ms, push_id))
                new.append(push_id)
        while self._ends and (self._ends[0][0] <= now_ms or len(self._apps) > MOST):
            self._forget(heapq.heappop(self._ends)[1])
        return new

    def _forget(self, push_id: int) -> None:
        app = self._apps.pop(push_id)
        self._encoded.pop(app, None)
        self._of_app[app].discard(push_id)
        if not self._of_app[app]:
            del self._of_app[app]

    def welcome(self, app: int) -> bytes:
        """The field of WELCOME for an app's devices: its newest recalls; mostly empty."""
        if app not in self._of_app:
            return b""
        field = self._encoded.get(app)
        if field is None:
            newest = sorted(self._of_app[app])[-MAX_RECALLS:]
            packed = struct.pack(f"<{len(newest)}Q", *newest)
            field = self._encoded[app] = _FIELD + varint(len(packed)) + packed
        return field
