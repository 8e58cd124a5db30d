"""What the supervisor does in the store: found the deployment, app `demo`, leases of the dead."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self, cast

from gateway import demokeys, logs
from gateway.config import Config
from gateway.demokeys import DemoKeys
from gateway.store.apps import Apps
from gateway.store.client import Store
from gateway.store.deployment import establish
from gateway.store.errors import StoreError
from gateway.store.leases import Identity, Role, release

_RETRY_S: Final = 0.2


class StoreSide:
    """A connection of the supervisor's own."""

    def __init__(self, store: Store, lease_s: float) -> None:
        self._store = store
        self._lease_s = lease_s

    @classmethod
    async def open(cls, config: Config) -> Self:
        """Connect, and check or found the deployment. Raises StoreUnavailable, DeploymentError."""
        store = await Store.connect(config.store.url, **config.store.terms())
        try:
            await establish(store, config)
        except BaseException:
            await store.close()
            raise
        return cls(store, config.store.lease_s)

    async def demo_keys(self, data_dir: Path) -> DemoKeys:
        """Make app `demo` and keep its keys (0600), or find them again. Raises StoreError."""
        apps = Apps(self._store)
        new = await apps.ensure(demokeys.DEMO)
        if new is not None:
            keys = DemoKeys(demokeys.DEMO, new.access_key, new.api_key)
            demokeys.write(data_dir, keys)
            return keys
        found = await apps.find(demokeys.DEMO)
        access_key = None if found is None else found.access_key
        kept = demokeys.read(data_dir)
        # The file may be of another store; the access key, which the store can tell, decides.
        if kept is not None and kept.access_key == access_key:
            return kept
        return DemoKeys(demokeys.DEMO, access_key, None)

    async def release(self, role: str, said: Mapping[str, object]) -> None:
        """End the lease of a process that is known dead, so that nobody waits for it to run out.

        `said` is its ready line. Gives up when the lease has run out anyway.
        """
        number, start = said.get("number"), said.get("start")
        if not isinstance(number, int) or not isinstance(start, int):
            return
        identity = Identity(cast(Role, role), number, start)
        deadline_s = time.monotonic() + self._lease_s
        while time.monotonic() < deadline_s:
            with contextlib.suppress(StoreError):
                await release(self._store, identity)
                return
            await asyncio.sleep(_RETRY_S)
        logs.get().warning("lease left to run out: no answer from the store", lease=identity.member)

    async def close(self) -> None:
        await self._store.close()
