"""Hash slots: which server of a cluster has a key.

A slot is CRC-16 of the key, or of what stands in its braces, modulo 16,384; every key of a partition
begins with the same braces (keys.py), so a partition lies in one slot and on one server.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from redis.crc import key_slot

from gateway.store.dial import Address

SLOTS: Final = 16_384

_KEYLESS: Final = frozenset(
    ("CLIENT", "CLUSTER", "CONFIG", "DBSIZE", "ECHO", "FLUSHALL", "INFO", "PING", "SCRIPT", "TIME")
)


def slot_of(key: str) -> int:
    return key_slot(key.encode())


def first_key(command: Sequence[bytes | str | int]) -> str | None:
    """The key that decides where a command goes; None if it names none."""
    name = str(command[0]).upper()
    at = 3 if name in ("EVAL", "EVALSHA") else 1
    if name in _KEYLESS or len(command) <= at:
        return None
    key = command[at]
    return key.decode() if isinstance(key, bytes) else str(key)


class View(NamedTuple):
    """A cluster as one of its servers sees it."""

    primaries: list[Address | None]
    """By slot; None where no server has the slot."""
    replicas: list[Address]

    @property
    def whole(self) -> bool:
        return None not in self.primaries


def view_of(reply: Any, asked: Address) -> View | None:
    """From the answer of `asked` to CLUSTER SLOTS; None if that server knows no slots."""
    primaries: list[Address | None] = [None] * SLOTS
    replicas: list[Address] = []
    for first, last, primary, *others in reply:
        address = _address(primary, asked)
        primaries[first : last + 1] = [address] * (last + 1 - first)
        replicas += [_address(other, asked) for other in others]
    return View(primaries, list(dict.fromkeys(replicas))) if reply else None


def _address(row: Sequence[Any], asked: Address) -> Address:
    """A server that does not know its own address is where we have asked it."""
    host = (row[0] or b"").decode()
    return Address(asked.host if host in ("", "?") else host, int(row[1]))
