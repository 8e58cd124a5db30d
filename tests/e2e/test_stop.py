"""The end of a service, wanted and not, and the start after it."""

import signal
import subprocess
from pathlib import Path

import pytest

from protocol.codes import CloseCode
from tests.e2e.listeners import listening
from tests.e2e.processes import lives, of_run, send
from tests.e2e.raw_device import RawDevice
from tests.e2e.service import Service, command, environment, serving
from tests.e2e.tenants import Tenant
from tests.waiting import until

PROCESSES = 7
"""Supervisor, store, dispatch node, API, zygote and two edges."""


def demo(service: Service) -> Tenant:
    ready = service.ready
    return Tenant(service.api, ready["app"], ready["access_key"], ready["api_key"])


async def test_three_runs_on_one_data_directory(data_dir: Path, tmp_path: Path) -> None:
    """The first is stopped gracefully: devices are told to go, every process ends, the exit code is
    0. The second knows devices, keys and pushes, and hands out what waited; its supervisor is
    killed, and nothing outlives it. The third waits for the last process of the second, and devices
    come back by themselves."""
    with serving(data_dir) as service:
        tenant = demo(service)
        async with (
            listening(tenant, service.devices, tmp_path / "device") as listener,
            RawDevice(service.devices, tenant.app, tenant.access_key) as raw,
        ):
            await raw.join()
            done = await tenant.push(listener.id)
            await listener.gets(done)
            counts = await tenant.reaches(done, targeted=1, received=1, displayed=1)
            waiting = await tenant.push(raw.device_id)
            assert (await raw.message()).push_id == waiting
            assert len(service.processes()) == PROCESSES
            service.process.send_signal(signal.SIGTERM)
            goaway = await raw.goaway()
            assert goaway.code == CloseCode.GOING_AWAY and goaway.retry_after_ms > 0
            await raw.ended()
            await until(lambda: service.process.poll() is not None, "the service has ended")
            assert service.process.returncode == 0
            assert not service.processes()
            with pytest.raises(OSError):
                await service.get("/healthz")
        device = listener.id

    with serving(data_dir) as service:
        assert demo(service)[1:] == tenant[1:]
        tenant = demo(service)
        assert await tenant.counts(done) == counts
        await tenant.reaches(waiting, targeted=1, pending=1)
        assert (await tenant.seen(raw.device_id, online=False))["pending"] == 1
        async with (
            listening(tenant, service.devices, tmp_path / "device") as listener,
            RawDevice(service.devices, tenant.app, tenant.access_key) as again,
        ):
            assert listener.id == device
            await again.join(token=raw.token, connection=2)
            assert (await again.message()).push_id == waiting
            new = await tenant.push(listener.id)
            await listener.gets(new)

            second = service.processes()
            assert len(second) == PROCESSES
            send(service.process.pid, signal.SIGKILL)
            service.process.wait()
            await again.ended()
            api = service.api.removeprefix("http://")
            listen = ["--device-listen", service.devices, "--api-listen", api]
            with serving(data_dir, {}, *listen) as third:
                assert not any(lives(pid) for pid in second)
                assert len(third.processes()) == PROCESSES
                assert not service.log.events("killed"), "edges end by themselves as well"
                push = await tenant.push(listener.id)
                await listener.gets(new, push)
                assert listener.device.stats.connects == 2
                await tenant.reaches(new, targeted=1, received=1, displayed=1)


async def test_a_start_that_cannot_be_is_one_line(service: Service, data_dir: Path) -> None:
    """On a data directory in use, and on a port in use."""
    api_port = service.api.rpartition(":")[2]
    for directory, flags, said in (
        (service.data_dir, [], f"in use by process {service.process.pid}"),
        (data_dir, ["--device-listen", service.devices], f"edge.listen: {service.devices} is in"),
        (data_dir, ["--api-listen", f"127.0.0.1:{api_port}"], "api.listen: 127.0.0.1:"),
    ):
        ended = subprocess.run(
            command(directory, {}, *flags),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=environment("busy"),
            cwd=data_dir.parent,
        )
        assert ended.returncode == 2 and not ended.stdout
        told = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
        assert len(told) == 1 and told[0].startswith("columba: ") and said in told[0]
        assert '"level": "error"' not in ended.stderr
        assert not of_run("busy", data_dir)
    assert (await service.get("/readyz")).status == 200
