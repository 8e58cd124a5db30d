"""Edges that are killed or stand still while devices hang on them."""

import json
import signal
from pathlib import Path

from tests.e2e.listeners import listening, several
from tests.e2e.processes import send
from tests.e2e.raw_device import RawDevice
from tests.e2e.service import Edge, Service
from tests.e2e.tenants import Tenant
from tests.waiting import until

HURTS = True


async def test_an_edge_is_killed(service: Service, tenant: Tenant, tmp_path: Path) -> None:
    """Its devices come back elsewhere and get what was pushed to them, once. The edge is started
    again as another one; nothing of the dead one stays behind in the store."""
    victim, other = _two(await service.edges())
    service.log.expect("edge ended")
    async with (
        several(tenant, [victim.own, service.devices], tmp_path / "hit", 4) as hit,
        listening(tenant, other.own, tmp_path / "safe") as safe,
        RawDevice(victim.own, tenant.app, tenant.access_key) as lost,
    ):
        await lost.join()
        everyone = [*hit, safe]
        before = await tenant.push(everybody=True)
        for listener in everyone:
            await listener.gets(before)
        assert {(await tenant.device(listener.id))["edge"] for listener in hit} == {victim.number}

        # Standing still, it takes delivers and passes none on; then it is dead.
        with service.frozen(victim.pid):
            under_way = [await tenant.push(listener.id) for listener in hit]
            to_all = await tenant.push(everybody=True)
            await safe.gets(before, to_all)
            send(victim.pid, signal.SIGKILL)
        for listener, push in zip(hit, under_way, strict=True):
            await listener.gets(before, push, to_all)
            assert listener.device.stats.connects == 2
        await tenant.reaches(to_all, targeted=6, received=5, displayed=5, pending=1)
        assert safe.device.stats.connects == 1

        async def filled_again() -> Edge | None:
            live = (await service.edges()).values()
            fresh = [edge for edge in live if edge.pid not in (victim.pid, other.pid)]
            return fresh[0] if fresh else None

        fresh = await until(filled_again, "another edge runs in its place")
        assert fresh.start > victim.start
        # One of them never comes back: somebody else has to remove its session.
        await tenant.seen(lost.device_id, online=False)
        await _nothing_left_of(service, victim)
        for listener in everyone:
            assert (await tenant.device(listener.id))["edge"] in (other.number, fresh.number)
        async with listening(tenant, fresh.own, tmp_path / "new") as new:
            push = await tenant.push(new.id)
            await new.gets(push)
    assert service.log.events("edge ended", how="signal SIGKILL")


async def test_an_edge_stands_still_for_longer_than_its_lease(
    service: Service, tenant: Tenant, tmp_path: Path
) -> None:
    """It is declared dead meanwhile. When it goes on, it takes another number and registers its
    devices again; they never notice, and get what was pushed meanwhile, once."""
    victim, _ = _two(await service.edges())
    async with several(tenant, victim.own, tmp_path, 3) as listeners:
        before = await tenant.push(everybody=True)
        for listener in listeners:
            await listener.gets(before)
        with service.frozen(victim.pid):
            early = await tenant.push(everybody=True)

            async def declared_dead() -> bool:
                return victim.start not in {e.start for e in (await service.edges()).values()}

            await until(declared_dead, "the edge counts as dead")
            for listener in listeners:
                await tenant.seen(listener.id, online=False)
            late = [await tenant.push(listener.id) for listener in listeners]
        for listener, push in zip(listeners, late, strict=True):
            await listener.gets(before, early, push)
            assert listener.device.stats.connects == 1
            assert listener.device.connected

        async def under_another_number() -> Edge | None:
            found = [e for e in (await service.edges()).values() if e.pid == victim.pid]
            return found[0] if found else None

        again = await until(under_another_number, "it has a lease again")
        assert again.start > victim.start
        for listener in listeners:
            state = await tenant.seen(listener.id, online=True)
            assert state["edge"] == again.number
        await _nothing_left_of(service, victim)
        await tenant.reaches(early, targeted=3, received=3, displayed=3)
    assert service.log.events("lease lost, going on under a new number")


def _two(edges: dict[int, Edge]) -> tuple[Edge, Edge]:
    assert len(edges) == 2, edges
    one, two = edges.values()
    return one, two


async def _nothing_left_of(service: Service, edge: Edge) -> None:
    """Every partition has folded its end: its number is free and its sessions are gone."""

    left: dict[str, object] = {}

    async def clean() -> bool:
        async with service.store() as store:
            left["lease"] = lease = await store.hget("{leases}:info", f"edge:{edge.number}")
        free = lease is None or json.loads(lease)["start"] != edge.start
        sessions = await service.session_entries()
        left["sessions"] = {k for k, v in sessions.items() if v == (edge.number, edge.start)}
        return free and not left["sessions"]

    try:
        await until(clean, "all is gone")
    except AssertionError as error:
        raise AssertionError(f"edge {edge.number}, start {edge.start} has left {left}") from error
