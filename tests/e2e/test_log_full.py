"""Nobody shortens the logs: pushes are refused before the store grows without end, and nothing is lost."""

from http import HTTPStatus
from pathlib import Path

from tests.e2e.http import Answer
from tests.e2e.listeners import listening
from tests.e2e.service import PARTITIONS, serving
from tests.e2e.tenants import Tenant, new_tenant
from tests.waiting import until

HURTS = True
LIMIT = 40


async def try_push(tenant: Tenant, device: int, title: str) -> Answer:
    body = {"audience": {"devices": [str(device)]}, "notification": {"title": title}}
    return await tenant.call("POST", "/pushes", body)


async def test_pushes_are_refused_while_no_node_works(data_dir: Path, tmp_path: Path) -> None:
    settings = {"store.log_records": LIMIT, "dispatch.snapshot_records": 8}
    with serving(data_dir, settings) as service:
        tenant = await new_tenant(service)
        async with listening(tenant, service.devices, tmp_path / "d") as listener:
            accepted = []
            with service.frozen(service.pid_of("dispatch")):
                for number in range(PARTITIONS * LIMIT):
                    answer = await try_push(tenant, listener.id, f"n {number}")
                    if answer.status != HTTPStatus.ACCEPTED:
                        break
                    accepted.append(f"n {number}")
                assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
                assert answer.body["error"]["errno"] == 50307 and "retry-after" in answer.headers
                # From the device's own partition, with what its registration left there.
                assert LIMIT - 10 < len(accepted) <= LIMIT

            async def taken_again() -> bool:
                return (await try_push(tenant, listener.id, "last")).status == HTTPStatus.ACCEPTED

            await until(taken_again, "a snapshot has made room")
            await until(lambda: "last" in listener.titles, "the last one is there")
            wanted = [*accepted, "last"]
            await until(lambda: len(listener.titles) >= len(wanted), "all of them")
            assert listener.titles == wanted
