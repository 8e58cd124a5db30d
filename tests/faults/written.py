"""How much has been written to each connection of a port, asked of the kernel: sock_diag(7), inet_diag.

What a process has given to the kernel has left it, though a full buffer may keep it from the network for
as long as it likes. No end of a connection can tell when that was; the kernel can, to the byte.
"""

import errno
import os
import socket
import struct
from typing import Final

from tests.faults.plan import CannotHere

_SOCK_DIAG: Final = 4
"""NETLINK_SOCK_DIAG."""
_BY_FAMILY: Final = 20
"""SOCK_DIAG_BY_FAMILY."""
_ERROR, _DONE = 2, 3
_DUMP: Final = 0x301
"""NLM_F_REQUEST | NLM_F_DUMP."""
_ATTRIBUTE_BYTECODE: Final = 1
_ATTRIBUTE_INFO: Final = 2
_STATES: Final = sum(1 << state for state in (1, 4, 5, 8, 9, 11))
"""Of include/net/tcp_states.h: those in which there is something to tell; no listeners."""
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBxI48x")
"""struct inet_diag_req_v2: family, protocol, attributes, states, no address."""
_MESSAGE: Final = 72
"""Bytes of struct inet_diag_msg."""
_OPERATION: Final = struct.Struct("=BBH")
"""struct inet_diag_bc_op: code, steps if so, steps if not. A port stands in a second one behind it."""
_AT_LEAST, _AT_MOST = 2, 3
"""INET_DIAG_BC_S_GE, INET_DIAG_BC_S_LE: of the port on this side."""
_UNSENT: Final = struct.Struct("=I")
_SENT: Final = struct.Struct("=QQ")
_UNSENT_AT, _SENT_AT = 144, 200
"""struct tcp_info: tcpi_notsent_bytes; tcpi_bytes_sent and, behind it, tcpi_bytes_retrans (Linux 4.19)."""
_CHUNK: Final = 1 << 20


def written_by_peer(port: int) -> dict[int, int]:
    """Port at the other end -> bytes that were written at this end, for IPv4 connections of local `port`.

    One that was closed may count a byte more. Raises CannotHere.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as asking:
            asking.send(_request(port))
            found: dict[int, int] = {}
            while _read(asking.recv(_CHUNK), found):
                pass
            return found
    except (OSError, struct.error) as error:
        raise CannotHere(
            f"the kernel does not tell what was written (inet_diag): {error}"
        ) from None


def _request(port: int) -> bytes:
    # Steps are bytes; a jump to just behind the end, plus 4, says no.
    filtering = b"".join(
        _OPERATION.pack(code, 8, otherwise) + _OPERATION.pack(0, 0, port)
        for code, otherwise in ((_AT_LEAST, 20), (_AT_MOST, 12))
    )
    body = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 1 << (_ATTRIBUTE_INFO - 1), _STATES)
    body += struct.pack("=HH", 4 + len(filtering), _ATTRIBUTE_BYTECODE) + filtering
    return _HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _DUMP, 1, 0) + body


def _read(data: bytes, found: dict[int, int]) -> bool:
    """Is there more to come? Raises OSError, struct.error."""
    at = 0
    while at < len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if kind == _DONE:
            return False
        if kind == _ERROR:
            (code,) = struct.unpack_from("=i", data, at + _HEADER.size)
            raise OSError(-code, os.strerror(-code))
        message = data[at + _HEADER.size : at + length]
        (peer,) = struct.unpack_from("!H", message, 6)
        info = _info(message)
        if info is not None:
            (unsent,) = _UNSENT.unpack_from(info, _UNSENT_AT)
            sent, again = _SENT.unpack_from(info, _SENT_AT)
            found[peer] = sent - again + unsent
        at += length + 3 & ~3
    if not data:
        raise OSError(errno.ENODATA, "no answer")
    return True


def _info(message: bytes) -> bytes | None:
    at = _MESSAGE
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == _ATTRIBUTE_INFO:
            return message[at + 4 : at + length]
        at += max(length, 4) + 3 & ~3
    return None
