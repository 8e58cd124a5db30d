"""Tags that app servers set: checked against the state, written to the log, answered once folded.

The owner does it, because only the state knows how many tags a device carries. One batch of a
partition is open at a time, so limits hold and who asks afterwards finds what was set.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from gateway.dispatch.owned import Owned
from gateway.dispatch.partition import Partition
from gateway.rpc import RpcError
from gateway.store.errors import Fenced
from protocol.schema import log_pb2, rpc_pb2

_WAITING: Final = 1_000
"""Batches that may wait for one partition."""


class TagLimits(NamedTuple):
    """Bounds that are checked before a change enters the log."""

    per_device: int
    per_app: int
    """Different tags of an app in one partition."""


class Checked(NamedTuple):
    """A batch after the check."""

    errors: list[str]
    """One for each item, "" if it stands."""
    record: bytes
    """columba.log.Record; empty if nothing changes."""


def check(
    partition: Partition, app: int, items: Sequence[rpc_pb2.TagItem], limits: TagLimits
) -> Checked:
    """Decide which items stand. Pure; an item that does not changes nothing."""
    devices = partition.apps.get(app, ())
    names = partition.tags.keys_of(app)
    carried: dict[int, set[str]] = {}
    changes: dict[tuple[str, bool], list[int]] = {}
    errors = []
    for item in items:
        if item.index not in devices:
            errors.append("unknown_device")
            continue
        before = carried.get(item.index)
        if before is None:
            before = set(partition.tags.of(item.index))
        after = before.difference(item.remove).union(item.add)
        new_names = {f"{app}/{tag}" for tag in item.add} - names
        if len(after) > max(limits.per_device, len(before)):
            errors.append("too_many_tags")
        elif new_names and len(names) + len(new_names) > limits.per_app:
            errors.append("too_many_names")
        else:
            errors.append("")
            carried[item.index] = after
            names |= new_names
            for tag in item.remove:
                changes.setdefault((tag, True), []).append(item.index)
            for tag in item.add:
                changes.setdefault((tag, False), []).append(item.index)
    taggings = [
        log_pb2.Tagging(app=app, tag=tag, remove=remove, index=indexes)
        for (tag, remove), indexes in changes.items()
    ]
    record = log_pb2.Record(taggings=taggings).SerializeToString() if taggings else b""
    return Checked(errors, record)


class Tagging:
    """The RPC handler over the partitions of a node."""

    def __init__(self, owned: Mapping[int, Owned], limits: TagLimits) -> None:
        self._owned = owned
        self._limits = limits
        self._locks: dict[int, asyncio.Lock] = {}
        self._waiting = 0

    async def tag(self, body: bytes) -> bytes:
        """columba.rpc.TagRequest -> TagReply. RpcError 'not_owner' or 'busy'."""
        request = rpc_pb2.TagRequest.FromString(body)
        owned = self._owned.get(request.partition)
        if owned is None or not owned.live:
            raise RpcError("not_owner", f"partition {request.partition} is not owned here")
        if self._waiting >= _WAITING:
            raise RpcError("busy", "too many changes of tags wait")
        self._waiting += 1
        try:
            async with self._locks.setdefault(request.partition, asyncio.Lock()):
                checked = check(owned.partition, request.app, request.items, self._limits)
                if checked.record:
                    await owned.append_and_fold(checked.record)
        except Fenced:
            raise RpcError("not_owner", "another node has taken the partition") from None
        finally:
            self._waiting -= 1
        return rpc_pb2.TagReply(errors=checked.errors).SerializeToString()
