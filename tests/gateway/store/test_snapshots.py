"""Snapshots: small chunks, only what changed, manifest last, a fallback that the log reaches."""

import asyncio
import json
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from gateway import slices
from gateway.store import keys
from gateway.store.client import Store
from gateway.store.errors import StoreUnavailable
from gateway.store.log import tail
from gateway.store.ownership import take_fence
from gateway.store.snapshots import CHUNK_BYTES, Snapshot, Snapshots


async def owner(store: Store) -> Snapshots:
    """A new owner of partition 0."""
    return Snapshots(store, 0, await take_fence(store, 0, 1, 1))


async def chunk_names(store: Store) -> set[str]:
    return {name.decode() for name in await store.call("HKEYS", keys.chunks(0))}


async def fill_log(store: Store, count: int) -> list[str]:
    return [(await store.call("XADD", keys.log(0), "*", "r", n)).decode() for n in range(count)]


class Crash(Exception):
    """The owner dies here."""


def dying_after(names: list[str]) -> Iterator[tuple[str, bytes]]:
    """These pieces are written, each in a call of its own; then the owner dies, before its manifest."""
    for name in [*names, "not yet sent"]:
        yield name, b"half" * (CHUNK_BYTES // 4)
    raise Crash


async def test_what_was_written_is_loaded(store: Store) -> None:
    pieces = {"meta": b"{}", "empty": b"", "online/1": b"x" * 1000}
    await (await owner(store)).write("5-0", pieces.items())
    assert await (await owner(store)).load() == Snapshot("5-0", pieces)
    assert await Snapshots(store, 1, 1).load() is None


@pytest.mark.parametrize("size", [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
async def test_no_value_is_larger_than_a_chunk(store: Store, size: int) -> None:
    assert CHUNK_BYTES <= 256 * 1024
    blob = bytes(range(256)) * (size // 256 + 1)
    await (await owner(store)).write("5-0", [("big", blob[:size])])
    sizes = [len(v) for v in await store.call("HVALS", keys.chunks(0))]
    assert sum(sizes) == size and max(sizes) <= CHUNK_BYTES
    loaded = await (await owner(store)).load()
    assert loaded is not None and loaded.pieces["big"] == blob[:size]


async def test_only_what_changed_since_the_last_but_one_is_written_again(store: Store) -> None:
    snapshots = await owner(store)
    await snapshots.write("1-0", [("a", b"a1"), ("b", b"b1"), ("c", b"c1")])
    await snapshots.write("2-0", [("a", b"a1"), ("b", b"b2"), ("c", None)], complete=True)
    before = await chunk_names(store)
    await snapshots.write("3-0", [("b", b"b3"), ("c", None)])
    (new,) = await chunk_names(store) - before
    assert new.startswith("b#0@")
    assert await (await owner(store)).load() == Snapshot("3-0", {"a": b"a1", "b": b"b3"})


async def test_a_snapshot_shares_no_chunk_with_its_fallback(store: Store) -> None:
    snapshots = await owner(store)
    for n in range(1, 7):
        changed = [("a", b"a"), ("b", b"b")] if n < 3 else [("b", b"%d" % n)]
        await snapshots.write(f"{n}-0", changed)
        newest, fallback = [
            {stored[0] for stored in (await read_manifest(store, key))["pieces"].values()}
            for key in (keys.manifest(0), keys.previous_manifest(0))
        ]
        assert len(newest) == 2
        assert not newest & fallback


async def test_chunks_that_no_snapshot_needs_are_dropped_those_of_the_fallback_are_kept(
    store: Store,
) -> None:
    snapshots = await owner(store)
    for n in range(1, 6):
        gone = [(f"only/{n - 1}", None), (f"only/{n - 2}", None)]
        await snapshots.write(f"{n}-0", [("a", b"%d" % n), (f"only/{n}", b"x"), *gone])
    values = sorted(await store.call("HVALS", keys.chunks(0)))
    assert values == [b"4", b"5", b"x", b"x"]


async def test_a_crash_before_the_manifest_leaves_the_old_snapshot_and_its_orphans_go_later(
    store: Store,
) -> None:
    await (await owner(store)).write("1-0", [("a", b"old")])
    with pytest.raises(Crash):
        dying = await owner(store)
        await dying.load()
        await dying.write("2-0", dying_after(["a", "b"]))
    assert len(await chunk_names(store)) == 3

    heir = await owner(store)
    assert await heir.load() == Snapshot("1-0", {"a": b"old"})
    await heir.write("3-0", [("a", b"new")])
    assert sorted(await store.call("HVALS", keys.chunks(0))) == [b"new", b"old"]


async def test_an_owner_that_failed_half_way_writes_the_rest_next_time(store: Store) -> None:
    snapshots = await owner(store)
    await snapshots.write("1-0", [("a", b"a1")])
    with pytest.raises(Crash):
        await snapshots.write("2-0", dying_after(["a"]))
    await snapshots.write("3-0", [("a", b"a3")])
    assert await (await owner(store)).load() == Snapshot("3-0", {"a": b"a3"})
    assert sorted(await store.call("HVALS", keys.chunks(0))) == [b"a1", b"a3"]


async def test_versions_of_two_owners_never_collide(store: Store) -> None:
    for n in range(1, 5):
        heir = await owner(store)
        await heir.load()
        await heir.write(f"{n}-0", [("a", b"%d" % n)])
        assert await (await owner(store)).load() == Snapshot(f"{n}-0", {"a": b"%d" % n})


async def test_small_chunks_share_a_call_and_no_call_is_larger_than_a_chunk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    run = store.run

    async def counting(
        name: str, given: Sequence[str], arguments: Sequence[Any], **place: Any
    ) -> Any:
        if name == "snapshot_chunk":
            calls.append(sum(len(part) for part in arguments[2::2]))
        return await run(name, given, arguments, **place)

    monkeypatch.setattr(store, "run", counting)
    pieces = {f"tag/{n}": b"x" * (n % 50) for n in range(2000)}
    pieces |= {f"block/{n}": b"y" * 100_000 for n in range(10)}
    await (await owner(store)).write("5-0", pieces.items())
    assert len(calls) < 20 and max(calls) <= CHUNK_BYTES
    assert await (await owner(store)).load() == Snapshot("5-0", pieces)


async def test_others_have_their_turn_between_two_pieces(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    turns = 0
    seen = []

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def pieces() -> Iterator[tuple[str, bytes]]:
        for n in range(100):  # all in one call at the end
            seen.append(turns)
            yield f"tag/{n}", b"x"

    task = asyncio.create_task(other())
    await (await owner(store)).write("5-0", pieces())
    task.cancel()
    assert len(set(seen)) == 100


async def test_what_could_not_be_dropped_goes_after_the_next_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = await owner(store)
    for n in range(1, 3):
        await snapshots.write(f"{n}-0", [("a", b"%d" % n)])
    run = store.run

    async def failing(name: str, *arguments: Any, **place: Any) -> Any:
        if name == "snapshot_drop":
            raise StoreUnavailable("away")
        return await run(name, *arguments, **place)

    monkeypatch.setattr(store, "run", failing)
    await snapshots.write("3-0", [("a", b"3")])
    assert sorted(await store.call("HVALS", keys.chunks(0))) == [b"1", b"2", b"3"]
    monkeypatch.setattr(store, "run", run)
    await snapshots.write("4-0", [("a", b"4")])
    assert sorted(await store.call("HVALS", keys.chunks(0))) == [b"3", b"4"]


# Trim, and the way back.


async def test_the_log_is_trimmed_to_the_fallback_only_and_says_so(store: Store) -> None:
    positions = await fill_log(store, 10)
    snapshots = await owner(store)
    await snapshots.write(positions[3], [])
    assert await store.call("XLEN", keys.log(0)) == 10, "nothing to fall back to yet"
    await snapshots.write(positions[6], [])
    assert (await store.call("GET", keys.trimmed(0))).decode() == positions[3]
    rows = await store.call("XRANGE", keys.log(0), f"({positions[3]}", "+")
    assert [row[0].decode() for row in rows] == positions[4:], "all that the fallback has not"


async def two_snapshots(store: Store) -> list[str]:
    """At the 4th and the 7th of ten entries."""
    positions = await fill_log(store, 10)
    snapshots = await owner(store)
    await snapshots.write(positions[3], [("a", b"older"), ("same", b"s")])
    await snapshots.write(positions[6], [("a", b"newer"), ("same", b"s")])
    return positions


async def read_manifest(store: Store, key: str) -> dict[str, Any]:
    raw = await store.call("GET", key)
    manifest: dict[str, Any] = json.loads(raw[9:]) if raw else {"pieces": {}}
    return manifest


async def damage_chunk(store: Store) -> None:
    manifest = await read_manifest(store, keys.manifest(0))
    await store.call("HSET", keys.chunks(0), f"a#0@{manifest['pieces']['a'][0]}", b"newEr")


async def lose_chunk(store: Store) -> None:
    manifest = await read_manifest(store, keys.manifest(0))
    await store.call("HDEL", keys.chunks(0), f"a#0@{manifest['pieces']['a'][0]}")


async def flip_a_digit(store: Store) -> None:
    """Good JSON before and after."""
    raw = await store.call("GET", keys.manifest(0))
    at = raw.index(b'"position":"') + len(b'"position":"')
    await store.call("SETRANGE", keys.manifest(0), at, b"9" if raw[at : at + 1] != b"9" else b"8")


async def damage_manifest(store: Store) -> None:
    await store.call("SETRANGE", keys.manifest(0), 0, b"!")


async def newer_format(store: Store) -> None:
    text = json.dumps(await read_manifest(store, keys.manifest(0)) | {"format": 99}).encode()
    await store.call("SET", keys.manifest(0), b"%08x " % zlib.crc32(text) + text)


@pytest.mark.parametrize(
    "harm", [damage_chunk, lose_chunk, damage_manifest, flip_a_digit, newer_format]
)
async def test_an_unreadable_snapshot_is_set_aside_and_costs_a_longer_replay(
    store: Store, harm: Callable[[Store], Awaitable[None]]
) -> None:
    positions = await two_snapshots(store)
    await harm(store)
    bad = await store.call("GET", keys.manifest(0))

    heir = await owner(store)
    loaded = await heir.load()
    assert loaded == Snapshot(positions[3], {"a": b"older", "same": b"s"})
    assert await store.call("GET", keys.corrupt_manifest(0)) == bad, "kept for a look"
    rows = await store.call("XRANGE", keys.log(0), f"({loaded.position}", "+")
    assert [row[0].decode() for row in rows] == positions[4:], "the log reaches back to it"

    # And it goes on from there.
    await heir.write(positions[8], [("a", b"newest"), ("same", b"s")], complete=True)
    assert await (await owner(store)).load() == Snapshot(
        positions[8], {"a": b"newest", "same": b"s"}
    )
    await damage_manifest(store)
    assert await (await owner(store)).load() == loaded, "what it was set aside for is kept as well"


async def test_with_no_readable_snapshot_and_a_whole_log_it_is_replayed_from_its_start(
    store: Store,
) -> None:
    positions = await fill_log(store, 3)
    await (await owner(store)).write(positions[1], [("a", b"x")])
    await damage_manifest(store)
    assert await (await owner(store)).load() is None
    assert await store.call("XLEN", keys.log(0)) == 3
    assert await tail(store, 0) == positions[2]


async def test_a_deposed_reader_sets_nothing_aside(store: Store) -> None:
    """Slow between its fence and its load, it may meet a snapshot that its heir has replaced."""
    deposed = await owner(store)
    heir = await owner(store)
    await heir.write("1-0", [("a", b"x")])
    await lose_chunk(store)
    with pytest.raises(Exception, match="FENCED"):
        await deposed.load()
    assert await store.call("EXISTS", keys.manifest(0)) == 1
