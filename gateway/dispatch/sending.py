"""What to send now: the volatile half of a partition, which no log and no snapshot knows.

Delivery follows state, not events: a device that is online, has something pending and nothing under
way is always due to be sent to. A session coming up, a takeover, a link coming up, a refusal and a
timer are only reasons to look at a device; looking sends everything that is pending, in the order
of the log, a window at a time. It is done in turns (`look`), for all devices together that have come
to it by then; until its turn a device is sent nothing that could come before. Sending twice does no harm (ids), forgetting would.

Two things hold a pending push back: it is paused (nothing of it is sent), or it has a speed (each of
its devices waits for a permit, once). What is held back takes no room in a device's window.

Pure: time is an argument, seconds of any steady clock.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pyroaring import BitMap

from gateway.dispatch.backlog import Waiting, Windows, walk
from gateway.dispatch.campaign import Push, Single
from gateway.dispatch.holding import Held
from gateway.dispatch.partition import OFFLINE, Partition
from gateway.dispatch.sends import Overtaken, Pacing, Send, SendState
from gateway.dispatch.unreceipted import Missed, Unreceipted
from gateway.lanes import WEIGHTS

_BACKOFF_MAX: Final = 6
"""Doublings of the delay after refusals and missing receipts."""


class Sending:
    """Decides for one partition what goes to which edge."""

    def __init__(
        self, partition: Partition, pacing: Pacing, wake: Callable[[], None] = lambda: None
    ) -> None:
        """`wake` hears that there is something to `look` at."""
        self._partition = partition
        self._pacing = pacing
        self.linked: set[int] = set()
        """Edges that can be reached."""
        self._behind: dict[int, dict[int, int]] = {priority: {} for priority in WEIGHTS}
        """priority -> devices with more of it pending than a window: order of the last push sent to them"""
        self._unreceipted = Unreceipted(pacing.resend_s, pacing.resend_max_s)
        self._looks: list[tuple[float, int]] = []
        """(due, index) of devices that an edge refused"""
        self._refusals: dict[int, int] = {}
        """index -> refusals in a row"""
        self._look_at: dict[int, float] = {}
        """index -> due of its one look, however many messages were refused"""
        self._refused = BitMap()
        """The devices of `_look_at`."""
        self.waiting = Waiting(wake)
        """Devices to look at, or whose windows may have room."""
        self.overtaken = Overtaken()
        self.anew = {priority: BitMap() for priority in WEIGHTS}
        """priority -> devices that were looked at: the next message of the lane that goes out to them is a
        new beginning, for an edge, too"""
        self.held = Held(self._sendable)
        """Devices of pushes with a speed that no permit has let go."""
        self._untried: dict[int, BitMap] = {}
        """Pushes of ttl 0: devices that were kept from their one attempt by a pause."""

    # Reasons to look.

    def on_fresh(self, pushes: Iterable[Push]) -> list[Send]:
        """New pushes: to those who are online, not behind, and have refused nothing.

        With ttl 0 this is the one attempt, so no backlog comes before it: later is never.
        """
        sends: list[Send] = []
        for push in pushes:
            if push.speed:
                self.held.hold(push.push_id, push.pending())
            elif self._is_paused(push):
                self._keep_attempt(push, push.pending())
            elif isinstance(push, Single):
                edge = self._partition.edge_of(push.index)
                if edge in self.linked and not push.final and not self._must_wait(push):
                    sends.append(Send(edge, push, BitMap((push.index,))))
            else:
                waiting = BitMap()
                if push.ttl_s:
                    waiting = BitMap(self._behind[push.priority]) | self._undecided()
                sends += self._split(push, push.pending() - waiting)
        return sends

    def _must_wait(self, push: Single) -> bool:
        """Behind what is pending for its device already."""
        index, behind = push.index, self._behind[push.priority]
        if push.ttl_s == 0:
            return False
        if index in behind or index in self._look_at or index in self.waiting.anew:
            return True
        box = self._partition.inbox.of(index)
        if len(box) <= self._pacing.window:
            return False
        under_way = sum(
            other.priority == push.priority and other.ttl_s > 0 and self._may_go(other, index)
            for other in box
        )
        # Without a receipt for so long the device may be a slow one: the rest comes with its receipts.
        # What is paused is not counted: no receipt of it would ever bring the rest.
        if under_way > self._pacing.window:
            behind[index] = push.order - 1
        return index in behind

    def on_arrived(self, devices: BitMap) -> None:
        """New sessions, or a new link to them: what was refused before is of the past."""
        for index in devices.intersection(BitMap(self._refusals)):
            del self._refusals[index]
        for index in devices & self._refused:
            self._forget_look(index)
        # What was decided for an earlier session must not come first, and what needs no look begins anew.
        self.overtaken.overtake(devices)
        self._begin_anew(self._reachable(devices))
        self.waiting.look(devices)

    def on_live(self) -> None:
        """Whom an earlier owner has let go is not known: all that is pending waits for permits again."""
        for push in self._partition.campaigns.values():
            if push.speed:
                self.held.hold(push.push_id, push.pending())

    def on_resumed(self, pushes: Iterable[Push]) -> list[Send]:
        """Pushes that were paused go on: all their pending devices, but for those without permit."""
        sends: list[Send] = []
        again = BitMap()
        for push in pushes:
            due = push.pending() - self.held.of(push.push_id)
            if push.ttl_s == 0:
                due &= self._untried.pop(push.push_id, BitMap())
            else:
                # Their window has passed this push by.
                waiting = BitMap(self._behind[push.priority])
                again |= (due & waiting) - self._refused
                due -= waiting | self._undecided()
            sends += self._split(push, due)
        self.waiting.look(again)
        return sends

    def on_final(self, push_ids: Iterable[int]) -> None:
        """Pushes that nobody waits for any more."""
        for push_id in push_ids:
            self.held.drop(push_id)
            self._untried.pop(push_id, None)

    def on_handed_over(self, send: Send, now: float) -> None:
        """The edge has written it, or holds it: from now on a receipt is waited for."""
        if send.devices:
            self._unreceipted.watch(send.push.push_id, send.attempt, send.devices, now)

    def on_withdrawn(self, withdrawn: Iterable[Send]) -> None:
        """Sends that a pause has overtaken on their way; others may go in their place."""
        for send in withdrawn:
            push_id = send.push.push_id
            if send.push.speed:
                self.held.hold(push_id, send.devices)
            else:
                self._keep_attempt(send.push, send.devices)
            priority = send.push.priority
            self._go_on(send.devices, priority)

    def look(self) -> list[Send]:
        """A turn of those in `waiting`, some ms of work. What is decided for them replaces what was."""
        turn = self.waiting.next(self._partition)
        if turn is None:
            return []
        if turn.priority is None:
            sends = self._from_scratch(turn.devices)
        else:
            sends = self._next_windows(turn.devices, turn.priority)
        return _again(sends, turn.attempt)

    def on_receipted(self, devices: Iterable[int]) -> None:
        """Receipts came: those behind get more of their backlog."""
        lanes = [priority for priority, behind in self._behind.items() if behind]
        if self._refusals:
            for index in devices:
                self._refusals.pop(index, None)
        for priority in lanes:
            self._go_on(devices, priority)

    def on_link_up(self, edge: int) -> None:
        self.linked.add(edge)
        self.on_arrived(self._partition.online.get(edge, BitMap()).copy())

    def on_link_down(self, edge: int) -> None:
        self.linked.discard(edge)

    def on_refused(self, devices: Iterable[int], now: float) -> None:
        """An edge did not have them, or their output is full: look again a little later.

        Until then nothing is decided for them, and what was decided before is void.
        """
        refused = BitMap(devices) - self._refused
        self.overtaken.overtake(refused)
        # Those that are about to be looked at need no look of their own.
        refused -= self._undecided()
        for index in refused:
            count = self._refusals[index] = self._refusals.get(index, 0) + 1
            delay = self._pacing.not_there_s * 2 ** min(count - 1, _BACKOFF_MAX)
            due = self._look_at[index] = now + delay
            heapq.heappush(self._looks, (due, index))
        self._refused |= refused

    def _forget_look(self, index: int) -> None:
        self._refused.discard(index)
        del self._look_at[index]

    def on_timer(self, now: float, heard: float) -> list[Send]:
        """Everything that has become due.

        The log is folded as it was at `heard`: a receipt is not missing before it could be here. Else a service
        that is behind would send everything again, and be further behind.
        """
        again = BitMap()
        while self._looks and self._looks[0][0] <= now:
            due, index = heapq.heappop(self._looks)
            if self._look_at.get(index) == due:
                self._forget_look(index)
                again.add(index)
        for index in again - self._reachable(again):
            self._refusals.pop(index, None)  # gone for good; its next session is a fresh start
        self.waiting.look(again)
        sends: list[Send] = []
        stalled: dict[int, int] = {}
        for missed in self._unreceipted.missed(min(now, heard)):
            sends += self._resend(missed, stalled)
        for attempt in sorted(set(stalled.values())):
            devices = BitMap([index for index, tried in stalled.items() if tried == attempt])
            self.waiting.look(devices, attempt)
        return sends

    def next_timer(self) -> float | None:
        """When `on_timer` has something to do, or None."""
        times = [self._unreceipted.next_due(), self._looks[0][0] if self._looks else None]
        return min((due for due in times if due is not None), default=None)

    # Pushes with a speed.

    def wanted(self, now: float) -> dict[int, int]:
        """push id -> devices that wait for nothing but a permit (roughly, and up to 0.25 s late)."""
        if not self.held:
            return {}
        paused = self._partition.controls.paused
        return {i: count for i, count in self.held.wanted(now).items() if i not in paused}

    def release(self, push_id: int, count: int, now: float) -> list[Send]:
        """Permits for `count` devices of a push; those to whom it can be sent now are let go."""
        push = self._partition.campaigns.get(push_id)
        if push is None or self._is_paused(push):
            return []
        return self._split(push, self.held.take(push_id, count, now))

    # Questions.

    def is_open(self, push: Push) -> bool:
        """Is it pending for anybody? Cheap: asked at each send."""
        if isinstance(push, Single):
            return not push.final
        return push.push_id in self._partition.campaigns

    def state_of(self, push: Push, index: int, now: float) -> SendState:
        """One push at one device. Looks through all timers: for a question, not for each send."""
        attempt, sent_at = self._unreceipted.known_of(push.push_id, index)
        ago = None if sent_at is None else max(0.0, now - sent_at)
        return SendState(attempt, ago, self._why(push, index) if push.is_pending(index) else "")

    def _why(self, push: Push, index: int) -> str:
        edge = self._partition.edge_of(index)
        if self._is_paused(push):
            return "paused"
        if edge != OFFLINE and edge not in self.linked:
            return "no_link"
        if self.held.holds(push.push_id, index):
            return "paced"
        if index in self._look_at:
            return "refused"
        if push.ttl_s and push.order > self._behind[push.priority].get(index, push.order):
            return "behind"
        return ""

    # Parts of it.

    def _is_paused(self, push: Push) -> bool:
        return push.push_id in self._partition.controls.paused

    def _may_go(self, push: Push, index: int) -> bool:
        return not self._is_paused(push) and not self.held.holds(push.push_id, index)

    def _not_held_back(self, push: Push, devices: BitMap) -> BitMap:
        if self._is_paused(push):
            return BitMap()
        return devices - self.held.of(push.push_id) if push.speed else devices

    def _undecided(self) -> BitMap:
        """Devices that are looked at before anything else of the log's order goes out to them."""
        return self._refused | self.waiting.anew

    def _keep_attempt(self, push: Push, devices: BitMap) -> None:
        """Of a paused push; with ttl 0 it is not known otherwise who has had his one attempt."""
        if push.ttl_s == 0:
            self._untried[push.push_id] = self._untried.get(push.push_id, BitMap()) | devices

    def _caught_up(self, devices: Iterable[int], priority: int) -> None:
        """They are not behind any more: what else is pending for them may go."""
        behind = self._behind[priority]
        caught_up = [index for index in devices if behind.pop(index, None) is not None]
        if caught_up and self.held:
            self.held.look_again(BitMap(caught_up))

    def _sendable(self, push_id: int, devices: BitMap) -> BitMap:
        """Which of the held devices can be sent to now; those that are final are taken out of them.

        Not those that are behind or have refused: their turn comes when their window has moved on, or
        when they are looked at again.
        """
        push = self._partition.campaigns.get(push_id)
        if push is None:
            return BitMap()
        devices &= push.pending()
        ready = self._reachable(devices) - self._undecided()
        return ready - BitMap(self._behind[push.priority]) if push.ttl_s else ready

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

    def _begin_anew(self, devices: BitMap) -> None:
        for priority in WEIGHTS:
            self.anew[priority] |= devices

    def _from_scratch(self, devices: BitMap) -> list[Send]:
        """All that is pending for those who can be reached, a window of each lane."""
        for priority in WEIGHTS:
            self._caught_up(devices, priority)
        self.held.look_again(devices)
        due = self._reachable(devices)
        self.overtaken.overtake(due)
        self._begin_anew(due)
        window = self._pacing.window
        return self._walk(due, {priority: Windows(due, {}, window) for priority in WEIGHTS})

    def _go_on(self, devices: Iterable[int], priority: int) -> None:
        """There may be room in the windows of those of them that are behind."""
        behind = self._behind[priority]
        if behind:
            self.waiting.go_on(BitMap([i for i in devices if i in behind]), priority)

    def _next_windows(self, devices: BitMap, priority: int) -> list[Send]:
        """More of their backlog in a lane, so that at most a window of it is without receipt."""
        here = self._reachable(devices)
        self._caught_up(devices - here, priority)
        here -= self._undecided()  # their look begins from scratch
        behind = self._behind[priority]
        sent_to = {index: behind[index] for index in here if index in behind}
        due = BitMap(sent_to)
        return self._walk(due, {priority: Windows(due, sent_to, self._pacing.window)})

    def _walk(self, devices: BitMap, lanes: Mapping[int, Windows]) -> list[Send]:
        if not devices:
            return []
        sends: list[Send] = []
        for push, goes in walk(self._partition, devices, lanes, self._not_held_back):
            sends += self._split(push, goes)
        for priority, lane in lanes.items():
            behind = self._behind[priority]
            for index in lane.behind:
                if index in lane.last:  # else it is where it was
                    behind[index] = lane.last[index]
            self._caught_up(lane.open, priority)
        return sends

    def _resend(self, missed: Missed, stalled: dict[int, int]) -> list[Send]:
        """`stalled` collects devices behind whose window has not moved: index -> attempt."""
        devices = missed.devices
        push = self._partition.pushes.get(missed.push_id)
        devices -= self._undecided()  # that look sends it again
        behind = BitMap()
        for priority in WEIGHTS if push is None else (push.priority,):
            behind = devices & BitMap(self._behind[priority])
            for index in behind:
                if push is not None and push.ttl_s and push.is_pending(index):
                    stalled[index] = max(stalled.get(index, 0), missed.attempt + 1)
                else:
                    # Received, or expired: perhaps the whole window is, and no receipt moves it on.
                    self._go_on((index,), priority)
        if push is None or push.ttl_s == 0 or push.final or self._is_paused(push):
            return []
        due = (devices & push.pending()) - self.held.of(push.push_id)
        return _again(self._split(push, due - behind), missed.attempt + 1)


def _again(sends: list[Send], attempt: int) -> list[Send]:
    return [send._replace(attempt=attempt) for send in sends] if attempt else sends
