"""What the records of a log tell of one push at one device.

Pure. Records are looked through for a few bytes first: most of them tell nothing here, and ids and
indexes of devices stand in them as they are (fixed64, fixed32).
"""

import bisect
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from gateway.dispatch.campaign import CLICKED, DISMISSED, DISPLAYED, FAILED, RECEIVED
from gateway.dispatch.partition import OFFLINE
from gateway.store.log import Entry, position_key
from protocol.schema import log_pb2

_EDGES_DOWN: Final = b"\x2a"
"""Tag of Record.edges_down. It may stand anywhere by chance: then the record is parsed for nothing."""
_RECEIPTS: Final[dict[int, str]] = {
    RECEIVED: "received",
    DISPLAYED: "displayed",
    CLICKED: "clicked",
    DISMISSED: "dismissed",
    FAILED: "failed",
}
_CONTROLS: Final[dict[int, str]] = {
    log_pb2.PAUSE: "paused",
    log_pb2.RESUME: "resumed",
    log_pb2.STOP: "stopped",
    log_pb2.RECALL: "recalled",
}
SELECTED: Final = "selected"
"""The push stands in the partition's log: from here on it is settled whom it is for."""
LEFT_ACCOUNT: Final = "left_account"
AWAY: Final = frozenset({"session_down", "edge_down"})
SESSIONS: Final = frozenset({"session_up", *AWAY})

_Key = tuple[int, int]


class Step(NamedTuple):
    """One thing that happened."""

    at_ms: int
    """By the store's clock; 0: it happened, and the log does not say when."""
    event: str
    edge: int = 0
    attempt: int = 0


class Whereabouts(NamedTuple):
    """Where the device was when the push was accepted."""

    edge: int | None = None
    """OFFLINE, or an edge; None: not known."""
    since_ms: int = 0


class Trail:
    """Takes the records of a partition's log from a push's accept on, in the order of the log."""

    def __init__(self, push_id: int, app: int, index: int) -> None:
        self._push_id = push_id
        self._app = app
        self._index = index
        push, device = push_id.to_bytes(8, "little"), index.to_bytes(4, "little")
        self._telling = (push, device, _EDGES_DOWN)
        self._found: list[tuple[_Key, Step]] = []
        self._once: set[str] = set()
        self._edge: int | None = None
        """Where the device is; None until a record tells."""
        self._paused: bool | None = None
        self._ended: list[tuple[_Key, Step]] = []
        """Ends of edges, as long as it is not known at which the device is."""
        self._holders: list[tuple[_Key, str]] = []
        """Whose the device was said to be."""
        self.before: Whereabouts | None = None
        """Where the device was at the accept, if the accept's own ms tells."""
        self.push: log_pb2.Push | None = None
        """The push's record, if it came by."""

    def steps(self, until: str) -> list[Step]:
        """What was found up to a position of the log, in its order."""
        end = position_key(until)
        return [step for key, step in self._found if key <= end]

    @property
    def in_doubt(self) -> bool:
        """An edge ended, and it may have been the device's."""
        return bool(self._ended)

    def began_at(self, edge: int) -> None:
        """Where the device was at the accept (OFFLINE: nowhere), as it turned out afterwards."""
        ends = [each for each in self._ended if each[1].edge == edge]
        if ends:
            bisect.insort(self._found, ends[0])
        self._ended.clear()

    def taken_back_from(self, accounts: Collection[str]) -> None:
        """It was stopped at a device that was meant as one of these accounts': when it left them, if
        that came before the push itself was stopped."""
        began = next((key for key, step in self._found if step.event == SELECTED), (0, 0))
        stop = next((each for each in self._found if each[1].event == "stopped"), None)
        left = next(
            (k for k, account in self._holders if k > began and account not in accounts), None
        )
        if left is None or (stop is not None and stop[0] < left):
            return
        if stop is not None:
            self._found.remove(stop)
        place = bisect.bisect_right(self._found, left, key=lambda each: each[0])
        self._found[place:place] = [(left, Step(left[0], e)) for e in (LEFT_ACCOUNT, "stopped")]

    def feed(self, entry: Entry) -> None:
        """A record that comes twice, as a fan-out's or a receipt, counts once."""
        if not any(telling in entry.record for telling in self._telling):
            return
        record = log_pb2.Record.FromString(entry.record)
        key = position_key(entry.position)
        for step in self._told(key[0], record, key):
            self._found.append((key, step))

    def _told(self, ms: int, record: log_pb2.Record, key: _Key) -> Iterator[Step]:
        """In the order in which a record is folded."""
        yield from self._sessions(ms, record.sessions)
        for receipts in record.receipts:
            event = _RECEIPTS.get(receipts.state)
            if event and receipts.push_id == self._push_id and self._index in receipts.index:
                yield from self._first(ms, event)
        for holder in record.holders:
            if holder.app == self._app and self._index in holder.index:
                self._holders.append((key, holder.account))
        for push in record.pushes:
            if push.push_id == self._push_id:
                if not push.accepted_ms and self.push is None:
                    self._begin_here()
                self.push = push
                yield from self._first(ms, SELECTED)
        for down in record.edges_down:
            yield from self._edge_down(Step(ms, "edge_down", down.edge), key)
        if self._push_id in record.due.expired:
            yield from self._first(ms, "expired")
        for control in record.controls:
            if control.push_id == self._push_id and control.app == self._app:
                yield from self._control(ms, _CONTROLS.get(control.action, ""))

    def _begin_here(self) -> None:
        """This record is the accept: sessions before it, within the same ms, do not count."""
        sessions = [step for _, step in self._found if step.event in SESSIONS]
        if sessions and self._edge is not None:
            self.before = Whereabouts(self._edge, sessions[-1].at_ms)
        self._found = [each for each in self._found if each[1].event not in SESSIONS]
        self._ended.clear()

    def _first(self, ms: int, event: str) -> Iterator[Step]:
        if event not in self._once:
            self._once.add(event)
            yield Step(ms, event)

    def _sessions(self, ms: int, sessions: log_pb2.Sessions) -> Iterator[Step]:
        if self._index in sessions.up:
            self._edge = sessions.edge
            yield Step(ms, "session_up", sessions.edge)
        if self._index in sessions.down and self._edge in (None, sessions.edge):
            if self._edge is None:
                self._ended.clear()  # none of them was its edge
            self._edge = OFFLINE
            yield Step(ms, "session_down", sessions.edge)

    def _edge_down(self, step: Step, key: _Key) -> Iterator[Step]:
        if self._edge is None:
            self._ended.append((key, step))
        elif self._edge == step.edge:
            self._edge = OFFLINE
            yield step

    def _control(self, ms: int, event: str) -> Iterator[Step]:
        """Said again it changes nothing."""
        if event in ("stopped", "recalled"):
            yield from self._first(ms, event)
        elif event and self._paused != (event == "paused"):
            self._paused = event == "paused"
            yield Step(ms, event)


class Origin:
    """Takes records backwards from the accept, until one tells where the device was then."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._telling = (index.to_bytes(4, "little"), _EDGES_DOWN)
        self._ended: dict[int, int] = {}
        """edge -> ms of its end"""
        self.found = Whereabouts()

    def feed(self, entry: Entry) -> bool:
        """True once it is known."""
        if not any(telling in entry.record for telling in self._telling):
            return False
        record = log_pb2.Record.FromString(entry.record)
        ms = position_key(entry.position)[0]
        for down in record.edges_down:
            self._ended.setdefault(down.edge, ms)
        sessions = record.sessions
        if self._index in sessions.down:  # in a record they stand behind the ups
            self.found = Whereabouts(OFFLINE, ms)
        elif self._index in sessions.up:
            ended_ms = self._ended.get(sessions.edge)
            gone = ended_ms is not None
            self.found = Whereabouts(OFFLINE if gone else sessions.edge, ended_ms or ms)
        return self.found.edge is not None
