"""Child processes on the loop: started, heard, waited for, stopped.

Not the loop's own subprocesses: those of uvloop fork inside libuv and know no PDEATHSIG, and the
loops differ in who reaps. A `Popen` and a pidfd behave alike on every loop.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from gateway import lifeline

_LINE_MAX = 1024 * 1024


class Child:
    """A running child. `ended` is its exit code, negative for a signal."""

    def __init__(
        self, name: str, popen: subprocess.Popen[bytes], on_line: Callable[[bytes], None] | None
    ) -> None:
        self.name = name
        self.pid = popen.pid
        self._popen = popen
        self._on_line = on_line
        self._partial = b""
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(popen.pid)
        self._loop.add_reader(self._pidfd, self._on_end)
        if popen.stdout is not None:
            os.set_blocking(popen.stdout.fileno(), False)
            self._loop.add_reader(popen.stdout.fileno(), self._on_output)

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        first_line: bytes | None = None,
        on_line: Callable[[bytes], None] | None = None,
        pass_fds: Sequence[int] = (),
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Start `command`, bound to end with this process, in a session of its own.

        `first_line` goes to its standard input, which stays open; without it, input is empty.
        `on_line` gets each line of its output, without the newline. Own session: Ctrl-C in a
        terminal must reach the supervisor alone, or the order of the shutdown is lost.
        """
        if threading.current_thread() is not threading.main_thread():
            # The child would be told of its parent's end when this thread ends.
            raise RuntimeError("children are started from the main thread")
        popen = subprocess.Popen(
            lifeline.tied(list(command)),
            stdin=subprocess.DEVNULL if first_line is None else subprocess.PIPE,
            stdout=subprocess.DEVNULL if on_line is None else subprocess.PIPE,
            bufsize=0,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            env=environ,
        )
        child = cls(name, popen, on_line)
        if first_line is not None:
            child.send(first_line)
        return child

    def send(self, line: bytes) -> None:
        """Write a line to its input. Dropped if it is dead: its end is reported elsewhere."""
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._popen.stdin.write(line + b"\n")

    def signal(self, signo: int) -> None:
        """Nothing happens if it has ended: Popen does not signal a pid it has reaped."""
        self._popen.send_signal(signo)

    async def wait(self) -> int:
        """Its exit code, negative for a signal. Cancelling the waiter leaves the child alone."""
        return await asyncio.shield(self.ended)

    async def wait_at_most(self, seconds: float) -> bool:
        """True if it has ended within so many seconds."""
        await asyncio.wait([self.ended], timeout=seconds)
        return self.ended.done()

    async def wait_unless(self, event: asyncio.Event, wait_s: float) -> bool:
        """True if it has ended; False if the event came first, or the time is up."""
        other = asyncio.ensure_future(event.wait())
        either: list[asyncio.Future[Any]] = [self.ended, other]
        try:
            await asyncio.wait(either, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            other.cancel()
        return self.ended.done()

    async def stop(self, *, wait_s: float, hurry: asyncio.Event | None = None) -> bool:
        """SIGTERM, and SIGKILL when it has not ended in time, or at once when `hurry` is set.

        True if the child ended by itself.
        """
        self.signal(signal.SIGTERM)
        await self.wait_unless(hurry or asyncio.Event(), wait_s)
        if self.ended.done():
            return True
        self.signal(signal.SIGKILL)
        await self.wait()
        return False

    def _on_output(self) -> None:
        assert self._popen.stdout is not None and self._on_line is not None
        handle = self._popen.stdout.fileno()
        try:
            data = os.read(handle, 65_536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(handle)
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _LINE_MAX:
            self._partial = b""
        for line in lines:
            self._on_line(line)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._popen.stdout is not None:
            # What it said last comes before the news of its end. One read takes a full pipe.
            self._on_output()
            self._loop.remove_reader(self._popen.stdout.fileno())
            self._popen.stdout.close()
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        self.ended.set_result(self._popen.wait())


def describe_end(code: int) -> str:
    """An exit code in words: "status 1", "signal SIGKILL"."""
    if code >= 0:
        return f"status {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


async def wait_gone(pidfd: int) -> None:
    """Wait until the process behind a pidfd has ended, child of ours or not. Closes the pidfd."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
