"""Pushes that one append accepts: their futures, deadlines and budget, on the real store."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.api import appending
from gateway.api.appending import as_it_is
from gateway.api.order import Accepted, Order
from gateway.api.refused import Busy, Unavailable
from gateway.store.client import Store
from protocol.ids import device_id
from tests.gateway.api_stage import StoreServer, pushes_in
from tests.gateway.intake.desk import desk, to
from tests.waiting import until

ONE = to([device_id(1, 1)])


async def test_the_future_is_done_when_the_log_has_the_push(
    server: StoreServer, store: Store
) -> None:
    async with desk(server.url) as one:
        future = one.intake.push_at_once(ONE, as_it_is)
        assert future is not None and one.intake.waiting.used > 0
        accepted = await future
        assert accepted.accepted == 1 and one.intake.waiting.used == 0
        unknown = one.intake.push_at_once(to([device_id(1, 9)]), as_it_is)
        assert unknown is not None and list((await unknown).unknown) == [device_id(1, 9)]
        assert one.intake.results.value("accepted") == 2
    assert [push.push_id for push in await pushes_in(store, 1)][:1] == [accepted.push_id]


@pytest.mark.parametrize(
    "order",
    [
        to([device_id(0, 1), device_id(1, 1)]),
        to([device_id(1, 1)], idempotency_key="k"),
        to([], audience=b'"all"'),
    ],
)
async def test_what_needs_more_than_an_append_takes_the_other_way(
    server: StoreServer, store: Store, order: Order
) -> None:
    async with desk(server.url) as one:
        assert one.intake.push_at_once(order, as_it_is) is None
        assert one.intake.waiting.used == 0


async def test_each_is_given_up_at_its_own_time_and_comes_once_all_the_same(
    server: StoreServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "APPEND_S", 0.2)
    loop = asyncio.get_running_loop()
    ended: list[tuple[int, float]] = []

    def note(number: int) -> Callable[[Accepted | Exception], None]:
        def outcome(what: Accepted | Exception) -> None:
            assert isinstance(what, Unavailable) and what.push_id
            ended.append((number, loop.time()))

        return outcome

    async with desk(server.url) as one:
        await one.intake.push(ONE)  # answered: it must not hold up those behind it
        with server.frozen():
            began = loop.time()
            futures = []
            for number in range(3):
                futures.append(one.intake.push_at_once(ONE, note(number)))
                await asyncio.sleep(0.05)
            await asyncio.gather(*[future for future in futures if future is not None])
            assert [number for number, _ in ended] == [0, 1, 2]
            assert all(at - began >= 0.19 + 0.05 * number for number, at in ended)
            assert one.intake.waiting.used > 0, "they are still on their way"
        await until(lambda: one.intake.waiting.used == 0)
    assert len(await pushes_in(store, 1)) == 4


async def test_a_caller_that_has_gone_leaves_nothing_behind(
    server: StoreServer, store: Store
) -> None:
    async with desk(server.url) as one:
        with server.frozen():
            future = one.intake.push_at_once(ONE, as_it_is)
            assert future is not None
            future.cancel()
        await until(lambda: one.intake.waiting.used == 0)
        await one.intake.push(ONE)
    assert len(await pushes_in(store, 1)) == 2


async def test_a_defect_in_the_outcome_is_the_callers(server: StoreServer, store: Store) -> None:
    def outcome(what: Accepted | Exception) -> None:
        raise LookupError(type(what).__name__)

    async with desk(server.url, queue_max=2) as one:
        future = one.intake.push_at_once(ONE, outcome)
        assert future is not None
        with pytest.raises(LookupError, match="Accepted"):
            await future
        with server.frozen():
            open_ones = [one.intake.push_at_once(ONE, as_it_is) for _ in range(2)]
            used = one.intake.waiting.used
            with pytest.raises(Busy):
                one.intake.push_at_once(ONE, as_it_is)
            assert one.intake.waiting.used == used and one.intake.results.value("refused") == 1
        for future_of_one in open_ones:
            assert future_of_one is not None
            await future_of_one
        assert one.intake.waiting.used == 0
