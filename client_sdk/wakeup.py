"""Something changed: everybody who waits looks again."""

import asyncio


class Wakeup:
    """`while not condition: await wakeup.wait()`; whoever changes the condition calls `notify`.

    Nothing is missed: between the look at the condition and `wait` nothing else runs.
    """

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)
