"""Quotas of apps: how many pushes of a day are given out."""

import asyncio

from gateway.store import keys
from gateway.store.client import Store

_KEPT_S = 2 * 86_400


async def take(store: Store, app: int, day: int, portion: int, limit: int) -> int:
    """Take up to `portion` of a day's `limit`; how many were left to take. Raises StoreUnavailable.

    A call whose reply was lost has taken its portion all the same: a quota is met or missed by less
    than a portion, never exceeded.
    """
    key = keys.quota(app, day)
    given, _ = await asyncio.gather(
        store.call("INCRBY", key, portion), store.call("EXPIRE", key, _KEPT_S)
    )
    return max(0, min(portion, limit - (int(given) - portion)))
