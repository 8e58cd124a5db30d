"""What a scenario may say: one struct a table, each key with its unit and default.

docs/loadtest.md lists all keys for people. Reading files stands in loadtest.engine.reading.
"""

import math
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from loadtest.engine.spread import Exponential, Fixed, Seconds, Spread

Share = Annotated[float, Meta(ge=0, le=1)]
PerMinute = Annotated[float, Meta(ge=0, le=6000)]
Count = Annotated[int, Meta(ge=1)]

MOST_EDGES: Final = 64
PER_EDGE: Final = 16_500
"""Devices for which `edges = 0` counts on one: connections are spread by a hash of the addresses, so edges
differ by some hundreds, and a process may have 20,000 descriptors, of which an edge keeps some free."""
MOST_PER_PROCESS: Final = 19_000
"""Devices of one process: it has 20,000 descriptors in many places, and needs some for itself."""
MOST_DRAWN_TAGS: Final = 10
"""2^10 sets of tags a group: a fleet keeps each set once, see loadtest.profile_desk."""
MOST_PUSHES: Final = 1_000_000
"""In one run: who was shown a push is remembered to its end, some 500 bytes for a single one."""
SINGLE: Final = "@single"
"""In place of an audience: one device a push, in turn. No tag begins with @."""


class ServiceWanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The service that a run starts; without meaning where one runs already."""

    edges: Annotated[int, Meta(ge=0, le=MOST_EDGES)] = 2
    """0: as many as the fleet's devices need, two at least."""
    set: tuple[str, ...] = ()
    """Settings of the service, as `columba serve --set` takes them: `edge.heartbeat_min_s=2`."""


class FleetWanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    devices: Annotated[int, Meta(ge=1, le=50_000_000)]
    processes: Annotated[int, Meta(ge=0, le=4096)] = 0
    """0: as few as have descriptors enough."""
    sources: Annotated[int, Meta(ge=1, le=250)] = 4
    """Addresses a process dials from; a switch of the carrier takes the next one."""
    network: Annotated[int, Meta(ge=1, le=250)] = 16
    """They begin at 127.network.1.1, and each process has the next third number."""
    app: str = "demo"
    in_flight: Annotated[int, Meta(ge=1, le=100_000)] = 512
    """Connections without WELCOME at any time, of all processes together."""


class Arrival(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    per_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """Devices that connect for the first time, a second; 0: as fast as they get in."""
    ramp_s: Seconds = 0.0
    """The rate grows from nothing for so long."""


class Vanish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Gone without a FIN; the service finds out by silence, or when the device is back."""

    per_min: PerMinute
    back_after: Spread = field(default_factory=lambda: Exponential(20.0))


class Doze(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Neither reads nor writes; the connection stands."""

    per_min: PerMinute
    wake_after: Spread = field(default_factory=lambda: Exponential(20.0))


class Group(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the fleet that behaves alike. Rates are each device's own."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
    share: Share = 1.0
    heartbeat_s: Annotated[int, Meta(ge=1, le=600)] = 60
    displayed: Share = 1.0
    """Of the messages that a device receives."""
    think: Spread = field(default_factory=Fixed)
    """From `received` to `displayed`."""
    clicked: Share = 0.0
    """Of those it displays."""
    click_after: Spread = field(default_factory=lambda: Exponential(2.0))
    flap_per_min: PerMinute = 0.0
    """Closes and comes back as after any loss."""
    switch_per_min: PerMinute = 0.0
    """Comes back from another source address; the old connection stays without a FIN."""
    vanish: Vanish | None = None
    doze: Doze | None = None
    nat_timeout_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    """Nothing passes any more, either way, once so long nothing has; 0: never."""
    read_bytes_per_s: Annotated[int, Meta(ge=0)] = 0
    """0: as fast as it comes."""
    tags: tuple[str, ...] = ()
    """Of every device of the group."""
    drawn_tags: Annotated[dict[str, Share], Meta(max_length=MOST_DRAWN_TAGS)] = {}
    """Tag -> share of the group's devices that have it, each drawn by itself."""


class PushStep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pushes of one kind: one at a time, or a rate for a while."""

    name: Annotated[str, Meta(min_length=1)] = "push"
    at_s: Seconds
    """Of the first, counted from the moment when the load begins."""
    per_s: Annotated[float, Meta(ge=0, le=1e5)] = 0.0
    """0: only one."""
    for_s: Seconds = 0.0
    """How long the rate lasts; 0: to the end of the run."""
    audience: Annotated[str, Meta(min_length=1)] = "all"
    """`all`, an expression of docs/audiences.md, or `@single`."""
    ttl_s: Annotated[int, Meta(ge=0, le=2_419_200)] = 3600
    priority: Literal["high", "normal", "low"] = "normal"
    payload_bytes: Annotated[int, Meta(ge=0, le=60_000)] = 64
    """Text of the notification."""
    concurrency: Annotated[int, Meta(ge=1, le=256)] = 16
    """Connections of the app server, that is: requests at any time."""


class Event(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that happens to many at once."""

    at_s: Seconds
    do: Literal["cut", "kill_edge"]
    """`cut`: connections end without BYE and the devices come back; `kill_edge`: SIGKILL to edges."""
    share: Share | None = None
    """Of the connected devices for `cut`, all without it; of the edges for `kill_edge`, rounded up."""
    edges: Annotated[int, Meta(ge=1, le=MOST_EDGES)] | None = None
    """How many `kill_edge` ends at once; one with neither this nor `share`."""

    def victims(self, running: int) -> int:
        """How many edges of so many, for `kill_edge`. Raises ValueError where fewer run than are wanted."""
        wanted = math.ceil((self.share or 0) * running) if self.edges is None else self.edges
        if wanted > running:
            raise ValueError(f"kill_edge: expected at most {running} edges, which run now")
        return max(1, wanted)


class Checks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must hold at the end: names of figures in the result, and bars."""

    at_most: dict[str, float] = {}
    at_least: dict[str, float] = {}


class Scenario(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    title: str = ""
    duration_s: Annotated[float, Meta(gt=0, le=2_678_400)]
    """Of the load."""
    connect_first: bool = True
    """The load begins when all devices are connected; else with the first dial."""
    connect_s: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    """How long `connect_first` waits for them."""
    settle_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    """Behind the load: everybody comes back, and what is pending has so long to arrive."""
    seed: int = 1
    """What devices do is drawn from it; the service's share in it makes no two runs the same."""
    service: ServiceWanted = ServiceWanted()
    fleet: FleetWanted
    arrival: Arrival = Arrival()
    groups: Annotated[tuple[Group, ...], Meta(min_length=1, max_length=64)] = (
        Group(name="devices"),
    )
    pushes: tuple[PushStep, ...] = ()
    events: tuple[Event, ...] = ()
    checks: Checks = Checks()

    @property
    def edges(self) -> int:
        """Of the service that is started for it. Raises ValueError for more devices than edges can be had for."""
        if self.service.edges:
            return self.service.edges
        needed = max(2, -(-self.fleet.devices // PER_EDGE))
        if needed > MOST_EDGES:
            raise ValueError(
                f"fleet.devices: expected at most {MOST_EDGES * PER_EDGE:,} with service.edges = 0"
            )
        return needed

    @property
    def pushes_at_most(self) -> int:
        """An upper bound for the pushes of a whole run."""
        total = 0
        for step in self.pushes:
            lasts = step.for_s or max(0.0, self.duration_s - step.at_s)
            total += int(step.per_s * lasts) + 1
        return total


READY: Final = Path(__file__).parents[1] / "scenarios"
"""The ready ones; the name of one is its file without .toml."""
