"""Writes the journal in the order of the calls, off the event loop, many calls in one sync."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from client_sdk.entries import Entry
from client_sdk.errors import StorageError
from client_sdk.journal import Journal
from client_sdk.journal_file import JournalFile

_log = logging.getLogger("columba.sdk")


class JournalWriter:
    """Between the journal's state and its file.

    A sync takes from 0.1 ms to 50 ms, too long for an app's event loop, so it happens in a thread;
    one write is under way at a time, and calls that come meanwhile share the next. Entries are
    applied to the journal, and calls answered, only when they are on disk.
    """

    def __init__(
        self, journal: Journal, file: JournalFile, on_applied: Callable[[list[Entry]], None]
    ) -> None:
        """`on_applied` is told all entries that have just come to count (those of `later` not)."""
        self._on_applied = on_applied
        self._journal = journal
        self._file = file
        self._calls: list[tuple[list[Entry], asyncio.Future[None]]] = []
        self._later: list[Entry] = []
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def write(self, batch: Iterable[Entry]) -> asyncio.Future[None]:
        """Done when `batch` is on disk and applied. Fails with StorageError; then nothing of it
        counts. Cancelling the future does not take the entries back."""
        future = asyncio.get_running_loop().create_future()
        self._calls.append((list(batch), future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return future

    def later(self, batch: Iterable[Entry]) -> None:
        """Applied now, on disk with the next write. For entries whose loss is repaired by itself:
        a receipt whose acknowledgement is forgotten is sent and acknowledged again, and an event of
        which it is forgotten that the app has taken it is told again."""
        fresh = list(batch)
        self._journal.apply(fresh)
        self._later += fresh

    async def close(self) -> None:
        """Everything is written; the file is closed."""
        while self._task is not None:
            await self._task
        if self._later:
            try:
                await self.write([])
            except StorageError:
                pass  # said in the log; loses nothing, see `later`
        self._file.close()

    async def _run(self) -> None:
        while self._calls:
            calls, self._calls = self._calls, []
            later, self._later = self._later, []
            fresh = [entry for entries, _ in calls for entry in entries]
            error: Exception | None
            try:
                error = await self._append(later + fresh)
            except Exception as defect:  # not the disk's: whoever waits here must not wait for ever
                error = defect
            if error is None:
                self._journal.apply(fresh)
                self._on_applied(fresh)
            for _, future in calls:
                if future.done():  # its caller was cancelled
                    continue
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)
                    if isinstance(error, StorageError):
                        future.exception()  # was said in the log, and nobody may wait any more
        self._task = None

    async def _append(self, batch: list[Entry]) -> StorageError | None:
        if not batch:  # somebody waits for the calls before
            return None
        try:
            await asyncio.to_thread(self._file.append, batch)
        except OSError as error:
            if not self._failing:
                _log.error("the journal cannot be written, messages are not taken: %s", error)
            self._failing = True
            return StorageError(f"the journal cannot be written: {error}")
        if self._failing:
            _log.warning("the journal can be written again")
        self._failing = False
        if self._file.wants_compaction:
            await self._compact(batch)
        return None

    async def _compact(self, batch: list[Entry]) -> None:
        # `batch` is in the file but not applied yet, so it follows the snapshot.
        try:
            await asyncio.to_thread(self._file.replace, self._journal.snapshot() + batch)
        except OSError as error:
            _log.warning("the journal cannot be compacted, it goes on growing: %s", error)
