"""Leases: one start a number, on the store's clock, nobody judged too early."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.store import keys, leases
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.leases import Identity, Lease, LeaseLost, Role, Roster
from tests.gateway.store.valkey import LossyProxy, Valkey
from tests.waiting import until


async def take(store: Store, role: Role = "edge", lease_s: float = 60.0, **info: Any) -> Lease:
    return await Lease.take(store, StoreClock(), role, lease_s, info)


async def run_out(store: Store, identity: Identity) -> None:
    """As if its lease period had passed on the store's clock."""
    await store.call("ZADD", keys.LEASES, "XX", 1, identity.member)


async def fold_everywhere(store: Store, identity: Identity, partitions: int) -> list[bool]:
    return [
        await leases.folded(store, identity.number, identity.start, p, partitions)
        for p in range(partitions)
    ]


async def polled(store: Store, lease_s: float = 60.0) -> Roster:
    roster = Roster(store, StoreClock(), lease_s)
    await roster.poll()
    return roster


async def test_the_lowest_free_number_is_leased_to_a_start_that_no_other_has(store: Store) -> None:
    held = [(await take(store)).identity for _ in range(3)]
    node = (await take(store, "node")).identity
    assert [i.number for i in held] == [1, 2, 3]
    assert node.number == 1, "each role counts its own"
    starts = [i.start for i in (*held, node)]
    assert starts == sorted(set(starts))


@pytest.mark.parametrize("role", ["edge", "node", "api"])
async def test_a_lease_whose_reply_is_lost_leaves_no_holder_behind(
    valkey: Valkey, store: Store, short_path: Path, role: Role
) -> None:
    """Others would wait for it, or leave it a share of the partitions, until it had run out."""
    proxy = LossyProxy(short_path, valkey)
    await proxy.start()
    client = await Store.connect(proxy.url)
    await take(client, role)  # what a first call needs to know is known
    proxy.lose_replies()
    second = await take(client, role)
    assert proxy.lost == 1
    assert [h.identity.number for h in (await polled(store)).holders] == [1, 2]
    assert second.identity.number == 2
    await second.renew()
    assert (await take(client, role)).identity.number == 3, "another request, another number"
    await client.close()
    await proxy.stop()


async def test_a_lease_that_was_given_and_ended_is_not_given_again(store: Store) -> None:
    """A repetition so late that the lease has been judged meanwhile."""

    async def ask() -> tuple[int, int]:
        leased = [keys.LEASES, keys.LEASE_INFO, keys.LEASE_START, keys.lease_request("r")]
        number, start, _ = await store.run("lease_take", leased, ["edge", 9, 60_000, "{}"])
        return number, start

    first = await ask()
    assert await ask() == first
    assert await leases.end(store, Identity("edge", *first), "left")
    number, start = await ask()
    assert number == 2 and start > first[1]
    assert await store.call("PTTL", keys.lease_request("r")) > 0


async def test_no_number_is_refused_in_words(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(leases.HIGHEST, "edge", 1)
    await take(store)
    with pytest.raises(StoreError, match="no number is free"):
        await take(store)


async def test_an_edges_number_is_free_only_after_every_partition_has_folded_its_end(
    store: Store,
) -> None:
    lease = await take(store)
    await lease.end()
    for p in range(3):
        assert (await take(store)).identity.number != 1
        assert not await leases.folded(store, 1, lease.identity.start, p, 4)
        assert not await leases.folded(store, 1, lease.identity.start, p, 4), "once more: no vote"
    assert await leases.folded(store, 1, lease.identity.start, 3, 4)
    again = (await take(store)).identity
    assert again.number == 1 and again.start > lease.identity.start
    assert await fold_everywhere(store, lease.identity, 4) == [False] * 4, "late votes for the old"
    assert (await polled(store)).live("edge", 0)[0].identity != lease.identity


async def test_an_expired_edge_keeps_its_number_until_it_is_folded(store: Store) -> None:
    lease = await take(store)
    await run_out(store, lease.identity)
    assert (await take(store)).identity.number == 2


async def test_a_number_of_a_node_that_left_is_free_at_once(store: Store) -> None:
    lease = await take(store, "node")
    await lease.end()
    assert (await take(store, "node")).identity.number == 1
    with pytest.raises(LeaseLost):
        await lease.renew()


async def test_a_starting_process_judges_nobody_by_taking_an_expired_number(
    store: Store,
) -> None:
    """After the store's own downtime every lease looks expired, and its holder is alive."""
    for role in ("node", "api"):
        standing = await take(store, role)
        await run_out(store, standing.identity)
        other = await take(store, role)
        assert other.identity.number != standing.identity.number
        await standing.renew()
        assert standing.valid


async def test_expired_numbers_are_leased_again_when_no_other_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(leases.HIGHEST, "api", 2)
    first, second = await take(store, "api"), await take(store, "api")
    with pytest.raises(StoreError):
        await take(store, "api")
    await run_out(store, second.identity)
    assert (await take(store, "api")).identity.number == 2
    with pytest.raises(LeaseLost):
        await second.renew()
    await first.renew()


async def test_a_lease_is_valid_by_our_own_clock_from_before_the_question(
    own_valkey: Valkey,
) -> None:
    store = await Store.connect(own_valkey.url)
    lease = await take(store, "node", lease_s=0.2)
    with own_valkey.frozen():
        renewing = asyncio.create_task(lease.renew())
        await until(lambda: not lease.valid)
        asked = time.monotonic()
        await until(lambda: time.monotonic() > asked + 0.2)
    # The answer comes late: its period began when it was asked for.
    await renewing
    assert not lease.valid
    await lease.renew()
    assert lease.valid
    await store.close()


async def test_a_lease_ends_with_its_own_end(store: Store) -> None:
    lease = await take(store)
    assert lease.valid
    await lease.end()
    assert not lease.valid
    with pytest.raises(LeaseLost):
        await lease.renew()


async def test_declaring_expired_loses_against_a_renewal_that_came_first(store: Store) -> None:
    lease = await take(store)
    await run_out(store, lease.identity)
    await lease.renew()
    assert not await leases.end(store, lease.identity, "expired")
    await lease.renew()


async def test_a_renewal_loses_against_a_declaration_that_came_first(store: Store) -> None:
    lease = await take(store)
    await run_out(store, lease.identity)
    assert await leases.end(store, lease.identity, "expired")
    with pytest.raises(LeaseLost):
        await lease.renew()
    (holder,) = (await polled(store)).holders
    assert holder.down


async def test_an_end_names_its_start_and_cannot_hit_the_next_one(store: Store) -> None:
    old = await take(store, "node")
    await old.end()
    new = await take(store, "node")
    assert new.identity.number == old.identity.number
    assert not await leases.end(store, old.identity, "left")
    assert not await leases.release(store, old.identity)
    await new.renew()


async def test_keep_renews_through_an_outage_and_ends_only_when_the_lease_is_lost(
    own_valkey: Valkey,
) -> None:
    store = await Store.connect(own_valkey.url)
    lease = await take(store, "node", lease_s=0.3)
    keeping = asyncio.create_task(lease.keep())
    own_valkey.kill()
    await until(lambda: not lease.valid)
    own_valkey.start()
    await until(lambda: lease.valid)
    assert not keeping.done(), "nobody has said that it is over"
    await leases.end(store, lease.identity, "left")
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(keeping, 5)
    await store.close()


# The roster.


async def test_the_roster_knows_holders_and_what_they_say(store: Store) -> None:
    edge = await take(store, "edge", rpc="unix:/x")
    node = await take(store, "node", pid=7)
    roster = await polled(store)
    (holder,) = roster.live("edge", int(time.time() * 1000))
    assert holder.identity == edge.identity and holder.info["rpc"] == "unix:/x"
    assert [h.identity for h in roster.live("node", int(time.time() * 1000))] == [node.identity]


async def test_an_edge_that_left_is_dead_at_once(store: Store) -> None:
    lease = await take(store)
    await lease.end()
    roster = await polled(store)
    assert [h.identity for h in roster.dead_edges(0)] == [lease.identity]
    assert roster.live("edge", 0) == []


async def test_nobody_is_judged_before_the_store_has_answered_for_a_lease_period(
    store: Store,
) -> None:
    lease = await take(store)
    await run_out(store, lease.identity)
    roster = Roster(store, StoreClock(), 60.0)
    now = time.monotonic()
    assert not roster.may_judge(now + 1e9), "it has never answered"
    await roster.poll()
    now_ms = int(time.time() * 1000)
    assert not roster.may_judge(time.monotonic() + 59.0)
    assert roster.may_judge(time.monotonic() + 60.0)
    assert roster.dead_edges(now_ms) == []
    assert [h.identity for h in roster.live("edge", now_ms)] == [lease.identity]


async def test_after_a_restart_of_the_store_expired_leases_stand_for_a_whole_period(
    own_valkey: Valkey,
) -> None:
    store = await Store.connect(own_valkey.url)
    lease_s = 0.3
    lease = await take(store, "edge", lease_s)
    clock = StoreClock()
    roster = Roster(store, clock, lease_s)
    await roster.poll()
    await until(lambda: roster.may_judge(time.monotonic()))
    own_valkey.kill()
    with pytest.raises(StoreUnavailable):
        await roster.poll()
    assert not roster.may_judge(time.monotonic())
    await until(lambda: not lease.valid)
    own_valkey.start()
    await store.wait_up()
    began = time.monotonic()
    await roster.poll()
    assert roster.dead_edges(clock.now_ms()) == [], "expired, but it had nobody to renew with"
    await until(lambda: bool(roster.dead_edges(clock.now_ms())))
    assert time.monotonic() - began >= lease_s
    await store.close()


async def test_a_downtime_between_two_polls_counts(own_valkey: Valkey) -> None:
    """A judge that was busy or frozen while the store was away has not seen a poll fail."""
    store = await Store.connect(own_valkey.url)
    roster = Roster(store, StoreClock(), 60.0)
    await roster.poll()
    period_over = time.monotonic() + 60.0
    assert roster.may_judge(period_over)
    own_valkey.kill()
    own_valkey.start()
    await until(lambda: store.losses == 1 and store.up)
    await roster.poll()
    assert not roster.may_judge(period_over)
    await roster.poll()
    assert roster.may_judge(time.monotonic() + 60.0), "and from here on it answers"
    await store.close()


async def test_a_store_that_answers_late_has_not_answered(own_valkey: Valkey) -> None:
    store = await Store.connect(own_valkey.url)
    lease_s = 0.2
    roster = Roster(store, StoreClock(), lease_s)
    await roster.poll()
    with own_valkey.frozen():
        polling = asyncio.create_task(roster.poll())
        asked = time.monotonic()
        await until(lambda: time.monotonic() > asked + lease_s)
    await polling
    assert not roster.may_judge(time.monotonic() + 1e9)
    await store.close()


# The clock.


def test_the_clock_is_the_stores_however_wrong_our_own_is() -> None:
    clock = StoreClock()
    monotonic = time.monotonic()
    clock.correct(5_000.0, monotonic - 0.5, monotonic + 0.5)
    assert abs(clock.now_ms() - 5_000) < 1_000


async def test_leases_and_polls_correct_the_clock(store: Store) -> None:
    clock = StoreClock()
    for correcting in (
        lambda: Lease.take(store, clock, "node", 60.0, {}),
        lambda: Roster(store, clock, 60.0).poll(),
    ):
        clock.correct(0.0, 0.0, 0.0)  # hours off
        await correcting()
        assert abs(clock.now_ms() - time.time() * 1000) < 2_000
