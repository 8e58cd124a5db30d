"""Devices bound to accounts, and taken from them.

What a binding is stands in two places with two owners: the device in the account's list, and at the
device whose it is (`gateway.dispatch.accounts`). Each step is durable before the next one begins, and
whoever dies between two of them leaves only what harms nobody:

1. The device's owner must know it, so what does not exist gets into no list; and answer, so that an
   account does not gather entries of calls that could not go on.
2. The list gets the device. Until it is the account's own it is passed over there, and what its
   present account is sent still reaches it: nothing has changed for anybody.
3. The device becomes the account's, and in the same record leaves the one before. From here on
   nothing of that one's is sent to it, whatever the lists say.
4. The list of the account before loses it. If this does not come about, an entry stays that reaches
   nobody; it takes one of the account's places until the device, or the account, is unbound from it.
5. With `only`, the account's other devices leave it: each first for itself, then out of the list, which
   names them until then. So a repeated call finds what was left undone.

Unbinding is step 5 alone. Each binding has a number and an entry of its own, and what goes from a list is
named by it. So a step 4 that comes late, or beside another call, takes away nothing that the other has
bound, and items of one call may be done side by side: a device that is there twice ends up as the last
one says.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

from gateway.api.nodes import Nodes, NodesAway
from gateway.store.apps import App
from protocol.ids import split_device_id
from protocol.schema import rpc_pb2

SLICE: Final = 500
"""Items in one call: its owner answers when they are durable, and others wait behind them."""
WAVE: Final = 2_500
"""Items at a time. One of them may concern all devices of an account."""
REFUSALS: Final = frozenset({"unknown_device", "too_many_devices"})
"""What an owner may say of an item."""
AWAY: Final = "unavailable"

T = TypeVar("T")
R = TypeVar("R")


class Bind(NamedTuple):
    account: str
    device: int
    only: bool
    """The account leaves its other devices."""


class Unbind(NamedTuple):
    account: str
    device: int | None
    """None: all of them."""


class _Taken(NamedTuple):
    """A device that is to leave an account."""

    place: int
    """Of the item that says so."""
    account: str
    device: int
    bindings: tuple[int, ...]
    """Of its entries in the list."""


class Binder:
    """Goes to the owners for one app."""

    def __init__(self, nodes: Nodes, app: App) -> None:
        self._nodes = nodes
        self._app = app.number

    async def bind(self, items: Sequence[Bind]) -> list[str]:
        """What is wrong with each, "" = done and durable."""
        numbers = [secrets.randbits(63) + 1 for _ in items]
        codes = await self._check([item.device for item in items])
        good = [at for at, code in enumerate(codes) if not code]
        added = await self._change_lists([_entry(items[at], numbers[at]) for at in good])
        beside: dict[int, rpc_pb2.Bindings] = {}
        for at, (code, others) in zip(good, added, strict=True):
            codes[at], beside[at] = code, others
        good = [at for at in good if not codes[at]]
        held = await self._change_holders(
            [(items[at].device, _holding(items[at], numbers[at])) for at in good]
        )
        last = {(items[at].account, items[at].device): at for at in good}
        former: list[rpc_pb2.AccountItem] = []
        leaving: list[_Taken] = []
        for at, (code, was, binding) in zip(good, held, strict=True):
            codes[at] = code
            if code:
                continue
            account, device, _ = items[at]
            if was:
                former.append(_gone(was, device, binding))
            leaving += [
                _Taken(at, account, other, bindings)
                for other, bindings in _by_device(_rows(beside[at])).items()
                if last.get((account, other), -1) < at  # a later item binds it again
            ]
        failed, _ = await asyncio.gather(self._take(leaving), self._change_lists(former))
        for at, code in failed.items():
            codes[at] = code
        return codes

    async def unbind(self, items: Sequence[Unbind]) -> list[str]:
        """The same. What is not bound is done already."""
        codes = [""] * len(items)
        leaving: list[_Taken] = []
        lists = await self.lists([item.account for item in items])
        for at, (item, entries) in enumerate(zip(items, lists, strict=True)):
            if entries is None:
                codes[at] = AWAY
                continue
            found = _by_device(entries)
            if item.device is not None:
                found = {item.device: found.get(item.device, ())}
            leaving += [_Taken(at, item.account, *each) for each in found.items()]
        for at, code in (await self._take(leaving)).items():
            codes[at] = code
        return codes

    async def _take(self, taken: Sequence[_Taken]) -> dict[int, str]:
        """Devices leave accounts; returns what is wrong with items: one of their devices may not have."""
        held = await self._change_holders(
            [(each.device, rpc_pb2.HolderItem(was=each.account)) for each in taken]
        )
        failed: dict[int, str] = {}
        places: list[int] = []
        gone: list[rpc_pb2.AccountItem] = []
        for each, (code, _, _) in zip(taken, held, strict=True):
            if code:
                failed[each.place] = code
                continue
            places += [each.place] * len(each.bindings)
            gone += [_gone(each.account, each.device, binding) for binding in each.bindings]
        for place, (code, _) in zip(places, await self._change_lists(gone), strict=True):
            if code:
                failed[place] = code
        return failed

    # The owners.

    async def _check(self, devices: Sequence[int]) -> list[str]:
        async def ask(p: int, part: Sequence[int]) -> list[str]:
            indexes = [split_device_id(device)[1] for device in part]
            reply = await self._nodes.lookup(self._app, p, indexes=indexes)
            return ["" if known else "unknown_device" for known in reply.known]

        homes = [split_device_id(device)[0] for device in devices]
        return [AWAY if code is None else code for code in await _asked(devices, homes, ask)]

    async def lists(self, accounts: Sequence[str]) -> list[list[tuple[int, int]] | None]:
        """(device, binding) of each account's list, the latest last; None where nobody answered. A
        device may be there twice."""

        async def ask(p: int, part: Sequence[str]) -> list[list[tuple[int, int]]]:
            reply = await self._nodes.lookup(self._app, p, accounts=part)
            return [_rows(one) for one in reply.lists]

        homes = [self._nodes.account_home(self._app, account) for account in accounts]
        return await _asked(accounts, homes, ask)

    async def _change_lists(
        self, items: Sequence[rpc_pb2.AccountItem]
    ) -> list[tuple[str, rpc_pb2.Bindings]]:
        async def ask(
            p: int, part: Sequence[rpc_pb2.AccountItem]
        ) -> list[tuple[str, rpc_pb2.Bindings]]:
            reply = await self._nodes.bind_lists(self._app, p, part)
            return list(zip(map(_code, reply.errors), reply.beside, strict=True))

        homes = [self._nodes.account_home(self._app, item.account) for item in items]
        answers = await _asked(items, homes, ask)
        return [answer or (AWAY, rpc_pb2.Bindings()) for answer in answers]

    async def _change_holders(
        self, items: Sequence[tuple[int, rpc_pb2.HolderItem]]
    ) -> list[tuple[str, str, int]]:
        """(error, whose it was, by which binding) for each (device, item without its index)"""

        async def ask(p: int, part: Sequence[rpc_pb2.HolderItem]) -> list[tuple[str, str, int]]:
            reply = await self._nodes.bind_holders(self._app, p, part)
            return list(zip(map(_code, reply.errors), reply.was, reply.binding, strict=True))

        homes = []
        for device, item in items:
            p, item.index = split_device_id(device)
            homes.append(p)
        answers = await _asked([item for _, item in items], homes, ask)
        return [answer or (AWAY, "", 0) for answer in answers]


def _entry(item: Bind, number: int) -> rpc_pb2.AccountItem:
    return rpc_pb2.AccountItem(
        account=item.account, device=item.device, binding=number, only=item.only
    )


def _holding(item: Bind, number: int) -> rpc_pb2.HolderItem:
    return rpc_pb2.HolderItem(account=item.account, binding=number)


def _rows(bindings: rpc_pb2.Bindings) -> list[tuple[int, int]]:
    """(device, binding)"""
    return list(zip(bindings.device, bindings.binding, strict=True))


def _gone(account: str, device: int, binding: int) -> rpc_pb2.AccountItem:
    return rpc_pb2.AccountItem(account=account, device=device, binding=binding, remove=True)


def _by_device(entries: Iterable[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    """Device -> its bindings."""
    found: dict[int, tuple[int, ...]] = {}
    for device, binding in entries:
        found[device] = (*found.get(device, ()), binding)
    return found


def _code(error: str) -> str:
    return error if not error or error in REFUSALS else AWAY


async def _asked(
    items: Sequence[T],
    homes: Iterable[int],
    ask: Callable[[int, Sequence[T]], Awaitable[Sequence[R]]],
) -> list[R | None]:
    """Ask the owner of each item's partition; None where it did not answer.

    Side by side, but for one slice after the other in a partition: a device or an account may be
    there several times.
    """
    places: dict[int, list[int]] = {}
    for place, home in enumerate(homes):
        places.setdefault(home, []).append(place)
    answers: list[R | None] = [None] * len(items)

    async def ask_owner(p: int, mine: Sequence[int]) -> None:
        for at in range(0, len(mine), SLICE):
            part = mine[at : at + SLICE]
            try:
                found = await ask(p, [items[place] for place in part])
            except NodesAway:
                return
            for place, answer in zip(part, found, strict=True):
                answers[place] = answer

    await asyncio.gather(*(ask_owner(p, mine) for p, mine in places.items()))
    return answers
