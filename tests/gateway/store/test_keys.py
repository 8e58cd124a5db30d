"""keys.py names every key of a living store, and every script names the keys it touches."""

import re
from pathlib import Path

import pytest

from gateway.audience import All
from gateway.config import Config
from gateway.config import Store as StoreConfig
from gateway.store import (
    apps,
    deployment,
    keys,
    leases,
    ownership,
    pushes,
    quotas,
    recalls,
    scripts,
    segments,
)
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.leases import Identity, Lease
from gateway.store.log import Pace
from gateway.store.scripts import script
from gateway.store.snapshots import Snapshots
from tests.gateway.store.sessions_desk import SessionsDesk, registration
from tests.gateway.store.test_pushes import claim, part, record

_NAMED = re.compile(r"^    (\{[^ ]+) +(stream|hash|string|zset|set) ", re.MULTILINE)
_NUMBER = {"{p}": r"\{\d+\}", "{id}": r"\d+", "{h}": "[0-9a-f]{64}", "{n}": r"\d+"}
_NUMBER |= {"{day}": r"\d+", "{r}": "[0-9a-f]{16}"}


def documented() -> dict[str, str]:
    """Pattern of a key -> its type, as keys.py says."""
    found = {}
    for name, kind in _NAMED.findall(keys.__doc__ or ""):
        parts = re.split(r"(\{\w+\})", name)
        found["".join(_NUMBER.get(part) or re.escape(part) for part in parts)] = kind
    return found


async def live_through_everything(store: Store) -> None:
    """Each thing that this build writes, once."""
    config = Config(store=StoreConfig(insecure_durability=True))
    await deployment.establish(store, config)
    await apps.Apps(store).create("an-app")
    await segments.Segments(store).save(1, "vips", All())
    edge = await Lease.take(store, StoreClock(), "edge", 60.0, {})
    await SessionsDesk(store, 1, edge.identity.start).up(registration())
    api = pushes.push_producer(store, Identity("api", 1, 2), Pace(quiet_s=0))
    await api.submit(0, part(1, 0))
    await pushes.accept(store, 3, record(7), claim(7))
    snapshots = Snapshots(store, 0, await ownership.take_fence(store, 0, 1, 1))
    for position in ("1-0", "2-0", "3-0"):
        await snapshots.write(position, [("a", position.encode())])
    await store.call("SET", keys.manifest(0), b"damaged")
    fence = await ownership.take_fence(store, 0, 1, 1)
    heir = Snapshots(store, 0, fence)
    await heir.load()
    await heir.write("4-0", [])
    await edge.end()
    await ownership.declare_edge_down(
        store, 0, fence=fence, edge=1, start=edge.identity.start, record=b""
    )
    await leases.folded(store, 1, edge.identity.start, 0, 2)
    await recalls.add(store, recalls.StoredRecall(7, 1, 2_000_000), 1_000_000)
    await quotas.take(store, 1, 20_000, 1, 10)


async def test_every_key_of_a_living_store_is_documented_with_its_type(store: Store) -> None:
    await live_through_everything(store)
    await SessionsDesk(store, 2, 99).up(registration(3, 3))
    known = documented()
    seen = set()
    for raw in await store.call("KEYS", "*"):
        name = raw.decode()
        matching = [pattern for pattern in known if re.fullmatch(pattern, name)]
        assert matching, f"{name} is not documented"
        kind = (await store.call("TYPE", name)).decode()
        assert kind == known[matching[0]], name
        seen.add(matching[0])
    assert seen == set(known), "documented, but this build never writes it"


async def test_the_keys_of_a_partition_stand_in_one_slot(store: Store) -> None:
    await live_through_everything(store)
    for raw in await store.call("KEYS", "*"):
        assert re.match(r"\{(\d+|leases|apps|deployment)\}", raw.decode()), "braces come first"


SCRIPTS = sorted(
    path.stem
    for path in Path(scripts.__file__).parent.glob("*.lua")
    if not path.stem.startswith("lib_")
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_names_the_keys_it_touches_and_touches_no_others(name: str) -> None:
    text = script(name).source.decode()
    head = "".join(line for line in text.splitlines(True) if line.startswith("--"))
    named = {int(n) for n in re.findall(r"(?<!\S)(\d)\s+\{", head.partition("ARGV")[0])}
    used = {int(n) for n in re.findall(r"KEYS\[(\d)\]", text)}
    assert used and used <= named
    # A key that is made up inside a script may live in another slot.
    assert not re.search(r"redis\.call\('\w+', *['\"{]", text)


def test_u64_values_stay_strings_in_lua() -> None:
    """Push ids have 64 bits, Lua's numbers 53."""
    for name, parameter in (
        ("push", r"ARGV\[at\]"),
        ("accept", r"ARGV\[1\]"),
        ("fanout_done", r"ARGV\[1\]"),
    ):
        assert not re.search(rf"tonumber\({parameter}\)", script(name).source.decode())
