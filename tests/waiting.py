"""Waiting for what comes by itself: looked at again and again, up to a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

PATIENCE_S: Final = 20.0
"""For what takes a second or two at most where nothing else runs: machines that run tests are busy ones."""
_LOOK_S: Final = 0.002
_ASK_S: Final = 0.02
"""Between looks that ask somebody."""


async def until(look: Callable[[], Any], what: str = "", wait_s: float = PATIENCE_S) -> Any:
    """What `look` gives as soon as that is true; it may be a coroutine function."""
    deadline_s = time.monotonic() + wait_s
    while True:
        found = look()
        asked = isinstance(found, Awaitable)
        if asked:
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline_s, _late(what, wait_s, found)
        await asyncio.sleep(_ASK_S if asked else _LOOK_S)


def eventually(look: Callable[[], Any], what: str = "", wait_s: float = PATIENCE_S) -> Any:
    """As `until`, from a thread without a loop."""
    deadline_s = time.monotonic() + wait_s
    while not (found := look()):
        assert time.monotonic() < deadline_s, _late(what, wait_s, found)
        time.sleep(_LOOK_S)
    return found


def _late(what: str, wait_s: float, found: Any) -> str:
    return f"not within {wait_s:g} s: {what or 'what was waited for'}; last: {found!r}"
