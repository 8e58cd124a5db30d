"""What a process of the service gets from the one that starts it, and how both end in error.

The first line of standard input is {"config": {...}, "secrets": {...}}, so that no secret stands in
arguments or environment.
"""

import json
import resource
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway import secretfiles
from gateway.config import Config
from gateway.secretfiles import Secrets

USER_ERROR: Final = 2
"""Exit code for what the user has to change: configuration, ports, rights, the store's settings."""


def first_line(config: Config, secrets: Secrets) -> bytes:
    """Without the newline."""
    settings = {
        "config": msgspec.to_builtins(config),
        "secrets": secretfiles.to_builtins(secrets),
    }
    return json.dumps(settings).encode()


def received(settings: Mapping[str, Any]) -> tuple[Config, Secrets]:
    """The reverse, from the decoded line."""
    config = msgspec.convert(settings["config"], Config)
    return config, secretfiles.from_builtins(settings["secrets"], "the pipe from the supervisor")


def tell_error(text: str) -> None:
    """One line on standard error, for people: not a log line."""
    sys.stderr.write(f"columba: {text}\n")
    sys.stderr.flush()


def raise_descriptor_limit() -> None:
    """As many descriptors as the system allows: every connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
