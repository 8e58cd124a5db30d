"""Tags that app servers set: checked against the state, written to the log, answered once folded.

The owner does it, because only the state knows how many tags a device carries.
"""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.dispatch.partition import Partition
from gateway.dispatch.turns import Turns
from gateway.rpc import Method
from protocol.schema import log_pb2, rpc_pb2


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

    def __init__(self, turns: Turns, limits: TagLimits) -> None:
        self._turns = turns
        self._limits = limits

    async def tag(self, body: bytes) -> bytes:
        """columba.rpc.TagRequest -> TagReply. RpcError 'not_owner', 'busy' or 'unavailable'."""
        request = rpc_pb2.TagRequest.FromString(body)
        async with self._turns.turn(Method.TAG, request.partition) as owned:
            await self._turns.know(owned, request.app, [item.index for item in request.items])
            checked = check(owned.partition, request.app, request.items, self._limits)
            await self._turns.write(owned, checked.record)
        return rpc_pb2.TagReply(errors=checked.errors).SerializeToString()
