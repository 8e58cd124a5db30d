"""One push at one device, told from hand-made logs: what happened, when, and why it is as it is."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audience import leaves
from gateway.audience_text import parse_text
from gateway.dispatch.campaign import CLICKED, DISMISSED, DISPLAYED, FAILED, RECEIVED
from gateway.dispatch.ledger import Facts, Told, is_personal, state_of, steps
from gateway.dispatch.matching import mismatch, terms
from gateway.dispatch.reasons import ELSEWHERE, Meant, notes, rfc3339, why
from gateway.dispatch.sends import SendState
from gateway.dispatch.trail import AWAY, SESSIONS, Origin, Step, Trail, Whereabouts
from gateway.store.log import Entry
from protocol.schema import log_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.histories import HISTORIES
from tests.gateway.dispatch.records import START_MS, Log, app_of

PUSH = 7 << 11
OTHER = 8 << 11
NOT_SENT = SendState(0, None, "")
PAUSE, RESUME, STOP = (
    records.control(PUSH, a) for a in (log_pb2.PAUSE, log_pb2.RESUME, log_pb2.STOP)
)
UP, DOWN = records.sessions(1, [0]), records.sessions(1, [], [0])
ONE = records.push(PUSH, [0])
MANY = records.push(PUSH, [0, 2, 4])
EXPIRED = records.due(expired=[PUSH])


def receipt(state: int, *devices: int, push_id: int = PUSH) -> bytes:
    return records.receipts(push_id, state, devices or [0])


class Ledger(NamedTuple):
    facts: Facts
    told: Told
    steps: list[Step]

    @property
    def events(self) -> list[str]:
        """Such as "received 5": with the place of its record in the log, "-" where there is none."""
        return [f"{s.event} {s.at_ms - START_MS if s.at_ms else '-'}" for s in self.steps]

    def why(self, meant: Meant = Meant(True), before: Whereabouts = Whereabouts()) -> str:  # noqa: B008
        return why(self.facts, self.told, meant, before)


def ledger(
    *logged: bytes,
    index: int = 0,
    gone: int = 0,
    read: int = 1000,
    sent: SendState = NOT_SENT,
    now: int = 100,
    began: int | None = None,
) -> Ledger:
    """Of the whole log, or without its first `gone` records, or of `read` of them.

    `now`: ms after the log began. `began`: where the device was at the accept, as a look back tells.
    """
    log = Log()
    log.fold(*logged)
    push = log.partition.pushes[PUSH]
    trail = Trail(PUSH, push.app, index)
    since = max(push.accepted_ms - START_MS, gone)
    for position, record in log.entries[since:read]:
        trail.feed(Entry(0, position, record))
    if began is not None:
        trail.began_at(began)
    state, events = state_of(push, index)
    if state == "pending" and PUSH in log.partition.controls.paused:
        events.append("paused")
    personal = is_personal(push, index)
    if personal and state == "stopped":
        trail.taken_back_from({"u1"})
    edge = log.partition.edge_of(index)
    row = (push.accepted_ms, push.ttl_s, edge, sent, START_MS + now, personal)
    facts = Facts(state, events, *row)
    told = Told(
        trail.steps(log.partition.position),
        START_MS + gone if gone else 0,
        START_MS + read - 1 if read < len(logged) else 0,
    )
    return Ledger(facts, told, steps(facts, told))


# What happened.


@pytest.mark.parametrize(
    ("logged", "events"),
    [
        pytest.param(
            [UP, ONE, receipt(RECEIVED), receipt(DISPLAYED), receipt(CLICKED)],
            ["accepted 1", "targeted 1", "received 2", "displayed 3", "clicked 4"],
            id="all is well",
        ),
        pytest.param(
            [UP, MANY, receipt(RECEIVED, 2, 4), DOWN, receipt(DISMISSED, 4, 0)],
            ["accepted 1", "targeted 1", "session_down 3", "received -", "dismissed 4"],
            id="received was never said but follows",
        ),
        pytest.param(
            [UP, ONE, receipt(RECEIVED), ONE, receipt(RECEIVED), EXPIRED, STOP],
            ["accepted 1", "targeted 1", "received 2"],
            id="what comes twice, or touches it no more",
        ),
        pytest.param(
            [UP, ONE, DOWN, EXPIRED, UP, receipt(RECEIVED)],
            [
                "accepted 1",
                "targeted 1",
                "session_down 2",
                "expired 3",
                "session_up 4",
                "received 5",
            ],
            id="a receipt after the end",
        ),
        pytest.param(
            [UP, ONE, RESUME, PAUSE, PAUSE, RESUME, PAUSE, STOP, RESUME, STOP],
            ["accepted 1", "targeted 1", "paused 3", "resumed 5", "paused 6", "stopped 7"],
            id="decisions",
        ),
        pytest.param(
            [PAUSE, UP, records.push(PUSH, [0], accepted_ms=START_MS)],
            ["accepted 0", "paused 0", "session_up 1", "targeted 2"],
            id="a decision before the fan-out came",
        ),
        pytest.param(
            [
                UP,
                ONE,
                receipt(RECEIVED, push_id=OTHER),
                receipt(RECEIVED, 2),
                records.sessions(1, [2]),
                records.control(PUSH, log_pb2.PAUSE, app=2),
                records.control(OTHER, log_pb2.PAUSE),
                records.due(expired=[OTHER]),
            ],
            ["accepted 1", "targeted 1"],
            id="of others",
        ),
        pytest.param(
            [UP, ONE, records.edge_down(2), records.edge_down(1), records.edge_down(1), UP],
            ["accepted 1", "targeted 1", "session_up 5"],
            id="an edge ends, and the log since the accept does not tell whose",
        ),
        pytest.param(
            [ONE, UP, records.edge_down(2), records.edge_down(1), records.edge_down(1)],
            ["accepted 0", "targeted 0", "session_up 1", "edge_down 3"],
            id="the end of its edge",
        ),
        pytest.param(
            [DOWN, UP, ONE, UP, records.sessions(2, [0]), DOWN, records.edge_down(1)],
            ["accepted 2", "targeted 2", "session_up 3", "session_up 4"],
            id="another edge has taken it over",
        ),
        pytest.param(
            [
                UP,
                ONE,
                records.sessions(2, [0], [0]),
                UP,
                records.edge_down(2),
                records.edge_down(1),
            ],
            [
                *("accepted 1", "targeted 1"),
                *("session_up 2", "session_down 2", "session_up 3", "edge_down 5"),
            ],
            id="a session within one record, and an end of its edge",
        ),
    ],
)
def test_what_happened(logged: list[bytes], events: list[str]) -> None:
    assert ledger(*logged).events == events


def test_an_edge_that_ended_was_the_device_s_if_it_was_there_at_the_accept() -> None:
    logged = [UP, ONE, records.edge_down(2), records.edge_down(1), records.edge_down(1), UP]
    told = ["accepted 1", "targeted 1", "edge_down 3", "session_up 5"]
    assert ledger(*logged, began=1).events == told
    assert ledger(*logged, began=0).events == ["accepted 1", "targeted 1", "session_up 5"]
    down = [UP, ONE, records.edge_down(2), DOWN]
    assert ledger(*down, began=2).events == ["accepted 1", "targeted 1", "session_down 3"]


def test_edges_are_told() -> None:
    logged = [UP, ONE, records.sessions(3, [0]), records.edge_down(3)]
    assert [(s.event, s.edge) for s in ledger(*logged).steps if s.edge] == [
        ("session_up", 3),
        ("edge_down", 3),
    ]


@pytest.mark.parametrize(
    ("logged", "state", "event"),
    [
        ([UP, records.push(PUSH, [0, 2], holdout=1.0)], "held_out", "held_out 1"),
        ([UP, records.push(PUSH, [2])], "not_targeted", "not_targeted 1"),
        ([UP, records.push(PUSH, [2, 4])], "not_targeted", "not_targeted 1"),
        ([UP, records.push(PUSH, [0, 2], app=2)], "not_targeted", "not_targeted 1"),
        ([records.push(PUSH, [0], ttl_s=0)], "not_targeted", "not_targeted 0"),
    ],
)
def test_whom_it_is_not_for(logged: list[bytes], state: str, event: str) -> None:
    """What is decided about the push afterwards does not touch this device."""
    found = ledger(*logged, PAUSE, STOP, EXPIRED, DOWN)
    assert found.facts.state == state
    assert found.events == [f"accepted {len(logged) - 1}", event, f"session_down {len(logged) + 3}"]


def test_of_a_push_of_which_only_counts_are_left_what_the_log_still_tells() -> None:
    found = ledger(UP, MANY, receipt(RECEIVED), STOP, records.due(shrunk=[PUSH]), DOWN)
    assert found.facts.state == "forgotten"
    assert found.events == ["accepted 1", "received 2", "session_down 5"]


HERS = records.push(PUSH, audience=b'{"bound": "u1", "devices": ["0", "2"]}')
MINE = records.holder("u1", [(0, 1), (2, 2)])
LEFT = "it was meant as a device of an account, and left that before it had received the push"


@pytest.mark.parametrize(
    ("after", "events", "said"),
    [
        ([MINE, records.holder("u2", [(0, 3)])], ["left_account 4", "stopped 4"], LEFT),
        ([records.holder("", [(0, 0)]), STOP], ["left_account 3", "stopped 3"], LEFT),
        (
            [records.holder("u2", [(2, 3)]), STOP, records.holder("u2", [(0, 3)])],
            ["stopped 4"],
            "the push was stopped before the device had received it",
        ),
    ],
)
def test_a_device_that_left_the_account_that_it_was_meant_as(
    after: list[bytes], events: list[str], said: str
) -> None:
    found = ledger(records.sessions(1, [0, 2]), MINE, HERS, *after)
    assert found.events == ["accepted 2", "targeted 2", *events]
    assert found.why() == said


def test_an_account_that_it_left_before_the_push_came_does_not_count() -> None:
    hers = records.push(
        PUSH, audience=b'{"bound": "u1", "devices": ["0", "2"]}', accepted_ms=START_MS
    )
    before = [records.sessions(1, [0, 2]), records.holder("u2", [(0, 9)]), MINE, hers]
    found = ledger(*before, records.holder("", [(0, 0)]))
    assert found.events == [
        *("accepted 0", "session_up 0", "targeted 3", "left_account 4", "stopped 4")
    ]


def test_who_stopped_it_is_not_told_where_the_log_does_not() -> None:
    logged = [records.sessions(1, [0, 2]), MINE, HERS, records.holder("", [(0, 0)]), DOWN]
    assert ledger(*logged, gone=4).why() == (
        "the push was stopped, or the device left the account it is for, before it had received "
        "the push"
    )


# What the log no longer tells, or was not read.


ALL = [UP, MANY, PAUSE, RESUME, receipt(RECEIVED), DOWN, UP, receipt(DISPLAYED), receipt(CLICKED)]


@pytest.mark.parametrize(
    ("gone", "events"),
    [
        (
            2,
            ["targeted -", "paused 2", "resumed 3", "received 4", "session_down 5", "session_up 6"],
        ),
        (3, ["targeted -", "resumed 3", "received 4", "session_down 5", "session_up 6"]),
        (6, ["targeted -", "received -", "session_up 6"]),
        (8, ["targeted -", "received -", "displayed -"]),
        (9, ["targeted -", "received -", "displayed -", "clicked -"]),
    ],
)
def test_what_was_before_the_log_begins_has_no_time(gone: int, events: list[str]) -> None:
    found = ledger(*ALL, gone=gone)
    rest = [event for event in ("displayed 7", "clicked 8") if int(event[-1]) >= gone]
    assert found.events == ["accepted 1", *events, *rest]
    assert (
        "begins only at 1970-01-01T00:16:40.00"
        in notes(found.facts, found.told, Meant(True), 5, 0)[0]
    )


@pytest.mark.parametrize(
    ("read", "events"),
    [
        (2, ["received -", "displayed -", "clicked -"]),
        (4, ["paused 2", "resumed 3", "received -", "displayed -", "clicked -"]),
        (6, ["paused 2", "resumed 3", "received 4", "session_down 5", "displayed -", "clicked -"]),
    ],
)
def test_what_was_not_read_any_more_comes_last(read: int, events: list[str]) -> None:
    found = ledger(*ALL, read=read)
    assert found.events == ["accepted 1", "targeted 1", *events]
    assert "was read up to" in notes(found.facts, found.told, Meant(True), 5, 0)[0]


def test_a_pause_that_the_log_no_longer_has_is_told_by_the_state() -> None:
    assert ledger(UP, MANY, PAUSE, DOWN, gone=3).events == [
        *("accepted 1", "targeted -", "paused -", "session_down 3")
    ]


def test_what_the_state_has_not_folded_yet_is_not_told() -> None:
    trail = Trail(PUSH, 1, 0)
    for at, record in enumerate((ONE, receipt(RECEIVED), DOWN)):
        trail.feed(Entry(0, f"{START_MS}-{at}", record))
    assert [step.event for step in trail.steps(f"{START_MS}-1")] == ["selected", "received"]


def test_what_came_before_the_accept_within_its_millisecond_does_not_count() -> None:
    """A push that its record accepts: the stream's number within the ms says what was first."""
    told = (UP, records.edge_down(3), DOWN, ONE, UP)
    trail = Trail(PUSH, 1, 0)
    for at, record in enumerate(told):
        trail.feed(Entry(0, f"{START_MS}-{at}", record))
    assert [step.event for step in trail.steps(f"{START_MS}-9")] == ["selected", "session_up"]
    assert trail.before == Whereabouts(0, START_MS) and not trail.in_doubt
    # Of a fan-out the accept is elsewhere.
    trail = Trail(PUSH, 1, 0)
    fan_out = records.push(PUSH, [0], accepted_ms=START_MS)
    for at, record in enumerate((UP, fan_out)):
        trail.feed(Entry(0, f"{START_MS}-{at}", record))
    assert [step.event for step in trail.steps(f"{START_MS}-9")] == ["session_up", "selected"]
    assert trail.before is None


# When it was sent.


@pytest.mark.parametrize(
    ("ago_s", "events"),
    [
        (0.01, ["targeted 1", "session_down 2", "session_up 3", "sent 90"]),
        (0.098, ["targeted 1", "session_down 2", "session_up 3", "sent 3"]),
        (0.099, ["targeted 1", "session_down 2", "session_up 3", "sent 3"]),
    ],
)
def test_sent(ago_s: float, events: list[str]) -> None:
    """Its time may be up to a second early: that of the first send that it was merged with."""
    found = ledger(UP, MANY, DOWN, UP, sent=SendState(3, ago_s, ""))
    assert found.events == ["accepted 1", *events]
    assert [(s.edge, s.attempt) for s in found.steps if s.event == "sent"] == [(1, 3)]


def test_sent_is_not_told_before_targeted() -> None:
    """The node's clock follows the store's, but is not it."""
    found = ledger(UP, MANY, sent=SendState(1, 0.102, ""))
    assert found.events == ["accepted 1", "targeted 1", "sent 1"]


def test_sent_before_it_went_away() -> None:
    found = ledger(UP, MANY, receipt(RECEIVED, 2), DOWN, sent=SendState(1, 0.098, ""))
    assert found.events == ["accepted 1", "targeted 1", "sent 2", "session_down 3"]
    assert found.steps[2].edge == 0, "it is not known which it was"


def test_sent_at_an_edge_that_it_has_left_since() -> None:
    sent = SendState(1, 5.0, "")
    facts = Facts("pending", ["targeted"], START_MS, 60, 3, sent, START_MS + 6000)
    told = Told([Step(START_MS, "selected"), Step(START_MS + 4000, "session_up", 3)])
    assert steps(facts, told)[2:] == [
        Step(START_MS + 1000, "sent", 0, 1),
        Step(START_MS + 4000, "session_up", 3),
    ]


def test_what_was_received_is_not_under_way() -> None:
    found = ledger(UP, ONE, receipt(RECEIVED), sent=SendState(1, 0.05, ""))
    assert found.events == ["accepted 1", "targeted 1", "received 2"]


# Why.

OFF = "the device is offline"


@pytest.mark.parametrize(
    ("logged", "changed", "said"),
    [
        ([UP, ONE, receipt(RECEIVED)], {}, "the device has it"),
        ([UP, ONE, receipt(DISPLAYED)], {}, "the device has it and displayed it"),
        ([UP, ONE, receipt(CLICKED)], {}, "the device has it, and it was clicked on"),
        ([UP, ONE, receipt(DISMISSED)], {}, "the device has it, and it was dismissed"),
        ([UP, ONE, receipt(FAILED)], {}, "the device reported that it can never hand it out"),
        ([UP, ONE, STOP], {}, "the push was stopped before the device had received it"),
        ([UP, ONE], {}, "it is about to be sent"),
        ([UP, ONE], {"sent": SendState(1, 0.25, "")}, "sent once, 0.2 s ago, no receipt yet"),
        (
            [UP, ONE],
            {"sent": SendState(2, 12.3, "")},
            "sent 2 times, last 12 s ago, no receipt yet",
        ),
        ([UP, ONE], {"sent": SendState(0, None, "paused")}, "the push is paused"),
        ([UP, ONE], {"sent": SendState(0, None, "paced")}, "held back by the speed limit: "),
        ([UP, ONE], {"sent": SendState(1, 1.0, "behind")}, "its window is full: it must receipt "),
        ([UP, ONE], {"sent": SendState(1, 1.0, "refused")}, "the edge could not take it "),
        ([UP, ONE], {"sent": SendState(1, 1.0, "no_link")}, "its edge cannot be reached "),
        ([UP, ONE], {"now": 61_000}, "its ttl of 60 s is over; it is about to be marked "),
        ([UP, ONE, DOWN], {}, f"{OFF} since {rfc3339(START_MS + 2)}"),
        ([UP, DOWN, ONE], {}, f"{OFF}, and was already when the push came"),
        ([UP, ONE, DOWN, UP, DOWN], {"gone": 4}, f"{OFF} since {rfc3339(START_MS + 4)}"),
        (
            [UP, DOWN, ONE, UP, DOWN],
            {"gone": 5},
            f"{OFF}, and was already at {rfc3339(START_MS + 5)}",
        ),
        ([UP, ONE, DOWN, UP, DOWN], {"read": 3}, OFF),
        (
            [UP, ONE, DOWN, PAUSE],
            {"sent": SendState(0, None, "paused")},
            f"the push is paused; besides, {OFF} since ",
        ),
        (
            [UP, records.push(PUSH, [0], ttl_s=0)],
            {},
            "with ttl 0 it is sent once, and no receipt has come",
        ),
        (
            [UP, records.push(PUSH, [0], ttl_s=0), DOWN],
            {},
            f"{OFF} since {rfc3339(START_MS + 2)}; with ttl 0 it is not sent again",
        ),
        (
            [UP, DOWN, ONE, EXPIRED, UP],
            {"began": 0},
            "the ttl of 60 s was over before it came online",
        ),
        ([UP, DOWN, ONE, EXPIRED], {}, "the ttl of 60 s was over before it came online"),
        ([UP, ONE, EXPIRED], {}, "the ttl of 60 s was over before the device had received it"),
        (
            [UP, ONE, DOWN, EXPIRED],
            {},
            "the ttl of 60 s was over before the device had received it",
        ),
        (
            [UP, DOWN, ONE, UP, DOWN, EXPIRED],
            {},
            "the ttl of 60 s was over before the device had received it",
        ),
        (
            [UP, DOWN, ONE, EXPIRED],
            {"gone": 3},
            "the ttl of 60 s was over before the device had received it",
        ),
        (
            [UP, ONE, PAUSE, EXPIRED],
            {},
            "the ttl of 60 s was over before the push, which was paused, was resumed",
        ),
        (
            [UP, records.push(PUSH, [0], ttl_s=0), EXPIRED],
            {},
            "it was for that moment only (ttl 0), and no receipt came",
        ),
        ([UP, records.push(PUSH, [0, 2], holdout=1.0)], {}, "held out on purpose: "),
        (
            [UP, MANY, STOP, records.due(shrunk=[PUSH])],
            {},
            "the push is known, but only its counts ",
        ),
    ],
)
def test_why(logged: list[bytes], changed: dict[str, Any], said: str) -> None:
    told = ledger(*logged, **changed).why(before=_before(changed))
    assert told == said or (said.endswith(" ") and told.startswith(said)), told


def _before(changed: dict[str, Any]) -> Whereabouts:
    return Whereabouts(changed.get("began"), START_MS if "began" in changed else 0)


def test_why_of_who_was_offline_before_the_push_came() -> None:
    found = ledger(UP, DOWN, ONE)
    told = found.why(before=Whereabouts(0, START_MS + 1))
    assert told == f"{OFF} since {rfc3339(START_MS + 1)}, before the push came"


def test_who_came_online_too_late_was_perhaps_taken_over() -> None:
    """Nothing before the accept tells: it may have been at another edge all the time."""
    logged = [UP, ONE, EXPIRED, records.sessions(2, [0])]
    ended = "the ttl of 60 s was over before"
    assert ledger(*logged).why() == f"{ended} the device had received it"
    assert ledger(*logged).why(before=Whereabouts(1)) == f"{ended} the device had received it"
    assert ledger(*logged).why(before=Whereabouts(0)) == f"{ended} it came online"


@pytest.mark.parametrize(
    ("meant", "ttl_s", "said"),
    [
        (Meant(True, named=False), 60, ELSEWHERE),
        (Meant(True), 60, ELSEWHERE),
        (Meant(True, named=True), 0, "it was not connected when the push came, and with ttl 0 "),
        (Meant(True), 0, "the push does not name it, or it was not connected "),
        (
            Meant(False, "city:gz did not match"),
            60,
            "not meant by the audience: city:gz did not match (as it stands now)",
        ),
        (Meant(False), 60, "not meant by the audience when the push came, although it matches "),
        (Meant(False), 0, "it was not connected when the push came, and with ttl 0 "),
        (Meant(None), 60, "the push was not meant for it, and what its audience was is no longer "),
    ],
)
def test_why_it_is_not_meant(meant: Meant, ttl_s: int, said: str) -> None:
    told = ledger(UP, DOWN, records.push(PUSH, [2, 4], ttl_s=ttl_s)).why(meant)
    assert told == said or (said.endswith(" ") and told.startswith(said)), told


def test_notes() -> None:
    found = ledger(UP, ONE)
    assert notes(found.facts, found.told, Meant(True), 2, 0) == []
    assert notes(found.facts, found.told, Meant(False), 2, 1) == [
        "terms are as they stand now, not as they stood when the push came"
    ]
    assert notes(found.facts, found.told, Meant(None), 501, 0) == [
        "only the first 500 of 501 steps are told",
        "the audience of the push is no longer kept",
    ]


# Where it was at the accept.


@pytest.mark.parametrize(
    ("logged", "edge", "since"),
    [
        ([UP], 1, 0),
        ([UP, DOWN], 0, 1),
        ([DOWN, UP, records.sessions(2, [0]), records.edge_down(1)], 2, 2),
        ([UP, records.edge_down(1), records.edge_down(1)], 0, 2),
        ([records.edge_down(1), UP], 1, 1),
        ([records.sessions(1, [0], [0])], 0, 0),
        ([records.sessions(1, [2]), records.edge_down(1), ONE], None, None),
    ],
)
def test_origin(logged: list[bytes], edge: int | None, since: int | None) -> None:
    log = Log()
    log.fold(*logged)
    origin = Origin(0)
    found = any(origin.feed(Entry(0, *entry)) for entry in reversed(log.entries))
    assert found == (edge is not None)
    assert origin.found == Whereabouts(edge, 0 if since is None else START_MS + since)


# Which terms match.


@pytest.mark.parametrize(
    ("text", "told", "wrong"),
    [
        ("a", "+a", ""),
        ("x", "-x", "x did not match"),
        ("!a", "-!a", "!a did not match"),
        ("!x", "+!x", ""),
        ("a & x & !b & c", "+a -x -!b +c", "x and !b did not match"),
        ("x & y & z & w", "-x -y -z -w", "x, y and 2 more did not match"),
        ("x | y | z", "-x -y -z", "none of x, y and z matched"),
        ("x | a", "-x +a", ""),
        ("a & (x | b | x & y)", "+a +x | b | x & y -x +b -x & y -y", ""),
        ("a & !(a & b) & (a | x)", "+a -!(a & b) +b +a | x -x", "!(a & b) did not match"),
        ("all & sample(1)", "+all +sample(1)", ""),
    ],
)
def test_terms(text: str, told: str, wrong: str) -> None:
    tree = parse_text(text)
    matched = {leaf: getattr(leaf, "name", "a") in "abc" for leaf in leaves(tree)}
    found = [("+" if term.matches else "-") + term.term for term in terms(tree, matched)]
    assert " ".join(found) == told
    assert mismatch(tree, matched) == wrong


def test_a_term_that_lists_thousands_is_cut() -> None:
    tree = parse_text(f"a & devices({', '.join(map(str, range(10_000)))})")
    _, listed = terms(tree, dict.fromkeys(leaves(tree), True))
    assert listed.term.startswith("devices(0, 1,") and listed.term.endswith("…")
    assert len(listed.term) < 300


# Any history.


@settings(max_examples=200, deadline=None)
@given(HISTORIES, st.data())
def test_a_ledger_says_what_the_state_says(history: Iterable[bytes], data: st.DataObject) -> None:
    log = Log()
    log.fold(*history)
    if not log.partition.pushes:
        return
    push = log.partition.pushes[data.draw(st.sampled_from(sorted(log.partition.pushes)))]
    index = data.draw(st.integers(0, 7))
    trail = Trail(push.push_id, push.app, index)
    for entry in log.entries:
        trail.feed(Entry(0, *entry))
    state, events = state_of(push, index)
    edge = log.partition.edge_of(index)
    facts = Facts(state, events, push.accepted_ms, push.ttl_s, edge, NOT_SENT, START_MS)
    told = Told(trail.steps(log.partition.position))
    found = steps(facts, told)
    named = [s.event for s in found if s.event not in (*SESSIONS, "accepted", "paused", "resumed")]
    assert len(set(named)) == len(named)
    if state != "forgotten":
        assert set(named) == set(events)
        undated = {s.event for s in found if not s.at_ms}
        assert undated <= {"received", "replaced", "overflowed"}, "what no record says by itself"
    dated = [step.at_ms for step in found[1:] if step.at_ms]
    assert dated == sorted(dated)
    sessions = [step for step in found if step.event in SESSIONS]
    if app_of(index) == push.app and any(step.event == "session_up" for step in sessions):
        assert (sessions[-1].event in AWAY) == (edge == 0)
    assert why(facts, told, Meant(None), Whereabouts())
