"""The state of one push in one partition: who is targeted, and what became of each.

`Campaign` keeps bitmaps of device indexes, `Single` one device's marks in a few ints: the same
interface, since a push to one device is by far the most frequent and must cost little.

The law of conservation: every targeted device is in exactly one of the states, by precedence
(`PRECEDENCE`), else pending; a higher one that arrives late moves it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pyroaring import BitMap

from gateway.lanes import NORMAL
from protocol.schema import device_pb2

RECEIVED: Final = device_pb2.RECEIVED
DISPLAYED: Final = device_pb2.DISPLAYED
CLICKED: Final = device_pb2.CLICKED
DISMISSED: Final = device_pb2.DISMISSED
FAILED: Final = device_pb2.FAILED
EXPIRED: Final = 16
"""Marks below 16 are receipt states; the service's own begin here."""
STOPPED: Final = 17
RECALLED: Final = 18
REPLACED: Final = 19
OVERFLOWED: Final = 20
PERSONAL: Final = 24
"""No state, and counted nowhere: meant only because of whose the device was."""

PRECEDENCE: Final = (
    (RECEIVED, "received"),
    (FAILED, "failed"),
    (RECALLED, "recalled"),
    (REPLACED, "replaced"),
    (OVERFLOWED, "overflowed"),
    (STOPPED, "stopped"),
    (EXPIRED, "expired"),
)
"""States of the law that can occur but for `pending`, the strongest first."""
_SETTLED: Final = sum(1 << mark for mark, _ in PRECEDENCE)
"""Bits of the marks that say: not pending any more."""
EFFECTS: Final = ((DISPLAYED, "displayed"), (CLICKED, "clicked"), (DISMISSED, "dismissed"))
"""What is counted beside the law."""
_IMPLY_RECEIVED: Final = frozenset({DISPLAYED, CLICKED, DISMISSED})
_NOBODY: Final = BitMap()


class Single:
    """A push to one device of this partition."""

    __slots__ = (
        "accepted_ms", "app", "collapse_key", "index", "marks", "order", "priority", "push_id",
        "ttl_s",
    )  # fmt: skip

    home = 0
    in_record = False
    speed = 0

    def __init__(
        self, push_id: int, app: int, ttl_s: int, accepted_ms: int, order: int, index: int
    ) -> None:
        self.push_id = push_id
        self.app = app
        self.ttl_s = ttl_s
        self.accepted_ms = accepted_ms
        self.order = order
        """Position among the partition's pushes, in the order of the log."""
        self.index = index
        self.marks = 0
        """Bit n: mark n."""
        self.priority = NORMAL
        self.collapse_key = ""

    def receipts(self, state: int, indexes: Iterable[int]) -> bool:
        """Fold receipts; True if something changed. Those of devices not targeted are ignored."""
        if self.index not in indexes:
            return False
        before = self.marks
        self.marks |= 1 << state
        if state in _IMPLY_RECEIVED:
            self.marks |= 1 << RECEIVED
        return self.marks != before

    def expire(self) -> None:
        self._end(EXPIRED)

    def stop(self) -> None:
        self._end(STOPPED)

    def overflow(self) -> None:
        """There was no room for it among what waits for the device."""
        self._end(OVERFLOWED)

    def replace(self, devices: BitMap) -> bool:
        """A newer push is there for these devices; True if that changed something."""
        if self.final or self.index not in devices:
            return False
        self._end(REPLACED)
        return True

    def recall(self) -> None:
        # Received is the stronger one; the mark stays for a receipt that comes later.
        self.marks |= 1 << RECALLED

    @property
    def recalled(self) -> bool:
        return bool(self.marks >> RECALLED & 1)

    def has_it(self) -> BitMap:
        """Devices that have stored it."""
        return BitMap((self.index,)) if self.marks >> RECEIVED & 1 else BitMap()

    def meant(self) -> BitMap:
        return BitMap((self.index,))

    def take_back(self, devices: BitMap) -> bool:
        """Stop it for those it meant as somebody's, who is not theirs any more; True if that changed
        something."""
        if not self.marks >> PERSONAL & 1 or self.index not in devices or self.final:
            return False
        self.stop()
        return True

    def _end(self, mark: int) -> None:
        if self.is_pending(self.index):
            self.marks |= 1 << mark

    def is_pending(self, index: int) -> bool:
        return index == self.index and not self.marks & _SETTLED

    def pending(self) -> BitMap:
        return BitMap((self.index,)) if self.is_pending(self.index) else BitMap()

    @property
    def final(self) -> bool:
        return bool(self.marks & _SETTLED)

    def counts(self) -> Iterator[tuple[str, int]]:
        """(state, devices) of the law and the effects, and `targeted`; campaigns also `held_out`."""
        yield "targeted", 1
        rest = 1
        for mark, name in PRECEDENCE:
            here = rest and self.marks >> mark & 1
            rest -= here
            yield name, here
        yield "pending", rest
        for mark, name in EFFECTS:
            yield name, self.marks >> mark & 1


class Campaign:
    """A push to several devices of this partition, as bitmaps."""

    __slots__ = (
        "accepted_ms", "app", "collapse_key", "held_out", "home", "in_record", "marks", "order",
        "priority", "push_id", "speed", "targeted", "ttl_s",
    )  # fmt: skip

    def __init__(
        self, push_id: int, app: int, ttl_s: int, accepted_ms: int, order: int, targeted: BitMap
    ) -> None:
        self.push_id = push_id
        self.app = app
        self.ttl_s = ttl_s
        self.accepted_ms = accepted_ms
        self.order = order
        self.targeted = targeted
        self.marks: dict[int, BitMap] = {}
        self.held_out = BitMap()
        """Meant by the audience and deliberately not sent to; not targeted."""
        self.home = 0
        """Partition that keeps the push record, with `in_record`."""
        self.in_record = False
        self.speed = 0
        """Devices a second, over all partitions; 0: as fast as it goes."""
        self.priority = NORMAL
        self.collapse_key = ""

    def receipts(self, state: int, indexes: Iterable[int]) -> bool:
        """Fold receipts; True if something changed. Those of devices not targeted are ignored."""
        devices = BitMap(indexes) & self.targeted
        changed = self._mark(state, devices)
        if state in _IMPLY_RECEIVED:
            changed |= self._mark(RECEIVED, devices)
        return changed

    def expire(self) -> None:
        self._mark(EXPIRED, self.pending())

    def stop(self) -> None:
        self._mark(STOPPED, self.pending())

    def replace(self, devices: BitMap) -> bool:
        """A newer push is there for these devices; True if that changed something."""
        return self._mark(REPLACED, self.pending() & devices)

    def recall(self) -> None:
        self._mark(RECALLED, self.pending())

    @property
    def recalled(self) -> bool:
        return RECALLED in self.marks

    def has_it(self) -> BitMap:
        """Devices that have stored it. May be the state itself: only to be read."""
        return self.marks.get(RECEIVED) or BitMap()

    def meant(self) -> BitMap:
        """Whom it is for. The state itself: only to be read."""
        return self.targeted

    def take_back(self, devices: BitMap) -> bool:
        """Stop it for those it meant as somebody's, who is not theirs any more; True if that changed
        something."""
        personal = self.marks.get(PERSONAL)
        if not personal or not personal.intersect(devices):
            return False
        return self._mark(STOPPED, personal & devices & self.pending())

    def is_pending(self, index: int) -> bool:
        return index in self.targeted and not any(
            index in self.marks[mark] for mark, _ in PRECEDENCE if mark in self.marks
        )

    def pending(self) -> BitMap:
        left = self.targeted.copy()
        for mark, _ in PRECEDENCE:
            if mark in self.marks:
                left -= self.marks[mark]
        return left

    def pending_among(self, devices: BitMap) -> BitMap:
        """Costs what they are, where few devices are asked for: thousands of campaigns are asked at each
        arrival, and mostly the answer is nobody. Only to be read."""
        received = self.marks.get(RECEIVED, _NOBODY)
        if devices <= received or not self.targeted.intersect(devices):
            return _NOBODY
        left = self.targeted & devices
        for mark, marked in self.marks.items():
            if 1 << mark & _SETTLED:
                left -= marked
        return left

    @property
    def final(self) -> bool:
        # Asked with each receipt: mostly the counts tell, without a bitmap of those who are left.
        marked = sum(len(self.marks[mark]) for mark, _ in PRECEDENCE if mark in self.marks)
        return marked >= len(self.targeted) and not self.pending()

    def counts(self) -> Iterator[tuple[str, int]]:
        """(state, devices) of the law and the effects, and `targeted`; campaigns also `held_out`."""
        yield "targeted", len(self.targeted)
        settled = BitMap()
        for mark, name in PRECEDENCE:
            before = len(settled)
            settled |= self.marks.get(mark, BitMap())
            yield name, len(settled) - before
        yield "pending", len(self.targeted) - len(settled)
        for mark, name in EFFECTS:
            yield name, len(self.marks.get(mark, ()))
        yield "held_out", len(self.held_out)

    def _mark(self, mark: int, devices: BitMap) -> bool:
        marked = self.marks.get(mark)
        if marked is None:
            marked = self.marks[mark] = BitMap()
        before = len(marked)
        marked |= devices
        return len(marked) != before


class Tally:
    """What stays of a finished campaign after its retention: the counts, no devices."""

    __slots__ = ("_counts", "accepted_ms", "app", "collapse_key", "order", "push_id", "ttl_s")

    home = 0
    in_record = False
    speed = 0
    priority = NORMAL
    recalled = False
    final = True

    def __init__(self, campaign: Campaign, counts: Mapping[str, int] | None = None) -> None:
        self.push_id = campaign.push_id
        self.app = campaign.app
        self.ttl_s = campaign.ttl_s
        self.accepted_ms = campaign.accepted_ms
        self.order = campaign.order
        self.collapse_key = campaign.collapse_key
        self._counts = dict(campaign.counts() if counts is None else counts)

    def receipts(self, state: int, indexes: Iterable[int]) -> bool:
        """Too late: whose receipt it is can no longer be told."""
        return False

    def expire(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def recall(self) -> None:
        pass

    def has_it(self) -> BitMap:
        return BitMap()

    def meant(self) -> BitMap:
        """It is no longer known whom."""
        return BitMap()

    def is_pending(self, index: int) -> bool:
        return False

    def pending(self) -> BitMap:
        return BitMap()

    def counts(self) -> Iterator[tuple[str, int]]:
        yield from self._counts.items()


Push = Single | Campaign | Tally
