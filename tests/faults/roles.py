"""One process of the deployment: started by a command of the product, hurt by signals, started again."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from gateway.store.embedded import find_server
from tests.faults.disks import Disk

ROOT: Final = Path(__file__).parents[2]
_READY_S: Final = 30.0
_STOP_S: Final = 20.0
_POLL_S: Final = 0.02


class RoleFailed(Exception):
    """A process did not start; the text ends with what it said last."""


class Role:
    """A command whose first line on stdout says that it is ready."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}
        self.max_rss_kb = 0
        self.starts = 0
        self.ended_by_itself: list[int] = []
        """Exit codes of ends that we did not ask for."""

    async def start(self, before: Sequence[str] = (), after: Sequence[str] = ()) -> None:
        """Returns when it is ready. `before` stands in front of its command line, `after` behind it.

        Raises RoleFailed.
        """
        with self.log.open("ab") as log:
            self._launch([*before, *self.command, *after], subprocess.PIPE, log)
        await self._until_ready()

    def _launch(self, command: Sequence[str], stdout: int, stderr: IO[bytes] | int) -> None:
        """It ends with us, however we end."""
        plain = {k: v for k, v in os.environ.items() if not k.startswith("COLUMBA_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.launch", *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**plain, "PYTHONPATH": str(ROOT)},
            cwd=self.log.parent,
        )
        self.starts += 1

    async def _until_ready(self) -> None:
        try:
            line = await asyncio.wait_for(asyncio.to_thread(self._first_line), _READY_S)
            self.ready = json.loads(line)
        except (TimeoutError, ValueError):
            self.kill()
            said = self.log.read_text(errors="replace")[-2000:]
            raise RoleFailed(f"{self.name} does not start:\n{said}") from None

    def _first_line(self) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.readline()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.note()
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def stop(self) -> None:
        """As an operator would; then with SIGKILL."""
        self.note()
        # Taken away first: that it ends now is no end by itself.
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        _end(process)

    def freeze(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def note(self) -> None:
        """Keep the largest resident size seen, and an end that nobody asked for."""
        if self._process is None:
            return
        code = self._process.poll()
        if code is not None:
            self.ended_by_itself.append(code)
            _end(self._process)
            self._process = None
            return
        with suppress(OSError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            for row in status.splitlines():
                if row.startswith("VmHWM:"):
                    self.max_rss_kb = max(self.max_rss_kb, int(row.split()[1]))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(_STOP_S)
    if process.stdout is not None:
        process.stdout.close()


class StoreRole(Role):
    """The embedded store's server on a TCP port, with the settings of the embedded store."""

    def __init__(self, disk: Disk, port: int, folder: Path) -> None:
        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(disk.folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "no-appendfsync-on-rewrite": "no",
            "aof-load-truncated": "yes",
            "auto-aof-rewrite-percentage": "100",
            "auto-aof-rewrite-min-size": "64mb",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
            "logfile": str(folder / "store.log"),
        }
        flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
        super().__init__("store", [str(find_server()), *flags], folder / "store.log")
        self._disk = disk
        self.address = ("127.0.0.1", port)

    async def start(self, before: Sequence[str] = (), after: Sequence[str] = ()) -> None:
        command = [*before, *self._disk.before(), *self.command, *after]
        self._launch(command, subprocess.DEVNULL, subprocess.DEVNULL)
        deadline = asyncio.get_running_loop().time() + _READY_S
        while not await self._answers():
            self.note()
            if not self.lives or asyncio.get_running_loop().time() > deadline:
                self.kill()
                raise RoleFailed("the store does not start")
            await asyncio.sleep(_POLL_S)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(*self.address)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return (await asyncio.wait_for(reader.read(64), 1.0)).startswith(b"+PONG")
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()


def columba(role: str, data_dir: Path, store: str, settings: Mapping[str, object]) -> list[str]:
    """The command line of one role."""
    sets = [f"--set={key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "gateway.cli", role, "--json", "--data-dir", str(data_dir)]
    return [*command, "--store", store, *sets]
