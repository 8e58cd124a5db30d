"""Random histories of a partition: any records, in any order, for a few devices, edges and pushes."""

from hypothesis import strategies as st

from gateway.dispatch.campaign import CLICKED, DISMISSED, DISPLAYED, FAILED, RECEIVED
from protocol.schema import log_pb2
from tests.gateway.dispatch import records

DEVICES = st.integers(0, 7)
EDGES = st.integers(1, 3)
PUSHES = st.integers(1, 6)
STATES = st.sampled_from([RECEIVED, DISPLAYED, CLICKED, DISMISSED, FAILED])
TAGS = st.lists(st.sampled_from(["a", "b", "c:d"]), max_size=3, unique=True)
_SOME = st.lists(DEVICES, max_size=4, unique=True)

# Kinds of records, so that those of one kind can be regrouped.
RECEIPTS = st.builds(records.receipts, PUSHES, STATES, _SOME)
PROFILES = st.builds(records.profile, DEVICES, st.integers(1, 5), TAGS)
FAN_OUTS = st.builds(
    records.push,
    PUSHES,
    _SOME,
    app=st.integers(1, 2),
    ttl_s=st.sampled_from([0, 60]),
    everybody=st.booleans(),
    accepted_ms=st.just(5_000),
)
EDGE_DOWNS = st.builds(records.edge_down, EDGES)
_SESSIONS = st.builds(records.sessions, EDGES, _SOME, _SOME, st.integers(1, 100))
_ACCEPTS = st.builds(
    records.push,
    PUSHES,
    st.lists(DEVICES, min_size=1, max_size=2, unique=True),
    app=st.integers(1, 2),
    ttl_s=st.sampled_from([0, 60]),
    content=st.just(b"c"),
    priority=st.integers(0, 2),
    collapse_key=st.sampled_from(["", "k"]),
    inbox_cap=st.sampled_from([0, 2]),
)
TAGGINGS = st.builds(
    records.tagging, st.sampled_from(["a", "x"]), _SOME, app=st.integers(1, 2), remove=st.booleans()
)
_CHOSEN = st.builds(
    records.push,
    PUSHES,
    audience=st.sampled_from(
        [
            b'{"tag": "a"}',
            b'{"and": [{"tag": "a"}, {"not": {"tag": "x"}}]}',
            b'{"not": {"push": "1", "state": "displayed"}}',
            b'{"or": [{"tag": "active:1d"}, {"sample": 0.5}]}',
            b'{"bound": "u1", "devices": ["0", "1", "2", "3"]}',
        ]
    ),
    app=st.integers(1, 2),
    ttl_s=st.sampled_from([0, 60]),
    accepted_ms=st.just(5_000),
    holdout=st.sampled_from([0.0, 0.5]),
    speed=st.sampled_from([0, 10]),
    priority=st.integers(0, 2),
    collapse_key=st.sampled_from(["", "k"]),
)
CONTROLS = st.builds(
    records.control,
    PUSHES,
    st.sampled_from([log_pb2.PAUSE, log_pb2.RESUME, log_pb2.STOP, log_pb2.RECALL]),
    app=st.integers(1, 2),
    until_ms=st.sampled_from([records.START_MS + 3, 9_000_000]),
)
_USERS = st.sampled_from(["u1", "u2"])
_BOUND = st.lists(st.tuples(DEVICES, st.integers(0, 3)), max_size=4)
ACCOUNTS = st.builds(records.account, _USERS, _BOUND, app=st.integers(1, 2), remove=st.booleans())
HOLDERS = st.builds(
    records.holder,
    st.sampled_from(["u1", "u2", ""]),
    _BOUND,
    app=st.integers(1, 2),
    was=st.sampled_from(["", "u1"]),
)
_DUE = st.builds(
    records.due,
    st.lists(PUSHES, max_size=2),
    st.lists(PUSHES, max_size=2),
    st.lists(PUSHES, max_size=1),
)

ONE_RECORD = st.one_of(
    _SESSIONS,
    _SESSIONS,
    _ACCEPTS,
    FAN_OUTS,
    _CHOSEN,
    RECEIPTS,
    RECEIPTS,
    PROFILES,
    TAGGINGS,
    EDGE_DOWNS,
    _DUE,
    CONTROLS,
    ACCOUNTS,
    HOLDERS,
)
HISTORIES = st.lists(ONE_RECORD, max_size=40)
