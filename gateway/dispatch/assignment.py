"""Which node owns which partition: rendezvous hashing over the live nodes (Thaler, Ravishankar 1998).

A node that joins or leaves moves only its share. Pure.
"""

import hashlib
from collections.abc import Iterable

from gateway.store.leases import Identity


def owner_of(p: int, nodes: Iterable[Identity]) -> Identity | None:
    """The node that should own partition `p`; None if no node lives."""
    return max(nodes, key=lambda node: _score(p, node), default=None)


def share_of(node: Identity, nodes: Iterable[Identity], partitions: int) -> set[int]:
    """Partitions that `node` should own."""
    live = list(nodes)
    return {p for p in range(partitions) if owner_of(p, live) == node}


def _score(p: int, node: Identity) -> bytes:
    # By number and start: a node that comes back under its number is another node.
    key = f"{p}/{node.number}/{node.start}".encode()
    return hashlib.blake2b(key, digest_size=8).digest()
