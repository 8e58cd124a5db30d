"""Changes of the profile, in the order of the calls: many of them in one write and one number."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from client_sdk.errors import DeviceClosed, StorageError
from client_sdk.state import Profile

Edit = Callable[[Profile], Profile]
"""The profile as it shall be; the very one it was given where nothing changes. May raise."""


class ProfileWriter:
    """Between those who change the profile and the state file.

    Calls that come while a write is under way share the next. A number belongs to one whole set for
    ever: nothing may send it before it is on disk, for after a crash it would be used again for
    something else, which the service would ignore.
    """

    def __init__(
        self, current: Callable[[], Profile], store: Callable[[Profile], Awaitable[bool]]
    ) -> None:
        """`current` raises DeviceClosed before there is a profile. `store` makes a profile the current one as soon as it is on disk; True if it is."""
        self.current = current
        self._store = store
        self._calls: list[tuple[Edit, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def change(self, edit: Edit) -> None:
        """On disk when this returns. Raises what `edit` raises, ValueError for a profile that the
        service would refuse, StorageError, DeviceClosed. Cancelling does not take it back."""
        if self._closed:
            raise DeviceClosed("the Device is closed")
        self.current()  # raises while there is none
        future = asyncio.get_running_loop().create_future()
        self._calls.append((edit, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await future

    async def close(self) -> None:
        """All calls are answered, later ones refused."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while self._calls:
            calls, self._calls = self._calls, []
            waiting, latest = self._edit(calls)
            error: Exception | None = None
            try:
                if latest is not self.current() and not await self._store(latest):
                    error = StorageError("the profile could not be stored")
            except Exception as defect:  # whoever waits here must not wait for ever
                error = defect
            for future in waiting:
                _answer(future, error)
        self._task = None

    def _edit(
        self, calls: list[tuple[Edit, asyncio.Future[None]]]
    ) -> tuple[list[asyncio.Future[None]], Profile]:
        """Who waits for the disk now, and for what. An edit that fails is answered at once, and the
        others go on as if it had not been."""
        stored = latest = self.current()
        waiting = []
        for edit, future in calls:
            try:
                edited = edit(latest)
                if edited is not latest:
                    edited = replace(edited, change=stored.change + 1, acknowledged=False)
                    edited.check()
            except Exception as error:  # the caller's, whatever it is
                _answer(future, error)
                continue
            latest = edited
            waiting.append(future)
        return waiting, latest


def _answer(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
