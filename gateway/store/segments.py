"""Segments: audiences that an app has saved under a name, as JSON form, with their own references."""

import json
from collections.abc import Sequence

from gateway.audience import Audience
from gateway.audience import segments as referred
from gateway.audience_json import from_json, to_json
from gateway.store import keys
from gateway.store.client import Store


class Segments:
    """The segments of all apps. Raises StoreUnavailable while the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, app: int, name: str) -> Audience | None:
        raw = await self._store.call("HGET", keys.segments(app), name)
        return None if raw is None else _decoded(raw, name)

    async def all(self, app: int) -> dict[str, Audience]:
        """By name, in its order."""
        flat = await self._store.call("HGETALL", keys.segments(app))
        rows = sorted(zip(flat[::2], flat[1::2], strict=True))
        return {raw_name.decode(): _decoded(raw, raw_name.decode()) for raw_name, raw in rows}

    async def needed(self, app: int, tree: Audience) -> dict[str, Audience]:
        """Those that the tree refers to and those that these refer to, as far as they are saved."""
        found: dict[str, Audience] = {}
        asked: set[str] = set()
        names = referred(tree)
        while names:
            asked.update(names)
            read = await self._read(app, names)
            found.update(read)
            below = (name for one in read.values() for name in referred(one))
            names = [name for name in dict.fromkeys(below) if name not in asked]
        return found

    async def _read(self, app: int, names: Sequence[str]) -> dict[str, Audience]:
        rows = await self._store.call("HMGET", keys.segments(app), *names)
        found = zip(names, rows, strict=True)
        return {name: _decoded(raw, name) for name, raw in found if raw is not None}

    async def save(self, app: int, name: str, tree: Audience) -> None:
        """In place of what stands under the name."""
        await self._store.write("HSET", keys.segments(app), name, json.dumps(to_json(tree)))

    async def delete(self, app: int, name: str) -> bool:
        """False if there was none."""
        return bool(await self._store.write("HDEL", keys.segments(app), name))


def _decoded(raw: bytes, name: str) -> Audience:
    return from_json(json.loads(raw), f"segment `{name}`")
