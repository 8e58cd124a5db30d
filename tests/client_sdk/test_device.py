"""A Device against a scripted edge, over real sockets and a real directory."""

import asyncio
import json
import logging
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from client_sdk import (
    Device,
    DeviceClosed,
    Message,
    Options,
    Refused,
    StateDirectoryError,
    StorageError,
    disk,
)
from protocol.codes import CloseCode, Kind
from protocol.credentials import registration_proof
from protocol.schema import device_pb2
from tests.client_sdk.edge import DEVICE_ID, PATIENCE_S, Edge, running_edge

KEY = "access key"


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with running_edge() as edge:
        yield edge


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def device_of(edge: Edge, state_dir: Path, **options: Any) -> Device:
    """No jitter and no gathering, so nothing here waits for a clock."""
    defaults: dict[str, Any] = {"rng": lambda: 0.0, "gather_s": 0.0, "close_flush_s": 0.0}
    return Device(
        edge.address,
        app="demo",
        access_key=KEY,
        state_dir=state_dir,
        options=Options(**{**defaults, **options}),
    )


@asynccontextmanager
async def connected(
    edge: Edge, state_dir: Path, **options: Any
) -> AsyncIterator[tuple[Device, Any]]:
    async with device_of(edge, state_dir, **options) as device:
        peer = await edge.welcomed()
        await device.wait_connected()
        yield device, peer


async def take(device: Device, count: int = 1) -> list[Message]:
    messages = device.messages()
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(messages) for _ in range(count)]


async def nothing_more(device: Device) -> bool:
    """Is there no message ready? All that is under way is let happen first."""
    before = device.stats.handed_out
    taking = asyncio.ensure_future(anext(device.messages()))
    for _ in range(50):
        await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait({taking})
    return device.stats.handed_out == before


class TestIdentity:
    async def test_registers_with_a_proof_and_reuses_the_token(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with device_of(edge, state_dir) as device:
            assert device.device_id is None
            peer = await edge.welcomed()
            asked = peer.hello.registration
            assert asked.proof == registration_proof(
                KEY, "demo", asked.installation_id, asked.time_ms, asked.nonce
            )
            await device.wait_connected()
            assert device.device_id == DEVICE_ID
        assert await peer.end() == [Kind.BYE]
        async with device_of(edge, state_dir) as device:
            assert device.device_id == DEVICE_ID
            again = await edge.greeted()
            assert again.hello.token == b"sealed"
            assert again.hello.connection > peer.hello.connection

    async def test_a_lost_welcome_does_not_make_a_second_device(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with device_of(edge, state_dir):
            first = await edge.greeted()
        async with device_of(edge, state_dir):
            second = await edge.greeted()
        asked = [p.hello.registration for p in (first, second)]
        assert asked[0].installation_id == asked[1].installation_id
        assert asked[0].nonce != asked[1].nonce

    async def test_connection_number_is_on_disk_before_it_is_said(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with device_of(edge, state_dir):
            for number in (1, 2, 3):
                peer = await edge.greeted()
                assert peer.hello.connection == number
                stored = json.loads((state_dir / "state.json").read_bytes())
                assert stored["connection"] == number
                peer.close()

    async def test_no_welcome_in_time_dials_again(self, edge: Edge, state_dir: Path) -> None:
        async with device_of(edge, state_dir, welcome_timeout_s=0.01) as device:
            first = await edge.greeted()
            assert await first.end() == []
            assert not device.connected
            second = await edge.greeted()
            assert second.hello.connection == first.hello.connection + 1

    async def test_second_device_on_the_directory_is_refused(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with connected(edge, state_dir):
            with pytest.raises(StateDirectoryError, match="open in another Device"):
                await device_of(edge, state_dir).open()
        async with device_of(edge, state_dir):
            pass

    async def test_directory_of_another_app_is_refused(self, edge: Edge, state_dir: Path) -> None:
        async with device_of(edge, state_dir):
            pass
        other = Device(edge.address, app="other", access_key=KEY, state_dir=state_dir)
        with pytest.raises(StateDirectoryError, match="belongs to app 'demo'"):
            await other.open()

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\xff\x00", b"null"])
    async def test_damaged_state_file_is_set_aside(
        self, edge: Edge, state_dir: Path, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with connected(edge, state_dir):
            pass
        (state_dir / "state.json").write_bytes(content)
        async with device_of(edge, state_dir):
            peer = await edge.greeted()
            assert peer.hello.HasField("registration")
        assert (state_dir / "state.json.corrupt-1").read_bytes() == content
        assert sum(r.levelno == logging.ERROR for r in caplog.records) == 1

    async def test_files_are_for_the_owner_only(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir):
            for name in ("state.json", "journal"):
                assert (state_dir / name).stat().st_mode & 0o777 == 0o600

    async def test_config_is_kept(self, edge: Edge, state_dir: Path) -> None:
        async with device_of(edge, state_dir) as device:
            await edge.welcomed(config_version=4, config={"colour": "blue"})
            await device.wait_connected()
        async with device_of(edge, state_dir) as device:
            peer = await edge.welcomed(config_version=4)
            await device.wait_connected()
            assert peer.hello.config_version == 4
            assert device.config == {"colour": "blue"}


class TestMessages:
    async def test_content_and_receipts(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, body="hello")
            (message,) = await take(device)
            assert (message.push_id, message.data) == (1, {"k": "v"})
            assert message.notification and message.notification.body == "hello"
            assert await peer.receipts() == [(1, "RECEIVED")]
            await message.displayed()
            await message.displayed()  # says nothing new
            assert await peer.receipts() == [(1, "DISPLAYED")]
            await message.clicked()
            assert await peer.receipts() == [(1, "CLICKED")]
            await message.dismissed()
            assert await peer.receipts() == [(1, "DISMISSED")]
            await message.failed("é" * 200)
            body = device_pb2.Receipts.FromString(await peer.expect(Kind.RECEIPTS))
            assert body.receipts[0].reason == "é" * 128
            peer.ack(body.seq)
            await device.flush(PATIENCE_S)
            assert device.stats.receipts_pending == 0

    async def test_one_read_costs_one_sync(
        self, edge: Edge, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            syncs: list[bytes] = []
            write_all = disk.write_all
            monkeypatch.setattr(
                disk,
                "write_all",
                lambda fd, data, at: (syncs.append(data), write_all(fd, data, at)),
            )
            peer.messages(*range(1, 101))
            assert len(await peer.receipts_for(100)) == 100
            assert len(syncs) == 1
            assert [m.push_id for m in await take(device, 100)] == list(range(1, 101))

    async def test_duplicates_are_receipted_and_not_handed_out(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, 1)
            await take(device)
            assert await peer.receipts() == [(1, "RECEIVED")]
            peer.messages(1)
            assert await peer.receipts() == [(1, "RECEIVED")]
            assert await nothing_more(device)
            assert device.stats.duplicates == 1

    async def test_shown_once_across_restarts(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, 2)
            assert [m.push_id for m in await take(device)] == [1]
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, 2)
            assert [m.push_id for m in await take(device)] == [2]
            assert await nothing_more(device)
            # The resent RECEIVED, at the latest, answers the duplicates.
            assert set(await peer.receipts()) == {(1, "RECEIVED"), (2, "RECEIVED")}

    async def test_unfinished_are_those_of_earlier_runs(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1, 2, 3)
            messages = await take(device, 3)
            await messages[1].displayed()
            assert device.unfinished() == []
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(4)
            await take(device)
            first, third = device.unfinished()
            assert (first.push_id, third.push_id) == (1, 3)
            assert first.notification and first.notification.title == "title"
            await first.done()
            await third.clicked()
            assert device.unfinished() == []

    async def test_several_tasks_share_the_messages(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(*range(1, 31))
            batches = await asyncio.gather(*(take(device, 10) for _ in range(3)))
            assert sorted(m.push_id for batch in batches for m in batch) == list(range(1, 31))

    async def test_cancelling_loses_no_message(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(*range(1, 21))
            await peer.receipts_for(20)
            messages = device.messages()
            got = []
            rng = random.Random(5)
            async with asyncio.timeout(PATIENCE_S):
                while len(got) < 20:
                    taking = asyncio.ensure_future(anext(messages))
                    for _ in range(rng.randrange(12)):
                        await asyncio.sleep(0)
                    taking.cancel()
                    await asyncio.wait({taking})
                    if not taking.cancelled():
                        got.append(taking.result().push_id)
            assert got == list(range(1, 21))

    async def test_expired_before_begun_is_dropped(self, edge: Edge, state_dir: Path) -> None:
        now = [1_000_000.0]
        async with connected(edge, state_dir, clock=lambda: now[0]) as (_, peer):
            peer.messages(1, ttl_s=100)
            peer.messages(2, ttl_s=1000)
            await peer.receipts_for(2)
        now[0] += 500
        async with connected(edge, state_dir, clock=lambda: now[0]) as (device, peer):
            assert [m.push_id for m in await take(device)] == [2]
            assert device.stats.expired == 1
            peer.messages(1)  # stays known: received was said of it
            assert await peer.receipts() == [(1, "RECEIVED")]
            assert await nothing_more(device)

    async def test_slow_app_stops_the_reading(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir, max_waiting=4) as (device, peer):
            for push_id in range(1, 9):
                peer.messages(push_id)
                if push_id <= 4:
                    await peer.receipts()
            with pytest.raises(TimeoutError):  # far longer than a read, a sync and a receipt take
                async with asyncio.timeout(0.2):
                    await peer.receipts()
            assert device.stats.messages == 4
            assert [m.push_id for m in await take(device, 8)] == list(range(1, 9))

    async def test_no_room_refuses_rather_than_forgets(
        self, edge: Edge, state_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with connected(edge, state_dir, max_ids=3) as (device, peer):
            peer.messages(1, 2, 3, 4, 5)
            assert [i for i, _ in await peer.receipts_for(3)] == [1, 2, 3]
            peer.messages(6, 1)
            assert await peer.receipts() == [(1, "RECEIVED")]
            assert device.stats.refused == 3
            assert sum("no room" in r.message for r in caplog.records) == 1

    async def test_full_disk_takes_no_message_and_keeps_the_connection(
        self,
        edge: Edge,
        state_dir: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async with connected(edge, state_dir, disk_retry_s=0.0) as (device, peer):
            peer.messages(1)
            (message,) = await take(device)
            await peer.receipts()
            whole = disk.write_all

            def full(descriptor: int, data: bytes, offset: int) -> None:
                os.pwrite(descriptor, data[: len(data) // 2], offset)
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(disk, "write_all", full)
            with pytest.raises(StorageError):
                await message.displayed()
            with pytest.raises(StorageError):
                await device.set_profile(tags=["a"])
            peer.messages(2)
            peer.messages(1)  # answered from memory, and a sign that 2 was handled
            assert await peer.receipts() == [(1, "RECEIVED")]
            assert (device.stats.refused, device.connected) == (1, True)
            monkeypatch.setattr(disk, "write_all", whole)
            peer.messages(2)
            assert await peer.receipts() == [(2, "RECEIVED")]
            await message.displayed()
            assert await peer.receipts() == [(1, "DISPLAYED")]
            assert [m.push_id for m in await take(device)] == [2]
            errors = [r for r in caplog.records if "journal cannot be written" in r.message]
            assert len(errors) == 1
        async with connected(edge, state_dir) as (device, peer):
            assert [m.push_id for m in device.unfinished()] == [2]

    async def test_damaged_journal_is_set_aside(
        self, edge: Edge, state_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            for push_id in (1, 2, 3):
                peer.messages(push_id)
                await take(device)
        journal = state_dir / "journal"
        data = bytearray(journal.read_bytes())
        data[len(data) // 2] ^= 0x55
        journal.write_bytes(data)
        async with device_of(edge, state_dir):
            await edge.welcomed()
        assert (state_dir / "journal.corrupt-1").read_bytes() == data
        assert sum(r.levelno == logging.ERROR for r in caplog.records) == 1


class TestReceipts:
    async def test_kept_until_acknowledged_across_restarts(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1)
            (message,) = await take(device)
            assert await peer.receipts(ack=False) == [(1, "RECEIVED")]
            await message.displayed()
            assert await peer.receipts(ack=False) == [(1, "DISPLAYED")]
            with pytest.raises(TimeoutError):
                await device.flush(0)
            peer.reset()
            peer = await edge.welcomed()
            both = [(1, "RECEIVED"), (1, "DISPLAYED")]
            assert await peer.receipts(ack=False) == both
        async with connected(edge, state_dir) as (device, peer):
            assert await peer.receipts() == both
            await device.flush(PATIENCE_S)
        async with connected(edge, state_dir) as (device, _):
            assert device.stats.receipts_pending == 0

    async def test_seq_counts_from_one_on_each_connection(
        self, edge: Edge, state_dir: Path
    ) -> None:
        async with connected(edge, state_dir) as (_, peer):
            for _ in range(2):
                for seq in (1, 2):
                    peer.messages(seq)
                    body = device_pb2.Receipts.FromString(await peer.expect(Kind.RECEIPTS))
                    assert body.seq == seq
                    peer.ack(seq)
                peer.close()
                peer = await edge.welcomed()

    async def test_close_waits_for_acknowledgements(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir, close_flush_s=PATIENCE_S) as (device, peer):
            peer.messages(1)
            body = device_pb2.Receipts.FromString(await peer.expect(Kind.RECEIPTS))
            closing = asyncio.create_task(device.close())
            for _ in range(20):
                await asyncio.sleep(0)
            assert not closing.done()
            peer.ack(body.seq)
            await closing
            assert await peer.end() == [Kind.BYE]
            with pytest.raises(StopAsyncIteration):
                await anext(device.messages())
            with pytest.raises(DeviceClosed):
                await device.flush(1)


class TestProfile:
    async def test_replayed_until_acknowledged(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            await device.set_profile(tags=["b", "a"], attributes={"lang": "fi"})
            sent = device_pb2.Profile.FromString(await peer.expect(Kind.PROFILE))
            assert (sent.change, list(sent.tags), dict(sent.attributes)) == (
                1,
                ["a", "b"],
                {"lang": "fi"},
            )
        async with connected(edge, state_dir) as (device, peer):
            again = device_pb2.Profile.FromString(await peer.expect(Kind.PROFILE))
            assert again == sent
            await device.set_profile(tags=["c"])
            newer = device_pb2.Profile.FromString(await peer.expect(Kind.PROFILE))
            assert newer.change == 2
            peer.send(Kind.PROFILE_ACK, device_pb2.ProfileAck(change=1))  # of the older one
            peer.close()
            peer = await edge.welcomed()
            assert device_pb2.Profile.FromString(await peer.expect(Kind.PROFILE)) == newer
            peer.send(Kind.PROFILE_ACK, device_pb2.ProfileAck(change=2))
            peer.messages(1)
            await peer.receipts()  # so the acknowledgement was read
        async with connected(edge, state_dir) as (_, peer):
            peer.messages(2)
            assert await peer.receipts() == [(2, "RECEIVED")]  # and no PROFILE before it

    @pytest.mark.parametrize(
        "profile",
        [
            {"tags": [f"t{i}" for i in range(101)]},
            {"tags": [""]},
            {"tags": ["x" * 129]},
            {"attributes": {"": "x"}},
            {"attributes": {"x": "y" * 257}},
            {"attributes": {f"x{i}": "y" * 256 for i in range(300)}},
        ],
    )
    async def test_what_the_service_would_refuse(
        self, edge: Edge, state_dir: Path, profile: dict[str, Any]
    ) -> None:
        async with device_of(edge, state_dir) as device:
            with pytest.raises(ValueError):
                await device.set_profile(**profile)


class TestCloseCodes:
    @pytest.mark.parametrize(
        "code",
        [c for c in CloseCode if c < 4200] + [4099, 4199, 4301, 1],
    )
    async def test_now_and_later_dial_again(self, edge: Edge, state_dir: Path, code: int) -> None:
        async with device_of(edge, state_dir) as device:
            await edge.refused(code)
            await edge.welcomed()
            await device.wait_connected()

    @pytest.mark.parametrize(
        "code",
        [
            CloseCode.UNSUPPORTED_VERSION,
            CloseCode.UNKNOWN_APP,
            CloseCode.BAD_ACCESS_KEY,
            CloseCode.REPLACED,
            4299,
        ],
    )
    async def test_never_stops_and_says_why(self, edge: Edge, state_dir: Path, code: int) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.messages(1)
            await peer.receipts()
            peer.goaway(code, detail="for the log")
            assert [m.push_id for m in await take(device)] == [1]  # what is here is handed out
            with pytest.raises(Refused, match="for the log") as caught:
                await take(device)
            assert caught.value.code == code
            assert caught.value.advice
            with pytest.raises(Refused):
                await device.wait_connected()

    @pytest.mark.parametrize("code", [CloseCode.BAD_TOKEN, CloseCode.TOKEN_EXPIRED])
    async def test_refused_token_registers_anew(
        self, edge: Edge, state_dir: Path, code: CloseCode
    ) -> None:
        async with device_of(edge, state_dir) as device:
            first = await edge.welcomed()
            await device.wait_connected()
            await device.set_profile(tags=["a"])
            await first.expect(Kind.PROFILE)
            first.send(Kind.PROFILE_ACK, device_pb2.ProfileAck(change=1))
            first.close()
            refused = await edge.refused(code)
            assert refused.hello.token == b"sealed"
            again = await edge.welcomed(token=b"newer")
            asked = again.hello.registration
            assert asked.installation_id == first.hello.registration.installation_id
            await again.expect(Kind.PROFILE)  # the service may not know the device any more
            again.close()
            assert (await edge.greeted()).hello.token == b"newer"

    async def test_wrong_clock_takes_the_servers_time(self, edge: Edge, state_dir: Path) -> None:
        server_ms = 1_800_000_000_000
        async with device_of(edge, state_dir, clock=lambda: 5000.0) as device:
            first = await edge.refused(CloseCode.WRONG_CLOCK, server_time_ms=server_ms)
            assert first.hello.registration.time_ms < 10_000_000
            second = await edge.welcomed()
            assert 0 <= second.hello.registration.time_ms - server_ms < 60_000
            await device.wait_connected()

    async def test_stale_connection_counts_above(self, edge: Edge, state_dir: Path) -> None:
        async with device_of(edge, state_dir) as device:
            await edge.refused(CloseCode.STALE_CONNECTION, connection=500)
            peer = await edge.welcomed()
            assert peer.hello.connection == 501
            await device.wait_connected()
        assert json.loads((state_dir / "state.json").read_bytes())["connection"] == 501

    async def test_going_away_names_another_edge(self, edge: Edge, state_dir: Path) -> None:
        async with running_edge() as other, connected(edge, state_dir) as (device, peer):
            peer.goaway(CloseCode.GOING_AWAY, address=other.address)
            moved = await other.welcomed()
            assert moved.hello.token == b"sealed"
            moved.close()
            await edge.welcomed()
            await device.wait_connected()

    async def test_addresses_are_tried_in_turn(self, edge: Edge, state_dir: Path) -> None:
        async with running_edge() as gone:
            dead = gone.address
        device = Device(
            [dead, edge.address],
            app="demo",
            access_key=KEY,
            state_dir=state_dir,
            options=Options(rng=lambda: 0.0),
        )
        async with device:
            await edge.welcomed()
            await device.wait_connected()

    async def test_bad_bytes_close_the_connection(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            peer.raw(b"\x05\x02\xff\xff")
            await edge.welcomed()
            await device.wait_connected()
            assert device.stats.connects == 2


async def test_a_defect_reaches_the_app(
    edge: Edge, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(edge, state_dir) as (device, peer):
        monkeypatch.setattr("client_sdk.inbox.Inbox.on_acked", None)
        peer.messages(1)
        await peer.receipts()
        await take(device)
        with pytest.raises(TypeError):
            await take(device)
