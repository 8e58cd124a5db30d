"""Pushes of which a newer one takes the place of an older one: those of an app with the same collapse key.

Newer is the greater push id, in every partition, whatever the order in which the logs got them, and even
when the newer one is final already. What is replaced follows from the pushes that the partition knows, so
an owner that continues from a snapshot replaces the same. Pure, a part of the fold.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping

from pyroaring import BitMap

from gateway.dispatch.campaign import Campaign, Push, Single
from gateway.dispatch.changes import Changes


class _Key:
    """The pushes of one app and key, by id in ascending order."""

    __slots__ = ("campaigns", "devices", "open", "singles")

    def __init__(self) -> None:
        self.campaigns: list[int] = []
        self.open: list[int] = []
        """Campaigns that may be pending for somebody."""
        self.singles: dict[int, list[int]] = {}
        """index -> push ids. Only the newest one can be pending."""
        self.devices = BitMap()
        """The indexes of `singles`."""

    def __bool__(self) -> bool:
        return bool(self.campaigns or self.singles)


class Collapsing:
    """Of one partition. An add costs what is pending, and what is newer, not all that is known."""

    def __init__(self, pushes: Mapping[int, Push], changes: Changes) -> None:
        self._pushes = pushes
        self._changes = changes
        self._keys: dict[str, _Key] = {}

    def add(self, push: Single | Campaign) -> Iterator[Single | Campaign]:
        """Those in which something changed, this one perhaps among them. To be worked off at once."""
        key = self._keys.setdefault(_name(push), _Key())
        newer = BitMap()
        for push_id in key.campaigns[bisect_left(key.campaigns, push.push_id) :]:
            newer |= self._pushes[push_id].meant() & push.meant()
        older = list(self._open_before(key, push.push_id))
        for index in push.meant() & key.devices:
            newest = key.singles[index][-1]
            if newest > push.push_id:
                newer.add(index)
            else:
                older.append(self._pushes[newest])
        self._keep(key, push)
        for other in older:
            if not isinstance(other, Single | Campaign):
                continue
            if self._replace(other, push.meant()):
                yield other
        if newer and self._replace(push, newer):
            yield push

    def _replace(self, older: Single | Campaign, devices: BitMap) -> bool:
        piece = self._changes.foresee_push(older)
        changed = older.replace(devices)
        if changed:
            self._changes.dirty.add(piece)
        return changed

    def _open_before(self, key: _Key, push_id: int) -> Iterator[Push]:
        key.open = [i for i in key.open if not self._pushes[i].final]
        for other in key.open:
            if other < push_id:
                yield self._pushes[other]

    def _keep(self, key: _Key, push: Single | Campaign) -> None:
        if isinstance(push, Campaign):
            insort(key.campaigns, push.push_id)
            key.open.append(push.push_id)
        else:
            insort(key.singles.setdefault(push.index, []), push.push_id)
            key.devices.add(push.index)

    def restore(self, push: Single | Campaign) -> None:
        """One of a snapshot: what it replaces is replaced already."""
        self._keep(self._keys.setdefault(_name(push), _Key()), push)

    def forget(self, push: Push) -> None:
        """The partition forgets it, or its devices."""
        key = self._keys.get(_name(push)) if push.collapse_key else None
        if key is None:
            return
        if isinstance(push, Single):
            ids = key.singles[push.index]
            ids.remove(push.push_id)
            if not ids:
                del key.singles[push.index]
                key.devices.discard(push.index)
        elif isinstance(push, Campaign):
            key.campaigns.remove(push.push_id)
            key.open = [i for i in key.open if i != push.push_id]
        if not key:
            del self._keys[_name(push)]


def _name(push: Push) -> str:
    return f"{push.app}/{push.collapse_key}"
