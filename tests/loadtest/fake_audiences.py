"""What the fake service knows of tags and audiences. Text is read by the real service's parser."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from zlib import crc32

from gateway.audience_json import to_json
from gateway.audience_text import parse_text
from loadtest.audience_verdict import cuts_of, states_of
from loadtest.meaning import Tree, World, by_tag, meant
from protocol.schema import device_pb2


class Pushed(Protocol):
    targets: set[int]
    received: set[int]
    displayed: set[int]


class FakeAudiences:
    """Faults: `stale` (only the first tags of a device stand), `moving` (a sample is another one each
    time), `busy` (every other item of a change of tags is unavailable)."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._said: dict[int, tuple[int, set[str]]] = {}
        self._bound: dict[int, set[str]] = {}
        self._asked = self._tagged = 0

    def on_profile(self, device: int, profile: device_pb2.Profile) -> None:
        change, _ = self._said.get(device, (0, set()))
        if profile.change <= change or (change and self._fault == "stale"):
            return
        attributes = {f"{name}:{value}" for name, value in profile.attributes.items()}
        self._said[device] = profile.change, {*profile.tags} | attributes

    def tag(
        self, items: Iterable[Mapping[str, Any]], devices: set[int], *, bind: bool
    ) -> dict[str, Any]:
        results: list[dict[str, Any]] = []
        for item in items:
            self._tagged += 1
            code = "" if int(item["device"]) in devices else "unknown_device"
            if self._fault == "busy" and self._tagged % 2:
                code = "unavailable"
            if not code:
                carried = self._bound.setdefault(int(item["device"]), set())
                (carried.update if bind else carried.difference_update)(item["tags"])
            results.append({"device": item["device"], "ok": not code, "code": code})
        return {"results": results}

    def meant(self, said: Any, devices: set[int], pushes: Mapping[int, Pushed]) -> set[int]:
        """`said`: an audience as a request has it."""
        tree: Tree = to_json(parse_text(said)) if isinstance(said, str) else said
        return {*meant(tree, self._world(devices, pushes))}

    def cuts(self, push: Pushed, devices: set[int], by: list[str]) -> dict[str, Any]:
        states = states_of(push.targets, push.received, push.displayed)
        flat = cuts_of(states, self._world(devices, {}).tags, by)
        return {
            name: {tag: counts for tag, counts in flat.items() if tag.partition(":")[0] == name}
            for name in by
        }

    def _world(self, devices: set[int], pushes: Mapping[int, Pushed]) -> World:
        tags = by_tag(
            {d: {*self._said.get(d, (0, ()))[1], *self._bound.get(d, ())} for d in devices}
        )
        tags |= {"new:7d": devices, "active:7d": devices}
        self._asked += 1
        states = {
            (push_id, state): found
            for push_id, push in pushes.items()
            for state, found in states_of(push.targets, push.received, push.displayed).items()
        }
        moved = self._asked if self._fault == "moving" else 0
        return World(devices, tags, states, Samples(devices, moved))


class Samples(dict[tuple[float, str], frozenset[int]]):
    """Any fraction of the devices, drawn by their ids."""

    def __init__(self, devices: set[int], moved: int) -> None:
        super().__init__()
        self._numbers = {d: crc32(b"%d %d" % (moved, d)) / 2**32 for d in devices}

    def __missing__(self, key: tuple[float, str]) -> frozenset[int]:
        return frozenset(d for d, number in self._numbers.items() if number < key[0])
