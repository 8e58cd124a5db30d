"""Devices bound to accounts by app servers: checked against the state, written to the log, answered
once folded.

An account's list and its devices have different owners; the caller goes from one to the other
(`gateway.api.binding`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.dispatch.accounts import NOBODYS, Entry, Holding
from gateway.dispatch.partition import Partition
from gateway.dispatch.turns import Turns, as_rpc_errors
from gateway.rpc import Method, RpcError
from protocol.schema import log_pb2, rpc_pb2


class Listed(NamedTuple):
    """A batch of changes of lists after the check."""

    errors: list[str]
    """One for each item, "" if it stands."""
    beside: list[list[Entry]]
    """One for each item: with `only`, the other entries of the list."""
    record: bytes
    """columba.log.Record; empty if nothing changes."""


class Held(NamedTuple):
    """A batch of changes of holders after the check."""

    errors: list[str]
    was: list[Holding]
    """One for each item: whose the device was before it."""
    record: bytes


def check_lists(
    partition: Partition, app: int, items: Sequence[rpc_pb2.AccountItem], per_account: int
) -> Listed:
    """Decide which items stand, in their order. Pure; an item that does not changes nothing."""
    lists: dict[str, dict[Entry, None]] = {}
    changes: dict[str, list[log_pb2.AccountChange]] = {}
    errors, beside = [], []
    for item in items:
        account, entry = item.account, Entry(item.device, item.binding)
        entries = lists.get(account)
        if entries is None:
            found = partition.accounts.entries_of(app, account)
            entries = lists[account] = dict.fromkeys(found)
        others = [other for other in entries if other.device != entry.device]
        new = not item.remove and len(others) == len(entries)
        full = len({other.device for other in others}) >= per_account
        error = "too_many_devices" if new and full and not item.only else ""
        if not error and (entry in entries or not item.remove):
            entries.pop(entry, None)
            if not item.remove:
                entries[entry] = None
            of_account = changes.setdefault(account, [])
            if not of_account or of_account[-1].remove != item.remove:
                change = log_pb2.AccountChange(app=app, account=account, remove=item.remove)
                of_account.append(change)
            of_account[-1].device.append(entry.device)
            of_account[-1].binding.append(entry.binding)
        errors.append(error)
        beside.append(others if item.only else [])
    record = log_pb2.Record(accounts=[change for each in changes.values() for change in each])
    return Listed(errors, beside, record.SerializeToString())


def check_holders(partition: Partition, app: int, items: Sequence[rpc_pb2.HolderItem]) -> Held:
    """The same for whose devices are."""
    devices = partition.devices_of(app)
    now: dict[int, Holding] = {}
    record = log_pb2.Record()
    errors, was = [], []
    for item in items:
        before = now.get(item.index) or partition.accounts.holding_of(item.index)
        known = item.index in devices
        other = item.was and before.account != item.was
        if known and not other and (item.account or before.account):
            now[item.index] = Holding(item.account, item.binding) if item.account else NOBODYS
            last = record.holders[-1] if record.holders else None
            if last is None or (last.account, last.was) != (item.account, item.was):
                last = record.holders.add(app=app, account=item.account, was=item.was)
            last.index.append(item.index)
            last.binding.append(item.binding)
        errors.append("" if known else "unknown_device")
        was.append(before)
    return Held(errors, was, record.SerializeToString())


class Binding:
    """RPC handlers over the partitions of a node."""

    def __init__(self, turns: Turns, per_account: int) -> None:
        self._turns = turns
        self._per_account = per_account

    async def account(self, body: bytes) -> bytes:
        """columba.rpc.AccountRequest -> AccountReply. RpcError 'not_owner', 'busy' or 'unavailable'."""
        request = rpc_pb2.AccountRequest.FromString(body)
        async with self._turns.turn(Method.ACCOUNT, request.partition) as owned:
            found = check_lists(owned.partition, request.app, request.items, self._per_account)
            await self._turns.write(owned, found.record)
        beside = [_bindings(others) for others in found.beside]
        return rpc_pb2.AccountReply(errors=found.errors, beside=beside).SerializeToString()

    async def holder(self, body: bytes) -> bytes:
        """columba.rpc.HolderRequest -> HolderReply. RpcError as above."""
        request = rpc_pb2.HolderRequest.FromString(body)
        async with self._turns.turn(Method.HOLDER, request.partition) as owned:
            await self._turns.know(owned, request.app, [item.index for item in request.items])
            found = check_holders(owned.partition, request.app, request.items)
            await self._turns.write(owned, found.record)
        return rpc_pb2.HolderReply(
            errors=found.errors,
            was=[holding.account for holding in found.was],
            binding=[holding.binding for holding in found.was],
        ).SerializeToString()

    async def lookup(self, body: bytes) -> bytes:
        """columba.rpc.LookupRequest -> LookupReply. RpcError 'not_owner' or 'unavailable'."""
        request = rpc_pb2.LookupRequest.FromString(body)
        owned = self._turns.owner(request.partition)
        with as_rpc_errors():
            await self._turns.know(owned, request.app, request.index)
            await self._turns.confirm(owned)
        if self._turns.owner(request.partition) is not owned:
            raise RpcError("not_owner", f"partition {request.partition} has changed hands")
        # From here on nothing is waited for.
        accounts = owned.partition.accounts
        devices = owned.partition.devices_of(request.app)
        return rpc_pb2.LookupReply(
            lists=[_bindings(accounts.entries_of(request.app, name)) for name in request.accounts],
            holders=[accounts.holding_of(index).account for index in request.index],
            known=[index in devices for index in request.index],
        ).SerializeToString()


def _bindings(entries: Sequence[Entry]) -> rpc_pb2.Bindings:
    return rpc_pb2.Bindings(
        device=[entry.device for entry in entries], binding=[entry.binding for entry in entries]
    )
