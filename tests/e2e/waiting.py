"""Waiting for what happens in other processes: looked at again and again, up to a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

PATIENCE_S: Final = 15.0
"""For anything that takes the service a second or two: machines that run tests are busy ones."""
_LOOK_S: Final = 0.02


async def until(look: Callable[[], Any], what: str, wait_s: float = PATIENCE_S) -> Any:
    """What `look` gives as soon as that is true; it may be a coroutine function."""
    deadline_s = time.monotonic() + wait_s
    while True:
        found = look()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline_s, f"not within {wait_s:g} s: {what}; last: {found!r}"
        await asyncio.sleep(_LOOK_S)
