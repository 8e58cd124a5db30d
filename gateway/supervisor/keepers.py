"""What the supervisor keeps running: a role in a process, and the zygote with its edges.

Each keeper starts its process, waits for its ready line, starts it again with backoff when it dies,
and tells who has died by the ready line of the dead (`on_gone`), so that its lease can be released.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from gateway import logs
from gateway.backoff import Backoff
from gateway.children import Child, describe_end, wait_gone
from gateway.config import Config
from gateway.edge.zygote import KILL_AFTER_S
from gateway.handover import USER_ERROR, first_line
from gateway.secretfiles import Secrets, scrubbed

READY_S: Final = 60.0
"""From the start of a process to its ready line, before the start of the service is given up."""
STOP_WAIT_S: Final = 10.0
"""For a role to end after SIGTERM; the zygote gets its edges' drain time on top."""

OnChange = Callable[[], None]
OnGone = Callable[[Mapping[str, object]], Awaitable[None]]


class StartFailed(Exception):
    """A process ended, or said nothing, before it was ready. `code`: our exit code for it.

    Without a text if that process has told the user itself.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class _Releases:
    """Tasks that tell of the dead: kept until they are done, given up at the end."""

    def __init__(self, on_gone: OnGone) -> None:
        self._on_gone = on_gone
        self._tasks: set[asyncio.Task[None]] = set()

    def of(self, said: Mapping[str, object], pidfd: int = -1) -> None:
        task = asyncio.create_task(self._one(said, pidfd))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(self, said: Mapping[str, object], pidfd: int) -> None:
        if pidfd >= 0:
            await wait_gone(pidfd)
        await self._on_gone(said)

    async def finish(self, wait_s: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=wait_s)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class RoleKeeper:
    """One role (dispatch, api) in one process."""

    def __init__(
        self,
        role: str,
        config: Config,
        secrets: Secrets,
        *,
        run: str,
        lock_fd: int,
        on_change: OnChange,
        on_gone: OnGone,
    ) -> None:
        self.role = role
        self._command = [sys.executable, "-m", "gateway.supervisor.roles", role]
        if run:
            self._command += ["--run", run]
        self._first_line = first_line(config, secrets)
        self._lock_fd = lock_fd
        self._on_change = on_change
        self._releases = _Releases(on_gone)
        self._backoff = Backoff()
        self._child: Child | None = None
        self._said: dict[str, Any] = {}
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = logs.get(process=role)

    @property
    def pids(self) -> list[int]:
        living = self._child is not None and not self._child.ended.done()
        return [self._child.pid] if living and self._child is not None else []

    @property
    def said(self) -> Mapping[str, object]:
        """The ready line of the running process; empty until it is there."""
        return self._said

    async def start(self) -> None:
        """Returns when it is ready. Raises StartFailed."""
        child = self._launch()
        await child.wait_unless(self._ready, READY_S)
        _check_started(self.role, self._ready.is_set(), child)
        self._task = asyncio.create_task(self._keep(), name=f"keep-{self.role}")

    async def stop(self, hurry: asyncio.Event) -> None:
        """SIGTERM, bounded wait, SIGKILL. Nothing to do if it never started."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._child is not None and not self._child.ended.done():
            if not await self._child.stop(wait_s=STOP_WAIT_S, hurry=hurry):
                self._log.warning("killed: it had not ended in time")
                self._releases.of(self._said)
            self._on_change()
        await self._releases.finish(1.0)

    def _launch(self) -> Child:
        self._said = {}
        self._ready.clear()
        self._child = Child.start(
            self.role,
            self._command,
            first_line=self._first_line,
            on_line=self._on_line,
            # It shares the lock: no other run may begin before this process has ended.
            pass_fds=(self._lock_fd,),
            environ=scrubbed(os.environ),
        )
        self._backoff.started(time.monotonic())
        self._on_change()
        return self._child

    def _on_line(self, line: bytes) -> None:
        self._said = json.loads(line)
        self._ready.set()
        self._log.info("ready", pid=self.pids, number=self._said.get("number"))

    async def _keep(self) -> None:
        while True:
            assert self._child is not None
            code = await self._child.wait()
            self._on_change()
            self._releases.of(self._said)
            delay_s = self._backoff.died(time.monotonic())
            self._log.error("ended, starting again", how=describe_end(code), delay_s=delay_s)
            await asyncio.sleep(delay_s)
            try:
                self._launch()
            except OSError as error:
                # No memory or no processes for now; its old exit code still stands, so: next turn.
                self._log.error("cannot be started", error=str(error))


class EdgeKeeper:
    """The zygote, and through it the edges. The zygote restarts edges, this restarts the zygote."""

    def __init__(
        self,
        config: Config,
        secrets: Secrets,
        *,
        count: int,
        run: str,
        lock_fd: int,
        on_change: OnChange,
        on_gone: OnGone,
    ) -> None:
        self._command = [sys.executable, "-m", "gateway.edge.zygote"]
        if run:
            self._command += ["--edge", run]
        self._first_line = first_line(config, secrets)
        self._count = count
        self._drain_s = config.edge.drain_s
        self._lock_fd = lock_fd
        self._on_change = on_change
        self._releases = _Releases(on_gone)
        self._backoff = Backoff()
        self._child: Child | None = None
        self._pids: dict[int, int] = {}
        self._pidfds: dict[int, int] = {}
        self._said: dict[int, dict[str, Any]] = {}
        self._failed: int | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = logs.get(process="zygote")

    @property
    def zygote_pid(self) -> int | None:
        living = self._child is not None and not self._child.ended.done()
        return self._child.pid if living and self._child is not None else None

    @property
    def pids(self) -> list[int]:
        """Of the edges that run, by slot."""
        return [pid for _, pid in sorted(self._pids.items())]

    @property
    def said(self) -> Mapping[int, Mapping[str, object]]:
        """Slot -> ready line."""
        return self._said

    async def start(self) -> None:
        """Returns when every edge is ready. Raises StartFailed."""
        child = self._launch()
        child.ended.add_done_callback(lambda _: self._news.set())
        try:
            async with asyncio.timeout(READY_S):
                while len(self._said) < self._count:
                    if self._failed is not None or child.ended.done():
                        break
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass  # said below
        if self._failed is not None:
            raise _ended("edge", self._failed)
        _check_started("edge", len(self._said) == self._count, child)
        self._task = asyncio.create_task(self._keep(), name="keep-zygote")

    async def stop(self, hurry: asyncio.Event) -> None:
        """The edges drain, then the zygote ends; killed when that takes too long."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        child = self._child
        if child is not None and not child.ended.done():
            child.send(b'{"stop": true}')
            limit_s = self._drain_s + KILL_AFTER_S + STOP_WAIT_S
            if not await child.wait_unless(hurry, limit_s):
                child.send(b'{"stop": "now"}')
                if not await child.wait_at_most(KILL_AFTER_S):
                    await child.stop(wait_s=0)
                    self._log.warning("killed: it had not ended in time")
        self._forget_all()
        self._on_change()
        await self._releases.finish(1.0)

    def _launch(self) -> Child:
        self._child = Child.start(
            "zygote",
            self._command,
            first_line=self._first_line,
            on_line=self._on_line,
            # It shares the lock: no other run may begin before this process has ended.
            pass_fds=(self._lock_fd,),
            environ=scrubbed(os.environ),
        )
        for slot in range(self._count):
            self._child.send(b'{"fork": %d}' % slot)
        self._backoff.started(time.monotonic())
        return self._child

    def _on_line(self, line: bytes) -> None:
        event = json.loads(line)
        if "forked" in event:
            slot = event["forked"]
            self._pids[slot] = event["pid"]
            try:
                # Tells the end of an edge even when the zygote, its parent, dies first.
                self._pidfds[slot] = os.pidfd_open(event["pid"])
            except ProcessLookupError:
                pass  # ended already; the zygote's word of it is on its way
        elif "ready" in event:
            self._said[event["ready"]] = event
            self._log.info("edge ready", slot=event["ready"], pid=event["pid"])
        elif "exited" in event:
            self._on_exit(event["exited"], event["status"])
        self._news.set()
        self._on_change()

    def _on_exit(self, slot: int, code: int) -> None:
        self._pids.pop(slot, None)
        if (pidfd := self._pidfds.pop(slot, None)) is not None:
            os.close(pidfd)
        said = self._said.pop(slot, None)
        if said is not None:
            self._releases.of(said)
        if self._task is None:
            self._failed = code
        tell = self._log.info if code == 0 else self._log.error
        tell("edge ended", slot=slot, how=describe_end(code))

    def _forget_all(self) -> None:
        """The zygote is gone; its edges end of their own. Who they were is told when they have."""
        for slot, pidfd in self._pidfds.items():
            self._releases.of(self._said.get(slot, {}), pidfd)
        self._pidfds.clear()
        self._pids.clear()
        self._said.clear()

    async def _keep(self) -> None:
        while True:
            assert self._child is not None
            code = await self._child.wait()
            self._forget_all()
            self._on_change()
            delay_s = self._backoff.died(time.monotonic())
            self._log.error("ended, starting again", how=describe_end(code), delay_s=delay_s)
            await asyncio.sleep(delay_s)
            try:
                self._launch()
            except OSError as error:
                self._log.error("cannot be started", error=str(error))


def _check_started(name: str, ready: bool, child: Child) -> None:
    if child.ended.done():
        raise _ended(name, child.ended.result())
    if not ready:
        raise StartFailed(f"{name} was not ready within {READY_S:g} s", 1)


def _ended(name: str, code: int) -> StartFailed:
    if code == USER_ERROR:
        return StartFailed("", code)  # it has said what the user must change, in one line
    return StartFailed(f"{name} ended with {describe_end(code)} before it was ready", 1)
