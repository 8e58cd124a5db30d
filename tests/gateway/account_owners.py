"""Owners of accounts and of devices, in memory: what nodes decide, without nodes, logs and RPC."""

from collections.abc import Iterable

from gateway.api.account_lookup import latest_last
from gateway.dispatch.accounts import Entry
from gateway.dispatch.binding import check_holders, check_lists
from gateway.store import keys
from protocol.ids import split_device_id
from protocol.schema import rpc_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.records import Log


class AccountOwners:
    """All partitions of an app with number 1, which has the same indexes in each."""

    def __init__(self, partitions: int, indexes: Iterable[int], limit: int = 10) -> None:
        self.logs = [Log() for _ in range(partitions)]
        for log in self.logs:
            log.fold(records.sessions(1, indexes, app=1))
        self.limit = limit

    def home(self, account: str) -> int:
        return keys.account_home(1, account, len(self.logs))

    def account(self, request: rpc_pb2.AccountRequest) -> rpc_pb2.AccountReply:
        log = self.logs[request.partition]
        found = check_lists(log.partition, request.app, request.items, self.limit)
        log.fold(found.record)
        return rpc_pb2.AccountReply(errors=found.errors, beside=map(_bindings, found.beside))

    def holder(self, request: rpc_pb2.HolderRequest) -> rpc_pb2.HolderReply:
        log = self.logs[request.partition]
        found = check_holders(log.partition, request.app, request.items)
        log.fold(found.record)
        return rpc_pb2.HolderReply(
            errors=found.errors,
            was=[holding.account for holding in found.was],
            binding=[holding.binding for holding in found.was],
        )

    def lookup(self, request: rpc_pb2.LookupRequest) -> rpc_pb2.LookupReply:
        state = self.logs[request.partition].partition
        devices = state.devices_of(request.app)
        lists = (state.accounts.entries_of(request.app, name) for name in request.accounts)
        return rpc_pb2.LookupReply(
            lists=map(_bindings, lists),
            holders=[state.accounts.holding_of(index).account for index in request.index],
            known=[index in devices for index in request.index],
        )

    # Looked at from outside.

    def listed(self, account: str) -> list[int]:
        """Devices in the list of an account, the latest last."""
        entries = self.logs[self.home(account)].partition.accounts.entries_of(1, account)
        return latest_last(entry.device for entry in entries)

    def holder_of(self, device: int) -> str:
        p, index = split_device_id(device)
        return self.logs[p].partition.accounts.holding_of(index).account

    def reached(self, account: str) -> set[int]:
        """Whom a push to the account gets to."""
        return {device for device in self.listed(account) if self.holder_of(device) == account}


def _bindings(entries: Iterable[Entry]) -> rpc_pb2.Bindings:
    rows = list(entries)
    return rpc_pb2.Bindings(
        device=[entry.device for entry in rows], binding=[entry.binding for entry in rows]
    )
