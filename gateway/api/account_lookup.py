"""Accounts of an audience, looked up at the owners of their lists when the audience is asked about.

A log must mean the same on every replay, so it names devices. Each of them still asks at its own
partition whether it is the account's: between the lookup and then it may have changed hands.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.api.nodes import Nodes
from gateway.audience import Account, Audience, Bound, Leaf, leaves, replaced
from protocol.ids import split_device_id

Lists = Mapping[str, Sequence[int]]
"""account -> its devices, the latest last"""


class LookedUp(NamedTuple):
    tree: Audience
    """With Bound for each Account."""
    unknown: tuple[str, ...]
    """Accounts that have no device; they are nobody."""
    devices: int
    """Named by all of them together."""


async def look_up(nodes: Nodes, app: int, tree: Audience) -> LookedUp:
    """Raises NodesAway."""
    asked = dict.fromkeys(leaf for leaf in leaves(tree) if isinstance(leaf, Account))
    if not asked:
        return LookedUp(tree, (), 0)
    lists = await _lists(nodes, app, (leaf.id for leaf in asked))
    latest = await _latest(
        nodes, app, {leaf.id: lists[leaf.id] for leaf in asked if leaf.which == "latest"}
    )
    bound: dict[Leaf, Bound] = {}
    for leaf in asked:
        ids = lists[leaf.id] if leaf.which == "all" else latest[leaf.id]
        bound[leaf] = Bound(leaf.id, tuple(ids), leaf.which)
    return LookedUp(
        replaced(tree, lambda leaf: bound.get(leaf, leaf)),
        tuple(account for account, ids in lists.items() if not ids),
        sum(len(each.ids) for each in bound.values()),
    )


async def _lists(nodes: Nodes, app: int, accounts: Iterable[str]) -> dict[str, list[int]]:
    """In the order of the accounts."""
    found: dict[str, list[int]] = {account: [] for account in accounts}
    homes: dict[int, list[str]] = {}
    for account in found:
        homes.setdefault(nodes.account_home(app, account), []).append(account)
    replies = await asyncio.gather(
        *(nodes.lookup(app, p, accounts=mine) for p, mine in homes.items())
    )
    for mine, reply in zip(homes.values(), replies, strict=True):
        for account, entries in zip(mine, reply.lists, strict=True):
            found[account] = latest_last(entries.device)
    return found


def latest_last(devices: Iterable[int]) -> list[int]:
    """Each once, where it stands last: a list has a device under several bindings for a while."""
    return list(reversed(dict.fromkeys(reversed(list(devices)))))


async def _latest(nodes: Nodes, app: int, lists: Lists) -> Lists:
    """The last of each list that is the account's own: none, or one.

    An entry behind it may have been left there by a device that changed hands, or be that of a binding
    which is not complete. As the one device that is sent to it would be nobody.
    """
    last = {account: ids[-1] for account, ids in lists.items() if ids}
    holders = await _holders(nodes, app, last.values())
    wrong = [account for account, device in last.items() if holders[device] != account]
    if wrong:
        others = (device for account in wrong for device in lists[account][:-1])
        holders |= await _holders(nodes, app, others)
    own = {
        account: [device for device in ids if holders.get(device) == account]
        for account, ids in lists.items()
    }
    return {account: ids[-1:] for account, ids in own.items()}


async def _holders(nodes: Nodes, app: int, devices: Iterable[int]) -> dict[int, str]:
    """Whose they are."""
    homes: dict[int, list[int]] = {}
    for device in dict.fromkeys(devices):
        homes.setdefault(split_device_id(device)[0], []).append(device)
    replies = await asyncio.gather(
        *(
            nodes.lookup(app, p, indexes=[split_device_id(device)[1] for device in mine])
            for p, mine in homes.items()
        )
    )
    return {
        device: holder
        for mine, reply in zip(homes.values(), replies, strict=True)
        for device, holder in zip(mine, reply.holders, strict=True)
    }
