"""The law: every targeted device is in exactly one state, whatever happens in whatever order.

The model knows plain sets only. In between the partition is written down and restored, now and
then: who continues from a snapshot must never differ from who never stopped.
"""

from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.dispatch import pieces
from gateway.dispatch.campaign import (
    CLICKED,
    DISMISSED,
    DISPLAYED,
    FAILED,
    RECEIVED,
    Campaign,
    Tally,
)
from gateway.dispatch.partition import Partition
from tests.gateway.dispatch import records
from tests.gateway.dispatch.histories import DEVICES, EDGES, STATES
from tests.gateway.dispatch.records import START_MS, app_of, known

SOME = st.lists(DEVICES, max_size=5, unique=True)
LAW = (
    "received", "failed", "recalled", "replaced", "overflowed", "stopped", "expired", "pending",
)  # fmt: skip
OPENED = {DISPLAYED: "displayed", CLICKED: "clicked", DISMISSED: "dismissed"}


class Expected:
    """One push, as sets of devices."""

    def __init__(self, targeted: set[int]) -> None:
        self.targeted = targeted
        self.marks: dict[str, set[int]] = {
            name: set() for name in ("received", "failed", "expired", *OPENED.values())
        }

    def state_of(self, device: int) -> str:
        for state in ("received", "failed", "expired"):
            if device in self.marks[state]:
                return state
        return "pending"

    def counts(self) -> dict[str, int]:
        states = [self.state_of(device) for device in self.targeted]
        found = {state: states.count(state) for state in LAW if state in states}
        found |= {name: len(self.marks[name]) for name in OPENED.values() if self.marks[name]}
        return found | {"targeted": len(self.targeted)}

    @property
    def final(self) -> bool:
        return all(self.state_of(device) != "pending" for device in self.targeted)


class Conservation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.partition = Partition(0)
        self.entries: list[tuple[str, bytes]] = []
        self.snapshot: dict[str, bytes] = {}
        self.online: dict[int, int] = {}
        self.devices: set[int] = set()
        self.pushes: dict[int, Expected] = {}
        self.drawn = 0

    def log(self, record: bytes) -> None:
        position = f"{START_MS + len(self.entries)}-0"
        self.entries.append((position, record))
        self.partition.fold(position, record)

    def new_push(self, audience: Iterable[int], app: int, ttl_s: int) -> int:
        self.drawn += 1
        here = {d for d in audience if d in self.devices and app_of(d) == app}
        self.pushes[self.drawn] = Expected(here if ttl_s else here & self.online.keys())
        return self.drawn

    @rule(edge=EDGES, devices=SOME)
    def sessions_come(self, edge: int, devices: list[int]) -> None:
        self.log(records.sessions(edge, devices))
        self.devices.update(devices)
        self.online.update(dict.fromkeys(devices, edge))

    @rule(edge=EDGES, devices=SOME)
    def sessions_go(self, edge: int, devices: list[int]) -> None:
        self.log(records.sessions(edge, (), devices))
        for device in devices:
            if self.online.get(device) == edge:
                del self.online[device]

    @rule(edge=EDGES)
    def an_edge_dies(self, edge: int) -> None:
        self.log(records.edge_down(edge))
        self.online = {d: e for d, e in self.online.items() if e != edge}

    @precondition(lambda self: self.devices)
    @rule(data=st.data(), ttl_s=st.sampled_from([0, 60]))
    def push_to_one(self, data: st.DataObject, ttl_s: int) -> None:
        device = data.draw(st.sampled_from(sorted(self.devices)))
        push_id = self.new_push([device], app_of(device), ttl_s)
        self.log(records.push(push_id, [device], app=app_of(device), ttl_s=ttl_s))

    @rule(devices=SOME, app=st.integers(1, 2), ttl_s=st.sampled_from([0, 60]), many=st.booleans())
    def push_to_some(self, devices: list[int], app: int, ttl_s: int, many: bool) -> None:
        # In one partition the store function has sorted out those the app does not have.
        listed = devices if many else [d for d in devices if d in self.devices and app_of(d) == app]
        push_id = self.new_push(listed, app, ttl_s)
        at = START_MS if many else 0
        self.log(records.push(push_id, listed, app=app, ttl_s=ttl_s, accepted_ms=at))

    @rule(app=st.integers(1, 2), ttl_s=st.sampled_from([0, 60]))
    def push_to_all(self, app: int, ttl_s: int) -> None:
        push_id = self.new_push(self.devices, app, ttl_s)
        self.log(records.push(push_id, app=app, ttl_s=ttl_s, everybody=True))

    @precondition(lambda self: self.pushes)
    @rule(data=st.data(), state=STATES, devices=SOME)
    def receipts_come(self, data: st.DataObject, state: int, devices: list[int]) -> None:
        """In any order, any number of times, and from devices that are not targeted."""
        push_id = data.draw(st.sampled_from(sorted(self.pushes)))
        shrunk = isinstance(self.partition.pushes[push_id], Tally)
        self.log(records.receipts(push_id, state, devices))
        if shrunk:
            return
        expected = self.pushes[push_id]
        from_targeted = expected.targeted & set(devices)
        expected.marks["failed" if state == FAILED else "received"] |= from_targeted
        if state in OPENED:
            expected.marks[OPENED[state]] |= from_targeted

    @precondition(lambda self: self.pushes)
    @rule(data=st.data())
    def a_push_expires(self, data: st.DataObject) -> None:
        push_id = data.draw(st.sampled_from(sorted(self.pushes)))
        self.log(records.due(expired=[push_id]))
        expected = self.pushes[push_id]
        waiting = {d for d in expected.targeted if expected.state_of(d) == "pending"}
        expected.marks["expired"] |= waiting

    @precondition(lambda self: self.pushes)
    @rule(data=st.data())
    def a_push_is_shrunk(self, data: st.DataObject) -> None:
        push_id = data.draw(st.sampled_from(sorted(self.pushes)))
        self.log(records.due(shrunk=[push_id]))

    @precondition(lambda self: self.pushes)
    @rule(data=st.data())
    def a_push_is_forgotten(self, data: st.DataObject) -> None:
        push_id = data.draw(st.sampled_from(sorted(self.pushes)))
        self.log(records.due(forgotten=[push_id]))
        if self.pushes[push_id].final:
            del self.pushes[push_id]

    @rule(go_on=st.booleans())
    def it_is_written_down(self, go_on: bool) -> None:
        """Only what changed; and perhaps another owner takes over from what was written."""
        frozen = pieces.freeze(self.partition)
        for name in frozen.removed:
            self.snapshot.pop(name, None)
        self.snapshot.update(frozen.pieces())
        heir = Partition(0)
        pieces.restore(heir, frozen.position, dict(self.snapshot))
        assert known(heir) == known(self.partition)
        if not go_on:
            self.partition = heir

    @invariant()
    def every_targeted_device_is_in_exactly_one_state(self) -> None:
        assert set(self.partition.pushes) == set(self.pushes)
        for push_id, expected in self.pushes.items():
            counts = dict(self.partition.pushes[push_id].counts())
            assert sum(counts.get(state, 0) for state in LAW) == counts["targeted"]
            assert {name: n for name, n in counts.items() if n or name == "targeted"} == (
                expected.counts()
            )

    @invariant()
    def what_is_pending_can_be_found(self) -> None:
        for device in range(8):
            waiting = [
                push_id
                for push_id, expected in self.pushes.items()
                if device in expected.targeted and expected.state_of(device) == "pending"
            ]
            assert [p.push_id for p in self.partition.pending_of(device)] == waiting
            assert self.partition.edge_of(device) == self.online.get(device, 0)

    @invariant()
    def finished_and_unfinished_are_told_apart(self) -> None:
        for push_id, expected in self.pushes.items():
            push = self.partition.pushes[push_id]
            assert push.final == expected.final
            assert (push_id in self.partition.campaigns) == (
                isinstance(push, Campaign) and not expected.final
            )

    def teardown(self) -> None:
        whole = Partition(0)
        for position, record in self.entries:
            whole.fold(position, record)
        assert known(whole) == known(self.partition), "a replay from the start gives another state"


TestConservation = Conservation.TestCase
TestConservation.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_late_receipt_moves_a_device_from_expired_to_received() -> None:
    log = records.Log()
    log.fold(records.sessions(1, [0, 2]), records.push(1, [0]), records.push(2, [0, 2]))
    log.fold(records.due(expired=[1, 2]))
    assert [dict(log.partition.pushes[i].counts())["expired"] for i in (1, 2)] == [1, 2]
    for push_id in (1, 2):
        log.fold(records.receipts(push_id, FAILED, [0]))
        assert dict(log.partition.pushes[push_id].counts())["failed"] == 1
        log.fold(records.receipts(push_id, RECEIVED, [0]))
        counts = dict(log.partition.pushes[push_id].counts())
        assert (counts["received"], counts["failed"]) == (1, 0)
        log.fold(records.receipts(push_id, FAILED, [0]))
        assert dict(log.partition.pushes[push_id].counts()) == counts, "nothing outranks received"
