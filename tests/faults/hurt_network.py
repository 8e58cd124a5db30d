"""The ways between the processes: cut, stalled, slow, broken in mid-frame; replies out of order.

For each way and each of the first four there is a scenario, such as `cut-edge-store`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Final, NamedTuple

from tests.faults.deployment import EDGES, NODES, Deployment
from tests.faults.field import FLOODED, Field, Scenario, add, scenario
from tests.faults.relay import Relay

_BOTH: Final = 0.3
"""How often both edges, or both nodes, are cut off at once."""


class _Way(NamedTuple):
    relays: Callable[[Deployment], dict[str, Relay]]
    slow_bps: int
    """Slow enough that a queue builds up, fast enough that it would go down in the end."""
    break_after: int
    """Bytes: some hundred frames of that way."""
    floods: bool = False
    """Some devices are sent more than the way takes while it is hurt."""


WAYS: Final[dict[str, _Way]] = {
    "edge-store": _Way(lambda d: {name: d.to_store[name] for name in EDGES}, 30_000, 20_000),
    "node-store": _Way(lambda d: {name: d.to_store[name] for name in NODES}, 60_000, 80_000),
    "api-store": _Way(lambda d: {"api": d.to_store["api"]}, 30_000, 10_000),
    "node-edge": _Way(lambda d: dict(d.to_edge), 30_000, 8_000),
    "api-node": _Way(lambda d: dict(d.to_node), 1_000, 500),
    "device-edge": _Way(lambda d: {"door": d.device_door}, 4_000, 2_000, floods=True),
}
_HURTS: Final[dict[str, Callable[[Relay, _Way], AbstractContextManager[None]]]] = {
    "cut": lambda relay, _: relay.cut(),
    "stall": lambda relay, _: relay.stalled(),
    "slow": lambda relay, way: relay.slowed(way.slow_bps),
    "break": lambda relay, way: relay.breaking(way.break_after),
}


async def _hurt(way: _Way, hurt: str, field: Field) -> None:
    if way.floods:
        field.flood(field.simulated.steady[-FLOODED:])
    relays = way.relays(field.deployment)
    both = field.chance.random() < _BOTH
    chosen = list(relays) if both else [field.chance.choice(sorted(relays))]
    with ExitStack() as stack:
        for name in chosen:
            stack.enter_context(_HURTS[hurt](relays[name], way))
        await field.last()


ON_ITS_WAY: Final = {"recalled_on_their_way": "what has left the edge cannot be called back"}
"""For networks that hold up what devices are sent."""

for _way_name, _way in WAYS.items():
    for _name in _HURTS:
        add(
            Scenario(
                name=f"{_name}-{_way_name}",
                run=partial(_hurt, _way, _name),
                allowed=ON_ITS_WAY if _way_name == "device-edge" else {},
            )
        )


@scenario()
async def cut_off_edge(field: Field) -> None:
    """From the store and from the nodes, but not from its devices."""
    name = field.chance.choice(EDGES)
    with field.deployment.to_store[name].cut(), field.deployment.to_edge[name].cut():
        await field.last()


@scenario()
async def stall_both_ends_of_a_node(field: Field) -> None:
    """A node that hears of nothing any more and is believed to live: until its lease is over."""
    name = field.chance.choice(NODES)
    with ExitStack() as stack:
        stack.enter_context(field.deployment.to_store[name].stalled())
        for relay in field.deployment.to_edge.values():
            stack.enter_context(relay.stalled())
        await field.last()


@scenario()
async def disorder_replies(field: Field) -> None:
    """Replies of edges to nodes, and of nodes to the API, come twice, late and in another order."""
    relays = [*field.deployment.to_edge.values(), *field.deployment.to_node.values()]
    with ExitStack() as stack:
        for relay in relays:
            stack.enter_context(relay.disordered(0.5))
        await field.last()
    assert sum(relay.replies_hurt for relay in relays), "no reply was hurt"
