"""A real process with a Device in it, killed at any moment, many times: each message once."""

import asyncio
import random
import signal
import sys
from pathlib import Path

from client_sdk import Device
from protocol.codes import Kind
from protocol.schema import device_pb2
from tests.client_sdk.edge import PATIENCE_S, Peer, running_edge

VICTIM = """
import asyncio, sys
from client_sdk import Device, Options

async def main():
    address, state_dir = sys.argv[1:]
    options = Options(rng=lambda: 0.0, gather_s=0.0)
    async with Device(address, app="demo", access_key="k", state_dir=state_dir, options=options) as device:
        async for message in device.messages():
            print(message.push_id, flush=True)

asyncio.run(main())
"""
MESSAGES = 300
KILLS = 6


async def test_no_id_twice_and_none_lost(tmp_path: Path) -> None:
    rng = random.Random(1)
    receipted: set[int] = set()
    begun: list[int] = []
    async with running_edge() as edge:
        for life in range(KILLS):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                VICTIM,
                edge.address,
                str(tmp_path / "state"),
                stdout=asyncio.subprocess.PIPE,
                cwd=Path(__file__).parents[2],
            )
            assert process.stdout
            reading = asyncio.create_task(process.stdout.read())
            serving = asyncio.create_task(serve(await edge.welcomed(), receipted))
            # So many receipts into this life, wherever the process then is.
            more = rng.randrange(1, 30) if life < KILLS - 1 else MESSAGES
            await until(receipted, len(receipted) + more)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            await serving
            begun += map(int, (await reading).split())
        left, unfinished = await last_life(edge.address, tmp_path / "state")
    begun += left
    assert len(begun) == len(set(begun)), "handed out twice"
    assert receipted == set(range(MESSAGES)) == set(begun) | unfinished
    # Killed between the mark and the line it would have written: one a kill at most.
    assert len(unfinished - set(begun)) <= KILLS


async def last_life(address: str, state_dir: Path) -> tuple[list[int], set[int]]:
    """What it is handed, all of it stored by earlier ones; and what those had begun."""
    async with Device(address, app="demo", access_key="k", state_dir=state_dir) as device:
        unfinished = {message.push_id for message in device.unfinished()}
        messages = device.messages()
        waiting = len(device._inbox.journal.waiting)
        return [(await anext(messages)).push_id for _ in range(waiting)], unfinished


async def until(receipted: set[int], count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(receipted) < min(count, MESSAGES):
            await asyncio.sleep(0.001)


async def serve(peer: Peer, receipted: set[int]) -> None:
    """As a service does: sends what is not receipted, acknowledges receipts, until the end."""
    todo = [push_id for push_id in range(MESSAGES) if push_id not in receipted]
    try:
        while True:
            batch, todo = todo[:8], todo[8:]
            peer.messages(*batch)
            waiting = set(batch) - receipted
            while waiting or not todo:
                body = device_pb2.Receipts.FromString(await peer.expect(Kind.RECEIPTS))
                receipted |= {receipt.push_id for receipt in body.receipts}
                waiting -= receipted
                peer.ack(body.seq)
    except (EOFError, ConnectionError):
        pass
