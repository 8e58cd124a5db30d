"""How much memory a partition's state takes, estimated: within a fifth or so of what the process grows by.

Most of it is looked at only while a snapshot is written and after a load, step by step, since there are tens of
thousands of bitmaps; rows of pushes, which come and go by the second, are counted on the spot.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pyroaring import BitMap

from gateway.dispatch.partition import Partition

# Bytes, measured with CPython 3.11 and glibc's allocator on 64 bits.
_BITMAP: Final = 300
"""The object, its entry in a dict, and the string of its key."""
_CONTAINER: Final = 80
"""Each range of 65,536 devices in which a bitmap has some, beside its content."""
_PROFILE: Final = 168
"""Two tuples, a change number, a place in a block; 8 more for each tag."""
_BOUND_DEVICE: Final = 80
"""A tuple with some tags, and its place in a block."""
_ROW: Final = 130
"""An entry in a block of accounts or holders, without the content."""
_PENDING: Final = 150
"""Of a single that waits: a list in the inbox and its entry in a dict."""
_STEP: Final = 100


class Footprint:
    """Of one partition."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._looked_at = 0

    @property
    def bytes(self) -> int:
        """What was looked at last, and the rows of pushes as they are: costs nothing."""
        pending = _PENDING * len(self._partition.inbox)
        return self._looked_at + self._partition.estimated_bytes() + pending

    def look(self) -> Iterator[None]:
        """Measure again, in steps of less than a millisecond; records may be folded between two."""
        partition = self._partition
        tags = partition.tags
        found = 2 * len(partition.location)
        for bitmaps in (partition.apps, partition.online, partition.seen, partition.born):
            found += sum(map(_bitmap, bitmaps.values()))
            yield
        for number, devices in enumerate([*tags.own.values(), *tags.bound.values()]):
            if number % _STEP == 0:
                yield
            found += _bitmap(devices)
        for number, devices in enumerate([*tags.own.values()]):
            if number % (10 * _STEP) == 0:
                yield
            found += 8 * len(devices)
        for block in [*tags.profiles]:
            yield
            found += _PROFILE * tags.profiles.count(block)
        for block in [*tags.bound_of]:
            yield
            found += _BOUND_DEVICE * tags.bound_of.count(block)
        lists, holders = partition.accounts.lists, partition.accounts.holders
        blocks: list[Mapping[Any, bytes]] = [*lists.values(), *holders.values()]
        for rows in blocks:
            yield
            found += sum(map(sys.getsizeof, rows.values())) + _ROW * len(rows)
        self._looked_at = found


def _bitmap(devices: BitMap) -> int:
    told = devices.get_statistics()
    content = (
        told["n_bytes_array_containers"]
        + told["n_bytes_run_containers"]
        + told["n_bytes_bitset_containers"]
    )
    return int(content) + _CONTAINER * int(told["n_containers"]) + _BITMAP
