"""Accounts that app servers bind: what owners check, and the owners themselves with the real store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.dispatch import queries
from gateway.dispatch import turns as turns_module
from gateway.dispatch.accounts import Entry as Listed
from gateway.dispatch.accounts import Holding
from gateway.dispatch.binding import Binding, check_holders, check_lists
from gateway.dispatch.partition import Partition
from gateway.dispatch.turns import Turns
from gateway.rpc import RpcError
from gateway.store import ownership
from gateway.store.client import Store
from gateway.store.log import Entry
from protocol.schema import log_pb2, rpc_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.nodes import SHORT_LEASE_S, Running, config, content, hasten, running
from tests.gateway.dispatch.records import Log
from tests.gateway.dispatch.scripted_edge import ScriptedEdge
from tests.gateway.store.valkey import log_of
from tests.waiting import PATIENCE_S, until


def add(account: str, device: int, binding: int = 1, *, only: bool = False) -> rpc_pb2.AccountItem:
    return rpc_pb2.AccountItem(account=account, device=device, binding=binding, only=only)


def remove(account: str, device: int, binding: int = 1) -> rpc_pb2.AccountItem:
    return rpc_pb2.AccountItem(account=account, device=device, binding=binding, remove=True)


def to(account: str, index: int, binding: int = 1) -> rpc_pb2.HolderItem:
    return rpc_pb2.HolderItem(account=account, index=index, binding=binding)


def leave(account: str, index: int) -> rpc_pb2.HolderItem:
    return rpc_pb2.HolderItem(was=account, index=index)


def listed(log: Log, *items: rpc_pb2.AccountItem, limit: int = 3) -> list[str]:
    """Check and fold; the errors."""
    found = check_lists(log.partition, 1, items, limit)
    if found.record:
        log.fold(found.record)
    return found.errors


def entries(log: Log, account: str = "u1") -> list[Listed]:
    return log.partition.accounts.entries_of(1, account)


# Lists.


def test_items_of_an_account_make_one_change_each_way() -> None:
    log = Log()
    items = [add("u1", 5, 1), add("u2", 5, 2), add("u1", 6, 3), remove("u1", 5), add("u1", 7, 4)]
    found = check_lists(log.partition, 1, items, 10)
    changes = log_pb2.Record.FromString(found.record).accounts
    assert [(c.account, c.remove, list(c.device), list(c.binding)) for c in changes] == [
        ("u1", False, [5, 6], [1, 3]),
        ("u1", True, [5], [1]),
        ("u1", False, [7], [4]),
        ("u2", False, [5], [2]),
    ]
    log.fold(found.record)
    assert entries(log) == [Listed(6, 3), Listed(7, 4)]


def test_an_account_with_too_many_devices_costs_that_item_alone() -> None:
    log = Log()
    items = [add("u1", n, n) for n in (1, 2, 3, 4)] + [add("u2", 4, 5), add("u1", 1, 6)]
    assert listed(log, *items) == ["", "", "", "too_many_devices", "", ""]
    assert entries(log) == [Listed(1, 1), Listed(2, 2), Listed(3, 3), Listed(1, 6)]
    assert listed(log, remove("u1", 1, 1), add("u1", 4, 7)) == ["", "too_many_devices"]
    assert listed(log, remove("u1", 2, 2), add("u1", 4, 7)) == ["", ""]
    # A lower limit than once keeps what is there.
    assert listed(log, add("u1", 3, 8), add("u1", 9, 9), limit=1) == ["", "too_many_devices"]


def test_a_device_counts_once_however_often_it_is_bound() -> None:
    log = Log()
    items = [add("u1", 1, 1), add("u1", 1, 2), add("u1", 1, 3), add("u1", 2, 4), add("u1", 3, 5)]
    assert listed(log, *items, limit=2) == ["", "", "", "", "too_many_devices"]


def test_with_only_the_others_are_told_and_no_limit_holds() -> None:
    log = Log()
    listed(log, *(add("u1", n, n) for n in (1, 2, 3)))
    items = [add("u1", 4, 4, only=True), add("u1", 2, 5, only=True), add("u2", 1, 6, only=True)]
    found = check_lists(log.partition, 1, items, 3)
    assert found.errors == ["", "", ""]
    assert found.beside == [
        [Listed(1, 1), Listed(2, 2), Listed(3, 3)],
        [Listed(1, 1), Listed(3, 3), Listed(4, 4)],
        [],
    ]
    log.fold(found.record)
    assert len(entries(log)) == 5, "they leave in a step of their own"


def test_what_is_not_there_is_gone_already() -> None:
    log = Log()
    listed(log, add("u1", 1, 1))
    found = check_lists(log.partition, 1, [remove("u1", 1, 7), remove("u1", 2), remove("x", 1)], 3)
    assert found == ([""] * 3, [[], [], []], b"")


# Holders.


def held(log: Log, *items: rpc_pb2.HolderItem) -> list[tuple[str, Holding]]:
    found = check_holders(log.partition, 1, items)
    if found.record:
        log.fold(found.record)
    return list(zip(found.errors, found.was, strict=True))


def devices() -> Log:
    log = Log()
    log.fold(records.sessions(1, [0, 1], app=1), records.sessions(1, [2], app=2))
    return log


def test_each_item_is_told_whose_the_device_was() -> None:
    log = devices()
    nobodys = Holding("", 0)
    items = [to("u1", 0, 1), to("u2", 0, 2), leave("u1", 0), leave("u2", 0), to("u1", 1, 3)]
    assert [was for _, was in held(log, *items)] == [
        nobodys, Holding("u1", 1), Holding("u2", 2), Holding("u2", 2), nobodys,
    ]  # fmt: skip
    holding_of = log.partition.accounts.holding_of
    assert (holding_of(0), holding_of(1)) == (nobodys, Holding("u1", 3))


def test_a_device_of_another_app_or_none_belongs_to_nobody() -> None:
    log = devices()
    errors = [error for error, _ in held(log, to("u1", 2), to("u1", 7), to("u1", 1))]
    assert errors == ["unknown_device", "unknown_device", ""]
    assert not log.partition.accounts.held(1, "u1", [2, 7])


def test_changes_of_one_kind_in_a_row_make_one_row_and_no_change_makes_none() -> None:
    log = devices()
    record = check_holders(
        log.partition, 1, [to("u1", 0, 1), to("u1", 1, 2), to("u2", 0, 3)]
    ).record
    holders = log_pb2.Record.FromString(record).holders
    assert [(h.account, list(h.index), list(h.binding)) for h in holders] == [
        ("u1", [0, 1], [1, 2]),
        ("u2", [0], [3]),
    ]
    assert check_holders(log.partition, 1, [leave("u1", 0), leave("", 1)]).record == b""


# Owners.


@pytest.fixture(autouse=True)
def quick_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest.fixture
async def edge(store: Store, short_path: Path) -> AsyncIterator[ScriptedEdge]:
    edge = ScriptedEdge(store, short_path)
    await edge.start()
    yield edge
    await edge.stop()


async def change_lists(owner: Running, *items: rpc_pb2.AccountItem) -> rpc_pb2.AccountReply:
    body = rpc_pb2.AccountRequest(partition=0, app=1, items=items).SerializeToString()
    return rpc_pb2.AccountReply.FromString(await owner.node.binding.account(body))


async def change_holders(
    owner: Running, *items: rpc_pb2.HolderItem, p: int = 0
) -> rpc_pb2.HolderReply:
    body = rpc_pb2.HolderRequest(partition=p, app=1, items=items).SerializeToString()
    return rpc_pb2.HolderReply.FromString(await owner.node.binding.holder(body))


async def set_tag(owner: Running, index: int, *tags: str) -> rpc_pb2.TagReply:
    """Of a device of app 1; nothing changes without a tag."""
    items = [rpc_pb2.TagItem(index=index, add=tags)]
    body = rpc_pb2.TagRequest(partition=0, app=1, items=items).SerializeToString()
    return rpc_pb2.TagReply.FromString(await owner.node.tagging.tag(body))


async def look_up(
    owner: Running, *accounts: str, index: list[int] | None = None
) -> rpc_pb2.LookupReply:
    request = rpc_pb2.LookupRequest(partition=0, app=1, accounts=accounts, index=index or [])
    return rpc_pb2.LookupReply.FromString(
        await owner.node.binding.lookup(request.SerializeToString())
    )


async def test_what_is_answered_is_durable_and_found(store: Store, edge: ScriptedEdge) -> None:
    async with running(store, config(devices_per_account=2)) as owner:
        await owner.live()
        await edge.connect(0, 1, 2)
        reply = await change_lists(owner, *(add("u1", n, n + 1) for n in (7, 8, 9)))
        assert list(reply.errors) == ["", "", "too_many_devices"]
        reply = await change_lists(owner, add("u1", 9, 5, only=True))
        assert list(reply.beside[0].device) == [7, 8] and list(reply.beside[0].binding) == [8, 9]
        was = await change_holders(owner, to("u1", 0, 1), to("u2", 0, 2), to("u1", 2, 3))
        assert (list(was.was), list(was.binding)) == (["", "u1", ""], [0, 1, 0])
        found = await look_up(owner, "u1", "u3", index=[0, 1, 2])
        assert [list(one.device) for one in found.lists] == [[7, 8, 9], []]
        assert list(found.lists[0].binding) == [8, 9, 5]
        assert list(found.holders) == ["u2", "", "u1"]
    async with running(store) as heir:
        await heir.live()
        assert await look_up(heir, "u1", "u3", index=[0, 1, 2]) == found
        device = rpc_pb2.DeviceRequest(device_id=0).SerializeToString()
        state = rpc_pb2.DeviceState.FromString(await heir.node.queries.device(device))
        assert state.account == "u2"


async def test_a_session_that_stands_in_the_log_makes_a_device_known(
    store: Store, edge: ScriptedEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store knows a device before its owner has read of it."""
    monkeypatch.setattr(queries, "_CATCH_UP_S", PATIENCE_S)
    async with running(store) as owner:
        await owner.live()
        fold, may = owner.node._fold, asyncio.Event()

        async def held(entries: object) -> None:
            await may.wait()
            await fold(entries)  # type: ignore[arg-type]

        monkeypatch.setattr(owner.node, "_fold", held)
        await asyncio.sleep(0.05)
        await edge.connect(0)
        assert not owner.partition.app_of(0)
        changing = asyncio.create_task(change_holders(owner, to("u1", 0), to("u1", 6)))
        await asyncio.sleep(0.05)
        may.set()
        assert list((await changing).errors) == ["", "unknown_device"]
        may.clear()
        await edge.connect(2)  # the second one: index 1
        assert not owner.partition.app_of(1)
        looking = asyncio.create_task(look_up(owner, index=[1, 7]))
        await asyncio.sleep(0.05)
        may.set()
        assert list((await looking).known) == [True, False]


async def test_batches_of_a_partition_come_one_after_the_other(store: Store) -> None:
    async with running(store, config(devices_per_account=5)) as owner:
        await owner.live()
        calls = [change_lists(owner, add("u1", n, n + 1)) for n in range(20)]
        errors = [list(reply.errors) for reply in await asyncio.gather(*calls)]
        assert errors == [[""]] * 5 + [["too_many_devices"]] * 15
        assert len(owner.partition.accounts.entries_of(1, "u1")) == 5


async def test_too_many_batches_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "_WAITING", 2)
    async with running(store) as owner:
        await owner.live()
        calls = [change_lists(owner, add("u1", n, n + 1)) for n in range(4)]
        replies = await asyncio.gather(*calls, return_exceptions=True)
        codes = [reply.code if isinstance(reply, RpcError) else "" for reply in replies]
        assert codes == ["", "", "busy", "busy"]
        assert list((await change_lists(owner, add("u1", 9))).errors) == [""], "and none for ever"


async def test_who_does_not_own_the_partition_says_so(store: Store) -> None:
    async with running(store) as owner:
        await owner.live()
        with pytest.raises(RpcError, match="not_owner"):
            await change_holders(owner, to("u1", 0), p=1)


async def refused(owner: Running) -> None:
    """Everything that is asked."""
    for call in (
        change_lists(owner, add("u2", 1)),
        change_lists(owner, remove("none", 1)),
        change_holders(owner, to("u2", 0)),
        change_holders(owner, leave("none", 0)),
        look_up(owner, "u1"),
        set_tag(owner, 1, "vip"),
        set_tag(owner, 1),
    ):
        with pytest.raises(RpcError, match="not_owner"):
            async with asyncio.timeout(5):
                await call


async def test_an_owner_that_was_given_up_answers_nothing_even_where_nothing_is_to_change(
    store: Store, edge: ScriptedEdge
) -> None:
    """Its lease still stands and it has not looked at the roster yet, but it is not the one any more
    that is told of changes."""
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0)
        await change_lists(owner, add("u1", 1))
        await until(lambda: owner.partition.app_of(0))
        before = await log_of(store, 0)
        await owner.crash()
        assert owner.lease.valid
        await ownership.take_fence(store, 0, 99, 99)
        await refused(owner)
        assert await log_of(store, 0) == before


async def test_an_owner_whose_lease_ran_out_answers_nothing(
    store: Store, edge: ScriptedEdge
) -> None:
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(running(store, config(lease_s=SHORT_LEASE_S)))
        await owner.live()
        await edge.connect(0)
        await change_lists(owner, add("u1", 1))
        await owner.crash()
        await until(lambda: not owner.lease.valid)
        await refused(owner)


async def test_a_batch_that_waited_until_the_lease_ran_out_is_not_written(store: Store) -> None:
    """Others may have answered later calls meanwhile, which it would undo."""
    async with running(store) as owner:
        await owner.live()
        acts = True
        handlers = Binding(Turns(store, owner.node.owned, lambda: acts), 10)
        one, two = (
            asyncio.create_task(
                handlers.account(
                    rpc_pb2.AccountRequest(
                        partition=0, app=1, items=[add("u1", n, n)]
                    ).SerializeToString()
                )
            )
            for n in (1, 2)
        )
        await asyncio.sleep(0)
        acts = False
        assert list(rpc_pb2.AccountReply.FromString(await one).errors) == [""]
        with pytest.raises(RpcError, match="not_owner"):
            await two
        assert owner.partition.accounts.entries_of(1, "u1") == [Listed(1, 1)]


async def test_what_is_queued_for_a_device_that_leaves_the_account_is_not_sent(
    store: Store, edge: ScriptedEdge
) -> None:
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0, 2, 4)
        await until(lambda: owner.partition.app_of(2) and owner.node.links.up)
        owned, app = owner.node.owned[0], 1
        # A device that is to be looked at is sent nothing before its look.
        await until(lambda: not owned.waits_for_look)
        both = b'{"bound": "u1", "devices": ["0", "1"]}'
        for number, record in enumerate(
            (
                records.holder("u1", [(0, 1), (1, 2)], app=app),
                records.push(1 << 11, audience=both, app=app, content=content("u1's")),
                records.holder("u2", [(1, 3)], app=app),
            )
        ):
            owned.on_entry(Entry(0, f"9999999999999-{number}", record))
        assert owned.queued
        await until(lambda: edge.devices_of(1 << 11))
        await asyncio.sleep(0.05)
        assert set(edge.devices_of(1 << 11)) == {0}


def test_the_check_needs_no_store() -> None:
    assert check_lists(Partition(0), 1, [], 1) == ([], [], b"")
