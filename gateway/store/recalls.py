"""Recalls as the store keeps them, for edges that start later."""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.store import keys
from gateway.store.client import Store

MOST: Final = 100_000
"""Recalls kept, over all apps, as many as an edge remembers; beyond it the one that ends first goes."""


class StoredRecall(NamedTuple):
    push_id: int
    app: int
    until_ms: int
    """By the store's clock, since the Unix epoch."""


async def add(store: Store, recall: StoredRecall, now_ms: int) -> None:
    """Remember it until its time is over; to be said again does no harm. Raises StoreUnavailable."""
    # Together: a command that fails while nobody waits for it would be an unread exception.
    await asyncio.gather(
        store.call("ZREMRANGEBYSCORE", keys.RECALLS, "-inf", now_ms),
        store.call("ZADD", keys.RECALLS, recall.until_ms, f"{recall.app} {recall.push_id}"),
        store.call("ZREMRANGEBYRANK", keys.RECALLS, 0, -MOST - 1),
    )


async def load(store: Store, now_ms: int) -> Sequence[StoredRecall]:
    """Those whose time is not over. Raises StoreUnavailable."""
    rows = await store.call("ZRANGEBYSCORE", keys.RECALLS, now_ms, "+inf", "WITHSCORES")
    found = []
    for member, score in zip(rows[::2], rows[1::2], strict=True):
        app, push_id = member.split(b" ")
        found.append(StoredRecall(int(push_id), int(app), int(float(score))))
    return found
