"""Journals, their entries, and journals in files, for tests."""

from pathlib import Path

from hypothesis import strategies as st

from client_sdk import journal_file
from client_sdk.entries import Acked, Begun, Done, Entry, Receipt, Stored
from client_sdk.journal import Journal
from client_sdk.journal_file import JournalFile

T = 1_700_000_000_000
IDS = st.integers(0, 5)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Stored, IDS, st.integers(0, 1 << 45), st.integers(0, 1 << 20), st.binary(max_size=9)),
    st.builds(Begun, IDS),
    st.builds(Done, IDS),
    st.builds(Receipt, IDS, st.integers(2, 5), st.integers(0, 1 << 45), st.text(max_size=5)),
    st.builds(Acked, IDS, st.integers(1, 5)),
)
BATCHES = st.lists(st.lists(ENTRIES, max_size=4), max_size=6)


def journal(entries: list[Entry] | None = None, *, ids: int = 100, content: int = 1000) -> Journal:
    made = Journal(max_ids=ids, max_content_bytes=content)
    made.apply(entries or [])
    return made


def same(a: Journal, b: Journal) -> bool:
    return (a.rows, a.receipts, list(a.waiting), a.content_bytes) == (
        b.rows,
        b.receipts,
        list(b.waiting),
        b.content_bytes,
    )


def stored(push_id: int, *, ttl_s: int = 60, content: bytes = b"x", at_ms: int = T) -> Stored:
    return Stored(push_id, at_ms, ttl_s, content)


def loaded(path: Path) -> tuple[JournalFile, journal_file.Loaded]:
    file = JournalFile(path)
    return file, file.load()
