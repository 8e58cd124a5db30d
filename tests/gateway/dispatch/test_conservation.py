"""The law: every targeted device is in exactly one state, whatever happens in whatever order.

The model knows plain sets only. In between the partition is written down and restored, now and
then: who continues from a snapshot must never differ from who never stopped.
"""

from collections.abc import Iterable
from typing import Any

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
from protocol.schema import log_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.histories import DEVICES, EDGES, STATES
from tests.gateway.dispatch.records import START_MS, app_of, known

SOME = st.lists(DEVICES, max_size=5, unique=True)
LAW = (
    "received", "failed", "recalled", "replaced", "overflowed", "stopped", "expired", "pending",
)  # fmt: skip
OPENED: dict[int, str] = {DISPLAYED: "displayed", CLICKED: "clicked", DISMISSED: "dismissed"}


def guessed_app(push_id: int) -> int:
    return push_id % 2 + 1


class Expected:
    """One push, as sets of devices."""

    def __init__(self, app: int, targeted: set[int], held_out: set[int]) -> None:
        self.app = app
        self.targeted = targeted
        self.held_out = held_out
        self.paused = False
        self.marks: dict[str, set[int]] = {
            name: set() for name in ("received", "failed", "stopped", "expired", *OPENED.values())
        }

    def state_of(self, device: int) -> str:
        for state in ("received", "failed", "stopped", "expired"):
            if device in self.marks[state]:
                return state
        return "pending"

    def counts(self) -> dict[str, int]:
        states = [self.state_of(device) for device in self.targeted]
        found = {state: states.count(state) for state in LAW if state in states}
        found |= {name: len(self.marks[name]) for name in OPENED.values() if self.marks[name]}
        if self.held_out:
            found["held_out"] = len(self.held_out)
        return found | {"targeted": len(self.targeted)}

    def end(self, state: str) -> None:
        """Everybody who is pending goes into this state."""
        waiting = {d for d in self.targeted if self.state_of(d) == "pending"}
        self.marks[state] |= waiting

    def decide(self, action: int) -> None:
        if action == log_pb2.STOP:
            self.end("stopped")
        self.paused = action == log_pb2.PAUSE

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
        self.early: dict[int, list[int]] = {}
        """push id -> decisions about it, all of one app, which may be the wrong one"""
        self.drawn = 0

    def log(self, record: bytes) -> None:
        position = f"{START_MS + len(self.entries)}-0"
        self.entries.append((position, record))
        self.partition.fold(position, record)

    def push(self, audience: Iterable[int], app: int, ttl_s: int, **said: Any) -> None:
        self.drawn += 1
        self.log(records.push(self.drawn, app=app, ttl_s=ttl_s, **said))
        here = {d for d in audience if d in self.devices and app_of(d) == app}
        here &= here if ttl_s else self.online.keys()
        # Whom chance held out is the service's to say; that it is a part of the audience, ours.
        push = self.partition.pushes[self.drawn]
        held_out = set(push.held_out) if isinstance(push, Campaign) else set()
        assert held_out <= here and (said.get("holdout") or not held_out)
        expected = self.pushes[self.drawn] = Expected(app, here - held_out, held_out)
        early = self.early.pop(self.drawn, []) if app == guessed_app(self.drawn) else []
        for action in [a for a in early if a == log_pb2.STOP] or early[-1:]:
            expected.decide(action)

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
        self.push([device], app_of(device), ttl_s, indexes=[device])

    @rule(devices=SOME, app=st.integers(1, 2), ttl_s=st.sampled_from([0, 60]), many=st.booleans())
    def push_to_some(self, devices: list[int], app: int, ttl_s: int, many: bool) -> None:
        # In one partition the store function has sorted out those the app does not have.
        listed = devices if many else [d for d in devices if d in self.devices and app_of(d) == app]
        self.push(listed, app, ttl_s, indexes=listed, accepted_ms=START_MS if many else 0)

    @rule(app=st.integers(1, 2), ttl_s=st.sampled_from([0, 60]), holdout=st.sampled_from([0, 0.5]))
    def push_to_all(self, app: int, ttl_s: int, holdout: float) -> None:
        self.push(self.devices, app, ttl_s, everybody=True, holdout=holdout)

    @rule(
        back=st.integers(-2, 8),
        action=st.sampled_from([log_pb2.PAUSE, log_pb2.RESUME, log_pb2.STOP]),
        stranger=st.booleans(),
    )
    def somebody_decides(self, back: int, action: "log_pb2.Action", stranger: bool) -> None:
        """About a push that is known, or, some moments too early, about one that is not."""
        push_id = max(1, self.drawn - back)
        expected = self.pushes.get(push_id)
        if expected is None:
            if push_id > self.drawn and not stranger:
                self.decide_early(push_id, action)
            return
        self.log(
            records.control(push_id, action, app=3 - expected.app if stranger else expected.app)
        )
        if not stranger:
            expected.decide(action)

    def decide_early(self, push_id: int, action: "log_pb2.Action") -> None:
        self.early.setdefault(push_id, []).append(action)
        self.log(records.control(push_id, action, app=guessed_app(push_id)))

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
        self.pushes[push_id].end("expired")

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
        for name, blob in frozen.pieces():
            if blob is None:
                self.snapshot.pop(name, None)
            else:
                self.snapshot[name] = blob
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
        inbox = self.partition.inbox
        assert len(inbox) == sum(len(inbox.of(index)) for index in inbox)
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

    @invariant()
    def known_pushes_that_wait_for_a_resume_are_paused(self) -> None:
        paused = {push_id for push_id, e in self.pushes.items() if e.paused and not e.final}
        assert self.partition.controls.paused == paused

    def teardown(self) -> None:
        whole = Partition(0)
        for position, record in self.entries:
            whole.fold(position, record)
        assert known(whole) == known(self.partition), "a replay from the start gives another state"


TestConservation = Conservation.TestCase
TestConservation.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


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
