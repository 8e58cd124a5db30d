"""A process started for one job and told what to do over a socket: one JSON object a line, each way.

A command has `id` and `do`; its answer has the same `id` and either the result or `error`. Answers
may come in another order than the commands did.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from loadtest.launch import end_with_parent

_STOP_S: Final = 5.0
_START_S: Final = 30.0
_ANSWER_S: Final = 300.0
"""A child answers between two turns. Among 150 busy processes on two cores, which is what a push to a million
devices makes of them, that took longer than 30 s."""
_AT_A_TIME: Final = 8
"""Children that come up at any time: more would only share the cores, and be slower one by one."""
_MAX_READ: Final = 1 << 16


class ChildFailed(Exception):
    """A child process ended, did not answer in time, or answered with an error."""


def die_with_parent() -> None:
    """For the child. The control socket's end of file says the same; this also reaches one that
    is stuck.
    """
    end_with_parent(signal.SIGKILL)
    # Ctrl-C reaches the whole group of processes; the parent decides and closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Commands:
    """The child's end: commands in, answers out. `fd` is readable when there is something."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._rest = b""
        self.fd = fd

    def read(self, *, wait: bool) -> list[dict[str, Any]]:
        """Complete commands that have arrived. Raises EOFError when the parent is gone."""
        try:
            chunk = self._socket.recv(_MAX_READ, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        if not chunk:
            raise EOFError
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def answer(self, command: dict[str, Any], **result: Any) -> None:
        try:
            self._socket.sendall(json.dumps({"id": command["id"], **result}).encode() + b"\n")
        except OSError as error:
            raise EOFError from error


class Child:
    """The parent's end: `python -m module`, started, called, stopped. Not for several threads."""

    def __init__(self, module: str, *, wait: bool = True, **config: Any) -> None:
        """`config` is what the child is started with. Without `wait` it comes up while the caller does something
        else; `wait_started` is then the first thing to be called. Raises ChildFailed.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._socket = ours
        self._rest = b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._last_id = 0
        self._module = module
        self.pid = self._process.pid
        self.started: dict[str, Any] = {}
        """What it answered to its configuration."""
        try:
            self._start = self.send("start", **config)
            if wait:
                self.wait_started()
        except BaseException:
            self.close()
            raise

    def wait_started(self) -> None:
        """Raises ChildFailed if it does not come up."""
        self.started = self.collect(self._start, _START_S)

    def stand_back(self) -> None:
        """It leaves the processors to whoever else wants them."""
        os.setpriority(os.PRIO_PROCESS, self.pid, 19)

    def call(self, do: str, timeout_s: float = _ANSWER_S, **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its answer. Raises ChildFailed."""
        return self.collect(self.send(do, **arguments), timeout_s)

    def send(self, do: str, **arguments: Any) -> int:
        """Send one command; `collect` what it returns for the answer. Raises ChildFailed."""
        self._last_id += 1
        command = {"id": self._last_id, "do": do, **arguments}
        try:
            self._socket.sendall(json.dumps(command).encode() + b"\n")
        except OSError as error:
            raise ChildFailed(f"{self._module} (pid {self.pid}) has ended") from error
        return self._last_id

    def collect(self, command: int, timeout_s: float = _ANSWER_S) -> dict[str, Any]:
        """The answer to a command that was sent. Raises ChildFailed."""
        try:
            answer = self._wait_answer(command, time.monotonic() + timeout_s)
        except TimeoutError as error:
            raise ChildFailed(f"{self._module} did not answer in {timeout_s:g} s") from error
        except OSError as error:
            raise ChildFailed(f"{self._module} (pid {self.pid}) has ended") from error
        if "error" in answer:
            raise ChildFailed(f"{self._module}: {answer['error']}")
        return answer

    def _wait_answer(self, wanted: int, deadline: float) -> dict[str, Any]:
        while wanted not in self._answers:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = self._socket.recv(_MAX_READ)
            if not chunk:
                raise ConnectionResetError
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for answer in map(json.loads, lines):
                self._answers[answer["id"]] = answer
        return self._answers.pop(wanted)

    def hang_up(self) -> None:
        """End of file tells the child to stop; `close` then waits for it. Of many, tell all before waiting."""
        self._socket.close()

    def close(self) -> None:
        """A child that does not stop by itself is terminated, then killed."""
        self.hang_up()
        for harder in (self._process.terminate, self._process.kill, None):
            try:
                self._process.wait(_STOP_S)
                return
            except subprocess.TimeoutExpired:
                if harder is not None:
                    harder()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


ChildT = TypeVar("ChildT", bound=Child)


def side_by_side(begun: Iterable[ChildT], stack: ExitStack) -> list[ChildT]:
    """Children that were made without `wait`, all of them up. Some come up while the next are made.

    Each is ended with the stack. A thread for each would not do: a child is killed when the
    thread that started it ends. Raises ChildFailed.
    """
    children: list[ChildT] = []
    for number, child in enumerate(begun):
        stack.enter_context(child)
        children.append(child)
        if number >= _AT_A_TIME - 1:
            children[number - _AT_A_TIME + 1].wait_started()
    for child in children[max(0, len(children) - _AT_A_TIME + 1) :]:
        child.wait_started()
    return children


def inherited_commands() -> Commands:
    """For the child's main: the socket named on its command line."""
    die_with_parent()
    fd = int(sys.argv[1])
    os.set_inheritable(fd, False)
    return Commands(fd)
