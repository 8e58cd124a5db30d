"""Apps: the tenants, their access key for devices and their API keys for servers.

The access key is kept as it is, because the edge needs it to check an HMAC; API keys are kept as
SHA-256 and shown once (they are 32 random bytes, so a slow hash would add nothing).
"""

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import time
from typing import Final, NamedTuple

from gateway.store import keys
from gateway.store.client import Store
from gateway.store.errors import StoreError, StoreUnavailable

_APP_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MAX_APPS: Final = 65_535
_REFRESH_S: Final = 5.0
_MISS_S: Final = 1.0
"""An id that the store did not know is not asked for again for this long."""
_MISSES: Final = 1_000
"""Ids remembered as unknown; with more, whoever asks for a further one has to come again later."""


class App(NamedTuple):
    app_id: str
    number: int
    """u16, the app's name inside partitions."""
    access_key: str
    api_keys: tuple[str, ...]
    """SHA-256 of each, hex."""

    def allows(self, api_key: str) -> bool:
        digest = hashlib.sha256(api_key.encode()).hexdigest()
        return any([hmac.compare_digest(digest, known) for known in self.api_keys])

    def __repr__(self) -> str:
        return f"App({self.app_id!r}, {self.number})"


class NewApp(NamedTuple):
    """A new app with its keys; the API key is not to be had again."""

    app_id: str
    number: int
    access_key: str
    api_key: str

    def __repr__(self) -> str:
        return f"NewApp({self.app_id!r}, {self.number})"


class Apps:
    """The apps, cached: refreshed in the background, and when an unknown one is asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_id: dict[str, App] = {}
        self._by_key: dict[str, App] = {}
        self._missing: dict[str, float] = {}
        """id -> monotonic time until which the store is not asked again"""

    async def create(self, app_id: str) -> NewApp:
        """Raises StoreError if the app exists or its id is not allowed."""
        new = await self.ensure(app_id)
        if new is None:
            raise StoreError(f"app {app_id!r} exists already")
        return new

    async def ensure(self, app_id: str) -> NewApp | None:
        """Create the app, or return None if it is there."""
        if not _APP_ID.fullmatch(app_id):
            raise StoreError(
                f"app id {app_id!r}: 1 to 64 of a-z 0-9 . _ - are allowed, a letter or digit first"
            )
        access_key, api_key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        digest = hashlib.sha256(api_key.encode()).hexdigest()
        number = await self._store.run(
            "app_create",
            [keys.APPS, keys.APP_NUMBER],
            [app_id, json.dumps({"access_key": access_key, "api_keys": [digest]})],
        )
        if number > _MAX_APPS:
            raise StoreError(f"no more than {_MAX_APPS} apps")
        return NewApp(app_id, number, access_key, api_key) if number else None

    async def refresh(self) -> None:
        """Read all apps."""
        reply = await self._store.call("HGETALL", keys.APPS)
        apps = {}
        for raw_id, raw in zip(reply[::2], reply[1::2], strict=True):
            fields = json.loads(raw)
            app_id = raw_id.decode()
            apps[app_id] = App(
                app_id, fields["number"], fields["access_key"], tuple(fields["api_keys"])
            )
        self._by_id = apps
        self._by_key = {digest: app for app in apps.values() for digest in app.api_keys}

    async def keep_fresh(self) -> None:
        """Refresh for ever; what was read stands while the store is away."""
        while True:
            try:
                await self.refresh()
            except StoreError:
                pass  # the next turn tries again
            await asyncio.sleep(_REFRESH_S)

    def get(self, app_id: str) -> App | None:
        return self._by_id.get(app_id)

    def of_key(self, api_key: str) -> App | None:
        """An app that this API key opens. The key's SHA-256 is looked up: its timing tells nothing."""
        return self._by_key.get(hashlib.sha256(api_key.encode()).hexdigest())

    async def find(self, app_id: str) -> App | None:
        """As `get`, but asks the store about an app that was perhaps created a moment ago.

        Raises StoreUnavailable while the store is away, or too many unknown ids are asked for: an
        answer of "no such app" sends a device away for ever, so it must be true.
        """
        app = self._by_id.get(app_id)
        now = time.monotonic()
        if app is not None or self._missing.get(app_id, now) > now:
            return app
        if len(self._missing) >= _MISSES:
            self._missing = {i: until for i, until in self._missing.items() if until > now}
            if len(self._missing) >= _MISSES:
                raise StoreUnavailable("too many unknown apps are asked for")
        if await self._store.call("HEXISTS", keys.APPS, app_id):
            await self.refresh()
        else:
            self._missing[app_id] = now + _MISS_S
        return self._by_id.get(app_id)
