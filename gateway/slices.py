"""Long work on an event loop, cut into slices: others have their turn in between."""

import asyncio
import time
from collections.abc import Iterable
from typing import Final

SLICE_S: Final = 0.002
"""As long as a slice of folding: long against what a turn of the loop costs, short against a deliver."""


class Slices:
    """One piece of work; `turn` is called between two of its steps."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end = time.perf_counter() + SLICE_S

    async def turn(self) -> None:
        """Let others run if the slice is over."""
        if time.perf_counter() >= self._end:
            await asyncio.sleep(0)
            self._end = time.perf_counter() + SLICE_S


async def in_slices(steps: Iterable[object]) -> None:
    """Carry out the steps of a generator. Raises what they raise."""
    slices = Slices()
    for _ in steps:
        await slices.turn()
