"""An edge is drained while pushes go on, and takes its share again afterwards."""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from tests.e2e.listeners import several
from tests.e2e.service import ROOT, Service
from tests.e2e.tenants import Tenant
from tests.waiting import until

HURTS = True
MANY = 12


async def columba(service: Service, *command: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", *command, "--json"),
        *("--data-dir", str(service.data_dir)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, (out, errors)
    answer: dict[str, Any] = json.loads(out)
    return answer


async def test_a_drained_edge_loses_nobody_a_message(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    async with several(tenant, service.devices, tmp_path, MANY) as listeners:
        one, other = sorted(await service.edges())
        pushed: list[int] = []
        enough = asyncio.Event()

        async def chatter() -> None:
            while not enough.is_set():
                pushed.append(await tenant.push(everybody=True))

        pushing = asyncio.create_task(chatter())
        try:
            told = await columba(service, "drain", str(one), "--over", "0.5")
            assert told["draining"] and told["left"] == 0 and told["others"] == 1

            async def all_at_the_other() -> bool:
                found = [await tenant.device(listener.id) for listener in listeners]
                return all(device["online"] and device["edge"] == other for device in found)

            await until(all_at_the_other, "everybody is at the other edge")
            assert not (await columba(service, "drain", str(one), "--undo"))["draining"]
            moved = await columba(service, "rebalance", "--rate", "100")
            assert moved["balanced"] and moved["before"][str(one)] == 0
            assert {MANY // 2} == {*moved["after"].values()}
        finally:
            enough.set()
            with contextlib.suppress(asyncio.CancelledError):
                await pushing
        for listener in listeners:
            await listener.gets(*pushed)  # each once, or it fails
        for push in pushed[-3:]:
            await tenant.reaches(push, targeted=MANY, received=MANY)
