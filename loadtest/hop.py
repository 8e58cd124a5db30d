"""The bare hop: from an append to the store until another connection has read it.

No path through the service can be shorter, so latencies are told as "above the hop". It runs in a
process of its own (`python -m loadtest.hop FD`), at a given rate beside the load, so that both
find the store and the machine in the same state.
"""

import select
import socket
import time
from typing import Any, Final
from urllib.parse import urlsplit

from loadtest.control import Child, Commands, inherited_commands
from loadtest.histogram import Histogram
from loadtest.resp import Replies, Reply, StoreError, command

KEY: Final = "loadtest:hop"
_KEPT: Final = 1000
"""Entries the stream is trimmed to, about."""
_PADDING: Final = b"x" * 100
"""Beside the time, so that an entry is about as long as the record of a small push."""
_BLOCK_MS: Final = 1000
_LINGER_S: Final = 2.0


class HopProcess(Child):
    """The parent's handle."""

    def __init__(self, store: str) -> None:
        """`store`: unix:///path or redis://host:port. Raises ChildFailed if nobody answers there."""
        super().__init__("loadtest.hop", store=store)

    def begin(self, per_s: float, seconds: float) -> int:
        """Start measuring; `end` with what this returns waits for the result."""
        return self.send("run", per_s=per_s, seconds=seconds)

    def end(self, run: int, timeout_s: float) -> Histogram:
        """Nanoseconds from the append to its being read. Raises ChildFailed."""
        histogram = Histogram()
        histogram.add_pairs(self.collect(run, timeout_s)["pairs"])
        return histogram


class Hop:
    """Two connections to the store: one appends, the other reads with XREAD BLOCK."""

    def __init__(self, store: str) -> None:
        """Raises OSError, and StoreError if the store refuses."""
        self._writer = _connect(store)
        self._reader = _connect(store)
        self._written = Replies()
        self._read = Replies()
        self._last_id = b"0-0"
        self._appended = 0
        self._seen = 0
        self.histogram = Histogram()

    def run(self, per_s: float, seconds: float) -> None:
        """Append at a steady rate for so long and read along; the key is deleted behind it."""
        self._send_and_wait(command("DEL", KEY))
        began = time.monotonic()
        count = max(1, round(per_s * seconds))
        self._block()
        while self._seen < count:
            now = time.monotonic()
            if self._appended < count and now >= began + self._appended / per_s:
                self._append()
                continue
            due = began + self._appended / per_s
            if self._appended >= count:
                due = began + seconds + _LINGER_S
                if now >= due:
                    break
            self._wait(max(0.0, due - now))
        self._send_and_wait(command("DEL", KEY))

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def _append(self) -> None:
        now = time.monotonic_ns()
        entry = command("XADD", KEY, "MAXLEN", "~", _KEPT, "*", "t", now, "c", _PADDING)
        self._writer.sendall(entry)
        self._appended += 1

    def _block(self) -> None:
        self._reader.sendall(command("XREAD", "BLOCK", _BLOCK_MS, "STREAMS", KEY, self._last_id))

    def _wait(self, timeout_s: float) -> None:
        # select(2) counts microseconds, epoll_wait(2) milliseconds: too coarse for a rate of 1,000/s.
        readable, _, _ = select.select([self._reader, self._writer], [], [], timeout_s)
        if self._reader in readable:
            now = time.monotonic_ns()
            for reply in self._read.feed(_receive(self._reader)):
                self._on_entries(_checked(reply), now)
                self._block()
        if self._writer in readable:
            for reply in self._written.feed(_receive(self._writer)):
                _checked(reply)

    def _on_entries(self, reply: Any, now: int) -> None:
        """[[key, [[id, [field, value, ...]], ...]]], or None when BLOCK ran out."""
        for _, entries in reply or ():
            for entry_id, fields in entries:
                self._last_id = entry_id
                self.histogram.record(now - int(fields[1]))
                self._seen += 1

    def _send_and_wait(self, request: bytes) -> None:
        """The answer may come behind those of appends; all of them are waited for."""
        self._writer.sendall(request)
        while True:
            replies = self._written.feed(_receive(self._writer))
            if any(isinstance(_checked(reply), int) for reply in replies):
                return


def _connect(store: str) -> socket.socket:
    url = urlsplit(store)
    if url.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_LINGER_S)
        connection.connect(url.path)
    else:
        connection = socket.create_connection((url.hostname, url.port or 6379), _LINGER_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if url.password:
        connection.sendall(command("AUTH", url.username or "default", url.password))
        for reply in Replies().feed(_receive(connection)):
            _checked(reply)
    return connection


def _receive(connection: socket.socket) -> bytes:
    chunk = connection.recv(1 << 16)
    if not chunk:
        raise ConnectionResetError("the store closed the connection")
    return chunk


def _checked(reply: Reply) -> Reply:
    if isinstance(reply, StoreError):
        raise reply
    return reply


def _obey(received: dict[str, Any], store: str) -> dict[str, Any]:
    try:
        hop = Hop(store)
        try:
            if received["do"] == "run":
                hop.run(received["per_s"], received["seconds"])
            return {"pairs": hop.histogram.to_pairs()}
        finally:
            hop.close()
    except (OSError, StoreError) as error:
        return {"error": f"store: {error!r}"}


def _serve(commands: Commands) -> None:
    store = ""
    while True:
        for received in commands.read(wait=True):
            store = received.get("store", store)
            commands.answer(received, **_obey(received, store))


if __name__ == "__main__":
    try:
        _serve(inherited_commands())
    except EOFError:
        pass  # the parent closed the socket or is gone
