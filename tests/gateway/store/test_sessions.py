"""Registering: epochs, repetitions, fencing by connection counter, nonces, unregistering."""

from pathlib import Path

import pytest

from gateway.store import keys
from gateway.store.client import Store
from gateway.store.errors import Fenced
from gateway.store.ownership import declare_edge_down, session_epoch, sessions_of, take_fence
from gateway.store.sessions import Answer, Down, Status
from protocol.codes import CLOCK_SKEW_MS
from protocol.schema import log_pb2
from tests.gateway.store.sessions_desk import APP, SessionsDesk, registration, with_token
from tests.gateway.store.valkey import LossyProxy, Valkey, log_of


async def everything(store: Store) -> dict[bytes, bytes | None]:
    """The whole store, to see that nothing was written."""
    names = sorted(await store.call("KEYS", "*"))
    return {name: await store.call("DUMP", name) for name in names}


async def sessions_in_log(store: Store) -> list[log_pb2.Sessions]:
    return [log_pb2.Record.FromString(record).sessions for _, record in await log_of(store, 0)]


async def test_epochs_are_drawn_by_the_store_and_rise_over_all_devices_and_edges(
    store: Store,
) -> None:
    one, two = SessionsDesk(store, 1, 10), SessionsDesk(store, 2, 11)
    first = await one.up(registration())
    second = await two.up(registration(installation=b"j" * 16))
    third = await two.up(with_token(first.device, connection=2))
    assert [a.status for a in (first, second, third)] == [Status.REGISTERED] * 3
    assert (first.device, second.device, third.device) == (0, 1, 0)
    assert (first.value, second.value, third.value) == (1, 2, 3)
    logged = await sessions_in_log(store)
    assert [(s.edge, list(s.up), list(s.app), list(s.epoch)) for s in logged] == [
        (1, [0], [APP], [1]),
        (2, [1], [APP], [2]),
        (2, [0], [APP], [3]),
    ]


async def test_epochs_stay_exact_far_beyond_32_bits(store: Store) -> None:
    await store.call("HSET", keys.counters(0), "epoch", 2**52)
    answer = await SessionsDesk(store).up(registration())
    assert answer.value == 2**52 + 1
    assert await session_epoch(store, 0, answer.device) == 2**52 + 1
    (logged,) = await sessions_in_log(store)
    assert list(logged.epoch) == [2**52 + 1]


async def test_an_installation_that_registers_again_is_the_same_device(store: Store) -> None:
    desk = SessionsDesk(store)
    devices = [(await desk.up(registration(row, row))).device for row in (1, 2, 3)]
    assert devices == [0, 0, 0]
    other_app = await desk.up(registration(4, app=APP + 1))
    assert other_app.device == 1, "installations are named within their app"


async def test_a_lost_reply_makes_no_ghost_device_and_no_second_session(
    valkey: Valkey, store: Store, short_path: Path
) -> None:
    proxy = LossyProxy(short_path, valkey)
    await proxy.start()
    client = await Store.connect(proxy.url)
    desk = SessionsDesk(client)
    proxy.lose_replies()
    answers = await desk.call(registration(1), registration(2, installation=b"j" * 16))
    assert answers == [Answer(Status.REGISTERED, 0, 1), Answer(Status.REGISTERED, 1, 2)]
    assert await store.call("HGET", keys.counters(0), "devices") == b"2"
    assert len(await log_of(store, 0)) == 1
    await client.close()
    await proxy.stop()


async def test_a_repeated_call_answers_the_same_and_writes_nothing(store: Store) -> None:
    desk = SessionsDesk(store)
    await desk.up(registration(installation=b"k" * 16))
    other = SessionsDesk(store, 2, 11)
    changes = (
        registration(1),
        registration(2, installation=b"j" * 16),
        with_token(0, 3, connection=0),  # stale
        with_token(99, 4),  # no such device
        Down(0, 77),  # not its epoch
    )
    answers = await other.call(*changes)
    before = await everything(store)
    assert await other.first_call(*changes) == answers
    assert await everything(store) == before
    assert [a.status for a in answers if a] == [
        Status.REGISTERED,
        Status.REGISTERED,
        Status.STALE,
        Status.UNKNOWN_DEVICE,
    ]


async def test_a_repeated_call_never_takes_a_session_back_from_a_newer_one(store: Store) -> None:
    desk, other = SessionsDesk(store, 1, 10), SessionsDesk(store, 2, 11)
    call = registration(1, connection=1)
    first = await desk.up(call)
    newer = await other.up(with_token(first.device, connection=2))
    assert await desk.first_call(call) == [Answer(Status.STALE, first.device, 2)]
    assert await session_epoch(store, 0, first.device) == newer.value


async def test_a_repeated_call_after_the_session_ended_says_so(store: Store) -> None:
    desk = SessionsDesk(store)
    call = registration()
    first = await desk.up(call)
    await SessionsDesk(store, 2, 11).down(first.device, first.value)
    assert await desk.first_call(call) == [Answer(Status.FENCED_SINCE, first.device, 0)]
    assert await session_epoch(store, 0, first.device) == 0


@pytest.mark.parametrize("connection", [0, 4, 5])
async def test_a_late_attempt_is_refused_with_the_counter_that_stands(
    store: Store, connection: int
) -> None:
    desk, other = SessionsDesk(store, 1, 10), SessionsDesk(store, 2, 11)
    live = await desk.up(registration(connection=5))
    late = await other.up(with_token(live.device, connection=connection))
    assert late == Answer(Status.STALE, live.device, 5)
    assert await session_epoch(store, 0, live.device) == live.value
    assert len(await log_of(store, 0)) == 1
    higher = await other.up(with_token(live.device, connection=10))
    assert higher.status is Status.REGISTERED, "10 is more than 5, though not as text"


async def test_a_session_goes_on_under_a_new_edge_number_by_its_prior_epoch(store: Store) -> None:
    desk, renumbered = SessionsDesk(store, 1, 10), SessionsDesk(store, 2, 11)
    live = await desk.up(registration(connection=5))
    goes_on = await renumbered.up(with_token(live.device, connection=5, prior=live.value))
    assert goes_on.status is Status.REGISTERED and goes_on.value > live.value
    # A prior that is not the one that stands opens nothing.
    again = await desk.up(with_token(live.device, connection=5, prior=live.value))
    assert again == Answer(Status.STALE, live.device, 5)


async def test_a_nonce_works_once_and_is_remembered_for_twice_the_skew(store: Store) -> None:
    desk = SessionsDesk(store)
    await desk.up(registration(nonce=b"n" * 16))
    before = await everything(store)
    seen = await desk.up(registration(2, 2, installation=b"j" * 16, nonce=b"n" * 16))
    assert seen.status is Status.NONCE_SEEN
    after = await everything(store)
    del before[b"{0}:producers"], after[b"{0}:producers"]
    assert after == before, "no device and no session came of it"

    seconds, micros = await store.call("TIME")
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    ((nonce, until_ms),) = [await store.call("ZRANGE", keys.nonces(0), 0, -1, "WITHSCORES")]
    assert nonce == b"n" * 16
    assert 0 <= now_ms + 2 * CLOCK_SKEW_MS - int(until_ms) < 10_000

    # Over: as if that time had passed.
    await store.call("ZADD", keys.nonces(0), now_ms - 1, b"n" * 16)
    third = await desk.up(registration(3, 3, installation=b"j" * 16, nonce=b"n" * 16))
    assert third.status is Status.REGISTERED
    await store.call("ZADD", keys.nonces(0), now_ms - 1, b"n" * 16)
    await desk.up(registration(4, 4, nonce=b"m" * 16))
    assert await store.call("ZRANGE", keys.nonces(0), 0, -1) == [b"m" * 16], "the old one is gone"


async def test_a_token_opens_only_its_own_apps_device(store: Store) -> None:
    desk = SessionsDesk(store)
    mine = await desk.up(registration())
    for wrong in (with_token(mine.device, 2, 2, app=APP + 1), with_token(mine.device + 1, 2, 2)):
        assert await desk.up(wrong) == Answer(Status.UNKNOWN_DEVICE, 0, 0)
    assert len(await log_of(store, 0)) == 1


async def test_unregistering_names_the_epoch_and_never_removes_a_newer_session(
    store: Store,
) -> None:
    old, new = SessionsDesk(store, 1, 10), SessionsDesk(store, 2, 11)
    first = await old.up(registration(connection=1))
    second = await new.up(with_token(first.device, connection=2))
    await old.down(first.device, first.value)
    assert await session_epoch(store, 0, first.device) == second.value
    assert not any(s.down for s in await sessions_in_log(store))


async def test_an_offline_device_has_no_session_entry(store: Store) -> None:
    desk = SessionsDesk(store)
    answer = await desk.up(registration())
    await desk.down(answer.device, answer.value)
    assert await store.call("EXISTS", keys.sessions(0)) == 0
    *_, last = await sessions_in_log(store)
    assert (last.edge, list(last.up), list(last.down)) == (1, [], [answer.device])
    back = await desk.up(with_token(answer.device, 2, connection=1))
    assert back.value == answer.value + 1, "epochs are the partition's, none is drawn twice"


async def test_a_session_that_comes_and_goes_in_one_call_is_offline(store: Store) -> None:
    desk = SessionsDesk(store)
    await desk.call(registration(), Down(0, 1))
    assert await session_epoch(store, 0, 0) == 0
    (logged,) = await sessions_in_log(store)
    assert (list(logged.up), list(logged.down)) == ([0], [0])


async def test_several_in_one_call_get_their_answers_in_order(store: Store) -> None:
    ups = [registration(n, installation=bytes((n,)) * 16) for n in range(1, 200)]
    answers = await SessionsDesk(store).call(*ups)
    assert answers == [Answer(Status.REGISTERED, n, n + 1) for n in range(199)]


# The end of an edge.


async def test_an_edge_declared_down_registers_and_appends_no_more(store: Store) -> None:
    desk = SessionsDesk(store, 1, 10)
    live = await desk.up(registration())
    fence = await take_fence(store, 0, 1, 1)
    await declare_edge_down(store, 0, fence=fence, edge=1, start=10, record=b"")

    before = await everything(store)
    with pytest.raises(Fenced):
        await desk.up(with_token(live.device, 2, connection=2))
    with pytest.raises(Fenced):
        await store.run("append", [keys.log(0), keys.producers(0)], [1, "u", 10, 99, b"r", 0])
    assert await everything(store) == before

    # The next start under the same number may.
    reborn = SessionsDesk(store, 1, 12)
    assert (await reborn.up(with_token(live.device, 2, 2))).status is Status.REGISTERED


async def test_an_edge_is_declared_down_once_in_a_partition(store: Store) -> None:
    fence = await take_fence(store, 0, 1, 1)
    told = [
        await declare_edge_down(store, 0, fence=fence, edge=1, start=start, record=b"r")
        for start in (10, 10, 9, 12)
    ]
    assert told == [True, False, False, True]
    assert len(await log_of(store, 0)) == 2


async def test_the_end_of_an_edge_fences_no_node_and_no_api_process_of_its_number(
    store: Store,
) -> None:
    """Numbers are leased by role: edge 1, node 1 and API process 1 are three processes."""
    fence = await take_fence(store, 0, 1, 5)
    await declare_edge_down(store, 0, fence=fence, edge=1, start=10, record=b"r")
    for channel in ("pa", "fa", "fn"):
        await store.run(
            "push",
            [keys.log(0), keys.producers(0), keys.apps(0), keys.content(0)],
            [1, channel, 5, 1, 0, "7", APP, b"", b"", b""],
        )
    await store.run(
        "owner_append",
        [keys.log(0), keys.producers(0), keys.owner(0)],
        [1, "o", 5, 1, b"due", fence, 0],
    )
    assert len(await log_of(store, 0)) == 5


async def test_what_a_dead_edge_left_is_found_by_number_and_start(store: Store) -> None:
    old, other = SessionsDesk(store, 1, 10), SessionsDesk(store, 2, 11)
    left = [
        (await old.up(registration(n, installation=bytes((n,)) * 16))).device for n in (1, 2, 3)
    ]
    await other.up(with_token(left[0], connection=9))
    reborn = SessionsDesk(store, 1, 12)
    await reborn.up(with_token(left[1], 7, connection=9))
    assert await sessions_of(store, 0, 1, 10) == [left[2]]
