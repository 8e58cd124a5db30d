"""What to send now: the volatile half of a partition, which no log and no snapshot knows.

Delivery follows state, not events: a device that is online, has something pending and nothing under
way is always due to be sent to. A session coming up, a takeover, a link coming up, a refusal and a
timer are only reasons to look at a device; looking sends everything that is pending, in the order
of the log, a window at a time. Sending twice does no harm (ids), forgetting would.

Pure: time is an argument, seconds of any steady clock.
"""

import heapq
from collections.abc import Iterable
from typing import Final, NamedTuple

from pyroaring import BitMap

from gateway.dispatch.campaign import Push, Single
from gateway.dispatch.partition import OFFLINE, Partition

_MERGE_S: Final = 1.0
"""Sends of a push within this time share one timer."""
_BACKOFF_MAX: Final = 6
"""Doublings of the delay after refusals and missing receipts."""


class Send(NamedTuple):
    """One push to some devices of one edge; a sequence of them keeps the order of each device."""

    edge: int
    push: Push
    devices: BitMap


class Pacing(NamedTuple):
    """Times of resending, seconds, and the window of a backlog."""

    resend_s: float
    resend_max_s: float
    not_there_s: float
    window: int


class _Timer(NamedTuple):
    due: float
    push_id: int
    attempt: int


class Sending:
    """Decides for one partition what goes to which edge."""

    def __init__(self, partition: Partition, pacing: Pacing) -> None:
        self._partition = partition
        self._pacing = pacing
        self.linked: set[int] = set()
        """Edges that can be reached."""
        self._behind: dict[int, int] = {}
        """Devices with more pending than a window: order of the last push sent to them."""
        self._timers: list[_Timer] = []
        self._underway: dict[_Timer, BitMap] = {}
        """Devices to look at again when the timer fires and no receipt has come."""
        self._last_timer: dict[tuple[int, int], _Timer] = {}
        self._looks: list[tuple[float, int]] = []
        """(due, index) of devices that an edge refused"""
        self._refusals: dict[int, int] = {}
        """index -> refusals in a row"""
        self._look_at: dict[int, float] = {}
        """index -> due of its one look, however many messages were refused"""

    # Reasons to look.

    def on_fresh(self, pushes: Iterable[Push], now: float) -> list[Send]:
        """New pushes: to those who are online and not behind.

        With ttl 0 this is the one attempt, so no backlog comes before it: later is never.
        """
        sends: list[Send] = []
        for push in pushes:
            if isinstance(push, Single):
                index = push.index
                edge = self._partition.edge_of(index)
                waits = push.ttl_s > 0 and index in self._behind
                if edge in self.linked and not waits and not push.final:
                    sends.append(Send(edge, push, BitMap((index,))))
            else:
                waiting = BitMap(self._behind if push.ttl_s else ())
                sends += self._split(push, push.pending() - waiting)
        self._note(sends, 0, now)
        return sends

    def on_arrived(self, devices: BitMap, now: float) -> list[Send]:
        """New sessions, or a new link to them: what was refused before is of the past."""
        for index in devices.intersection(BitMap(self._refusals)):
            del self._refusals[index]
            self._look_at.pop(index, None)
        return self._look(devices, now)

    def _look(self, devices: BitMap, now: float, attempt: int = 0) -> list[Send]:
        """Send all that is pending, from scratch, to those who can be reached."""
        for index in devices.intersection(BitMap(self._behind)):
            del self._behind[index]
        due = self._reachable(devices)
        if not due:
            return []
        sends = self._backlog(due)
        self._note(sends, attempt, now)
        return sends

    def on_receipted(self, devices: Iterable[int], now: float) -> list[Send]:
        """Receipts came: those behind get more of their backlog."""
        if not self._refusals and not self._behind:
            return []
        sends: list[Send] = []
        for index in devices:
            self._refusals.pop(index, None)
            if index in self._behind:
                sends += self._next_window(index)
        self._note(sends, 0, now)
        return sends

    def on_link_up(self, edge: int, now: float) -> list[Send]:
        self.linked.add(edge)
        return self.on_arrived(self._partition.online.get(edge, BitMap()).copy(), now)

    def on_link_down(self, edge: int) -> None:
        self.linked.discard(edge)

    def on_refused(self, devices: Iterable[int], now: float) -> None:
        """An edge did not have them, or their output is full: look again a little later."""
        for index in devices:
            if index in self._look_at:
                continue
            count = self._refusals[index] = self._refusals.get(index, 0) + 1
            delay = self._pacing.not_there_s * 2 ** min(count - 1, _BACKOFF_MAX)
            due = self._look_at[index] = now + delay
            heapq.heappush(self._looks, (due, index))

    def on_slow(self, devices: Iterable[int], push: Push, now: float) -> None:
        """Their output was full for this push: from here on they get what their receipts make room for."""
        if push.ttl_s:
            for index in devices:
                sent_to = push.order - 1
                self._behind[index] = min(self._behind.get(index, sent_to), sent_to)
        self.on_refused(devices, now)

    def on_timer(self, now: float) -> list[Send]:
        """Everything that has become due."""
        again = BitMap()
        while self._looks and self._looks[0][0] <= now:
            due, index = heapq.heappop(self._looks)
            if self._look_at.get(index) == due:
                del self._look_at[index]
                again.add(index)
        sends = self._look(again, now) if again else []
        for index in again - self._reachable(again):
            self._refusals.pop(index, None)  # gone for good; its next session is a fresh start
        stalled: dict[int, int] = {}
        while self._timers and self._timers[0].due <= now:
            sends += self._resend(heapq.heappop(self._timers), now, stalled)
        for attempt in sorted(set(stalled.values())):
            devices = BitMap([index for index, tried in stalled.items() if tried == attempt])
            sends += self._look(devices - again, now, attempt)
        return sends

    def next_timer(self) -> float | None:
        """When `on_timer` has something to do, or None."""
        times = [self._timers[0].due] if self._timers else []
        if self._looks:
            times.append(self._looks[0][0])
        return min(times, default=None)

    # Parts of it.

    def _reachable(self, devices: BitMap) -> BitMap:
        online = self._partition.online
        here = (online[edge] for edge in self.linked if edge in online)
        return devices & BitMap.union(BitMap(), *here)

    def _split(self, push: Push, devices: BitMap) -> list[Send]:
        """By edge, for those that are online at a linked edge."""
        if not devices:
            return []
        sends = []
        for edge in self.linked:
            here = self._partition.online.get(edge)
            hit = devices & here if here else None
            if hit:
                sends.append(Send(edge, push, hit))
        return sends

    def _backlog(self, due: BitMap) -> list[Send]:
        """All that is pending for these reachable devices, a window each, in the order of the log.

        Without pushes of ttl 0: those have one attempt, within the session that they found.
        """
        partition = self._partition
        boxes = [partition.inbox[i] for i in due if i in partition.inbox]
        longest = max(map(len, boxes), default=0) + len(partition.campaigns)
        if longest > self._pacing.window:
            return [send for index in due for send in self._next_window(index, anew=True)]
        pushes: list[Push] = [single for box in boxes for single in box]
        pushes += partition.campaigns.values()
        pushes = sorted((p for p in pushes if p.ttl_s), key=lambda push: push.order)
        sends: list[Send] = []
        for push in pushes:
            if isinstance(push, Single):
                edge = partition.edge_of(push.index)
                sends.append(Send(edge, push, BitMap((push.index,))))
            else:
                sends += self._split(push, push.pending() & due)
        return sends

    def _next_window(self, index: int, *, anew: bool = False) -> list[Send]:
        """More of a device's backlog, so that at most a window of it is without receipt."""
        edge = self._partition.edge_of(index)
        if edge == OFFLINE or edge not in self.linked:
            self._behind.pop(index, None)
            return []
        sent_to = -1 if anew else self._behind[index]
        pending = [push for push in self._partition.pending_of(index) if push.ttl_s]
        unsent = [push for push in pending if push.order > sent_to]
        room = self._pacing.window - (len(pending) - len(unsent))
        if unsent and room < self._pacing.window // 2:
            return []
        batch = unsent[: max(0, room)]
        if len(batch) < len(unsent):
            self._behind[index] = batch[-1].order if batch else sent_to
        else:
            self._behind.pop(index, None)
        return [Send(edge, push, BitMap((index,))) for push in batch]

    def _note(self, sends: Iterable[Send], attempt: int, now: float) -> None:
        """Start the timers that bring unreceipted sends back."""
        delay = min(self._pacing.resend_s * 2 ** min(attempt, 16), self._pacing.resend_max_s)
        for send in sends:
            key = (send.push.push_id, attempt)
            timer = self._last_timer.get(key)
            if timer is None or timer.due < now + delay - _MERGE_S or timer not in self._underway:
                timer = _Timer(now + delay, send.push.push_id, attempt)
                self._last_timer[key] = timer
                if timer not in self._underway:
                    heapq.heappush(self._timers, timer)
                    self._underway[timer] = BitMap()
            self._underway[timer] |= send.devices

    def _resend(self, timer: _Timer, now: float, stalled: dict[int, int]) -> list[Send]:
        """`stalled` collects devices behind whose window has not moved: index -> attempt."""
        devices = self._underway.pop(timer)
        key = (timer.push_id, timer.attempt)
        if self._last_timer.get(key) == timer:
            del self._last_timer[key]
        push = self._partition.pushes.get(timer.push_id)
        devices -= BitMap(self._look_at)  # refused: that look sends it again
        behind = devices & BitMap(self._behind)
        sends: list[Send] = []
        for index in behind:
            if push is not None and push.ttl_s and push.is_pending(index):
                stalled[index] = max(stalled.get(index, 0), timer.attempt + 1)
            else:
                # Received, or expired: perhaps the whole window is, and no receipt moves it on.
                sends += self._next_window(index)
        self._note(sends, 0, now)
        if push is None or push.ttl_s == 0 or push.final:
            return sends
        resent = self._split(push, (devices & push.pending()) - behind)
        self._note(resent, timer.attempt + 1, now)
        return sends + resent
