"""Single messages that wait for devices, within a cap for each. Pure, a part of the fold."""

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.dispatch.campaign import Single
from gateway.lanes import WEIGHTS

_RANK: Final = {priority: rank for rank, priority in enumerate(reversed(WEIGHTS))}
"""Priority -> place from the lowest up."""


class Inbox:
    """By device index, in the order of the log."""

    def __init__(self) -> None:
        self._boxes: dict[int, list[Single]] = {}
        self._size = 0

    def __contains__(self, index: int) -> bool:
        return index in self._boxes

    def __len__(self) -> int:
        """Messages, of all devices."""
        return self._size

    def __iter__(self) -> Iterator[int]:
        """Devices for which something waits."""
        return iter(self._boxes)

    def of(self, index: int) -> Sequence[Single]:
        """What waits for a device. The state itself: only to be read."""
        return self._boxes.get(index, ())

    def put(self, push: Single) -> None:
        self._boxes.setdefault(push.index, []).append(push)
        self._size += 1

    def excess(self, index: int, cap: int) -> list[Single]:
        """Those that have to go if more than `cap` (0: any number) wait for a device: the oldest of the
        lowest priority first. They are still in the box."""
        box = self._boxes.get(index, ())
        if not cap or len(box) <= cap:
            return []
        by_worth = sorted(box, key=lambda single: (_RANK[single.priority], single.order))
        return by_worth[: len(box) - cap]

    def remove(self, push: Single) -> bool:
        """False if it was not there."""
        box = self._boxes.get(push.index)
        if box is None or push not in box:
            return False
        box.remove(push)
        self._size -= 1
        if not box:
            del self._boxes[push.index]
        return True
