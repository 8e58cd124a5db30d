"""A real process with a Device in it, killed at any moment, many times: each message once, and none
that was recalled."""

import asyncio
import random
import signal
import sys
from pathlib import Path

from client_sdk import Device
from protocol.codes import Kind
from protocol.schema import device_pb2
from tests.client_sdk.edge import Edge, Peer, running_edge
from tests.waiting import PATIENCE_S

VICTIM = """
import asyncio, sys
from client_sdk import Device, Options

async def main():
    address, state_dir = sys.argv[1:]
    options = Options(rng=lambda: 0.0, gather_s=0.0)
    async with Device(address, app="demo", access_key="k", state_dir=state_dir, options=options) as device:
        async for message in device.messages():
            print(message.push_id, flush=True)
            await asyncio.sleep(0.002)  # so that some are stored and not begun when it is killed

asyncio.run(main())
"""
MESSAGES = 300
KILLS = 6
KEYS = 40
"""The last of the messages share keys, two and two; the newer of a pair comes first."""


def key_of(push_id: int) -> str:
    return "" if push_id < MESSAGES - KEYS else f"key {push_id // 2}"


class Service:
    """What it has sent, heard and taken back, over all lives of the process."""

    def __init__(self) -> None:
        self.order = [n ^ (n >= MESSAGES - KEYS) for n in range(MESSAGES)]
        self.receipted: set[int] = set()
        self.sent: set[int] = set()
        self.recalled: set[int] = set()
        """Told by a WELCOME after which the device has stored new messages."""
        self.told: set[int] = set()
        """Told by any WELCOME: a device killed right after it may or may not have dropped them."""
        self.fresh = asyncio.Event()
        """The device has stored what was first sent after this life's WELCOME."""

    async def serve(self, peer: Peer) -> None:
        """Sends what is not receipted, acknowledges receipts, until the end."""
        todo = [push_id for push_id in self.order if push_id not in self.receipted]
        sent_before = set(self.sent)
        try:
            while True:
                batch, todo = todo[:8], todo[8:]
                self.sent |= set(batch)
                for push_id in batch:
                    peer.messages(push_id, key=key_of(push_id))
                waiting = set(batch) - self.receipted
                while waiting or not todo:
                    body = device_pb2.Receipts.FromString(await peer.expect(Kind.RECEIPTS))
                    heard = {receipt.push_id for receipt in body.receipts}
                    self.receipted |= heard
                    waiting -= heard
                    peer.ack(body.seq)
                    if heard - sent_before:
                        self.fresh.set()
        except (EOFError, ConnectionError):
            pass


async def test_none_twice_none_lost_none_recalled(tmp_path: Path) -> None:
    rng = random.Random(1)
    service = Service()
    begun: list[int] = []
    async with running_edge() as edge:
        for life in range(KILLS):
            stored = sorted(service.receipted - set(begun) - service.recalled)
            recalls = rng.sample(stored, min(4, len(stored)))
            more = rng.randrange(1, 30) if life < KILLS - 1 else MESSAGES
            printed = await one_life(edge, tmp_path / "state", service, recalls, more)
            assert not set(printed) & (service.recalled | set(recalls)), "handed out after recall"
            begun += printed
            service.told |= set(recalls)
            if service.fresh.is_set():
                service.recalled |= set(recalls)
        left, unfinished = await last_life(edge, tmp_path / "state")
    begun += left
    assert len(begun) == len(set(begun)), "handed out twice"
    assert not set(left) & service.recalled
    older = set(range(MESSAGES - KEYS, MESSAGES, 2))
    assert not older & set(begun), "handed out though a newer one was there"
    assert service.receipted == set(range(MESSAGES))
    assert len(service.recalled) >= KILLS
    seen = set(begun) | unfinished
    assert seen <= service.receipted
    assert service.receipted - seen <= service.told | older
    # Killed between the mark and the line it would have written: one a kill at most.
    assert len(unfinished - set(begun)) <= KILLS


async def one_life(
    edge: Edge, state_dir: Path, service: Service, recalls: list[int], more: int
) -> list[int]:
    """Killed so many receipts into this life, wherever the process then is. What it was handed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        VICTIM,
        edge.address,
        str(state_dir),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout
    reading = asyncio.create_task(process.stdout.read())
    service.fresh.clear()
    serving = asyncio.create_task(service.serve(await edge.welcomed(recalled=recalls)))
    enough = min(len(service.receipted) + more, MESSAGES)
    async with asyncio.timeout(PATIENCE_S):
        while len(service.receipted) < enough:
            await asyncio.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await serving
    return [int(line) for line in (await reading).split()]


async def last_life(edge: Edge, state_dir: Path) -> tuple[list[int], set[int]]:
    """What it is handed, all of it stored by earlier ones; and what those had begun."""
    async with Device(edge.address, app="demo", access_key="k", state_dir=state_dir) as device:
        await edge.welcomed()
        unfinished = {message.push_id for message in device.unfinished()}
        messages = device.messages()
        waiting = len(device._inbox.journal.waiting)
        return [(await anext(messages)).push_id for _ in range(waiting)], unfinished
