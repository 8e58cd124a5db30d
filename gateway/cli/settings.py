"""What the commands start from: configuration, secrets, and the addresses of a running service."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway import config_sources, datadir, secretfiles
from gateway.config import Config
from gateway.config_sources import ConfigError, Flag, Loaded
from gateway.secretfiles import Secrets

NAMED = {
    "--data-dir": "service.data_dir",
    "--device-listen": "edge.listen",
    "--api-listen": "api.listen",
    "--edges": "edge.count",
    "--store": "store.url",
}
"""Flags of commands -> the settings they stand for."""


class UsageProblem(Exception):
    """A command that cannot be carried out as it stands; one sentence for the user."""


class Addresses(NamedTuple):
    """Where a service on this machine is: `host:port` for devices, a URL of the API."""

    devices: str
    api: str


def read(file: Path | None, sets: Sequence[str] | None, **named: str | int | Path | None) -> Loaded:
    """Configuration of a command. `named`: data_dir="..." for `--data-dir`. Raises ConfigError."""
    flags = [config_sources.set_flag(text) for text in sets or ()]
    for name, value in named.items():
        if value is not None:
            flag = "--" + name.replace("_", "-")
            flags.append(Flag(NAMED[flag], str(value), flag))
    return config_sources.load(file, os.environ, flags)


def secrets_of(config: Config) -> Secrets:
    """Raises SecretsError, DataDirError."""
    root = datadir.prepare(Path(config.service.data_dir))
    return secretfiles.load_or_create(root, os.environ)


def with_store(config: Config) -> Config:
    """With store.url set: for a role alone, the embedded store of a running `serve` will do.

    Raises ConfigError.
    """
    if config.store.url:
        return config
    from gateway.store.embedded import EmbeddedServer

    embedded = EmbeddedServer(Path(config.service.data_dir))
    if not embedded.socket.exists():
        raise ConfigError(
            "store.url is empty and no embedded store runs in the data directory; "
            "name the store with --store"
        )
    replace = msgspec.structs.replace
    return replace(config, store=replace(config.store, url=embedded.url))


def addresses(config: Config) -> Addresses:
    """Of the service that runs on the data directory, else those in the configuration."""
    path = Path(config.service.data_dir, datadir.RUN, datadir.ADDRESSES)
    try:
        found = json.loads(path.read_text())
        return Addresses(found["devices"], found["api"])
    except (OSError, ValueError, KeyError):
        return Addresses(config.edge.listen, f"http://{config.api.listen}")
