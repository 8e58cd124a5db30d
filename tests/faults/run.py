"""One scenario from start to verdict."""

import asyncio
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from tests.faults.app_server import AppServer
from tests.faults.conservation import Books, audit
from tests.faults.deployment import Deployment, deployed
from tests.faults.field import Field, Scenario
from tests.faults.plan import CannotHere, Size
from tests.faults.recovery import Recovery
from tests.faults.scenarios import SCENARIOS
from tests.faults.simulated import Simulated
from tests.faults.traffic import Traffic
from tests.faults.verdict import Verdict, judge

_POLL_S: Final = 0.1
_TAGS_S: Final = 30.0
_FLAPPING: Final = 0.05
_LOSERS: Final = 5

Tell = Callable[[str], None]
Result = dict[str, Any]
Probe = Callable[[Sequence[int], float], Coroutine[Any, Any, None]]
"""(devices, pushes a second)"""


class Run:
    """A deployment with its devices, while a scenario is on."""

    def __init__(
        self, deployment: Deployment, simulated: Simulated, size: Size, chance: random.Random
    ) -> None:
        self._deployment = deployment
        self._simulated = simulated
        self._size = size
        self._chance = chance
        self._server = AppServer(deployment.api, deployment.app)
        self._recovery = Recovery()
        self._probing: set[asyncio.Task[None]] = set()

    async def run(self, scenario: Scenario, tell: Tell) -> Result:
        await self._connect()
        traffic = self._traffic()
        over: list[str] = []
        watching = asyncio.create_task(self._watch_memory(over))
        background = [
            asyncio.create_task(traffic.run(self._size.pushes_per_s)),
            asyncio.create_task(self._simulated.flap(_FLAPPING)),
        ]
        if scenario.kills_sdk:
            background.append(asyncio.create_task(self._deployment.sdk.kill_at_random()))
        tell("pushing")
        await asyncio.sleep(self._size.before_s)
        try:
            await self._hurt(scenario, traffic, tell)
            await asyncio.sleep(self._size.after_s)
        finally:
            traffic.stop()
            self._simulated.stop_flapping()
            self._deployment.sdk.stop_killing()
            # Their errors are errors of the run, in whatever it is by then.
            await asyncio.gather(*background, *self._probing)
        await self._simulated.dial()
        tell("settling")
        settled_s = await self._settle(traffic)
        books = await audit(self._server, traffic.told, self._size.settle_s - settled_s)
        watching.cancel()
        over += self._deployment.over_memory()
        return await self._result(scenario, traffic, books) | {
            "settled_s": round(settled_s, 1),
            "over_memory": sorted(set(over)),
        }

    async def _connect(self) -> None:
        await self._simulated.connect()
        await self._deployment.begin_sdk(self._size.devices)
        deadline = time.monotonic() + _TAGS_S
        for child in self._deployment.sdk.children:
            for device, tags in zip(child.ids, child.config.tags, strict=True):
                while (known := await self._server.device(device))["tags"] != tags:
                    assert time.monotonic() < deadline, f"tags {tags} do not arrive: {known}"
                    await asyncio.sleep(_POLL_S)

    def _traffic(self) -> Traffic:
        return Traffic(
            self._server,
            [*self._simulated.ids, *self._deployment.sdk.ids],
            random.Random(self._chance.getrandbits(64)),
            self._size.features,
            self._deployment.device_door.mark,
        )

    async def _hurt(self, scenario: Scenario, traffic: Traffic, tell: Tell) -> None:
        """The scenario itself. One that does not mark whom it concerns is marked when it is over."""
        field = Field(
            deployment=self._deployment,
            simulated=self._simulated,
            server=self._server,
            size=self._size,
            chance=self._chance,
            probe=lambda devices: self._probe(traffic.probe, devices),
            flood=lambda devices: self._probe(traffic.flood, devices),
            recovery=self._recovery,
        )
        tell("hurting")
        await scenario.run(field)
        tell("healed")
        if not self._recovery.at:
            field.mark(self._simulated.steady)

    def _probe(self, probe: Probe, devices: Sequence[int]) -> None:
        if devices:
            task = asyncio.create_task(probe(devices, self._size.probes_per_s))
            self._probing.add(task)

    async def _watch_memory(self, over: list[str]) -> None:
        while True:
            over += self._deployment.over_memory()
            await asyncio.sleep(1.0)

    async def _settle(self, traffic: Traffic) -> float:
        """Until all that must arrive has arrived, or the time is up: the verdict tells which."""
        began = time.monotonic()
        sdk = frozenset(self._deployment.sdk.ids)
        # One that a newer one of its key may replace is not waited for, only judged.
        due = [p for p in traffic.told.pushes.values() if p.must_arrive and not p.collapse_key]
        wanted = {p.push_id: len(p.devices - sdk) for p in due}
        for_sdk = {(device, p.push_id) for p in due for device in p.devices & sdk}
        while (waited_s := time.monotonic() - began) < self._size.settle_s:
            counts = await self._simulated.shown_counts()
            late = sum(counts.get(push_id, 0) < count for push_id, count in wanted.items())
            outstanding = (await self._simulated.counters())["receipts_outstanding"]
            if not late and not outstanding and not for_sdk - self._shown_by_sdk():
                break
            await asyncio.sleep(_POLL_S)
        return waited_s

    def _shown_by_sdk(self) -> set[tuple[int, int]]:
        journals = self._deployment.sdk.journals()
        return {(device, x.push_id) for device, lines in journals.items() for x in lines}

    async def _seen(self, device: int) -> dict[str, Any]:
        """What the service thinks of a device that something was lost for."""
        known = await self._server.device(device)
        where = "sdk" if device in self._deployment.sdk.ids else self._simulated.ids.index(device)
        return {"row": where, **known}

    async def _result(self, scenario: Scenario, traffic: Traffic, books: Books) -> Result:
        journals = await self._simulated.journals() | self._deployment.sdk.journals()
        counters = await self._simulated.counters()
        told, sdk = traffic.told, self._deployment.sdk
        copies = self._deployment.device_door.copies
        verdict = judge(told, journals, frozenset(sdk.ids), copies)
        if verdict.wrong or books.pending:
            status = json.dumps(await self._server.status(), indent=1)
            self._deployment.note("status.json", status)
        slowest_s, median_s = self._recovery.measure(told, journals)
        return {
            "accepted": len(told.pushes),
            "recalls": sum(each.recalled_at is not None for each in told.pushes.values()),
            **verdict.to_dict(),
            "recovered_s": slowest_s,
            "recovered_median_s": median_s,
            "max_rss_mb": max(self._deployment.max_rss_mb.values()),
            "rss_mb": self._deployment.max_rss_mb,
            "in_doubt": len(told.in_doubt) + len(told.doubtful),
            "refused": told.refused,
            "unanswered": told.unanswered,
            "looks": told.looks,
            "unlawful": told.unlawful + books.unlawful,
            "pending": books.pending[:12],
            "losers": [await self._seen(device) for device in sorted(verdict.losers)[:_LOSERS]],
            "sdk_kills": sdk.kills,
            "sdk_shown": sum(len(journals.get(device, ())) for device in sdk.ids),
            "redelivered": counters["redelivered"],
            "broken": {
                "protocol_errors": counters["protocol_errors"],
                "refused_devices": counters["ended"] + counters["tokens_refused"],
                "identity_changes": counters["identity_changes"] + sdk.identity_changes,
                "forgotten": counters["forgotten"],
            },
            "wrong": _wrong(scenario, verdict, slowest_s),
        }


def _wrong(scenario: Scenario, verdict: Verdict, recovered_s: float) -> list[str]:
    wrong = [
        f"{name}: {count}" for name, count in verdict.wrong.items() if name not in scenario.allowed
    ]
    if scenario.bar_s is not None and recovered_s > scenario.bar_s:
        wrong.append(f"recovered after {recovered_s} s, at most {scenario.bar_s:g}")
    return wrong


def _judged(result: Result) -> Result:
    """Everything that is wrong in one list; `ok` if there is nothing."""
    wrong: list[str] = result["wrong"]
    wrong += [f"{name}: {count}" for name, count in result.pop("broken").items() if count]
    for name in ("unlawful", "pending", "over_memory", "deaths", "complaints"):
        wrong += [f"{name}: {len(result[name])}"] if result[name] else []
    return {"ok": not wrong, **result}


async def run_scenario(
    name: str, seed: int, size: Size, tell: Tell, keep: Path | None = None
) -> Result:
    """The result as one object. `keep`: where logs and files go of a run that was not ok."""
    scenario = SCENARIOS[name]

    def chances(part: str) -> random.Random:
        return random.Random(f"{seed} {name} {part}")

    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="columba-faults-")))
        try:
            async with deployed(folder, size, chances, scenario.small_disks) as deployment:
                fleet = stack.enter_context(FleetProcess(_plan(deployment, size, seed, name)))
                simulated = Simulated(fleet, chances("devices"))
                run = Run(deployment, simulated, size, chances("scenario"))
                result = await run.run(scenario, tell)
        except CannotHere as reason:
            return {"scenario": name, "seed": seed, "skipped": str(reason)}
        # Whatever it is, raised again: the logs say what it came of.
        except Exception:
            if keep is not None:
                _kept(folder, keep / f"{name}-{seed}")
            raise
        # Behind the end: a stop may have something to complain of, too.
        result["deaths"] = deployment.deaths()
        result["complaints"] = deployment.complaints()
        result = _judged(result)
        if keep is not None and not result["ok"]:
            result["kept"] = _kept(folder, keep / f"{name}-{seed}")
    took_s = round(time.monotonic() - began, 1)
    return {"scenario": name, "seed": seed, "took_s": took_s, **result}


def _kept(folder: Path, place: Path) -> str:
    """Logs and journals; what was on a disk of its own has gone with it."""
    place.mkdir(parents=True, exist_ok=True)
    for path in (*folder.glob("*.log"), *folder.glob("*.json")):
        shutil.copy(path, place)
    if (folder / "lines").exists():
        shutil.copytree(folder / "lines", place / "lines", dirs_exist_ok=True)
    return str(place)


def _plan(deployment: Deployment, size: Size, seed: int, name: str) -> Plan:
    return Plan(
        address=("127.0.0.1", deployment.device_door.port),
        devices=size.devices,
        app=deployment.app.app_id,
        access_key=deployment.app.access_key,
        seed=f"faults {seed} {name}",
        heartbeat_s=2,
        journal=True,
    )
