"""A device becomes known, and stays the same one."""

import json
import os
import stat
from pathlib import Path

from protocol.codes import CloseCode
from protocol.ids import split_device_id
from tests.e2e.listeners import listening
from tests.e2e.raw_device import RawDevice
from tests.e2e.service import PARTITIONS, Service
from tests.e2e.tenants import Tenant


async def test_an_installation_is_one_device_for_ever(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """Over a restart of the app it comes back with its token; without the token, by registering
    again; it gets the same device id every time."""
    state = tmp_path / "device" / "state.json"
    async with listening(tenant, service.devices, state.parent) as listener:
        first = listener.id
    assert split_device_id(first)[0] < PARTITIONS
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.parent.stat().st_mode) == 0o700
    kept = json.loads(state.read_text())
    assert kept["token"]

    async with listening(tenant, service.devices, state.parent) as listener:
        assert listener.id == first
    again = json.loads(state.read_text())
    assert again["token"] == kept["token"], "a token that is young is used, not replaced"
    assert again["connection"] > kept["connection"]

    state.write_text(json.dumps({**again, "token": "", "device_id": None}))
    async with listening(tenant, service.devices, state.parent) as listener:
        assert listener.id == first
    assert json.loads(state.read_text())["token"]
    assert not list(state.parent.glob("*.corrupt-*"))


async def test_the_reply_to_a_registration_may_get_lost(service: Service, tenant: Tenant) -> None:
    """Who registers the same installation again is the same device, at whichever edge."""
    installation = os.urandom(16)
    ids = set()
    for connection, edge in enumerate((await service.edges()).values(), 1):
        async with RawDevice(edge.own, tenant.app, tenant.access_key) as device:
            await device.hello(installation=installation, connection=connection)
            # The WELCOME is not read: for the device it never came.
        async with RawDevice(edge.own, tenant.app, tenant.access_key) as device:
            await device.join(installation=installation, connection=connection + 10)
            ids.add(device.device_id)
    assert len(ids) == 1
    assert (await tenant.try_push(list(ids))).body["accepted"] == 1


async def test_who_does_not_know_the_access_key_stays_out(service: Service, tenant: Tenant) -> None:
    async with RawDevice(service.devices, tenant.app, "another key") as device:
        await device.hello()
        assert (await device.goaway()).code == CloseCode.BAD_ACCESS_KEY
        await device.ended()
    async with RawDevice(service.devices, "no-such-app", tenant.access_key) as device:
        await device.hello()
        assert (await device.goaway()).code == CloseCode.UNKNOWN_APP
