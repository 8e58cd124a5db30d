"""Where the servers of the store are and how they are dialled: `store.url`, taken apart.

redis://user:password@host:port/db   one server, or one of a cluster that names the others
redis://host:port,host:port          several of a cluster: any of them will do to find the others
unix:///path                         one server
"""

from typing import Any, Final, NamedTuple

from redis.asyncio.connection import Connection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.config_sources import ConfigError, shown

AnyConnection = Connection | UnixDomainSocketConnection

_PORT: Final = 6379


class Address(NamedTuple):
    """A server. `host` is a path, and `port` 0, where it is a unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Dial:
    """What all connections to the store have in common. Raises ConfigError for a URL that is none."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.shown = str(shown("store.url", url))
        """The URL without its password, for errors."""
        self.timeout_s = timeout_s
        self.seeds: list[Address] = []
        self._options: dict[str, Any] = {}
        try:
            for one in _each_server(url):
                options: dict[str, Any] = {**parse_url(one)}
                path = str(options.pop("path", ""))
                host = path or str(options.pop("host", "localhost"))
                port = 0 if path else int(options.pop("port", _PORT))
                self.seeds.append(Address(host, port))
                self._options = options
            self._kind: Any = self._options.pop("connection_class", Connection)
            self.connection(self.seeds[0])
        except (TypeError, ValueError) as error:  # the former for an option that there is not
            raise ConfigError(f"store.url {self.shown}: {error}") from error

    def connection(self, address: Address) -> AnyConnection:
        """Not connected yet. Without retries: the client library must never repeat a command."""
        if self._kind is UnixDomainSocketConnection:
            place: dict[str, Any] = {"path": address.host}
        else:
            place = {"host": address.host, "port": address.port}
        connection: AnyConnection = self._kind(
            **place,
            **self._options,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self.timeout_s,
            protocol=2,
            driver_info=None,
        )
        return connection


def _each_server(url: str) -> list[str]:
    """A URL for each server that this one names."""
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        return [url]
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    user, at_sign, servers = rest[:end].rpartition("@")
    return [f"{scheme}://{user}{at_sign}{one.strip()}{rest[end:]}" for one in servers.split(",")]
