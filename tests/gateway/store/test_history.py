"""A log read again: from a time on, in slices, within bounds, and never silently past a gap."""

from gateway.store import keys
from gateway.store.client import Store
from gateway.store.history import History, Reach

REACH = Reach(entries=10_000, bytes=1 << 30, seconds=60.0)


async def append(store: Store, count: int, record: bytes = b"r", first: int = 0) -> None:
    """Entries 10-0, 11-0, ..., two in each tenth."""
    for n in range(first, first + count):
        await store.call("XADD", keys.log(3), f"{10 + n}-0", "r", record)
        if n % 10 == 0:
            await store.call("XADD", keys.log(3), f"{10 + n}-1", "r", record)


async def read(history: History) -> list[list[str]]:
    """The positions of each slice."""
    slices = []
    while not (history.at_end or history.cut_short):
        slices.append([entry.position for entry in await history.next()])
    return slices


async def test_from_a_time_on_each_once_and_in_order(store: Store) -> None:
    await append(store, 600)
    history = History(store, 3, 20, REACH)
    slices = await read(history)
    found = [position for each in slices for position in each]
    assert found[:3] == ["20-0", "20-1", "21-0"] and len(found) == 590 + 59
    assert found == sorted(found, key=lambda p: [int(part) for part in p.split("-")])
    assert [len(each) for each in slices][:2] == [64, 256], "slices, and not all at once"
    assert history.position == "609-0" and not history.trimmed and not history.cut_short
    # What comes afterwards is there to be read on.
    await append(store, 2, first=700)
    assert [entry.position for entry in await history.next()] == ["710-0", "710-1", "711-0"]


async def test_backwards(store: Store) -> None:
    await append(store, 100)
    history = History(store, 3, 30, REACH, backwards=True)
    (found,) = await read(history)
    assert found[:2] == ["29-0", "28-0"] and found[-1] == "10-0" and len(found) == 22


async def test_nothing(store: Store) -> None:
    for backwards in (False, True):
        history = History(store, 3, 30, REACH, backwards=backwards)
        assert await history.next() == [] and history.at_end and not history.cut_short


async def test_bounds(store: Store) -> None:
    await append(store, 300, b"x" * 1000)
    for reach, entries in (
        (REACH._replace(entries=100), 100),
        (REACH._replace(bytes=50_000), 64),
        (REACH._replace(seconds=0.0), 0),
    ):
        history = History(store, 3, 0, reach)
        assert sum(len(each) for each in await read(history)) == entries
        assert history.cut_short


async def test_slices_of_large_entries_are_short(store: Store) -> None:
    await append(store, 100, b"x" * 100_000)
    history = History(store, 3, 0, REACH)
    sizes = [len(each) for each in await read(history)]
    assert sizes[0] == 64 and max(sizes[1:]) <= 5 and sum(sizes) == 110


async def test_a_log_that_was_trimmed_past_what_was_asked_for_says_so(store: Store) -> None:
    await append(store, 300)
    await store.call("SET", keys.trimmed(3), "50-0")
    early, late = History(store, 3, 49, REACH), History(store, 3, 50, REACH)
    await early.next()
    await late.next()
    assert (early.trimmed, late.trimmed) == ("50-0", "")
    # Between two slices, too.
    await store.call("SET", keys.trimmed(3), "150-0")
    await late.next()
    assert late.trimmed == "150-0"
    back = History(store, 3, 40, REACH, backwards=True)
    await back.next()
    assert not back.trimmed
