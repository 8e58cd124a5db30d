"""What the reactor and its sessions ask of a raw descriptor that Python only offers for its own sockets, or not at all."""

import fcntl
import socket
import termios
from typing import Final

_NOTHING: Final = bytes(4)


def has_unread(fd: int) -> bool:
    """The kernel has bytes of it that nobody has read (ioctl_tty(2), FIONREAD); its end is none."""
    return fcntl.ioctl(fd, termios.FIONREAD, _NOTHING) != _NOTHING


def shutdown_writing(fd: int) -> None:
    borrowed = socket.socket(fileno=fd)
    try:
        borrowed.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the peer was quicker
    finally:
        borrowed.detach()
