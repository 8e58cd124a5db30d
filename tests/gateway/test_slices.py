"""Long work that lets others have their turn."""

import asyncio
from collections.abc import Iterator

import pytest

from gateway import slices


async def turns_beside(steps: Iterator[None]) -> int:
    """How often something else had its turn while the steps were carried out."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await slices.in_slices(steps)
    task.cancel()
    return turns


async def test_others_have_their_turn_between_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    assert await turns_beside(iter([None] * 50)) >= 50


async def test_a_slice_is_not_cut_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 60.0)
    assert await turns_beside(iter([None] * 50)) == 0


async def test_what_a_step_raises_is_raised() -> None:
    def failing() -> Iterator[None]:
        yield
        raise ValueError

    with pytest.raises(ValueError):
        await slices.in_slices(failing())
