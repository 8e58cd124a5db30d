"""The zygote: one warmed parent that forks the edges and starts them again when they die.

`python -m gateway.edge.zygote [--edge module:function]`. It has no loop, no thread and no socket,
only its command pipe: a child forked from a running loop would share its epoll, and a listener it
inherited would outlive its owner. Loop, epoll, store client and listener are made in the child.

Lines of JSON on standard input, from the supervisor:
    {"config": {...}, "secrets": {...}}   first, once
    {"fork": slot}                        keep an edge running in this slot
    {"signal": [slot, signo]}             to that edge; if it ends of it, the slot is filled again
    {"stop": true}                        SIGTERM to the edges, wait for their drain, end
    {"stop": "now"}                       SIGKILL to the edges, end
Lines of JSON on standard output:
    {"forked": slot, "pid": pid}
    {"ready": slot, "pid": pid, ...}      what the edge wrote to its ready descriptor
    {"exited": slot, "pid": pid, "status": exit code, negative for a signal}

End of input means that the supervisor is gone, and does what "stop" does.
"""

import argparse
import gc
import json
import os
import pkgutil
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, NoReturn

from gateway import handover, lifeline, logs
from gateway.backoff import Backoff
from gateway.config import Config
from gateway.secretfiles import Secrets
from gateway.store.start_errors import users_error
from gateway.tokens import Sealer

RunEdge = Callable[[Config, Secrets, int, int], int]
"""run_edge(config, secrets, slot, ready_fd) -> exit code. In the child: it makes its own loop, writes
a line of JSON to ready_fd when it serves (another when what it said has changed), and returns after a
graceful stop on SIGTERM."""

EDGE: Final = "gateway.edge.process:run_edge"
KILL_AFTER_S: Final = 3.0
"""Beyond the drain time, before an edge that is told to stop is killed."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class _Slot:
    """A place for one edge. `pid` is 0 while none runs."""

    __slots__ = ("backoff", "partial", "pid", "ready_fd", "start_at_s")

    def __init__(self) -> None:
        self.pid = 0
        self.ready_fd = -1
        self.partial = b""
        self.backoff = Backoff()
        self.start_at_s = 0.0


class Zygote:
    """Single-threaded: everything happens in `run`, between two polls."""

    def __init__(self, run_edge: RunEdge, commands: int, events: int) -> None:
        self._run_edge = run_edge
        self._commands = commands
        self._events = events
        self._config = Config()
        self._secrets: Secrets | None = None
        self._slots: dict[int, _Slot] = {}
        self._partial = b""
        self._stopping = False
        self._kill_at_s = float("inf")
        self._frozen = False
        self._log = logs.get()
        self._poll = select.poll()
        # A pipe, not a socket pair: signals wake the poll through it.
        self._wake, self._wake_write = os.pipe()

    def run(self) -> int:
        """Until told to stop, or the end of input, and the last edge has ended."""
        for end in (self._wake, self._wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for signo in _SIGNALS:
            signal.signal(signo, lambda _signo, _frame: None)
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(self._commands, select.POLLIN)
        while not (self._stopping and not any(slot.pid for slot in self._slots.values())):
            for handle, _ in self._poll.poll(self._timeout_ms()):
                self._on_readable(handle)
            self._reap()
            self._act(time.monotonic())
        return 0

    def _timeout_ms(self) -> float | None:
        """Milliseconds to the next restart or kill; None if there is none."""
        due_s = self._kill_at_s
        if not self._stopping:
            waiting = [slot.start_at_s for slot in self._slots.values() if not slot.pid]
            due_s = min([due_s, *waiting])
        if due_s == float("inf"):
            return None
        return max(0.0, due_s - time.monotonic()) * 1000 + 1

    def _on_readable(self, handle: int) -> None:
        if handle == self._wake:
            if {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} & set(os.read(handle, 4096)):
                self._stop()
        elif handle == self._commands:
            self._on_commands(os.read(handle, 65_536))
        else:
            for number, slot in self._slots.items():
                if slot.ready_fd == handle:
                    self._on_ready_bytes(number, slot)

    def _on_commands(self, data: bytes) -> None:
        if not data:
            self._poll.unregister(self._commands)
            self._stop()
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, command: dict[str, Any]) -> None:
        if "config" in command:
            self._config, self._secrets = handover.received(command)
            logs.configure(self._config.service.log_level, role="zygote")
            # The first key sets OpenSSL up: 1.5 MiB that each edge would have of its own.
            Sealer(self._secrets.master_keys, self._secrets.current)
        elif "fork" in command:
            if not self._stopping:
                self._slots.setdefault(command["fork"], _Slot())
        elif "signal" in command:
            number, signo = command["signal"]
            slot = self._slots.get(number)
            if slot is not None and slot.pid:
                os.kill(slot.pid, signo)
        elif command.get("stop") == "now":
            self._stop()
            self._kill_at_s = time.monotonic()
        elif "stop" in command:
            self._stop()

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._kill_at_s = time.monotonic() + self._config.edge.drain_s + KILL_AFTER_S
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, signo: int) -> None:
        for slot in self._slots.values():
            if slot.pid:
                os.kill(slot.pid, signo)  # not reaped yet, so the pid is still its own

    def _act(self, now_s: float) -> None:
        """What is due: starts, or the kill after a drain that took too long."""
        if self._stopping:
            if now_s >= self._kill_at_s:
                self._kill_at_s = float("inf")
                living = [number for number, slot in self._slots.items() if slot.pid]
                if living:
                    self._log.warning("edges killed: they had not ended in time", slots=living)
                self._signal_all(signal.SIGKILL)
            return
        for number, slot in self._slots.items():
            if not slot.pid and slot.start_at_s <= now_s:
                self._fork(number, slot, now_s)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for number, slot in self._slots.items():
                if slot.pid == pid:
                    self._on_exit(number, slot, os.waitstatus_to_exitcode(status))

    def _on_exit(self, number: int, slot: _Slot, code: int) -> None:
        if slot.ready_fd >= 0:
            self._on_ready_bytes(number, slot)  # its ready line comes before the news of its end
        if slot.ready_fd >= 0:
            self._close_ready(slot)
        now_s = time.monotonic()
        pid, slot.pid = slot.pid, 0
        slot.start_at_s = now_s + slot.backoff.died(now_s)
        self._tell({"exited": number, "pid": pid, "status": code})

    def _on_ready_bytes(self, number: int, slot: _Slot) -> None:
        try:
            data = os.read(slot.ready_fd, 65_536)
        except BlockingIOError:
            return
        *lines, slot.partial = (slot.partial + data).split(b"\n")
        for line in lines:
            # More than one: an edge that had to take another number says so.
            self._tell({**json.loads(line), "ready": number, "pid": slot.pid})
        if not data:
            self._close_ready(slot)

    def _close_ready(self, slot: _Slot) -> None:
        self._poll.unregister(slot.ready_fd)
        os.close(slot.ready_fd)
        slot.ready_fd = -1

    def _tell(self, event: dict[str, Any]) -> None:
        try:
            os.write(self._events, json.dumps(event).encode() + b"\n")
        except BrokenPipeError:
            self._stop()  # nobody listens: the same as the end of input

    def _fork(self, number: int, slot: _Slot, now_s: float) -> None:
        if not self._frozen:
            # Once, before the first fork: a collection in a child would otherwise write to the
            # header of every object and so copy every page.
            self._frozen = True
            gc.collect()
            gc.freeze()
        ready, ready_write = os.pipe()
        parent = os.getpid()
        # A signal between fork and the reset of handlers would end in the zygote's handler, lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                os.close(ready)
                self._become_edge(number, ready_write, parent)
        except OSError as error:
            self._log.error("cannot fork", slot=number, error=error.strerror)
            os.close(ready)
            slot.start_at_s = now_s + slot.backoff.died(now_s)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(ready_write)
        os.set_blocking(ready, False)
        slot.pid, slot.ready_fd, slot.partial = pid, ready, b""
        slot.backoff.started(now_s)
        self._poll.register(ready, select.POLLIN)
        self._tell({"forked": number, "pid": pid})

    def _become_edge(self, number: int, ready_fd: int, parent: int) -> NoReturn:
        """In the child: leave nothing of the zygote but its memory, and never return into it."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for signo in _SIGNALS:
                signal.signal(signo, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            lifeline.end_with_parent(parent)
            siblings = [slot.ready_fd for slot in self._slots.values() if slot.ready_fd >= 0]
            for handle in (self._commands, self._events, self._wake, self._wake_write, *siblings):
                os.close(handle)
            assert self._secrets is not None
            logs.take_role(f"edge-{number}")
            code = self._run_edge(self._config, self._secrets, number, ready_fd)
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        except BaseException as error:  # the stack below is the zygote's: never unwind into it
            text = users_error(error)
            if text is None:
                traceback.print_exc()
            else:
                handover.tell_error(f"edge: {text}")
                code = handover.USER_ERROR
        finally:
            sys.stderr.flush()
            os._exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(prog="gateway.edge.zygote")
    parser.add_argument("--edge", default=EDGE, help="module:function that an edge runs")
    target: str = parser.parse_args().edge
    # The pipes move away from 0 and 1: a stray print, here or in an edge, must not be a command.
    commands, events = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return Zygote(pkgutil.resolve_name(target), commands, events).run()


if __name__ == "__main__":
    sys.exit(main())
