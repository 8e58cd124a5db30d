"""The state file: what it brings back, and that nothing else gets past it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk.clock import DeviceClock
from client_sdk.heartbeat import Network, Networks, Probing
from client_sdk.reconnect import Backoff
from client_sdk.state import Installation, Profile, StateFile

FULL = Installation(
    app="demo",
    installation_id=bytes(range(16)),
    device_id=(1 << 64) - 1,
    token=b"\x00\xff",
    connection=12,
    config_version=3,
    config={"a": "b"},
    profile=Profile(4, ["x"], {"lang": "fi"}, acknowledged=False),
    networks=Networks([Network("wifi", 270, 1, 0, True, 99)]),
    probing=Probing(start_s=30),
    backoff=Backoff(0.5, 3.0, 9.0),
    clock_offset_ms=-5,
)


def test_everything_comes_back(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    file.save(FULL.to_json())
    again, aside = file.load("demo")
    assert aside is None
    assert again.to_json() == FULL.to_json()


def test_a_new_identity_is_on_disk_before_it_is_used(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    first, _ = file.load("demo")
    second, _ = file.load("demo")
    assert first.installation_id == second.installation_id
    assert (first.device_id, first.token, first.connection) == (None, b"", 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("app", 1),
        ("installation_id", "00"),
        ("installation_id", "zz"),
        ("device_id", -1),
        ("device_id", "1"),
        ("token", "*"),
        ("connection", 1 << 64),
        ("connection", True),
        ("connection", 1.5),
        ("config", {"a": 1}),
        ("config", []),
        ("profile", {"change": -1}),
        ("profile", {"tags": "ab"}),
        ("profile", {"tags": [1]}),
        ("profile", {"attributes": None}),
        ("profile", {"acknowledged": 1}),
        ("profile", {"other": 1}),
        ("networks", {}),
        ("networks", [{"label": 1}]),
        ("probing", {"start_s": 0}),
        ("probing", {"start_s": "1"}),
        ("backoff", {"base_s": -1}),
        ("backoff", []),
        ("clock_offset_ms", None),
    ],
)
def test_values_of_another_shape(key: str, value: Any) -> None:
    state = json.loads(FULL.to_json())
    state[key] = value
    if (key, value) == ("networks", {}):
        state[key] = {"a": 1}
    with pytest.raises(ValueError):
        Installation.from_json(json.dumps(state).encode())


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(ValueError):
        Installation.from_json(data)


def test_every_missing_key_and_every_truncation() -> None:
    data = FULL.to_json()
    for key in json.loads(data):
        state = json.loads(data)
        del state[key]
        with pytest.raises(ValueError):
            Installation.from_json(json.dumps(state).encode())
    for cut in range(len(data) - 2):
        with pytest.raises(ValueError):
            Installation.from_json(data[:cut])


def test_clock() -> None:
    monotonic = [100.0]
    clock = DeviceClock(lambda: 5000.0, lambda: monotonic[0], 0)
    assert clock.now_ms() == 5_000_000
    monotonic[0] += 1.5
    assert clock.now_ms() == 5_001_500
    clock.on_server_time(0)
    clock.on_server_time(1 << 60)
    assert clock.offset_ms == 0
    clock.on_server_time(9_000_000)
    monotonic[0] += 1
    assert clock.now_ms() == 9_001_000
    assert DeviceClock(lambda: -1e9, lambda: 0.0, 0).now_ms() == 0
