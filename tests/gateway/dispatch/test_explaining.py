"""A dispatch node asked why a device has a push, or not: the real store, a log as it comes about."""

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.dispatch import explaining, reasons
from gateway.dispatch.campaign import DISPLAYED, RECEIVED
from gateway.dispatch.trail import Trail
from gateway.rpc import Method, RpcError
from gateway.store import keys, pushes
from gateway.store.client import Store
from gateway.store.history import Reach
from gateway.store.log import Entry
from gateway.store.pushes import PushRecord
from protocol.ids import SEVERAL, device_id
from protocol.schema import log_pb2, rpc_pb2
from tests.gateway.dispatch import records
from tests.gateway.dispatch.nodes import Running, config, content, hasten, running
from tests.gateway.dispatch.records import app_of
from tests.gateway.dispatch.scripted_edge import ScriptedEdge
from tests.gateway.store.valkey import log_of
from tests.waiting import until

FIRST, SECOND = (n << 11 for n in range(1, 3))
FAN_OUT = 5 << 11 | SEVERAL | 1
"""Its record is kept by partition 1."""


@pytest.fixture(autouse=True)
def quick_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest.fixture
async def edge(store: Store, short_path: Path) -> AsyncIterator[ScriptedEdge]:
    edge = ScriptedEdge(store, short_path)
    await edge.start()
    yield edge
    await edge.stop()


async def push(store: Store, push_id: int, *devices: int, audience: bytes = b"") -> None:
    """Accepted as the API does it, where one partition is concerned."""
    head = log_pb2.Push(push_id=push_id, app=1, ttl_s=60, audience=audience).SerializeToString()
    packed = struct.pack(f"<{len(devices)}I", *devices)
    seq = await store.call("INCR", "test:seq")
    await store.run(
        "push",
        [keys.log(0), keys.producers(0), keys.apps(0), keys.content(0)],
        [9, "pa", 1, seq, 0, str(push_id), 1, head, packed, content("x")],
    )


async def fan_out(store: Store, audience: bytes, targets: dict[int, bytes], *reached: int) -> None:
    """A push record, and the parts of the partitions that have been reached."""
    record = PushRecord(FAN_OUT, 1, 60, audience, content("x"), targets)
    accepted_ms, _ = await pushes.accept(store, 1, record, None)
    assert accepted_ms is not None
    for p, part in pushes.parts_of(record, accepted_ms, 1):
        if p in reached:
            seq = await store.call("INCR", "test:seq")
            await store.run(
                "push",
                [keys.log(p), keys.producers(p), keys.apps(p), keys.content(p)],
                [9, "pa", 1, seq, 0, str(FAN_OUT), 1, part.push, part.indexes, b""],
            )
    await pushes.fanout_done(store, 1, FAN_OUT, reached)


async def log(store: Store, record: bytes) -> None:
    await store.call("XADD", keys.log(0), "*", "r", record)


async def forget(store: Store, owner: Running) -> None:
    """What stands in the log of partition 0 goes from there."""
    for _ in range(2):
        await asyncio.sleep(0.002)
        await log(store, records.profile(2, 1, []))
        await ask(owner, FIRST, 0)  # which catches up
        await owner.node.owned[0].snapshot()


async def ask(owner: Running, push_id: int, index: int, p: int = 0) -> rpc_pb2.LedgerReply:
    request = rpc_pb2.LedgerRequest(push_id=push_id, device_id=device_id(p, index))
    answer = owner.node.handlers()[Method.LEDGER](request.SerializeToString())
    assert not isinstance(answer, bytes)
    return rpc_pb2.LedgerReply.FromString(await answer)


def events(reply: rpc_pb2.LedgerReply) -> list[str]:
    return [step.event + ("" if step.at_ms else "?") for step in reply.steps]


def terms(reply: rpc_pb2.LedgerReply) -> list[tuple[str, bool]]:
    return [(term.term, term.matches) for term in reply.terms]


async def test_a_device_that_is_online_and_its_times(store: Store, edge: ScriptedEdge) -> None:
    async with running(store, config(resend_s=60.0)) as owner:
        await owner.live()
        await edge.connect(0)
        await push(store, FIRST, 0)
        reply = await ask(owner, FIRST, 0)
        assert reply.device_known and reply.push_known and reply.app == 1
        assert (reply.state, reply.edge, reply.notes) == ("pending", edge.identity.number, "")
        await until(lambda: edge.got)
        reply = await ask(owner, FIRST, 0)
        assert events(reply) == ["accepted", "targeted", "sent"]
        assert reply.steps[2].attempt == 1 and reply.steps[2].edge == edge.identity.number
        assert reply.why.startswith("sent once, 0.") and reply.why.endswith(" ago, no receipt yet")
        await log(store, records.receipts(FIRST, RECEIVED, [0]))
        await log(store, records.receipts(FIRST, DISPLAYED, [0]))
        reply = await ask(owner, FIRST, 0)
        assert events(reply) == ["accepted", "targeted", "received", "displayed"]
        assert (reply.state, reply.why) == ("received", "the device has it and displayed it")
        times = [int(position.partition("-")[0]) for position, _ in await log_of(store, 0)]
        assert [step.at_ms for step in reply.steps] == [times[1], times[1], times[2], times[3]]


async def test_what_was_written_a_moment_ago_is_told(store: Store, edge: ScriptedEdge) -> None:
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0)
        for push_id in range(2048, 2048 * 20, 2048):
            await push(store, push_id, 0)
            assert (await ask(owner, push_id, 0)).state == "pending"
            await log(store, records.receipts(push_id, RECEIVED, [0]))
            assert (await ask(owner, push_id, 0)).state == "received"


async def test_a_device_that_is_offline_and_since_when(store: Store, edge: ScriptedEdge) -> None:
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0, 1, 2)
        await push(store, SECOND, 0)
        await edge.sessions.down(0, 1)
        await asyncio.sleep(0.002)  # what comes in one ms is after the accept
        await push(store, FIRST, 0)
        reply = await ask(owner, SECOND, 0)
        assert [event for event in events(reply) if event != "sent"] == [
            *("accepted", "targeted", "session_down")
        ]
        since = [int(position.partition("-")[0]) for position, _ in await log_of(store, 0)][2]
        assert reply.why == f"the device is offline since {reasons.rfc3339(since)}"
        reply = await ask(owner, FIRST, 0)
        assert events(reply) == ["accepted", "targeted"] and reply.edge == 0
        said = f"the device is offline since {reasons.rfc3339(since)}"
        assert reply.why == f"{said}, before the push came"


async def test_an_edge_that_ended_and_had_the_device_before_the_push(
    store: Store, edge: ScriptedEdge, short_path: Path
) -> None:
    other = ScriptedEdge(store, short_path, "e2")
    await other.start()
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0)
        await asyncio.sleep(0.002)
        await push(store, FIRST, 0)
        assert (await ask(owner, FIRST, 0)).edge == edge.identity.number
        await other.stop()
        await edge.stop()
        await other.lease.end()
        await edge.lease.end()
        await until(lambda: not owner.partition.edge_of(0))
        reply = await ask(owner, FIRST, 0)
        ended = [step for step in reply.steps if step.event == "edge_down"]
        assert [step.edge for step in ended] == [edge.identity.number]
        assert reply.why.startswith("the device is offline since ")
        assert not reply.why.endswith("before the push came")


async def test_a_log_that_was_trimmed_and_one_that_is_too_long(
    store: Store, edge: ScriptedEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0, 2)
        await asyncio.sleep(0.002)  # the log is read from the accept's millisecond on
        await push(store, FIRST, 0)
        await log(store, records.receipts(FIRST, RECEIVED, [0]))
        await owner.live()
        await ask(owner, FIRST, 0)
        monkeypatch.setattr(explaining, "_AFTER", Reach(1, 1 << 20, 10.0))
        reply = await ask(owner, FIRST, 0)
        assert events(reply) == ["accepted", "targeted", "received?"]
        assert reply.notes.startswith("the log was read up to ")
        monkeypatch.undo()
        await forget(store, owner)
        await log(store, records.receipts(FIRST, DISPLAYED, [0]))
        reply = await ask(owner, FIRST, 0)
        assert events(reply) == ["accepted", "targeted?", "received?", "displayed"]
        assert reply.notes.startswith("the log begins only at ")


async def test_whom_an_audience_means_term_by_term(store: Store, edge: ScriptedEdge) -> None:
    """From the log where it still has the push, else from its record."""
    audience = b'{"and": [{"tag": "city:gz"}, {"not": {"tag": "vip"}}, {"tag": "new:1d"}]}'
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0, 1, 2)
        await log(store, records.profile(0, 1, ["city:gz"]))
        await push(store, FIRST, audience=audience)
        reply = await ask(owner, FIRST, 0)
        assert terms(reply) == [("city:gz", True), ("!vip", True), ("new:1d", True)]
        assert reply.state == "pending" and reply.notes.startswith("terms are as they stand now")
        reply = await ask(owner, FIRST, 2)
        assert terms(reply) == [("city:gz", False), ("!vip", True), ("new:1d", True)]
        assert reply.state == "not_targeted" and events(reply) == ["accepted", "not_targeted"]
        assert reply.why == ("not meant by the audience: city:gz did not match (as it stands now)")
        await log(store, records.profile(2, 1, ["city:gz"]))
        reply = await ask(owner, FIRST, 2)
        assert reply.why.endswith("when the push came, although it matches as it stands now")


async def test_a_device_that_leaves_the_account_that_a_push_is_for(
    store: Store, edge: ScriptedEdge
) -> None:
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0)
        await log(store, records.holder("u1", [(0, 1)]))
        await push(store, FIRST, audience=b'{"bound": "u1", "devices": ["0"]}')
        reply = await ask(owner, FIRST, 0)
        assert (reply.state, terms(reply)) == ("pending", [("account(u1)", True)])
        await log(store, records.holder("u2", [(0, 2)]))
        reply = await ask(owner, FIRST, 0)
        assert (reply.state, terms(reply)) == ("stopped", [("account(u1)", False)])
        assert [e for e in events(reply) if e not in ("sent", "session_up")] == [
            *("accepted", "targeted", "left_account", "stopped")
        ]
        assert "and left that before it had received" in reply.why


async def test_a_push_of_several_partitions(store: Store, edge: ScriptedEdge) -> None:
    async with running(store, config(partitions=2, fanout_overdue_s=600.0)) as owner:
        await owner.live(2)
        await edge.connect(0, 1, 2)
        await fan_out(store, b'{"tag": "x"}', {0: b"", 1: b""}, 0, 1)
        reply = await ask(owner, FAN_OUT, 0)
        assert (reply.state, terms(reply)) == ("not_targeted", [("x", False)])
        # The log forgets; the record does not, for a while.
        await forget(store, owner)
        assert terms(await ask(owner, FAN_OUT, 0)) == [("x", False)]
        await store.call("DEL", keys.push_record(1, FAN_OUT))
        reply = await ask(owner, FAN_OUT, 0)
        assert not reply.terms and reply.state == "not_targeted"
        assert reply.notes.endswith("the audience of the push is no longer kept")
        assert reply.why.endswith("what its audience was is no longer kept")


async def test_a_part_that_is_on_its_way_and_one_that_will_never_come(
    store: Store, edge: ScriptedEdge
) -> None:
    async with running(store, config(partitions=2, fanout_overdue_s=600.0)) as owner:
        await owner.live(2)
        await edge.connect(0, 1, 2)
        await fan_out(store, b"", {0: struct.pack("<I", 2), 1: struct.pack("<I", 0)})
        for index in (0, 2):
            reply = await ask(owner, FAN_OUT, index)
            assert reply.push_known and not reply.state, "on its way"
        assert not (await ask(owner, FAN_OUT, 1)).push_known, "the other app's"
        await pushes.fanout_done(store, 1, FAN_OUT, [0])
        # As if partition 0 were none of the listed devices'.
        reply = await ask(owner, FAN_OUT, 0)
        assert reply.state == "not_targeted" and events(reply) == ["accepted"]
        assert reply.why == "the push names devices or accounts, and this device is not among them"


async def test_what_is_not_known_and_what_is_another_app_s(
    store: Store, edge: ScriptedEdge
) -> None:
    async with running(store, config(partitions=2)) as owner:
        await owner.live(2)
        await edge.connect(0, 1, 2)
        await push(store, FIRST, 0)
        reply = await ask(owner, FIRST, 7)
        assert not reply.device_known and not reply.push_known
        reply = await ask(owner, FIRST, 1)
        assert reply.device_known and not reply.push_known and reply.app == app_of(1)
        reply = await ask(owner, SECOND, 0)
        assert reply.device_known and not reply.push_known and reply.app == app_of(0)
        with pytest.raises(RpcError, match="not_owner"):
            await ask(owner, FIRST, 0, p=9)


async def test_who_no_longer_owns_the_partition_answers_nothing(
    store: Store, edge: ScriptedEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0)
        await push(store, FIRST, 0)
        await ask(owner, FIRST, 0)
        await owner.crash()
        asked = asyncio.create_task(ask(owner, FIRST, 0))
        await asyncio.sleep(0)
        owner.node.owned[0].stop()  # while the question is under way
        with pytest.raises(RpcError, match="not_owner"):
            await asked
        with pytest.raises(RpcError, match="not_owner"):
            await ask(owner, FIRST, 0)


async def test_many_questions_wait_for_each_other_and_too_many_are_refused(
    store: Store, edge: ScriptedEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "_WAITING", 10)
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0)
        await push(store, FIRST, 0)
        asked = [asyncio.create_task(ask(owner, FIRST, 0)) for _ in range(12)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, RpcError)]
        assert len(refused) == 2 and {error.code for error in refused} == {"busy"}
        assert (await ask(owner, FIRST, 0)).state == "pending", "nobody waits any more"


async def test_a_long_log_does_not_hold_up_the_node(
    store: Store, edge: ScriptedEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records are looked through in slices: timers and other questions have their turn between."""
    monkeypatch.setattr(explaining, "_SLICE_S", 0.0)
    monkeypatch.setattr(explaining, "_AFTER", Reach(10_000, 1 << 30, 60.0))
    async with running(store) as owner:
        await owner.live()
        await edge.connect(0)
        await push(store, FIRST, 0)
        others = records.receipts(SECOND, RECEIVED, [2])
        await asyncio.gather(*(log(store, others) for _ in range(500)))
        await ask(owner, FIRST, 0)
        turns, looked_at = 0, set[int]()

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        feed = Trail.feed

        def noted(trail: Trail, entry: Entry) -> None:
            looked_at.add(turns)
            feed(trail, entry)

        monkeypatch.setattr(Trail, "feed", noted)
        counting = asyncio.create_task(count())
        assert (await ask(owner, FIRST, 0)).state == "pending"
        counting.cancel()
        assert len(looked_at) > 450, "each record in a turn of its own, as a slice takes no time"
