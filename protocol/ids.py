"""Device and push ids: what their bits say.

A device id is a u64: partition << 32 | index. A push id is a u64, ordered by time to 1/16 s:

    bits 63-29  sixteenths of a second since 2025-01-01T00:00Z, by the store's clock
    bits 28-21  leased number of the process that drew it
    bits 20-11  its counter within that sixteenth (it may run ahead into later ones)
    bit  10     1: several partitions, or a push record; 0: one partition
    bits  9-0   that partition, or the one that keeps the push record
"""

from typing import Final, NamedTuple

EPOCH_MS: Final = 1_735_689_600_000
MAX_PARTITIONS: Final = 1024
MAX_DRAWERS: Final = 256
"""Processes that may draw push ids at one time (8 bits)."""
_TICK_MS: Final = 62.5
_COUNTERS: Final = 1024
SEVERAL: Final = 1 << 10


def device_id(partition: int, index: int) -> int:
    return partition << 32 | index


def split_device_id(device: int) -> tuple[int, int]:
    """(partition, index)"""
    return device >> 32, device & 0xFFFF_FFFF


class PushPlace(NamedTuple):
    """Where a push is at home."""

    several: bool
    partition: int


def push_place(push_id: int) -> PushPlace:
    return PushPlace(bool(push_id & SEVERAL), push_id & (MAX_PARTITIONS - 1))


class PushIds:
    """Draws push ids for one process; unique while no other process holds the same number.

    Counts up from the sixteenth of a second last used, so ids stay in order even when more than
    1,024 are drawn within one, or when the clock is set back. A start of the process under the
    same number must come at least one lease period after the last one ended.
    """

    __slots__ = ("_last", "_number")

    def __init__(self, number: int) -> None:
        if not 0 <= number < MAX_DRAWERS:
            raise ValueError(f"a drawer of push ids needs a number below {MAX_DRAWERS}")
        self._number = number
        self._last = -1

    def draw(self, now_ms: float, *, several: bool, partition: int) -> int:
        tick = int((now_ms - EPOCH_MS) / _TICK_MS)
        self._last = max(self._last + 1, tick * _COUNTERS)
        tick, counter = divmod(self._last, _COUNTERS)
        place = (SEVERAL if several else 0) | partition
        return tick << 29 | self._number << 21 | counter << 11 | place
