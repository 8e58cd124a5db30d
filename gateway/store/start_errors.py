"""Which errors of a start are the user's to mend, and are told in one line instead of a traceback."""

import errno
from typing import Final

from gateway.config_sources import ConfigError
from gateway.datadir import DataDirError
from gateway.network import ListenError
from gateway.secretfiles import SecretsError
from gateway.store.deployment import DeploymentError
from gateway.store.embedded import EmbeddedError
from gateway.store.errors import StoreUnavailable

_USERS_OWN: Final = (
    ConfigError,
    DataDirError,
    DeploymentError,
    EmbeddedError,
    ListenError,
    SecretsError,
    StoreUnavailable,
)
_NUMBERS: Final = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


def users_error(error: BaseException) -> str | None:
    """One sentence for the user, or None for what is a defect of ours."""
    if isinstance(error, _USERS_OWN):
        return str(error)
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return str(error)
    return None
