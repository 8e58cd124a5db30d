"""Accounts: whose devices are.

Two halves, in two partitions. The list of an account's devices, the latest last, lives in partition
hash(account): who pushes to an account asks its owner which devices, and which of them came last. What
a device says itself, whose it is now, lives in its own partition: one account at a time, so that a
device that moves to another account leaves the one before it in the same record. A push to an account
is for those devices of its list that are still its own, which each device's partition decides in its
fold; an entry that was left behind in a list is therefore harmless.

Pure, a part of the fold (`gateway.dispatch.partition`).
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Final

from pyroaring import BitMap

from protocol.schema import log_pb2

HOLDERS_BLOCK: Final = 10
"""Shift: the holders of 1,024 indexes make one piece of a snapshot."""
_LIST_BLOCKS: Final = 1024


def partition_of(app: int, account: str, partitions: int) -> int:
    """Where the list of an account's devices lives. Fixed for ever: it decides which log has it."""
    return zlib.crc32(f"{app}/{account}".encode()) % partitions


class Accounts:
    """Keys are "app number/account": accounts are named within their app."""

    def __init__(self, dirty: set[str]) -> None:
        self._dirty = dirty
        self.lists: dict[int, dict[str, tuple[int, ...]]] = {}
        """block -> key -> device ids, the latest last; accounts that are at home in this partition"""
        self.holders: dict[int, dict[int, str]] = {}
        """block -> index -> key of the account that a device of this partition belongs to"""

    # Questions.

    def devices_of(self, app: int, account: str) -> tuple[int, ...]:
        """Device ids in the list of an account, the latest last; empty if there is no such account."""
        key = f"{app}/{account}"
        return self.lists.get(_block_of(key), {}).get(key, ())

    def holder_of(self, index: int) -> str:
        """Account that a device belongs to, "" if none."""
        return self._holder(index).partition("/")[2]

    def held(self, app: int, account: str, indexes: Iterable[int]) -> BitMap:
        """Those of the devices that belong to the account now."""
        key = f"{app}/{account}"
        return BitMap([index for index in indexes if self._holder(index) == key])

    def _holder(self, index: int) -> str:
        return self.holders.get(index >> HOLDERS_BLOCK, {}).get(index, "")

    def count(self) -> int:
        """Accounts that are at home here."""
        return sum(map(len, self.lists.values()))

    # The fold.

    def fold_change(self, change: log_pb2.AccountChange) -> None:
        key = f"{change.app}/{change.account}"
        before = self.devices_of(change.app, change.account)
        if change.remove:
            gone = set(change.device) or set(before)
            after = [device for device in before if device not in gone]
        else:
            added = list(dict.fromkeys(change.device))
            kept = () if change.only else before
            after = [device for device in kept if device not in added] + added
        block = _block_of(key)
        self._dirty.add(f"accounts/{block}")
        if after:
            self.lists.setdefault(block, {})[key] = tuple(after)
        elif before:
            del self.lists[block][key]

    def fold_holder(self, holder: log_pb2.Holder, of_app: BitMap) -> None:
        """`of_app`: all devices of the app; others are left out."""
        was = f"{holder.app}/{holder.was}" if holder.was else ""
        for index in BitMap(holder.index) & of_app:
            before = self._holder(index)
            if was and before != was:
                continue
            block = index >> HOLDERS_BLOCK
            self._dirty.add(f"holders/{block}")
            if holder.account:
                self.holders.setdefault(block, {})[index] = f"{holder.app}/{holder.account}"
            elif before:
                del self.holders[block][index]

    # Restoring (gateway.dispatch.pieces).

    def restore_lists(self, block: int, lists: Mapping[str, Iterable[int]]) -> None:
        self.lists[block] = {key: tuple(devices) for key, devices in lists.items()}

    def restore_holders(self, block: int, holders: Mapping[int, str]) -> None:
        self.holders[block] = dict(holders)


def _block_of(key: str) -> int:
    return zlib.crc32(key.encode()) // 7 % _LIST_BLOCKS
