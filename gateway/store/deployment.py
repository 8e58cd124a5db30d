"""What a deployment fixes at its first start, and what it demands of its store."""

from typing import Final

import structlog

from gateway.config import Config
from gateway.store import keys
from gateway.store.client import Store
from gateway.store.errors import StoreError, StoreUnavailable

_log = structlog.get_logger("columba.store")

_SCHEMA: Final = 1
"""Of keys and records; a later build that changes them refuses, or migrates, an older store."""


_DURABLE: Final = (
    ("aof_enabled", "1", "start it with `appendonly yes`"),
    ("maxmemory_policy", "noeviction", "start it with `maxmemory-policy noeviction`"),
)
"""Field of INFO, what it must say, what to do otherwise."""


class DeploymentError(Exception):
    """This store and this configuration do not belong together; the text says what to change."""


async def establish(store: Store, config: Config) -> None:
    """Write the deployment's constants at the first start, compare them later. DeploymentError."""
    try:
        if not config.store.insecure_durability:
            await _check_durability(store)
        if store.is_cluster and not config.store.replicas:
            _log.warning(
                "a failover may lose what was acknowledged just before: store.replicas is 0"
            )
        wanted = {"partitions": config.service.partitions, "schema": _SCHEMA}
        for field, value in wanted.items():
            await store.write("HSETNX", keys.DEPLOYMENT, field, value)
            found = int(await store.call("HGET", keys.DEPLOYMENT, field))
            if found != value:
                raise DeploymentError(
                    f"this store was set up with {field} = {found}, the configuration says {value}; "
                    "it is fixed for the life of a deployment"
                )
    except StoreUnavailable:
        raise
    except StoreError as error:
        raise DeploymentError(f"the store refused a command that is needed: {error}") from error


async def _check_durability(store: Store) -> None:
    """Every primary; of what a replica will do when it is one, its own start has to take care."""
    for address, info in await store.each("INFO", "everything"):
        said = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        for field, good, advice in _DURABLE:
            found = said.get(field, "unknown")
            if found != good:
                raise DeploymentError(
                    f"the store would lose messages ({field} is {found} at {address}): {advice}, "
                    "or set store.insecure_durability"
                )
