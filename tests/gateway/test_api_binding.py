"""Binding and unbinding, step by step over their owners: any order of steps, lost answers, crashes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api import binding as binding_module
from gateway.api.account_lookup import look_up
from gateway.api.binding import AWAY, Bind, Binder, Unbind
from gateway.api.nodes import Nodes, NodesAway
from gateway.audience import Account, Bound, Or
from gateway.store.apps import App
from protocol.ids import device_id, split_device_id
from protocol.schema import rpc_pb2
from tests.gateway.account_owners import AccountOwners

T = TypeVar("T")

PARTITIONS = 2
APP = App("shop", 1, "", ())
DEVICES = [device_id(p, index) for p in range(PARTITIONS) for index in range(2)]
ACCOUNTS = ["a", "b", "c"]


class Owners(AccountOwners):
    """In place of `Nodes`. Each call waits for its turn, if `gate` says so."""

    def __init__(self, limit: int = 10) -> None:
        super().__init__(PARTITIONS, range(2), limit)
        self.gate: Callable[[], Awaitable[str]] | None = None
        """Returns "" when it is this call's turn; or what is to go wrong: "lost" (done, and no answer),
        "away" (not done)."""
        self.calls = 0

    def account_home(self, _app: int, account: str) -> int:
        return self.home(account)

    async def _answered(self, work: Callable[[], T]) -> T:
        self.calls += 1
        wrong = await self.gate() if self.gate else ""
        if wrong == "away":
            raise NodesAway
        answer = work()
        if wrong == "lost":
            raise NodesAway
        return answer

    async def bind_lists(
        self, app: int, p: int, items: Sequence[rpc_pb2.AccountItem]
    ) -> rpc_pb2.AccountReply:
        request = rpc_pb2.AccountRequest(partition=p, app=app, items=items)
        return await self._answered(lambda: self.account(request))

    async def bind_holders(
        self, app: int, p: int, items: Sequence[rpc_pb2.HolderItem]
    ) -> rpc_pb2.HolderReply:
        request = rpc_pb2.HolderRequest(partition=p, app=app, items=items)
        return await self._answered(lambda: self.holder(request))

    async def lookup(  # type: ignore[override]
        self, app: int, p: int, accounts: Sequence[str] = (), indexes: Sequence[int] = ()
    ) -> rpc_pb2.LookupReply:
        request = rpc_pb2.LookupRequest(partition=p, app=app, accounts=accounts, index=indexes)
        return await self._answered(lambda: super(Owners, self).lookup(request))


def binder(owners: Owners) -> Binder:
    return Binder(cast(Nodes, owners), APP)


class Model:
    """What sequential calls mean: account -> its devices, the latest last."""

    def __init__(self) -> None:
        self.of: dict[str, list[int]] = {account: [] for account in ACCOUNTS}

    def take(self, item: Bind | Unbind) -> None:
        if isinstance(item, Unbind):
            for device in list(self.of[item.account]):
                if item.device in (None, device):
                    self.of[item.account].remove(device)
            return
        for devices in self.of.values():
            if item.device in devices:
                devices.remove(item.device)
        mine = self.of[item.account]
        mine[:] = [*([] if item.only else mine), item.device]


binds = st.builds(Bind, st.sampled_from(ACCOUNTS), st.sampled_from(DEVICES), st.booleans())
unbinds = st.builds(Unbind, st.sampled_from(ACCOUNTS), st.sampled_from(DEVICES) | st.none())
calls = st.lists(binds, min_size=1, max_size=6) | st.lists(unbinds, min_size=1, max_size=3)


async def called(binder: Binder, items: Sequence[Bind] | Sequence[Unbind]) -> list[str]:
    if isinstance(items[0], Bind):
        return await binder.bind(cast(Sequence[Bind], items))
    return await binder.unbind(cast(Sequence[Unbind], items))


@settings(max_examples=300, deadline=None)
@given(st.lists(calls, max_size=5), st.sampled_from([1, 2, 500]))
def test_calls_one_after_the_other_are_as_in_the_book(history: list[Any], slice_size: int) -> None:
    """Items of one call, too: whatever they have in common, the last one counts."""
    owners, model = Owners(), Model()

    async def run() -> None:
        for items in history:
            assert set(await called(binder(owners), items)) == {""}
            for item in items:
                model.take(item)
            for account, devices in model.of.items():
                assert owners.listed(account) == devices
                assert owners.reached(account) == set(devices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binding_module, "SLICE", slice_size)
        asyncio.run(run())
    for device in DEVICES:
        held_by = [account for account, devices in model.of.items() if device in devices]
        assert [owners.holder_of(device)] == (held_by or [""])


class Turns:
    """Lets one waiting call go at a time, in an order that hypothesis draws."""

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw
        self.waiting: list[asyncio.Future[str]] = []

    async def gate(self) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return await future

    def let_go(self, wrong: str = "") -> None:
        future = self.waiting.pop(self._draw(len(self.waiting)))
        if not future.cancelled():
            future.set_result(wrong)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def check_reachable(owners: Owners) -> None:
    """Whoever's a device is, a push to that account finds it: at every moment, not only at the end."""
    for device in DEVICES:
        holder = owners.holder_of(device)
        assert not holder or device in owners.listed(holder), (device, holder)


plain = st.builds(Bind, st.sampled_from(ACCOUNTS), st.sampled_from(DEVICES), st.just(False))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_order_of_steps_and_no_crash_makes_a_device_unreachable(data: st.DataObject) -> None:
    """Binding calls side by side; some lose an answer, find an owner away, or die between two steps."""

    async def run() -> None:
        owners = Owners()
        turns = Turns(lambda size: data.draw(st.integers(0, size - 1)))
        owners.gate = turns.gate
        tasks = [
            asyncio.create_task(binder(owners).bind(items))
            for items in data.draw(
                st.lists(st.lists(plain, min_size=1, max_size=3), min_size=2, max_size=4)
            )
        ]
        await settled()
        while turns.waiting:
            step = data.draw(st.sampled_from(["", "", "", "lost", "away", "crash"]))
            if step == "crash":
                tasks[data.draw(st.integers(0, len(tasks) - 1))].cancel()
            turns.let_go("" if step == "crash" else step)
            await settled()
            check_reachable(owners)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_call_that_failed_anywhere_and_is_made_again_is_done(data: st.DataObject) -> None:
    """Also what it had left half done, and without harm to what it does not name."""

    async def run() -> None:
        owners, model = Owners(), Model()
        for items in data.draw(st.lists(calls, max_size=3)):
            await called(binder(owners), items)
            for item in items:
                model.take(item)
        items = data.draw(calls)
        left = data.draw(st.integers(0, 6))
        kind = data.draw(st.sampled_from(["away", "lost", "crash"]))

        async def gate() -> str:
            nonlocal left
            left -= 1
            if left != -1 and (kind == "crash" or left > -1):
                return ""
            if kind == "crash":
                await asyncio.sleep(3600)
            return kind

        owners.gate = gate
        call = asyncio.create_task(called(binder(owners), items))
        await settled()
        if call.done():
            codes = call.result()
            assert set(codes) <= {"", AWAY}
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        owners.gate = None
        assert set(await called(binder(owners), items)) == {""}
        for item in items:
            model.take(item)
        for account, devices in model.of.items():
            assert owners.reached(account) == set(devices)
        for device in DEVICES:
            held_by = [account for account, devices in model.of.items() if device in devices]
            assert [owners.holder_of(device)] == (held_by or [""])
        for item in items:
            # Whoever asks for it by name finds nothing left behind.
            if isinstance(item, Unbind) and item.device is not None:
                assert (item.device in owners.listed(item.account)) == (
                    item.device in model.of[item.account]
                )
            elif isinstance(item, Unbind) or item.only:
                named = {other.device for other in items} if isinstance(item, Bind) else set()
                listed = set(owners.listed(item.account)) - named
                assert listed == set(model.of[item.account]) - named

    asyncio.run(run())


async def bound_anew_while(owners: Owners, taking: Awaitable[list[str]], steps: int) -> None:
    """Device 0 is bound to `a` anew between the steps of a call that takes it from there."""
    turns = Turns(lambda _: 0)
    owners.gate = turns.gate
    task = asyncio.ensure_future(taking)
    await settled()
    for _ in range(steps):
        turns.let_go()
        await settled()
    again = asyncio.create_task(binder(owners).bind([Bind("a", DEVICES[0], False)]))
    await settled()
    while turns.waiting:
        turns.waiting.reverse()  # the call that came last goes first
        turns.let_go()
        turns.waiting.reverse()
        await settled()
    assert await again == [""] and await task == [""]


@pytest.mark.parametrize("how", ["only", "unbind", "whole"])
async def test_an_entry_that_is_made_anew_is_not_taken_away(how: str) -> None:
    owners = Owners()
    assert await binder(owners).bind([Bind("a", DEVICES[0], False)]) == [""]
    if how == "only":
        taking = binder(owners).bind([Bind("a", DEVICES[1], True)])
        await bound_anew_while(owners, taking, 4)
    elif how == "unbind":
        await bound_anew_while(owners, binder(owners).unbind([Unbind("a", DEVICES[0])]), 2)
    else:
        await bound_anew_while(owners, binder(owners).unbind([Unbind("a", None)]), 2)
    check_reachable(owners)
    assert owners.holder_of(DEVICES[0]) == "a"


async def test_a_device_that_does_not_exist_gets_into_no_list() -> None:
    owners = Owners()
    stranger = device_id(1, 7)
    items = [Bind("a", stranger, False), Bind("a", DEVICES[0], False)]
    assert await binder(owners).bind(items) == ["unknown_device", ""]
    assert owners.listed("a") == [DEVICES[0]]
    assert await binder(owners).unbind([Unbind("a", stranger)]) == ["unknown_device"]


async def test_calls_that_find_a_device_s_owner_away_leave_nothing_in_lists() -> None:
    """Or an hour of them would fill an account's list."""
    owners = Owners()

    async def gate() -> str:
        return "away"

    owners.gate = gate
    assert await binder(owners).bind([Bind("a", DEVICES[0], False)]) == [AWAY]
    assert owners.calls == 1 and owners.listed("a") == []


def failing(*steps: str) -> Callable[[], Awaitable[str]]:
    """A gate at which the first calls go as these say, and all others well."""
    left = list(steps)

    async def gate() -> str:
        return left.pop(0) if left else ""

    return gate


async def test_a_list_that_could_not_be_changed_is_told() -> None:
    owners = Owners()
    await binder(owners).bind([Bind("a", DEVICES[0], False)])
    owners.gate = failing("", "", "away")
    assert await binder(owners).unbind([Unbind("a", DEVICES[0])]) == [AWAY]
    assert owners.holder_of(DEVICES[0]) == "" and owners.listed("a") == [DEVICES[0]]
    assert await binder(owners).unbind([Unbind("a", DEVICES[0])]) == [""]
    assert owners.listed("a") == []


async def test_a_device_that_is_listed_twice_counts_where_it_stands_last() -> None:
    owners = Owners()
    await binder(owners).bind([Bind("a", device, False) for device in DEVICES[:2]])
    owners.gate = failing("", "", "", "away")
    assert await binder(owners).bind([Bind("a", DEVICES[0], False)]) == [""]
    both = Or((Account("a"), Account("a", "latest")))
    found = await look_up(cast(Nodes, owners), 1, both)
    in_order = (DEVICES[1], DEVICES[0])
    assert found.tree == Or((Bound("a", in_order), Bound("a", in_order[1:], "latest")))


async def test_too_many_devices_cost_that_item_alone() -> None:
    owners = Owners(limit=2)
    items = [Bind("a", device, False) for device in DEVICES[:3]]
    items += [Bind("b", DEVICES[2], False), Bind("a", DEVICES[3], True)]
    assert await binder(owners).bind(items) == ["", "", "too_many_devices", "", ""]
    assert (owners.listed("a"), owners.listed("b")) == ([DEVICES[3]], [DEVICES[2]])


# Looking accounts up.


async def test_latest_passes_over_what_is_not_the_account_s() -> None:
    """Entries left behind, and those of bindings that are not complete, stand last."""
    owners = Owners()
    await binder(owners).bind([Bind("a", device, False) for device in DEVICES])
    await binder(owners).bind([Bind("b", DEVICES[3], False)])
    owners.gate = failing("", "", "away")
    assert await binder(owners).bind([Bind("b", DEVICES[1], False)]) == [AWAY]
    assert owners.listed("b") == [DEVICES[3], DEVICES[1]] and owners.holder_of(DEVICES[1]) == "a"
    both = Or((Account("b", "latest"), Account("b"), Account("x"), Account("a", "latest")))
    found = await look_up(cast(Nodes, owners), 1, both)
    assert found.tree == Or(
        (
            Bound("b", (DEVICES[3],), "latest"),
            Bound("b", (DEVICES[3], DEVICES[1])),
            Bound("x", ()),
            Bound("a", (DEVICES[2],), "latest"),
        )
    )
    assert found.unknown == ("x",) and found.devices == 4


async def test_latest_of_a_list_of_strangers_is_nobody() -> None:
    owners = Owners()
    await binder(owners).bind([Bind("a", DEVICES[0], False), Bind("a", DEVICES[2], False)])
    for device in (DEVICES[0], DEVICES[2]):
        p, index = split_device_id(device)
        await owners.bind_holders(1, p, [rpc_pb2.HolderItem(index=index, account="b", binding=9)])
    found = await look_up(cast(Nodes, owners), 1, Account("a", "latest"))
    assert found.tree == Bound("a", (), "latest") and not found.unknown


async def test_each_partition_is_asked_once() -> None:
    owners = Owners()
    names = [f"u{n}" for n in range(50)]
    await binder(owners).bind([Bind(name, DEVICES[n % 4], False) for n, name in enumerate(names)])
    owners.calls = 0
    found = await look_up(cast(Nodes, owners), 1, Or(tuple(map(Account, names))))
    assert owners.calls == PARTITIONS and found.devices == 4
    assert (await look_up(cast(Nodes, owners), 1, Bound("u1", ()))).tree == Bound("u1", ())
    assert owners.calls == PARTITIONS
