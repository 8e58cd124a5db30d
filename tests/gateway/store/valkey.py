"""A real store server for the tests, and a proxy before it that loses replies."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.store.client import Store
from gateway.store.embedded import find_server


class Valkey:
    """The server on a unix socket; `durable`: it has an append-only file and can be started again."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._folder = folder
        self._durable = durable
        self.socket = folder / "s"
        self.url = f"unix://{self.socket}"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self._folder),
            "save": "",
            "loglevel": "warning",
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "always",
            "enable-debug-command": "yes",
        }
        flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self._child = subprocess.Popen([str(find_server()), *flags], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self.ask(b"PING").startswith(b"+PONG"):
            assert time.monotonic() < deadline and self._child.poll() is None
            time.sleep(0.005)

    def listen(self) -> int:
        """On a port of 127.0.0.1, too."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        assert self.ask(b"CONFIG SET port %d" % port).startswith(b"+OK")
        return port

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Connections stand, nothing is answered."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._child.pid, signal.SIGCONT)

    def ask(self, command: bytes) -> bytes:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            client.sendall(command + b"\r\n")
            return client.recv(64)
        return b""


class LossyProxy:
    """Passes bytes on; on demand it swallows a reply of the store and cuts that connection.

    The first one of a connection is not such a reply: there the client asks who answers.
    """

    def __init__(self, folder: Path, target: Valkey) -> None:
        self._path = folder / "p"
        self.url = f"unix://{self._path}"
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._lose = 0
        self.lost = 0

    def lose_replies(self, count: int = 1) -> None:
        """The next `count` chunks of replies are lost, each with its connection."""
        self._lose = count

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            theirs, ours = await asyncio.open_unix_connection(str(self._target.socket))
            self._writers |= {writer, ours}
            await asyncio.gather(self._requests(reader, ours), self._replies(theirs, writer))

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65_536):
            writer.write(chunk)
        writer.close()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeted = False
        while chunk := await reader.read(65_536):
            if self._lose and greeted:
                self._lose -= 1
                self.lost += 1
                break
            greeted = True
            writer.write(chunk)
        writer.close()


async def log_of(store: Store, p: int) -> list[tuple[str, bytes]]:
    """(position, record) of all entries of a partition's log."""
    rows = await store.call("XRANGE", f"{{{p}}}:log", "-", "+")
    return [(position.decode(), fields[1]) for position, fields in rows]
