"""The socket of the HTTP server, with one clear error where it cannot be had."""

import errno
import socket
from typing import Final

from gateway.config import Api
from gateway.network import ListenError, check_plaintext, split_address

BACKLOG: Final = 2048

_ADVICE: Final = {
    errno.EADDRINUSE: "another program listens there; stop it or set another api.listen",
    errno.EADDRNOTAVAIL: "this machine has no such address; set another api.listen",
    errno.EACCES: "this user may not listen there; set another api.listen (ports from 1024 on are free)",
}


def bind(api: Api) -> socket.socket:
    """A listening socket. Raises ListenError."""
    check_plaintext(api.listen, allowed=api.allow_plaintext, setting="api.allow_plaintext")
    host, port = split_address(api.listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(f"api.listen {api.listen}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        advice = _ADVICE.get(error.errno or 0, str(error.strerror))
        raise ListenError(f"api.listen {api.listen}: {advice}") from error
    listener.setblocking(False)
    return listener


def url(listener: socket.socket) -> str:
    """http://host:port as it was bound."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
