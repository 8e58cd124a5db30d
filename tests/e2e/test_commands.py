"""The command line against the running service."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.e2e.service import Service, environment
from tests.e2e.tenants import Tenant
from tests.waiting import PATIENCE_S


async def _start(service: Service, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.cli",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=service.data_dir.parent,
        env={**environment("command"), **environ},
    )


async def _run(service: Service, *arguments: str, **environ: str) -> tuple[int, Any, str]:
    """(exit code, its JSON, standard error)"""
    process = await _start(service, *arguments, "--json", **environ)
    async with asyncio.timeout(PATIENCE_S):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(output) if output else None, errors.decode()


async def test_push_and_device(service: Service, tenant: Tenant, tmp_path: Path) -> None:
    """A device in one terminal shows what a push from another says; both know the service from its
    data directory, and their app from the environment."""
    data = ["--data-dir", str(service.data_dir)]
    environ = {
        "COLUMBA_APP": tenant.app,
        "COLUMBA_API_KEY": tenant.api_key,
        "COLUMBA_ACCESS_KEY": tenant.access_key,
    }
    state = ["--state-dir", str(tmp_path / "device")]
    device = await _start(service, "device", *state, *data, "--json", **environ)
    assert device.stdout is not None and device.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            registered = json.loads(await device.stdout.readline())
        assert registered["event"] == "registered"
        code, answer, errors = await _run(
            service,
            "push",
            *("--device", registered["device_id"], "--device", "77"),
            *("--title", "hello", "--data", "k=v", "--ttl", "60", "--wait", "10"),
            *data,
            **environ,
        )
        assert code == 0 and not errors
        assert answer["accepted"] == 1
        assert answer["invalid"] == [{"target": "77", "code": "unknown_device"}]
        assert answer["counts"]["targeted"] == answer["counts"]["received"] == 1
        async with asyncio.timeout(PATIENCE_S):
            message = json.loads(await device.stdout.readline())
        assert message == {
            "event": "message",
            "push_id": answer["push_id"],
            "title": "hello",
            "body": "",
            "data": {"k": "v"},
        }
        device.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await device.wait() == 0
            assert not await device.stderr.read()
    finally:
        if device.returncode is None:
            device.kill()
            await device.wait()
    await tenant.seen(int(registered["device_id"]), online=False)


async def test_people_are_told_which_devices_are_left_out(service: Service, tenant: Tenant) -> None:
    arguments = ["push", "--device", "77", "--title", "t", "--data-dir", str(service.data_dir)]
    environ = {"COLUMBA_APP": tenant.app, "COLUMBA_API_KEY": tenant.api_key}
    process = await _start(service, *arguments, **environ)
    output, errors = await process.communicate()
    assert process.returncode == 0 and not errors
    said = output.decode().splitlines()
    assert said[0].startswith("push ") and said[0].endswith(" accepted")
    assert said[1:] == ["left out: 77 (unknown_device)"]


async def test_what_is_wrong_is_one_line(service: Service) -> None:
    data = ["--data-dir", str(service.data_dir)]
    refused = await _run(service, "push", "--all", "--title", "t", "--api-key", "wrong", *data)
    assert refused[:2] == (2, None)
    assert refused[2].startswith("columba: the API answered 401: ") and refused[2].count("\n") == 1
    away = await _run(
        service, "push", "--all", "--title", "t", "--api", "http://127.0.0.1:1", *data
    )
    assert away[:2] == (2, None)
    assert away[2].startswith("columba: no answer from ") and away[2].count("\n") == 1


async def test_status_and_config(service: Service, tmp_path: Path) -> None:
    code, status, errors = await _run(service, "status", "--data-dir", str(service.data_dir))
    assert code == 0 and not errors
    assert status["ready"] is True and status["pids"] == service.pids()
    processes = status["status"]["processes"]
    assert {role: len(found) for role, found in processes.items()} == {
        "edge": 2,
        "node": 1,
        "api": 1,
    }
    assert all(process["answered"] for found in processes.values() for process in found)

    code, status, errors = await _run(service, "status", "--data-dir", str(tmp_path))
    assert code == 1 and not errors
    assert status["ready"] is False and status["pids"] is None

    code, config, errors = await _run(
        service, "config", "--set", "edge.count=3", COLUMBA_STORE_LEASE_S="2.5"
    )
    assert code == 0 and not errors
    assert config["edge.count"]["value"] == 3
    assert config["edge.count"]["source"] == "flag --set edge.count"
    assert config["store.lease_s"]["value"] == 2.5
    assert config["store.lease_s"]["source"] == "environment COLUMBA_STORE_LEASE_S"
    assert all(setting["reason"] for setting in config.values())
    assert os.listdir(tmp_path) == []
