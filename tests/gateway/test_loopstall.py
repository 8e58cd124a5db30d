"""How long a loop has not had its turn."""

import asyncio
import time

from gateway.loopstall import WINDOW_S, LoopStall


async def test_what_blocks_the_loop_is_seen() -> None:
    stall = LoopStall()
    watching = asyncio.create_task(stall.watch())
    await asyncio.sleep(0.03)
    time.sleep(0.2)
    await asyncio.sleep(0.03)
    watching.cancel()
    assert stall.largest_s > 0.15


def test_the_largest_of_the_last_minute_and_nothing_older() -> None:
    stall = LoopStall()
    stall.note(1000.0, 0.3)
    stall.note(1001.0, 0.1)
    assert stall.largest_s == 0.3
    stall.note(1000.0 + WINDOW_S / 2, 0.2)
    stall.note(1000.0 + WINDOW_S * 0.95, 0.0)
    assert stall.largest_s == 0.3
    stall.note(1000.0 + WINDOW_S * 1.3, 0.0)
    assert stall.largest_s == 0.2
    stall.note(1000.0 + WINDOW_S * 9, 0.05)
    assert stall.largest_s == 0.05
