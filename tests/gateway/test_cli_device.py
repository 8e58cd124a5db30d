"""`columba device` prints what its app is handed and told."""

import asyncio
from pathlib import Path

from gateway.cli import device
from tests.client_sdk.edge import running_edge
from tests.waiting import until


async def test_messages_and_events_are_shown(tmp_path: Path) -> None:
    shown: list[dict[str, object]] = []
    async with running_edge() as edge:
        settings = device.DeviceSettings(edge.address, "demo", "key")
        running = asyncio.create_task(device._run(settings, tmp_path / "state", shown.append))
        peer = await edge.welcomed()
        peer.messages(1, 2)
        peer.messages(5, key="score")
        await until(lambda: len(shown) == 4)
        peer.recall(2)
        await until(lambda: len(shown) == 5)
        peer.messages(9, key="score")
        await until(lambda: len(shown) == 7)
        running.cancel()
        await asyncio.wait({running})
    assert [event["event"] for event in shown[:4]] == ["registered"] + 3 * ["message"]
    assert shown[4] == {"event": "recalled", "push_id": "2", "handed_out": True}
    assert {"event": "replaced", "push_id": "5", "by": "9"} in shown[5:]
