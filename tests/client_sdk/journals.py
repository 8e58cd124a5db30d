"""Journals, their entries, and journals in files, for tests."""

from pathlib import Path

from hypothesis import strategies as st

from client_sdk import journal_file
from client_sdk.entries import Acked, Begun, Done, Entry, Recall, Receipt, Replacement, Stored, Told
from client_sdk.journal import Journal, Times
from client_sdk.journal_file import JournalFile

T = 1_700_000_000_000
IDS = st.integers(0, 5)
OFFSETS = st.integers(-(1 << 44), 1 << 44)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(
        Stored,
        IDS,
        st.integers(0, 1 << 45),
        st.integers(0, 1 << 20),
        st.binary(max_size=9),
        st.sampled_from(["", "a", "ä" * 32]),
        OFFSETS,
    ),
    st.builds(Begun, IDS),
    st.builds(Done, IDS),
    st.builds(
        Receipt, IDS, st.integers(2, 5), st.integers(0, 1 << 45), st.text(max_size=5), OFFSETS
    ),
    st.builds(Acked, IDS, st.integers(1, 5)),
    st.builds(Recall, IDS | st.integers(90, 99)),
    st.builds(Replacement, IDS, IDS),
    st.builds(Told, IDS, st.booleans()),
)
BATCHES = st.lists(st.lists(ENTRIES, max_size=4), max_size=6)


def journal(entries: list[Entry] | None = None, *, ids: int = 100, content: int = 1000) -> Journal:
    made = Journal(max_ids=ids, max_content_bytes=content)
    made.apply(entries or [])
    return made


def at(service_ms: int) -> Times:
    """A device whose clock is right."""
    return Times(service_ms, 0)


NOW = at(T)


def state(j: Journal) -> dict[str, object]:
    """All that a journal makes decisions by, to be compared."""
    return {
        "rows": j.rows,
        "receipts": j.receipts,
        "waiting": list(j.waiting),
        "untold": list(j.untold),
        "strangers": list(j.strangers),
        "content_bytes": j.content_bytes,
        "newest": j._newest,
        "latest_ms": j.latest_ms,
    }


def stored(
    push_id: int, key: str = "", *, ttl_s: int = 60, content: bytes = b"x", at_ms: int = T
) -> Stored:
    return Stored(push_id, at_ms, ttl_s, content, key)


def loaded(path: Path) -> tuple[JournalFile, journal_file.Loaded]:
    file = JournalFile(path)
    return file, file.load()
