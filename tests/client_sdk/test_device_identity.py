"""Who a device is: registration, token, counters, its state file, its directory."""

import json
import logging
from pathlib import Path

import pytest

from client_sdk import (
    Device,
    StateDirectoryError,
)
from protocol.codes import Kind
from protocol.credentials import registration_proof
from tests.client_sdk.devices import KEY, connected, device_of
from tests.client_sdk.edge import DEVICE_ID, Edge


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
