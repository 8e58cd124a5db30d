"""Accounts: whose devices are.

Two halves, in two partitions. The list of an account's devices, the latest last, lives in the
partition that the account hashes to (`gateway.store.keys.account_home`): who pushes to an account
asks its owner which devices. What a device says itself, whose it is now, lives in its own
partition: one account at a time, so that a device that moves to another account leaves the one
before it in the same record. A push to an account is for those devices of its list that are still
its own, which each device's partition decides in its fold. The list is only an index: an entry that
was left behind in it reaches nobody.

Both halves carry the number of the binding that made them, and a list has an entry for each binding: a
call that comes late, or beside another one, takes away nothing that the other has bound. So whoever's
a device is, it stands in that account's list.

Pure, a part of the fold (`gateway.dispatch.partition`).
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, repeat
from typing import Final, NamedTuple

from pyroaring import BitMap

from gateway.dispatch.changes import Changes
from protocol.schema import log_pb2

HOLDERS_BLOCK: Final = 10
"""Shift: the holders of 1,024 indexes make one piece of a snapshot."""
_LIST_BLOCKS: Final = 1024
# Rows are packed: there is one for each account and one for each device that is somebody's, and
# tuples of numbers would take three times the memory.
_ENTRY: Final = struct.Struct("<QQ")
_NUMBER: Final = struct.Struct("<Q")


class Entry(NamedTuple):
    """A device in the list of an account. It may be there under several bindings for a while."""

    device: int
    binding: int


class Holding(NamedTuple):
    """Whose a device is."""

    account: str
    """"" = nobody's"""
    binding: int


NOBODYS: Final = Holding("", 0)


class Accounts:
    """Keys are "app number/account": accounts are named within their app."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self.lists: dict[int, dict[str, bytes]] = {}
        """block -> key -> entries (device, binding: u64 LE each), the latest last; accounts that are at
        home in this partition"""
        self.holders: dict[int, dict[int, bytes]] = {}
        """block -> index -> binding (u64 LE) and key of the account that a device of this partition
        belongs to"""

    # Questions.

    def entries_of(self, app: int, account: str) -> list[Entry]:
        """The list of an account, the latest last; empty if there is no such account."""
        key = f"{app}/{account}"
        row = self.lists.get(_block_of(key), {}).get(key, b"")
        return [Entry(*numbers) for numbers in _ENTRY.iter_unpack(row)]

    def holding_of(self, index: int) -> Holding:
        row = self._row(index)
        if row is None:
            return NOBODYS
        key = row[_NUMBER.size :].decode()
        return Holding(key.partition("/")[2], _NUMBER.unpack_from(row)[0])

    def held(self, app: int, account: str, indexes: Iterable[int]) -> BitMap:
        """Those of the devices that belong to the account now."""
        key = f"{app}/{account}".encode()
        rows = ((index, self._row(index)) for index in indexes)
        return BitMap([i for i, row in rows if row is not None and row[_NUMBER.size :] == key])

    def _row(self, index: int) -> bytes | None:
        return self.holders.get(index >> HOLDERS_BLOCK, {}).get(index)

    def count(self) -> int:
        """Accounts that are at home here."""
        return sum(map(len, self.lists.values()))

    # The fold.

    def fold_change(self, change: log_pb2.AccountChange) -> None:
        key = f"{change.app}/{change.account}"
        entries = dict.fromkeys(self.entries_of(change.app, change.account))
        for pair in _pairs(change.device, change.binding):
            entries.pop(Entry(*pair), None)
            if not change.remove:
                entries[Entry(*pair)] = None
        block = _block_of(key)
        self._changes.touch(f"accounts/{block}", key, self.lists.get(block, {}).get(key))
        if entries:
            row = b"".join(_ENTRY.pack(*entry) for entry in entries)
            self.lists.setdefault(block, {})[key] = row
        else:
            self.lists.get(block, {}).pop(key, None)

    def fold_holder(self, holder: log_pb2.Holder, of_app: BitMap) -> BitMap:
        """Returns the devices that have left an account. `of_app`: all devices of the app; others are
        left out."""
        left = BitMap()
        for index, binding in _pairs(holder.index, holder.binding):
            before = self.holding_of(index)
            if index not in of_app or (holder.was and before.account != holder.was):
                continue
            if before.account and before.account != holder.account:
                left.add(index)
            self._set(index, f"{holder.app}/{holder.account}" if holder.account else "", binding)
        return left

    def _set(self, index: int, key: str, binding: int) -> None:
        block = index >> HOLDERS_BLOCK
        self._changes.touch(f"holders/{block}", index, self._row(index))
        if key:
            self.holders.setdefault(block, {})[index] = _NUMBER.pack(binding) + key.encode()
        else:
            self.holders.get(block, {}).pop(index, None)

    # Restoring (gateway.dispatch.pieces).

    def restore_lists(self, block: int, lists: Mapping[str, bytes]) -> None:
        self.lists[block] = dict(lists)

    def restore_holders(self, block: int, holders: Mapping[int, bytes]) -> None:
        self.holders[block] = dict(holders)


def _pairs(numbers: Iterable[int], bindings: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Two columns as rows; a binding that is left out is 0."""
    yield from zip(numbers, chain(bindings, repeat(0)), strict=False)


def _block_of(key: str) -> int:
    return zlib.crc32(key.encode()) // 7 % _LIST_BLOCKS
