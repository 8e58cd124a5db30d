"""What a device does when the edge closes, for each verdict."""

import json
from pathlib import Path

import pytest

from client_sdk import (
    Device,
    Options,
    Refused,
)
from protocol.codes import CloseCode, Kind
from protocol.schema import device_pb2
from tests.client_sdk.devices import KEY, connected, device_of, take
from tests.client_sdk.edge import Edge, running_edge


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
