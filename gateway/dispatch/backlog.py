"""What comes next to devices of what is pending for them: a window of each lane, for many devices at once.

One walk over what is open in a partition costs little more for a thousand devices than for one, since
a campaign is a bitmap. So devices wait here until it is their turn, and those that wait for the same
have it together. Pure.
"""

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Final, NamedTuple

from pyroaring import BitMap

from gateway.dispatch.campaign import Campaign, Push, Single
from gateway.dispatch.partition import Partition

_TURN: Final = 500
"""Devices of a turn, and singles that wait for them: some ms of work beside the walk."""


class Turn(NamedTuple):
    """Devices whose backlog is planned together."""

    devices: BitMap
    priority: int | None
    """The lane that goes on; None: all lanes, from scratch."""
    attempt: int


_Kind = tuple[int | None, int]
"""(priority, attempt), as of a turn"""


class Waiting:
    """Devices that wait for their turn, each kind after the others. `wake` hears that there is one.

    Who comes while a kind has its turns waits until those before have had theirs.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._coming: dict[_Kind, BitMap] = {}
        self._begun: dict[_Kind, BitMap] = {}
        """In the order of the turns."""
        self.anew = BitMap()
        """Those for which everything is decided anew. Only to be read."""

    def __bool__(self) -> bool:
        return bool(self._coming or self._begun)

    def look(self, devices: BitMap, attempt: int = 0) -> None:
        """They are looked at, from scratch; a new beginning (attempt 0) takes the place of others."""
        if attempt:
            devices = devices - self.anew
        else:
            for kinds in (self._coming, self._begun):
                for priority, tried in kinds:
                    if priority is None and tried:
                        kinds[priority, tried] -= devices
        self.anew |= devices
        self._add((None, attempt), devices)

    def go_on(self, devices: BitMap, priority: int) -> None:
        """There may be room in their windows."""
        self._add((priority, 0), devices)

    def _add(self, kind: _Kind, devices: BitMap) -> None:
        devices = devices - self._begun.get(kind, BitMap())
        if not devices:
            return
        if not self:
            self._wake()
        self._coming[kind] = self._coming.get(kind, BitMap()) | devices

    def next(self, partition: Partition) -> Turn | None:
        """A turn of those that have waited longest, or None."""
        while self:
            for kind in [kind for kind in self._coming if kind not in self._begun]:
                self._begun[kind] = self._coming.pop(kind)
            kind = next(iter(self._begun))
            devices = self._begun.pop(kind)
            turn = _together(devices, partition)
            if len(turn) < len(devices):
                self._begun[kind] = devices - turn
            if kind[0] is None:
                self.anew -= turn
            if turn:
                return Turn(turn, *kind)
        return None


def _together(devices: BitMap, partition: Partition) -> BitMap:
    """Some of them, of one edge: each edge more is one send more of each push."""
    if not devices:
        return devices
    here = partition.online.get(partition.edge_of(devices.min()))
    if here is None:
        here = devices - BitMap.union(BitMap(), *partition.online.values())
    together = devices & here or devices[:1]
    cost = 0
    for n, index in enumerate(together):
        cost += 1 + len(partition.inbox.of(index))
        if cost >= _TURN:
            return together[: n + 1]
    return together


class Windows:
    """Of one lane, for some devices: how full they are, while what is pending is met in the log's order.

    What was sent before and has no receipt takes room in a window, and so does what goes now.
    """

    def __init__(self, devices: BitMap, sent_to: Mapping[int, int], size: int) -> None:
        """`sent_to`: index -> order of the last push that was sent; nothing was to those not in it."""
        self.open = devices.copy()
        """Devices for which the next push is asked."""
        self.behind = BitMap()
        """Those for which more is pending than goes now."""
        self.last: dict[int, int] = {}
        """index -> order of the push that has filled its window"""
        self._size = size
        self._before = sorted(((sent_to[i], i) for i in devices if i in sent_to), reverse=True)
        self._sent = BitMap([i for _, i in self._before])
        """Devices of which the walk has yet to pass what was sent to them."""
        self._full = BitMap()
        # A binary number for each device, a bitmap for each of its digits: to count for a set of them is
        # a few operations, however many they are. It begins so that it overflows with a full window.
        digits = size.bit_length()
        self._start = (1 << digits) - size
        self._digits = [devices.copy() if self._start >> n & 1 else BitMap() for n in range(digits)]

    def meet(self, order: int, devices: BitMap) -> BitMap:
        """The next push, pending for these of the open devices; returns to whom of them it goes."""
        while self._before and self._before[-1][0] < order:
            self._pass(self._before.pop()[1])
        goes = devices
        if self._sent:
            self._full |= self._count((devices & self._sent) - self._full)
            goes = devices - self._sent
        more = goes & self._full
        if more:
            self.behind |= more
            self.open -= more
            goes = goes - more
        filled = self._count(goes)
        if filled:
            self._full |= filled
            self.last.update(dict.fromkeys(filled, order))
        return goes

    def _pass(self, index: int) -> None:
        """Everything that was sent to a device has been met."""
        self._sent.discard(index)
        used = sum(1 << n for n, digit in enumerate(self._digits) if index in digit) - self._start
        if self._size - used < self._size // 2:
            self._full.add(index)  # a little room is not worth a deliver

    def _count(self, devices: BitMap) -> BitMap:
        """One more for each; returns those whose windows are full now."""
        carry = devices
        for n, digit in enumerate(self._digits):
            if not carry:
                break
            self._digits[n], carry = digit ^ carry, digit & carry
        return carry


def walk(
    partition: Partition,
    devices: BitMap,
    lanes: Mapping[int, Windows],
    may_go: Callable[[Push, BitMap], BitMap],
) -> Iterator[tuple[Push, BitMap]]:
    """(push, to whom it goes), in the order of the log, without pushes of ttl 0: those have one attempt,
    within the session that they found. `may_go`: for which of its devices a push is not held back."""
    boxes = map(partition.inbox.of, devices)
    pushes: list[Single | Campaign] = [single for box in boxes for single in box]
    pushes += partition.campaigns.values()
    pushes.sort(key=attrgetter("order"))
    for push in pushes:
        lane = lanes.get(push.priority)
        if lane is None or not lane.open or not push.ttl_s:
            continue
        if isinstance(push, Single):
            pending = BitMap((push.index,)) if push.index in lane.open else None
        else:
            pending = push.pending_among(lane.open)
        if pending and (due := may_go(push, pending)) and (goes := lane.meet(push.order, due)):
            yield push, goes
