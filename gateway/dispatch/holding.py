"""Devices of paced pushes that have not been let go yet, and how many of them could go now.

A push with a speed is sent to nobody before a permit (`gateway.dispatch.speed`) says so. Volatile: an
owner that takes over holds all that is pending again, so it can only be slower than ordered.

Pure: time is an argument, seconds of any steady clock.
"""

from collections.abc import Callable
from typing import Final

from pyroaring import BitMap

_RECOUNT_S: Final = 0.25
"""Counting costs some bitmap operations over all held devices; nobody notices a device this much later."""


class Held:
    """Of one partition."""

    def __init__(self, sendable: Callable[[int, BitMap], BitMap]) -> None:
        self._sendable = sendable
        """(push id, devices) -> those of them that can be sent to now. It takes from `devices` those that
        need no permit any more."""
        self._devices: dict[int, BitMap] = {}
        self._ready: dict[int, int] = {}
        """push id -> devices that could go; without zeros"""
        self._stale: set[int] = set()
        """Pushes of which more devices could go than were counted."""
        self._counted: dict[int, float] = {}
        """push id -> time of its last count"""

    def __bool__(self) -> bool:
        return bool(self._devices)

    def __len__(self) -> int:
        """Devices, each once for each push that holds it."""
        return sum(map(len, self._devices.values()))

    def of(self, push_id: int) -> BitMap:
        """Devices of a push that wait for a permit. The state itself: only to be read."""
        return self._devices.get(push_id) or BitMap()

    def holds(self, push_id: int, index: int) -> bool:
        devices = self._devices.get(push_id)
        return devices is not None and index in devices

    def hold(self, push_id: int, devices: BitMap) -> None:
        if devices:
            self._devices[push_id] = self.of(push_id) | devices
            self._stale.add(push_id)

    def drop(self, push_id: int) -> None:
        """The push is over."""
        for rows in (self._devices, self._ready, self._counted):
            rows.pop(push_id, None)
        self._stale.discard(push_id)

    def look_again(self, devices: BitMap) -> None:
        """These devices may have become sendable."""
        for push_id, held in self._devices.items():
            if push_id not in self._stale and held.intersect(devices):
                self._stale.add(push_id)

    def wanted(self, now: float) -> dict[int, int]:
        """push id -> devices that could go now; not kept up to date with those that no longer can."""
        if self._stale:
            for push_id in [i for i in self._stale if self._count_due(i, now)]:
                self._note(push_id, self._sendable(push_id, self._devices[push_id]), now)
        return dict(self._ready)

    def take(self, push_id: int, most: int, now: float) -> BitMap:
        """Let up to `most` devices go that can be sent to at this moment."""
        held = self._devices.get(push_id)
        if held is None:
            return BitMap()
        ready = self._sendable(push_id, held)
        taken = ready[:most]
        held -= taken
        self._note(push_id, ready - taken, now)
        return taken

    def _count_due(self, push_id: int, now: float) -> bool:
        counted = self._counted.get(push_id)
        return counted is None or now - counted >= _RECOUNT_S

    def _note(self, push_id: int, ready: BitMap, now: float) -> None:
        if not self._devices[push_id]:
            self.drop(push_id)
            return
        self._stale.discard(push_id)
        self._counted[push_id] = now
        if ready:
            self._ready[push_id] = len(ready)
        else:
            self._ready.pop(push_id, None)
