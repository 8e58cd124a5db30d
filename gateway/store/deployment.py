"""What a deployment fixes at its first start, and what it demands of its store."""

from typing import Final

from gateway.config import Config
from gateway.store import keys
from gateway.store.client import Store
from gateway.store.errors import StoreError, StoreUnavailable

_SCHEMA: Final = 1
"""Of keys and records; a later build that changes them refuses, or migrates, an older store."""


class DeploymentError(Exception):
    """This store and this configuration do not belong together; the text says what to change."""


async def establish(store: Store, config: Config) -> None:
    """Write the deployment's constants at the first start, compare them later. DeploymentError."""
    try:
        if not config.store.insecure_durability:
            await _check_durability(store)
        wanted = {"partitions": config.service.partitions, "schema": _SCHEMA}
        for field, value in wanted.items():
            await store.call("HSETNX", keys.DEPLOYMENT, field, value)
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
    for info_field, good, advice in (
        ("aof_enabled", "1", "start it with `appendonly yes`"),
        ("maxmemory_policy", "noeviction", "start it with `maxmemory-policy noeviction`"),
    ):
        found = await _info(store, info_field)
        if found != good:
            raise DeploymentError(
                f"the store would lose messages ({info_field} is {found}): {advice}, "
                "or set store.insecure_durability"
            )


async def _info(store: Store, field: str) -> str:
    text = (await store.call("INFO", "everything")).decode()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return str(value)
    return "unknown"
