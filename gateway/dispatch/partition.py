"""A partition's state, and the fold of its log into it.

Pure and deterministic: `fold` uses the state and the record, nothing else. Time is the record's own
(the ms of its stream id); timers and expiry enter as records. So a replay, on another node or by a
later build, gives the same state. Folding is idempotent: sets, epochs, change numbers, push ids.
"""

from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from pyroaring import BitMap

from gateway.dispatch.accounts import Accounts
from gateway.dispatch.audiences import DAY_MS, Meant, select
from gateway.dispatch.campaign import PERSONAL, Campaign, Push, Single, Tally
from gateway.dispatch.changes import SINGLES_BLOCK, Changes
from gateway.dispatch.collapsing import Collapsing
from gateway.dispatch.controls import Controls
from gateway.dispatch.effects import Effects
from gateway.dispatch.inbox import Inbox
from gateway.dispatch.sampling import sample
from gateway.dispatch.tags import Tags
from protocol.schema import log_pb2

OFFLINE: Final = 0
MOST_DAYS: Final = 31
"""So far back an audience may ask who was active, or new (today included)."""
_ROW_BYTES: Final = 220
"""A finished single and its dict entry, measured; for the byte cap."""


class Partition:
    """All that is known of one slice of the devices."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.position = "0-0"
        """Log position that this state stands for."""
        self.records = 0
        """Folded since this object was made."""
        self.order = 0
        """Pushes folded so far: the next one's place."""
        self.apps: dict[int, BitMap] = {}
        self.location = array("H")
        """index -> edge number, 0 = offline"""
        self.online: dict[int, BitMap] = {}
        """edge -> device indexes"""
        self.seen: dict[int, BitMap] = {}
        """day (since the Unix epoch, UTC) -> devices that had a session begin or end in it"""
        self.born: dict[int, BitMap] = {}
        """day -> devices registered in it"""
        self.pushes: dict[int, Push] = {}
        self.campaigns: dict[int, Campaign] = {}
        """Those with pending devices, in the order of the log."""
        self.inbox = Inbox()
        """Pending singles."""
        self.changes = Changes()
        """Told before anything below it, or in this object, changes."""
        self.collapsing = Collapsing(self.pushes, self.changes)
        self.tags = Tags(self.changes)
        self.accounts = Accounts(self.changes)
        self.controls = Controls()
        self._campaign_bytes = 0
        self._singles: dict[int, list[int]] = {}
        """block -> push ids of singles"""
        self._others: set[int] = set()
        """Push ids of campaigns and tallies."""

    # Questions.

    def edge_of(self, index: int) -> int:
        return self.location[index] if index < len(self.location) else OFFLINE

    def devices_of(self, app: int) -> BitMap:
        """All devices of an app. The state itself: only to be read."""
        return self.apps.get(app, BitMap())

    def app_of(self, index: int) -> int:
        """App number of a device, 0 if there is no such device."""
        for app, devices in self.apps.items():
            if index in devices:
                return app
        return 0

    def pending_of(self, index: int) -> list[Push]:
        """A device's pending pushes, in the order of the log."""
        pending: list[Push] = list(self.inbox.of(index))
        pending += [c for c in self.campaigns.values() if c.is_pending(index)]
        pending.sort(key=lambda push: push.order)
        return pending

    def singles_of(self, block: int) -> list[Single]:
        found = (self.pushes.get(push_id) for push_id in self._singles.get(block, ()))
        return [push for push in found if isinstance(push, Single)]

    def pieces_of_pushes(self) -> set[str]:
        """Names of the pieces that hold pushes."""
        singles = {f"singles/{block}" for block in self._singles}
        return singles | {f"campaigns/{push_id}" for push_id in self._others}

    def singles(self) -> Iterator[Single]:
        """All of them; nothing may be folded meanwhile."""
        return (push for push in self.pushes.values() if isinstance(push, Single))

    def others(self) -> list[Push]:
        """Campaigns and tallies: few, where singles are many."""
        return [self.pushes[push_id] for push_id in self._others]

    def estimated_bytes(self) -> int:
        """Memory of rows of pushes, estimated; asked every second, so it is kept, not summed up."""
        return len(self.pushes) * _ROW_BYTES + self._campaign_bytes

    # The fold.

    def fold(self, position: str, record: bytes) -> Effects:
        """Fold one record of the log. Records must come in log order, repetitions do no harm."""
        effects = Effects()
        ms = int(position.partition("-")[0])
        message = log_pb2.Record.FromString(record)
        if message.HasField("sessions"):
            self._fold_sessions(message.sessions, ms // DAY_MS, effects)
        for receipts in message.receipts:
            self._fold_receipts(receipts, effects)
        for profile in message.profiles:
            app = self.app_of(profile.index)
            if app:
                self.tags.fold_profile(app, profile)
        for tagging in message.taggings:
            self.tags.fold_tagging(tagging, self.devices_of(tagging.app))
        for change in message.accounts:
            self.accounts.fold_change(change)
        for holder in message.holders:
            left = self.accounts.fold_holder(holder, self.devices_of(holder.app))
            self._take_back(left, effects)
        for push in message.pushes:
            self._fold_push(push, ms, effects)
        for down in message.edges_down:
            self._fold_edge_down(down, effects)
        if message.HasField("due"):
            self._fold_due(message.due, effects)
        for control in message.controls:
            self._fold_control(control, ms, effects)
        self.position = position
        self.records += 1
        return effects

    def _fold_sessions(self, sessions: log_pb2.Sessions, day: int, effects: Effects) -> None:
        edge = sessions.edge
        location = self.location
        here = self._online_at(edge)
        for index, app, epoch in zip(sessions.up, sessions.app, sessions.epoch, strict=True):
            if self._add_device(index, app):
                self._note_day(self.born, "born", day).add(index)
            before = location[index]
            if before != edge:
                if before != OFFLINE:
                    self._go_offline(index, before)
                    effects.replaced.append((before, index, epoch))
                location[index] = edge
                here.add(index)
        effects.arrived.update(sessions.up)
        seen = self._note_day(self.seen, "seen", day)
        seen.update(sessions.up)
        seen.update(sessions.down)
        for index in sessions.down:
            if index < len(location) and location[index] == edge:
                location[index] = OFFLINE
                here.discard(index)
        # A session that came and went within this record has not arrived.
        if sessions.down:
            effects.arrived &= here

    def _note_day(self, days: dict[int, BitMap], name: str, day: int) -> BitMap:
        """The bitmap of a day, to be changed; days that no audience can ask for any more go."""
        self.changes.touch(f"{name}/{day}")
        found = days.get(day)
        if found is None:
            found = days[day] = BitMap()
            for old in [d for d in days if d <= day - MOST_DAYS]:
                self.changes.touch(f"{name}/{old}")
                del days[old]
        return found

    def _online_at(self, edge: int) -> BitMap:
        """The bitmap of an edge, to be changed."""
        self.changes.touch(f"online/{edge}")
        here = self.online.get(edge)
        if here is None:
            here = self.online[edge] = BitMap()
        return here

    def _go_offline(self, index: int, edge: int) -> None:
        self._online_at(edge).discard(index)

    def _add_device(self, index: int, app: int) -> bool:
        """True if it is new."""
        self.reserve(index)
        devices = self.apps.get(app)
        if devices is None:
            devices = self.apps[app] = BitMap()
        if index in devices:
            return False
        self.changes.touch(f"apps/{app}")
        devices.add(index)
        return True

    def _fold_receipts(self, receipts: log_pb2.Receipts, effects: Effects) -> None:
        push = self.pushes.get(receipts.push_id)
        indexes = receipts.index
        effects.receipted.update(indexes)
        if push is None:
            effects.late_receipts += len(indexes)
            return
        piece = self.changes.foresee_push(push)
        if not push.receipts(receipts.state, indexes):
            return  # a repetition
        self.changes.dirty.add(piece)
        if push.recalled:
            # It had stored the message before it could hear of the recall.
            effects.recalled.append((push, push.has_it() & BitMap(indexes)))
        self._settle(push, effects)

    def _settle(self, push: Push, effects: Effects) -> None:
        """Take a push whose devices may have become final out of what is pending."""
        if isinstance(push, Single):
            if not push.final or not self.inbox.remove(push):
                return
            effects.final.append(push.push_id)
        elif push.push_id in self.campaigns and push.final:
            del self.campaigns[push.push_id]
            effects.final.append(push.push_id)
        else:
            return
        self.controls.paused.discard(push.push_id)

    def _fold_push(self, record: log_pb2.Push, ms: int, effects: Effects) -> None:
        if record.push_id in self.pushes:
            return  # a fan-out that two processes completed
        self.order += 1
        accepted_ms = record.accepted_ms or ms
        alone = len(record.index) == 1 and not record.audience and not record.accepted_ms
        if alone and not record.holdout:  # only a campaign has somebody held out
            push: Single | Campaign = self._single(record, accepted_ms)
        else:
            push = self._campaign(record, accepted_ms)
        push.priority, push.collapse_key = record.priority, record.collapse_key
        self.changes.touch_push(push, comes=True)
        self._keep(push)
        effects.fresh.append(push)
        if record.content:
            effects.contents[push.push_id] = record.content
        if isinstance(push, Campaign):
            self.campaigns[push.push_id] = push
            self._settle(push, effects)  # an audience of nobody is final at once
        else:
            self.inbox.put(push)
        if push.collapse_key:
            for replaced in self.collapsing.add(push):
                self._settle(replaced, effects)
        early = self.controls.take(push.push_id, push.app)
        if early is not None:
            if early.recalled:
                self._recall(push, effects)
            self._apply(push, early.paused, early.stopped, effects)
        # Last: what has made room by now, or needs none, pushes nobody out.
        if isinstance(push, Single) and not push.final:
            self._make_room(push.index, record.inbox_cap, effects)

    def _single(self, record: log_pb2.Push, accepted_ms: int) -> Single | Campaign:
        index = record.index[0]
        if record.ttl_s == 0 and self.edge_of(index) == OFFLINE:
            # Only who is connected now: nobody.
            return self._campaign(record, accepted_ms)
        return self._alone(record, accepted_ms, index)

    def _alone(self, record: log_pb2.Push, accepted_ms: int, index: int) -> Single:
        push = Single(record.push_id, record.app, record.ttl_s, accepted_ms, self.order, index)
        return push

    def _campaign(self, record: log_pb2.Push, accepted_ms: int) -> Single | Campaign:
        targeted, personal = self._audience(record, accepted_ms)
        if record.ttl_s == 0:
            targeted &= BitMap.union(BitMap(), *self.online.values())
        alone = len(targeted) == 1 and not record.accepted_ms and not record.holdout
        if alone and targeted[0] in personal:  # most pushes to an account
            single = self._alone(record, accepted_ms, targeted[0])
            single.marks = 1 << PERSONAL
            return single
        push = Campaign(record.push_id, record.app, record.ttl_s, accepted_ms, self.order, targeted)
        push.home, push.in_record = record.home, record.accepted_ms > 0
        push.speed = record.speed
        if record.holdout and targeted:
            size = targeted.max() + 1
            # Under a salt of its own for each push: nobody is left out of all of them.
            part = sample(record.holdout, f"holdout {record.push_id}", self.number, size)
            push.held_out = targeted & part
            targeted -= push.held_out
        if personal.intersect(targeted):
            push.marks[PERSONAL] = personal & targeted
        return push

    def _audience(self, record: log_pb2.Push, ms: int) -> Meant:
        if record.audience:
            return select(self, record.app, record.audience, ms)
        return Meant(self.devices_of(record.app) & BitMap(record.index), BitMap())

    def _take_back(self, left: BitMap, effects: Effects) -> None:
        """Devices have left an account: what waits for them as its devices is not theirs any more."""
        if not left:
            return
        waiting: list[Single | Campaign] = [s for i in left for s in self.inbox.of(i)]
        theirs = (c for c in self.campaigns.values() if PERSONAL in c.marks)
        waiting += [campaign for campaign in theirs if campaign.marks[PERSONAL].intersect(left)]
        for push in waiting:
            piece = self.changes.foresee_push(push)
            if push.take_back(left):
                self.changes.dirty.add(piece)
                self._settle(push, effects)

    def _make_room(self, index: int, cap: int, effects: Effects) -> None:
        """A device's inbox may be over its cap now."""
        for excess in self.inbox.excess(index, cap):
            self.changes.touch_push(excess)
            excess.overflow()
            self._settle(excess, effects)

    def _recall(self, push: Push, effects: Effects) -> None:
        self.changes.touch_push(push)
        push.recall()
        self._settle(push, effects)
        have = push.has_it()
        if have:
            effects.recalled.append((push, have.copy()))

    def _fold_control(self, control: log_pb2.Control, ms: int, effects: Effects) -> None:
        push = self.pushes.get(control.push_id)
        if push is None:
            self.controls.remember(control, ms)
        elif push.app == control.app and control.action == log_pb2.RECALL:
            self._recall(push, effects)
        elif push.app == control.app:
            paused, stopped = control.action == log_pb2.PAUSE, control.action == log_pb2.STOP
            self._apply(push, paused, stopped, effects)

    def _apply(self, push: Push, paused: bool, stopped: bool, effects: Effects) -> None:
        was_paused = push.push_id in self.controls.paused
        if stopped:
            self.changes.touch_push(push)
            push.stop()
            self._settle(push, effects)
        if push.final:
            self.controls.paused.discard(push.push_id)
        elif paused:
            self.controls.paused.add(push.push_id)
        elif was_paused:
            self.controls.paused.discard(push.push_id)
            effects.resumed.append(push)

    def _fold_edge_down(self, down: log_pb2.EdgeDown, effects: Effects) -> None:
        self.changes.touch(f"online/{down.edge}")
        devices = self.online.pop(down.edge, BitMap())
        for index in devices:
            self.location[index] = OFFLINE
        effects.ended.append((down.edge, down.start, devices))

    def _fold_due(self, due: log_pb2.Due, effects: Effects) -> None:
        for push_id in due.expired:
            push = self.pushes.get(push_id)
            if push is not None:
                self.changes.touch_push(push)
                push.expire()
                self._settle(push, effects)
        for push_id in due.shrunk:
            push = self.pushes.get(push_id)
            if isinstance(push, Campaign) and push.final:
                self.changes.touch_push(push)
                self.collapsing.forget(push)
                self._campaign_bytes -= _bytes_of(push)
                self.pushes[push_id] = Tally(push)
        for push_id in due.forgotten:
            push = self.pushes.get(push_id)
            if push is not None and push.final:
                self.changes.touch_push(push)
                self.collapsing.forget(push)
                self._drop(push)

    def _keep(self, push: Push) -> None:
        self.pushes[push.push_id] = push
        if isinstance(push, Single):
            self._singles.setdefault(push.order >> SINGLES_BLOCK, []).append(push.push_id)
            return
        self._others.add(push.push_id)
        if isinstance(push, Campaign):
            self._campaign_bytes += _bytes_of(push)

    def _drop(self, push: Push) -> None:
        del self.pushes[push.push_id]
        if isinstance(push, Single):
            block = push.order >> SINGLES_BLOCK
            self._singles[block].remove(push.push_id)
            if not self._singles[block]:
                del self._singles[block]
            return
        self._others.discard(push.push_id)
        if isinstance(push, Campaign):
            self._campaign_bytes -= _bytes_of(push)

    # Restoring (gateway.dispatch.pieces).

    def restore_devices(self, app_of_each: Iterable[int]) -> None:
        """App number by index, where no snapshot has them."""
        for index, app in enumerate(app_of_each):
            if app:
                self._add_device(index, app)

    def restore_online(self, edge: int, devices: BitMap) -> None:
        self.online[edge] = devices
        for index in devices:
            self.reserve(index)
            self.location[index] = edge

    def restore_push(self, push: Push) -> None:
        """Singles in ascending order, and campaigns, so that what is pending stands in the log's."""
        self._keep(push)
        if push.collapse_key and not isinstance(push, Tally):
            self.collapsing.restore(push)
        if push.final:
            return
        if isinstance(push, Single):
            self.inbox.put(push)
        elif isinstance(push, Campaign):
            self.campaigns[push.push_id] = push

    def reserve(self, index: int) -> None:
        """Make room in `location` up to this index."""
        if index >= len(self.location):
            self.location.frombytes(bytes(2 * (index + 1024 - len(self.location))))


def _bytes_of(campaign: Campaign) -> int:
    """About what its bitmaps take: two bytes a device, or a bit for each up to the last one."""
    targeted = campaign.targeted
    one = min(2 * len(targeted), targeted.max() // 8 + 1) if targeted else 0
    return 512 + 4 * one
