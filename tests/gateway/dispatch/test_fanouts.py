"""Fan-outs left half done: all of them have their turn, whatever some of them wait for."""

from collections.abc import Sequence

import pytest

from gateway.dispatch import fanouts
from gateway.dispatch.fanouts import Overdue
from gateway.store import pushes
from gateway.store.client import Store
from gateway.store.errors import LogFull
from gateway.store.log import Pace, Producer
from gateway.store.pushes import PushPart, PushRecord

FAR_MS = 2**50
FULL = 1
"""A partition whose log takes nothing."""


async def accept(store: Store, push_id: int, p: int) -> None:
    await pushes.accept(store, 0, PushRecord(push_id, 1, 60, b'"all"', b"c", {p: b""}), None)


async def test_fan_outs_that_wait_for_a_full_log_do_not_hide_younger_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanouts, "_SLICE", 3)
    full = {FULL}
    reached: list[int] = []

    async def send(p: int, _: int, items: Sequence[PushPart]) -> list[bytes]:
        if p in full:
            raise LogFull("full")
        reached.extend(part.push_id for part in items)
        return [b""] * len(items)

    for push_id in range(1, 9):
        await accept(store, push_id, FULL if push_id <= 7 else 2)
    overdue = Overdue(store, Producer(send, Pace(quiet_s=0), store, refusing=True))
    turns = [await overdue.complete(0, FAR_MS) for _ in range(3)]
    assert (turns, reached) == ([0, 0, 1], [8])
    full.clear()
    # The round begins anew, and nobody is left out of it.
    assert [await overdue.complete(0, FAR_MS) for _ in range(4)] == [3, 3, 1, 0]
    assert sorted(reached) == list(range(1, 9))
    assert await pushes.overdue_fanouts(store, 0, FAR_MS) == []
