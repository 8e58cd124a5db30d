"""A real store and a real API process, for the tests of gateway.api.

The process runs on a loop in a thread of its own, so that tests speak HTTP to it with http.client and
look into its store from outside.
"""

import asyncio
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from gateway.api.process import ApiProcess
from gateway.config import Api, Config, Service
from gateway.config import Store as StoreConfig
from gateway.secretfiles import Secrets
from gateway.store import keys
from gateway.store.client import Store
from gateway.store.embedded import find_server
from protocol.schema import log_pb2
from tests.waiting import eventually

T = TypeVar("T")

PARTITIONS = 4
SECRETS = Secrets({1: b"m" * 32}, 1, b"r" * 32)


class StoreServer:
    """valkey-server on a unix socket; `kill`, `freeze` and `start` again at will."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "store.sock"
        self.url = f"unix://{self.socket}"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> "StoreServer":
        flags = [
            "--port",
            "0",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--loglevel",
            "warning",
        ]
        where = ["--dir", str(self.folder), "--unixsocket", str(self.socket), "--save", ""]
        self._child = subprocess.Popen(
            [str(find_server()), *flags, *where], stdout=subprocess.DEVNULL
        )
        eventually(lambda: self.ask(b"PING").startswith(b"+PONG"))
        return self

    def ask(self, command: bytes) -> bytes:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.socket))
                client.sendall(command + b"\r\n")
                return client.recv(1024)
        except OSError:
            return b""

    def kill(self) -> None:
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections and answers nothing."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._child.pid, signal.SIGCONT)


class CuttingProxy:
    """In front of the store; can swallow a reply and cut the connection instead."""

    def __init__(self, folder: Path, target: StoreServer) -> None:
        self.path = folder / "proxy.sock"
        self.url = f"unix://{self.path}"
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._replies_left: int | None = None

    def cut_reply_after(self, passed: int) -> None:
        """Let so many chunks of replies pass, then cut."""
        self._replies_left = passed

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(str(self._target.socket))
        self._writers |= {writer, up_writer}
        with suppress(OSError):
            await asyncio.gather(
                self._copy(reader, up_writer, replies=False),
                self._copy(up_reader, writer, replies=True),
            )

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool
    ) -> None:
        while chunk := await reader.read(65_536):
            if replies and self._replies_left is not None:
                self._replies_left -= 1
                if self._replies_left < 0:
                    self._replies_left = None
                    break
            writer.write(chunk)
        writer.close()


class Stage:
    """One API process with its store."""

    def __init__(self, config: Config, store_url: str) -> None:
        self.process = ApiProcess(config, SECRETS, store_url)
        self.service = self.process.service
        self.said: dict[str, Any] = {}
        self.failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, *, wait: bool = True) -> "Stage":
        self._thread.start()
        if wait:
            assert self._ready.wait(10), self.failure
            eventually(lambda: self.get("/readyz")[0] == 200)
        return self

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            await self.process.serve(self._stop, self._on_ready)

        try:
            asyncio.run(main())
        except Exception as error:
            self.failure = error

    def _on_ready(self, said: dict[str, object]) -> None:
        self.said = said
        self._ready.set()

    def begin_stop(self) -> None:
        assert self._loop is not None and self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)

    def stop(self) -> None:
        if self._thread.is_alive():
            self.begin_stop()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the process's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def with_store(self, use: Callable[[Store], Awaitable[T]]) -> T:
        backend = self.service.backend
        assert backend is not None

        async def work() -> T:
            return await use(backend.store)

        return self.do(work())

    @property
    def address(self) -> str:
        return str(self.said["http"])

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """(status, headers, JSON or text). `body`: bytes as they are, anything else as JSON."""
        return request(self.address, method, path, body, headers)

    def get(self, path: str, key: str = "") -> tuple[int, dict[str, str], Any]:
        return self.request("GET", path, headers=bearer(key) if key else None)


def request(
    address: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    url = urlsplit(address)
    assert url.hostname is not None
    connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=10)
    try:
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, raw, headers or {})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    told = {name.lower(): value for name, value in response.headers.items()}
    if told.get("content-type", "").startswith("application/json"):
        return response.status, told, json.loads(text)
    return response.status, told, text.decode()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def config(
    folder: Path, *, partitions: int = PARTITIONS, lease_s: float = 5.0, **api: Any
) -> Config:
    """Of a process on a free loopback port. It is not patient, unless the test says so."""
    return Config(
        service=Service(data_dir=str(folder / "data"), partitions=partitions),
        store=StoreConfig(lease_s=lease_s, timeout_s=2.0),
        api=msgspec.structs.replace(Api(listen="127.0.0.1:0", patience_s=0.0), **api),
    )


async def add_devices(store: Store, app: int, devices: dict[int, list[int]]) -> None:
    """Make device indexes known: partition -> indexes. As sessions.lua writes them."""
    for p, indexes in devices.items():
        for index in indexes:
            await store.call("SETRANGE", keys.apps(p), index * 2, struct.pack(">H", app))


async def pushes_in(store: Store, p: int) -> list[log_pb2.Push]:
    """The pushes in a partition's log, in order."""
    rows = await store.call("XRANGE", keys.log(p), "-", "+")
    return [push for _, fields in rows for push in log_pb2.Record.FromString(fields[1]).pushes]


async def all_pushes(store: Store, partitions: int = PARTITIONS) -> dict[int, list[log_pb2.Push]]:
    return {p: await pushes_in(store, p) for p in range(partitions)}
