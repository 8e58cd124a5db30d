"""The registrar and the real store: sessions, their ends, and what becomes of late answers."""

from collections.abc import AsyncIterator

import pytest

from gateway import config
from gateway.edge.registrar import Registrar
from gateway.store import keys
from gateway.store.apps import NewApp
from gateway.store.client import Store
from gateway.store.errors import ProducerFull
from gateway.store.leases import Identity
from gateway.store.sessions import Answer, Status, Up
from protocol.schema import log_pb2
from tests.gateway.edge.conftest import Hold
from tests.gateway.edge.stage import fence_off, records
from tests.waiting import until

FIRST = Identity("edge", 7, 100)


def up(row: int, *, installation: bytes = b"", connection: int = 1, **fields: int) -> Up:
    """A registration of row `row`, with a nonce of its own."""
    return Up(
        fd=fields.get("fd", row),
        row=row,
        connection=connection,
        app=1,
        device=fields.get("device", 0),
        installation=installation or row.to_bytes(16, "big"),
        nonce=b"n" * 8 + (row << 16 | connection).to_bytes(8, "big"),
        prior=fields.get("prior", 0),
    )


class Rig:
    """A registrar whose rows are a set of generations."""

    def __init__(self, store: Store, **edge: float) -> None:
        self.store = store
        self.rows: set[int] = set()
        self.answers: dict[int, Answer] = {}
        self.registrar = Registrar(
            config.Edge(**edge),  # type: ignore[arg-type]
            store,
            is_row=lambda fd, row: row in self.rows,
            answered=lambda p, up, answer: self.answers.update({up.row: answer}),
        )
        self.registrar.begin(FIRST)

    def register(self, registration: Up, p: int = 0) -> None:
        self.rows.add(registration.row)
        self.registrar.register(p, registration)

    async def registered(self, registration: Up, p: int = 0) -> Answer:
        self.register(registration, p)
        await until(lambda: registration.row in self.answers)
        return self.answers[registration.row]

    async def sessions(self, p: int = 0) -> dict[int, tuple[int, int]]:
        """index -> (edge, row) of the session hash"""
        reply = await self.store.call("HGETALL", keys.sessions(p))
        fields = [entry.split() for entry in reply[1::2]]
        return {
            int(index): (int(edge), int(row))
            for index, (_, edge, _, row, _) in zip(reply[::2], fields, strict=True)
        }

    async def log(self, p: int = 0) -> list[log_pb2.Sessions]:
        return [record.sessions for record in await records(self.store, p)]


@pytest.fixture
async def rig(store: Store, app: NewApp) -> AsyncIterator[Rig]:
    rig = Rig(store)
    yield rig
    rig.registrar.close()


async def test_a_registration_is_a_session_and_a_record(rig: Rig) -> None:
    answer = await rig.registered(up(1))
    assert answer.status is Status.REGISTERED
    assert await rig.sessions() == {answer.device: (7, 1)}
    (record,) = await rig.log()
    assert (record.edge, list(record.up), list(record.epoch)) == (7, [0], [answer.value])


async def test_registrations_are_gathered_into_one_call_for_each_partition(rig: Rig) -> None:
    for row in range(1, 101):
        rig.register(up(row), p=row % 2)
    await until(lambda: len(rig.answers) == 100)
    assert rig.registrar.calls_total == 2
    assert [len(record.up) for record in await rig.log(0)] == [50]


async def test_a_registration_leaves_its_batch_when_the_connection_closes(rig: Rig) -> None:
    rig.register(up(1))
    rig.register(up(2))
    rig.rows.discard(1)
    await until(lambda: 2 in rig.answers)
    assert list((await rig.sessions()).values()) == [(7, 2)]
    assert 1 not in rig.answers


async def test_a_batch_that_everybody_has_left_is_no_call(rig: Rig) -> None:
    rig.register(up(1))
    rig.rows.clear()
    await rig.registrar.drain()
    assert rig.registrar.calls_total == 0 and rig.registrar.waiting == 0


async def test_an_answer_that_finds_no_row_is_unregistered_at_once(rig: Rig, hold: Hold) -> None:
    await hold(True)
    rig.register(up(1))
    await until(lambda: rig.registrar.calls_total == 1)
    rig.rows.discard(1)
    await hold(False)
    await until(lambda: rig.registrar.unregistered_late_total)
    await rig.registrar.drain()
    assert await rig.sessions() == {} and rig.answers == {}
    one, two = await rig.log()
    assert list(one.up) == list(two.down) == [0]


async def test_the_end_of_an_old_session_does_not_remove_a_newer_one(rig: Rig) -> None:
    old = await rig.registered(up(1, installation=b"i" * 16))
    new = await rig.registered(up(2, installation=b"i" * 16, connection=2))
    assert new.device == old.device and new.value > old.value
    rig.registrar.unregister(0, old.device, old.value)
    await rig.registrar.drain()
    assert await rig.sessions() == {new.device: (7, 2)}
    rig.registrar.unregister(0, new.device, new.value)
    await rig.registrar.drain()
    assert await rig.sessions() == {}


async def test_a_late_attempt_cannot_fence_the_session_that_stands(rig: Rig) -> None:
    await rig.registered(up(1, installation=b"i" * 16, connection=5))
    late = await rig.registered(up(2, installation=b"i" * 16, connection=5))
    assert (late.status, late.value) == (Status.STALE, 5)


async def test_a_registration_that_is_repeated_makes_no_ghost_device(
    rig: Rig, store: Store
) -> None:
    first = await rig.registered(up(1, installation=b"i" * 16))
    again = await rig.registered(up(2, installation=b"i" * 16, connection=2))
    assert again.device == first.device
    assert await store.call("HGET", keys.counters(0), "devices") == b"1"


async def test_a_nonce_works_once(rig: Rig) -> None:
    await rig.registered(up(1))
    answer = await rig.registered(up(2)._replace(nonce=up(1).nonce))
    assert answer.status is Status.NONCE_SEEN


async def test_too_many_waiting_registrations_are_refused_but_ends_never(
    store: Store, app: NewApp, hold: Hold
) -> None:
    rig = Rig(store, registrations_max=2)
    await hold(True)
    rig.register(up(1))
    rig.register(up(2))
    with pytest.raises(ProducerFull):
        rig.registrar.register(0, up(3))
    rig.registrar.unregister(0, 9, 9)
    await hold(False)
    await rig.registrar.drain()
    assert set(rig.answers) == {1, 2}
    rig.registrar.close()


# Under a new edge number.


async def test_after_a_fence_waiting_registrations_go_on_under_the_new_number(
    rig: Rig, store: Store, hold: Hold
) -> None:
    """Whether they wait in the queue, are under way, or came while the edge did not know yet."""
    await rig.registered(up(1))
    await hold(True)
    rig.register(up(2))
    await until(lambda: rig.registrar.calls_total == 2)
    rig.register(up(3))
    await hold(False)
    await until(lambda: 3 in rig.answers)
    await fence_off(store, FIRST)
    rig.register(up(4))
    await until(lambda: rig.registrar.fenced)
    rig.register(up(5))
    rig.registrar.begin(Identity("edge", 8, 200))
    await until(lambda: {4, 5} <= set(rig.answers))
    assert {edge for edge, row in (await rig.sessions()).values() if row in (4, 5)} == {8}


async def test_a_standing_session_is_continued_though_its_counter_is_the_same(
    rig: Rig, store: Store
) -> None:
    first = await rig.registered(up(1, connection=5))
    await fence_off(store, FIRST)
    rig.registrar.begin(Identity("edge", 8, 200))
    again = Up(1, 1, 5, 1, first.device, b"", b"", first.value)
    rig.answers.clear()
    rig.registrar.continue_session(0, again)
    await until(lambda: rig.answers)
    assert rig.answers[1].status is Status.REGISTERED and rig.answers[1].value > first.value
    assert await rig.sessions() == {first.device: (8, 1)}


async def test_a_session_that_was_replaced_meanwhile_is_not_continued(
    rig: Rig, store: Store
) -> None:
    first = await rig.registered(up(1, installation=b"i" * 16, connection=5))
    await rig.registered(up(2, installation=b"i" * 16, connection=6))
    await fence_off(store, FIRST)
    rig.registrar.begin(Identity("edge", 8, 200))
    rig.answers.clear()
    rig.registrar.continue_session(0, Up(1, 1, 5, 1, first.device, b"", b"", first.value))
    await until(lambda: rig.answers)
    assert rig.answers[1].status is Status.STALE
