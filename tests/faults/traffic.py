"""Pushes of all kinds at a steady rate, from app servers that never give up, and what they were told."""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from tests.faults.app_server import AppServer, Outcome, unlawful
from tests.faults.door import Mark
from tests.faults.told import Pushed, Told

GROUPS: Final = 10
"""Devices carry the tag group:0 to group:9, by their place in the list of devices."""
_CALLERS: Final = 3
_PROBES_OPEN: Final = 12
_LIST: Final = 20
_LOOKS: Final = 0.06
"""Part of the requests that ask for counts."""
_LARGE: Final = 0.04
_LARGE_BYTES: Final = 12_000
"""Some contents are large, so that the output of a device that does not read fills up."""
_FLOOD_BYTES: Final = 24_000
_FLOOD_RECALLED: Final = 0.5
"""Part of the pushes."""


class _Wish(NamedTuple):
    audience: Any
    devices: frozenset[int]
    ttl_s: int = 3600
    recall: bool = False
    ballast: int = 0
    """Bytes; 0: as it comes."""


class Traffic:
    """App servers at work. `stop` lets the requests under way come to their end."""

    def __init__(
        self,
        server: AppServer,
        devices: Sequence[int],
        chance: random.Random,
        features: frozenset[str],
        mark: Callable[[], Mark],
    ) -> None:
        """`mark`: what has left the edges by now."""
        self._server = server
        self._devices = devices
        self._everybody = frozenset(devices)
        self._groups = [frozenset(devices[g::GROUPS]) for g in range(GROUPS)]
        self._chance = chance
        self._features = features
        self._mark = mark
        self._stopping = asyncio.Event()
        self._recalls: set[asyncio.Task[None]] = set()
        self.told = Told()

    async def run(self, per_s: float) -> None:
        """Until `stop`."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_CALLERS):
                group.create_task(self._call_on(_CALLERS / per_s))
        await self._all_recalled()

    async def probe(self, devices: Sequence[int], per_s: float) -> None:
        """Single pushes to these, one after the other, over and over until `stop`."""
        await self._probe(devices, per_s)

    async def flood(self, devices: Sequence[int], per_s: float) -> None:
        """The same with large contents, half of them recalled: more than a slow way takes."""
        await self._probe(devices, per_s, _FLOOD_BYTES, _FLOOD_RECALLED)
        await self._all_recalled()

    async def _probe(
        self, devices: Sequence[int], per_s: float, ballast: int = 0, recalled: float = 0.0
    ) -> None:
        calls: set[asyncio.Task[None]] = set()
        turn = 0
        async with asyncio.TaskGroup() as group:
            while not await self._stopped_within(1 / per_s):
                if len(calls) < _PROBES_OPEN:
                    device = devices[turn % len(devices)]
                    wish = _Wish(
                        {"devices": [str(device)]},
                        frozenset((device,)),
                        recall=self._chance.random() < recalled,
                        ballast=ballast,
                    )
                    calls.add(task := group.create_task(self._push(wish)))
                    task.add_done_callback(calls.discard)
                    turn += 1

    def stop(self) -> None:
        self._stopping.set()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _call_on(self, every_s: float) -> None:
        due = time.monotonic() + self._chance.uniform(0, every_s)
        while not await self._stopped_within(max(0.0, due - time.monotonic())):
            if self._chance.random() < _LOOKS and self.told.pushes:
                await self._look(self._chance.choice(list(self.told.pushes)))
            else:
                await self._push(self._next())
            # What was missed while nothing was answered is not made up for at once.
            due = max(due + every_s, time.monotonic() - 1.0)

    def _next(self) -> _Wish:
        chance = self._chance
        dice = chance.random()
        if dice < 0.70:
            device = chance.choice(self._devices)
            ttl_s = 3600 if dice < 0.62 else chance.choice((0, 1, 2))
            return _Wish({"devices": [str(device)]}, frozenset((device,)), ttl_s, dice < 0.05)
        if dice < 0.85:
            some = chance.sample(self._devices, min(_LIST, len(self._devices)))
            return _Wish({"devices": [str(d) for d in some]}, frozenset(some), recall=dice < 0.72)
        if dice < 0.97:
            group = chance.randrange(GROUPS)
            return _Wish(f"group:{group}", self._groups[group], recall=dice < 0.86)
        return _Wish("all", self._everybody)

    async def _push(self, wish: _Wish) -> None:
        single = isinstance(wish.audience, dict) and len(wish.devices) == 1
        body = self._body(wish, single)
        asked_at = time.monotonic()
        outcome = await self._server.insist("POST", "/pushes", body, again=not single)
        self._note(outcome)
        if outcome.answer is None:
            if outcome.doubtful_id is not None:
                self.told.doubtful[outcome.doubtful_id] = wish.devices
            elif outcome.unanswered:
                self.told.in_doubt.append(wish.devices)
            return
        pushed = Pushed(
            push_id=int(outcome.answer.body["push_id"]),
            devices=wish.devices,
            asked_at=asked_at,
            answered_at=time.monotonic(),
            priority=body.get("priority", "normal"),
            # One of ttl 0 does not wait for what is pending before it.
            ordered=single and wish.ttl_s > 0,
            ttl_s=wish.ttl_s,
            collapse_key=body.get("collapse_key", ""),
        )
        self.told.pushes[pushed.push_id] = pushed
        if wish.recall and "recall" in self._features:
            task = asyncio.create_task(self._recall(pushed))
            self._recalls.add(task)
            task.add_done_callback(self._recalls.discard)

    def _body(self, wish: _Wish, single: bool) -> dict[str, Any]:
        chance = self._chance
        body: dict[str, Any] = {
            "audience": wish.audience,
            "data": {"sent_ns": str(time.monotonic_ns())},
            "ttl": wish.ttl_s,
        }
        if wish.ballast or chance.random() < _LARGE:
            body["data"]["ballast"] = "x" * (wish.ballast or _LARGE_BYTES)
        if not single:
            # Without a key a request that got no answer cannot be repeated safely.
            body["idempotency_key"] = uuid.UUID(int=chance.getrandbits(128)).hex
        if "priority" in self._features:
            body["priority"] = chance.choice(("normal", "normal", "normal", "high", "low"))
        if "collapse" in self._features and chance.random() < 0.1:
            body["collapse_key"] = f"key {chance.randrange(5)}"
        return body

    async def _all_recalled(self) -> None:
        if self._recalls:
            await asyncio.wait(self._recalls)

    async def _recall(self, pushed: Pushed) -> None:
        await asyncio.sleep(self._chance.uniform(0, 0.5))
        pushed.recall_asked = True
        outcome = await self._server.insist(
            "POST", f"/pushes/{pushed.push_id}:recall", {}, again=True
        )
        self._note(outcome)
        if outcome.answer is not None:
            pushed.recalled_at = time.monotonic()
            # Behind it: nobody is accused of what left in the moment between.
            pushed.mark = self._mark()

    async def _look(self, push_id: int) -> None:
        """Whenever the service says counts, they must add up."""
        try:
            counts = await self._server.counts(push_id)
        except (OSError, TimeoutError):
            return
        if counts is not None:
            self.told.looks += 1
            wrong = unlawful(push_id, counts)
            if wrong is not None:
                self.told.unlawful.append(wrong)

    def _note(self, outcome: Outcome) -> None:
        self.told.refused += outcome.refused
        self.told.unanswered += outcome.unanswered
