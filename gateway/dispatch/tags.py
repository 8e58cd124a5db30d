"""Who carries which tag in one partition: what devices say of themselves, and what app servers set.

Pure, a part of the fold (`gateway.dispatch.partition`). A device carries a tag if either says so.
"""

from collections.abc import Iterator, Mapping
from sys import intern
from typing import Final

from pyroaring import BitMap

from gateway.dispatch.blocks import BLOCK_SHIFT, Blocks
from gateway.dispatch.changes import Changes
from protocol.schema import log_pb2

_STEP: Final = 1 << 8
"""Devices restored in one step, a millisecond."""
Profile = tuple[int, tuple[str, ...]]
"""(change number, keys of `own`)"""


class Tags:
    """Keys are "app number/tag": tags are named within their app."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self.own: dict[str, BitMap] = {}
        """key -> device indexes, as devices say of themselves"""
        self.bound: dict[str, BitMap] = {}
        """The same as app servers have set it."""
        self.bound_of: Blocks[tuple[str, ...]] = Blocks()
        """Keys of `bound` that a device has; never empty."""
        self.profiles: Blocks[Profile] = Blocks()

    # Questions.

    def carriers(self, app: int, tag: str) -> BitMap:
        """Devices of an app that carry a tag. May be the state itself: only to be read."""
        key = f"{app}/{tag}"
        own, bound = self.own.get(key), self.bound.get(key)
        if own is not None and bound is not None:
            return own | bound
        return own or bound or BitMap()

    def of(self, index: int) -> list[str]:
        """Tags of a device, sorted."""
        _, names = self.profile_of(index)
        both = {*(self.bound_of.get(index) or ()), *names}
        return sorted(name.partition("/")[2] for name in both)

    def profile_of(self, index: int) -> Profile:
        return self.profiles.get(index) or (0, ())

    def keys_of(self, app: int) -> set[str]:
        """Keys of all tags that some device of the app carries."""
        start = f"{app}/"
        return {key for key in self._keys() if key.startswith(start)}

    def _keys(self) -> Iterator[str]:
        yield from self.own
        yield from self.bound

    # The fold.

    def fold_profile(self, app: int, profile: log_pb2.Profile) -> None:
        """A device's whole set; a lower change number is of the past."""
        index = profile.index
        change, names = self.profile_of(index)
        if profile.change <= change:
            return
        before = (change, names) if change else None
        self._changes.touch(f"profiles/{index >> BLOCK_SHIFT}", index, before)
        # Interned: a million devices that carry a tag share its name.
        wanted = tuple([intern(f"{app}/{tag}") for tag in profile.tags])
        for name in set(names).difference(wanted):
            self.own[name].discard(index)
            if not self.own[name]:
                del self.own[name]
        for name in set(wanted).difference(names):
            self.own.setdefault(name, BitMap()).add(index)
        self.profiles.set(index, (profile.change, wanted))

    def fold_tagging(self, tagging: log_pb2.Tagging, of_app: BitMap) -> None:
        """`of_app`: all devices of the app; others are left out."""
        key = intern(f"{tagging.app}/{tagging.tag}")
        devices = of_app & BitMap(tagging.index)
        self._changes.touch(f"bound/{key}")
        bound = self.bound.setdefault(key, BitMap())
        if tagging.remove:
            bound -= devices
            for index in devices:
                self._unbind(index, key)
        else:
            bound |= devices
            for index in devices:
                self._bind(index, key)
        if not bound:
            del self.bound[key]

    def _unbind(self, index: int, key: str) -> None:
        names = self.bound_of.get(index) or ()
        if key in names:
            left = tuple([name for name in names if name != key])
            self.bound_of.set(index, left or None)

    def _bind(self, index: int, key: str) -> None:
        names = self.bound_of.get(index) or ()
        if key not in names:
            self.bound_of.set(index, (*names, key))

    # Restoring (gateway.dispatch.pieces).

    def restore_profiles(self, rows: Mapping[int, Profile]) -> Iterator[None]:
        """In steps."""
        own = self.own
        for number, (index, (change, names)) in enumerate(rows.items()):
            if number % _STEP == 0:
                yield
            shared = tuple([intern(name) for name in names])
            self.profiles.set(index, (change, shared))
            for name in shared:
                carriers = own.get(name)
                if carriers is None:
                    carriers = own[name] = BitMap()
                carriers.add(index)

    def restore_bound(self, key: str, devices: BitMap) -> Iterator[None]:
        """In steps: it may be every device."""
        key = intern(key)
        self.bound[key] = devices
        for number, index in enumerate(devices):
            if number % _STEP == 0:
                yield
            self._bind(index, key)
