"""The whole service at work in some seconds: devices come and go, an edge dies, nothing is lost.

What counts as lost or duplicate is judged by what the devices themselves have shown, against the
ids that the API accepted; the API's own counts are only checked for the conservation law.
"""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from client_sdk import Device
from loadtest.api_client import ApiClient, law_holds
from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from loadtest.histogram import milliseconds
from loadtest.service import Service
from loadtest.verdict import judge
from loadtest.view import View

SDK_DEVICES: Final = 3
_SINGLES: Final = 20
_STAGE_S: Final = 60.0
"""Longest that one stage may take until its devices have what they should."""
_CONNECT_S: Final = 60.0
"""The same for all devices to be connected."""
_STEP_S: Final = 0.05
_COUNT_EVERY_S: Final = 0.25


class SdkDevice:
    """A device with the full SDK: shows what comes and remembers each time it did."""

    def __init__(self, service: Service, directory: Path) -> None:
        host, port = service.devices
        self.device = Device(
            f"{host}:{port}", app=service.app, access_key=service.access_key, state_dir=directory
        )
        self.shown: list[int] = []

    async def run(self) -> None:
        async for message in self.device.messages():
            self.shown.append(message.push_id)
            await message.displayed()

    @property
    def device_id(self) -> int:
        assert self.device.device_id is not None, "asked for behind wait_connected"
        return self.device.device_id


class Demo:
    """One run: the devices, what the API accepted, and the stages."""

    def __init__(
        self,
        service: Service,
        fleet: FleetProcess,
        sdk: list[SdkDevice],
        api: ApiClient,
        view: View,
    ) -> None:
        self._service = service
        self._fleet = fleet
        self._sdk = sdk
        self._view = view
        self._api = api
        self._ids: list[int] = []
        self._accepted: dict[int, set[int]] = {}
        self._counts: dict[int, dict[str, int]] = {}
        self._counted_at = 0.0
        self._began = time.monotonic()

    async def run(self, *, kill_edge: bool) -> dict[str, Any]:
        """Raises ApiFailed, ChildFailed, and TimeoutError for devices that do not connect."""
        devices = self._fleet.plan.devices
        self._fleet.dial(range(devices))
        await self._until_connected("connecting", devices)
        async with asyncio.timeout(_CONNECT_S):
            for each in self._sdk:
                await each.device.wait_connected()
        self._ids = self._fleet.device_ids()
        await self._push_to_connected()
        await self._push_to_some_offline()
        if kill_edge and self._service.edge_pids:
            await self._push_while_an_edge_dies()
        await self._push("one more to all", "all")
        await self._settle()
        return self._result()

    async def _push_to_connected(self) -> None:
        for number in range(_SINGLES):
            await self._push("pushes to one", [self._ids[number * 7 % len(self._ids)]])
        await self._push("a push to an SDK device", [self._sdk[0].device_id])
        await self._push("a push to 100", self._ids[:100])
        await self._push("a push to all", "all")
        await self._until_shown("a push to all")

    async def _push_to_some_offline(self) -> None:
        away = range(len(self._ids) // 10)
        self._fleet.disconnect(away)
        stage = f"{len(away)} devices are offline"
        await self._push(stage, "all")
        await self._push(stage, [self._ids[row] for row in away])
        await self._until_shown(stage, but=2 * len(away))
        self._fleet.dial(away)
        await self._until_shown("they are back")

    async def _push_while_an_edge_dies(self) -> None:
        stage = "an edge is killed"
        before = self._fleet.counters()["lost"]
        await self._push(stage, "all")
        os.kill(self._service.edge_pids[0], signal.SIGKILL)
        await self._push(stage, "all")
        await self._until(stage, lambda now: now["lost"] > before, _STAGE_S)
        await self._until_connected("its devices reconnect", len(self._ids))
        await self._until_shown("its devices reconnect")

    async def _push(self, stage: str, audience: Any) -> None:
        targets = self._everybody() if audience == "all" else set(audience)
        push_id = await asyncio.to_thread(self._api.push, audience)
        self._accepted[push_id] = targets
        self._show(stage, self._fleet.counters())

    def _everybody(self) -> set[int]:
        return {*self._ids, *(each.device_id for each in self._sdk)}

    def _shown_by_sdk(self) -> int:
        return sum(len(each.shown) for each in self._sdk)

    async def _until(
        self, stage: str, reached: Callable[[dict[str, Any]], bool], limit_s: float
    ) -> bool:
        """Wait for this to be so of the fleet's counters; False if it was not in time."""
        deadline = time.monotonic() + limit_s
        while not reached(now := self._fleet.counters()):
            await self._refresh_counts()
            self._show(stage, now)
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_STEP_S)
        self._show(stage, now)
        return True

    async def _until_connected(self, stage: str, devices: int) -> None:
        """Raises TimeoutError: without devices there is nothing to see."""
        if not await self._until(stage, lambda now: now["open"] == devices, _CONNECT_S):
            now = self._fleet.counters()
            raise TimeoutError(
                f"{stage}: {now['open']} of {devices} devices connected in {_CONNECT_S:g} s "
                f"(lost {now['lost']}, close codes {now['goaways']})"
            )

    async def _until_shown(self, stage: str, but: int = 0) -> None:
        """Until all was shown but so many. What is not in time is told at the end, as lost."""
        wanted = sum(map(len, self._accepted.values())) - but

        def reached(now: dict[str, Any]) -> bool:
            return bool(now["shown"] + self._shown_by_sdk() >= wanted)

        if not await self._until(stage, reached, _STAGE_S):
            self._view.show(f"{stage}: some messages are late")

    async def _settle(self) -> None:
        """Until each push is reported by all our devices it was for, or the time is up.

        Of a service that is not ours "all" may have been more than those.
        """
        await self._until_shown("settling")
        deadline = time.monotonic() + _STAGE_S
        while self._unreported() and time.monotonic() < deadline:
            await asyncio.sleep(_STEP_S)
            await self._refresh_counts()
            self._show("settling", self._fleet.counters())
        for push_id in self._accepted:  # once more all of them, for the law is judged by these
            self._counts[push_id] = await asyncio.to_thread(self._api.counts, push_id)

    def _unreported(self) -> list[int]:
        """Pushes that not all of our devices were counted for yet, as received and displayed."""
        nothing = {"received": 0, "displayed": 0}
        return [
            push_id
            for push_id, devices in self._accepted.items()
            if min(map(self._counts.get(push_id, nothing).__getitem__, nothing)) < len(devices)
        ]

    async def _refresh_counts(self) -> None:
        """Ask the API for what may have changed, some times a second."""
        if time.monotonic() - self._counted_at < _COUNT_EVERY_S:
            return
        for push_id in self._unreported():
            self._counts[push_id] = await asyncio.to_thread(self._api.counts, push_id)
        self._counted_at = time.monotonic()

    def _sum(self, name: str) -> int:
        return sum(counts[name] for counts in self._counts.values())

    def _show(self, stage: str, now: dict[str, Any]) -> None:
        connected = now["open"] + sum(each.device.connected for each in self._sdk)
        latency = self._fleet.latency()
        self._view.show(
            stage,
            devices_connected=connected,
            pushes=len(self._accepted),
            targeted=sum(map(len, self._accepted.values())),
            shown=now["shown"] + self._shown_by_sdk(),
            received=self._sum("received"),
            displayed=self._sum("displayed"),
            p50_ms=milliseconds(latency.percentile(0.5)),
            p99_ms=milliseconds(latency.percentile(0.99)),
            reconnected=now["reconnected"],
        )

    def _shown_by_device(self) -> dict[int, list[int]]:
        shown = {
            push: [self._ids[row] for row in rows] for push, rows in self._fleet.shown().items()
        }
        for each in self._sdk:
            for push in each.shown:
                shown.setdefault(push, []).append(each.device_id)
        return shown

    def _result(self) -> dict[str, Any]:
        verdict = judge(self._accepted, self._shown_by_device())
        now = self._fleet.counters()
        latency = self._fleet.latency()
        return {
            "devices": len(self._everybody()),
            "pushes": len(self._accepted),
            "targeted": self._sum("targeted"),
            "received": self._sum("received"),
            "displayed": self._sum("displayed"),
            "lost": verdict.lost,
            "duplicates": verdict.duplicates,
            "strays": verdict.strays,
            "conserved": _conserved(self._accepted, self._counts),
            "pending": self._sum("pending"),
            "redelivered": now["redelivered"],
            "p50_ms": milliseconds(latency.percentile(0.5)),
            "p99_ms": milliseconds(latency.percentile(0.99)),
            "reconnected": now["reconnected"],
            "identity_changes": now["identity_changes"],
            "seconds": round(time.monotonic() - self._began, 1),
        }


def _conserved(accepted: Iterable[int], counts: dict[int, dict[str, int]]) -> bool:
    """For every push that was accepted, and so also counted."""
    return all(push in counts and law_holds(counts[push]) for push in accepted)


async def run_demo(
    service: Service, devices: int, view: View, *, kill_edge: bool
) -> dict[str, Any]:
    """`kill_edge`: only for a service that is the caller's own."""
    plan = Plan(
        address=service.devices,
        devices=devices,
        app=service.app,
        access_key=service.access_key,
        seed=f"demo {time.time_ns()}",
    )
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="columba-demo-"))
        fleet = stack.enter_context(FleetProcess(plan))
        sdk = [SdkDevice(service, Path(directory, str(number))) for number in range(SDK_DEVICES)]
        for each in sdk:
            await stack.enter_async_context(each.device)
        api = stack.enter_context(ApiClient(service))
        showing = [asyncio.create_task(each.run()) for each in sdk]
        try:
            return await Demo(service, fleet, sdk, api, view).run(kill_edge=kill_edge)
        finally:
            for task in showing:
                task.cancel()
            await asyncio.gather(*showing, return_exceptions=True)


def passed(result: dict[str, Any]) -> bool:
    wrong = ("lost", "duplicates", "strays", "identity_changes")
    return bool(result["conserved"]) and not any(result[name] for name in wrong)
