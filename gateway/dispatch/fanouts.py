"""Fan-outs that an API process left half done: any partition's owner completes those at home there."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from gateway.store import pushes as store_pushes
from gateway.store.client import Store
from gateway.store.errors import LogFull, ProducerFull
from gateway.store.log import Producer
from gateway.store.pushes import Fanout, PushPart

_log = structlog.get_logger("columba.dispatch")

_AT_ONCE: Final = 8
"""Fan-outs under way: with a part for each partition they stay far below what a producer takes."""
_SLICE: Final = 100
"""Fan-outs looked at in a turn."""


class Overdue:
    """Each turn takes the next slice of a home's fan-outs, and after the last one begins anew: those that
    cannot be finished yet do not hide the younger ones."""

    def __init__(self, store: Store, producer: Producer[PushPart, bytes]) -> None:
        self._store = store
        self._producer = producer
        self._after: dict[int, Fanout] = {}
        """home -> the last one of its last slice, if more may come behind it"""

    async def complete(self, home: int, before_ms: int) -> int:
        """A turn: finish fan-outs accepted before `before_ms`; returns how many. Folding by id makes
        repeats harmless.

        Raises StoreError (ProducerFull among them) if one fails, after all others of the slice have
        been tried.
        """
        after = self._after.pop(home, None)
        overdue = await store_pushes.overdue_fanouts(self._store, home, before_ms, after, _SLICE)
        if len(overdue) == _SLICE:
            self._after[home] = overdue[-1]
        done = 0
        failed: list[BaseException] = []
        for at in range(0, len(overdue), _AT_ONCE):
            ends = await asyncio.gather(
                *(
                    _complete(self._store, self._producer, home, fanout.push_id)
                    for fanout in overdue[at : at + _AT_ONCE]
                ),
                return_exceptions=True,
            )
            done += sum(end is True for end in ends)
            failed += [end for end in ends if isinstance(end, BaseException)]
        _raise_first(failed)
        return done


async def _complete(
    store: Store, producer: Producer[PushPart, bytes], home: int, push_id: int
) -> bool:
    """False if its record has expired (nobody can get it any more), or a log is full that has yet to get it."""
    found = await store_pushes.read_record(store, home, push_id)
    if found is None:
        await store_pushes.fanout_done(store, home, push_id, [])
        return False
    parts = store_pushes.parts_of(*found, home)
    # All at once: a partition that answers late delays none of the others.
    futures = []
    full = None
    for p, part in parts:
        try:
            futures.append(producer.submit(p, part, len(part.push) + len(part.indexes)))
        except ProducerFull as error:
            full = error
            break
    ends: list[bytes | BaseException] = await asyncio.gather(*futures, return_exceptions=True)
    reached = [
        p for (p, _), end in zip(parts, ends, strict=False) if not isinstance(end, BaseException)
    ]
    if reached or not parts:
        await store_pushes.fanout_done(store, home, push_id, reached)
    # A full log keeps its own part back, not those of others: it is tried again when the turn comes to it.
    _raise_first([*(end for end in ends if not isinstance(end, LogFull)), full])
    if len(reached) < len(parts):
        return False
    _log.info("fan-out completed", push_id=str(push_id), partitions=len(parts))
    return True


def _raise_first(ends: Sequence[object]) -> None:
    for end in ends:
        if isinstance(end, BaseException):
            raise end
