"""A relay that can be told to behave like a bad network. Loopback and unix sockets only."""

import asyncio
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, Self

from tests.faults.plan import Address

_CHUNK: Final = 64 * 1024
_BUFFER: Final = 16 * 1024
"""Of the relay's own sockets, each way: a stalled or slow reader is felt by the other end soon."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: close sends RST."""
_HELD_S: Final = 0.05
_END_S: Final = 5.0
_DELAY_MAX_S: Final = 1.0
"""Of one step of a slowed connection: a healed one must flow at once."""


class Change(Protocol):
    """What a relay may do to the bytes of one connection on their way back."""

    def feed(self, data: bytes) -> bytes:
        """What goes on now in place of `data`."""
        ...

    def flush(self) -> bytes:
        """What was held back; nothing else came for a while."""
        ...


class _Pair:
    """One relayed connection."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.bps = 0
        self.lost = False
        """What comes is thrown away, both ways, and no end is told of the other's."""

    def reset(self) -> None:
        for writer in (self.near, self.far):
            reset(writer)


class Relay:
    """Listens on a free port, or in the place of a unix socket, and passes what comes to `target`."""

    def __init__(self, target: Address, chance: random.Random) -> None:
        self.target = target
        self.chance = chance
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._go = asyncio.Event()
        self._go.set()
        self._cut = False
        self._bps = 0
        self._reset_after = 0
        self.port = 0
        """Of the relay, where the target is no unix socket: those keep their path."""
        self._path: Path | None = None
        self.connections = 0
        self.resets = 0

    async def __aenter__(self) -> Self:
        if isinstance(self.target, str):
            await self._take_the_place_of(Path(self.target))
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096)
            self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def _take_the_place_of(self, path: Path) -> None:
        """A socket that was bound stays reachable under another name: who connects finds us."""
        moved = path.with_suffix(".r")
        os.rename(path, moved)
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(path))
        finally:
            os.umask(mask)
        self.target, self._path = str(moved), path

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._cut = True
        self._go.set()
        self.reset_all()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        async with asyncio.timeout(_END_S):
            while self._pairs:
                await asyncio.sleep(0.001)

    @property
    def standing(self) -> int:
        return len(self._pairs)

    def reset_all(self) -> None:
        """RST to both ends of every connection."""
        for pair in list(self._pairs):
            pair.reset()

    # Faults. Each block heals what it hurt; only what was lost stays lost.

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Connections are reset, new ones at once."""
        self._cut = True
        self.reset_all()
        try:
            yield
        finally:
            self._cut = False

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Connections stand, and nothing moves."""
        self._go.clear()
        try:
            yield
        finally:
            self._go.set()

    @contextmanager
    def slowed(self, bytes_per_s: int, share: float = 1.0) -> Iterator[None]:
        """In each direction of each connection; with a share, of those that stand now."""
        self._bps = bytes_per_s if share == 1.0 else 0
        chosen = self._some(share)
        for pair in chosen:
            pair.bps = bytes_per_s
        try:
            yield
        finally:
            self._bps = 0
            for pair in self._pairs:
                pair.bps = 0

    @contextmanager
    def breaking(self, after_bytes: int) -> Iterator[None]:
        """Each connection is reset after about so many bytes: mostly in the middle of a frame."""
        self._reset_after = after_bytes
        try:
            yield
        finally:
            self._reset_after = 0

    def lose(self, share: float) -> int:
        """So many of the connections lead nowhere from now on, and nobody is told. How many."""
        chosen = self._some(share)
        for pair in chosen:
            pair.lost = True
        return len(chosen)

    def _some(self, share: float) -> list[_Pair]:
        return [pair for pair in self._pairs if share == 1.0 or self.chance.random() < share]

    # Passing on.

    def change(self) -> Change | None:
        """Of one connection's bytes from the target; None: they pass as they are."""
        return None

    def watch(self, far: asyncio.StreamWriter) -> Callable[[bytes], None] | None:
        """Called with all that is read from the target on a new connection, whatever becomes of it."""
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await self._dial()
        except OSError:
            reset(writer)
            return
        if self._cut:
            reset(writer)
            reset(far_writer)
            return
        pair = _Pair(writer, far_writer)
        pair.bps = self._bps
        self._pairs.add(pair)
        self.connections += 1
        change, seen = self.change(), self.watch(far_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(pair, reader, far_writer))
                group.create_task(self._pass(pair, far_reader, writer, change, seen))
        # uvloop raises RuntimeError for a transport that was closed meanwhile.
        except* (OSError, RuntimeError):
            pair.reset()
        finally:
            self._pairs.discard(pair)
            for each in (writer, far_writer):
                each.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._cut:
            raise ConnectionRefusedError
        if isinstance(self.target, str):
            return await asyncio.open_unix_connection(self.target, limit=_BUFFER)
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, self.target)
            return await asyncio.open_connection(sock=sock, limit=_BUFFER)
        except BaseException:
            sock.close()
            raise

    async def _pass(
        self,
        pair: _Pair,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        change: Change | None = None,
        seen: Callable[[bytes], None] | None = None,
    ) -> None:
        passed = 0
        # Drawn once: the first byte is as likely to be the last as any other.
        share = self.chance.uniform(0.1, 2.0)
        while True:
            data = await self._read(reader, writer, change)
            if seen is not None:
                seen(data)
            await self._go.wait()
            if pair.lost:
                if not data:
                    return  # the other end finds out by itself, or never
                continue
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            if change is not None:
                data = change.feed(data)
            if self._reset_after and passed + len(data) >= share * self._reset_after:
                left = max(0, int(share * self._reset_after) - passed)
                writer.write(data[:left])
                self.resets += 1
                raise ConnectionResetError("reset in mid-frame, on purpose")
            passed = passed + len(data) if self._reset_after else 0
            await _send(pair, writer, data)

    async def _read(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        change: Change | None,
    ) -> bytes:
        if change is None:
            return await reader.read(_CHUNK)
        while True:
            try:
                # Not wait_for, which may swallow a cancellation: half a connection would be left.
                async with asyncio.timeout(_HELD_S):
                    return await reader.read(_CHUNK)
            except TimeoutError:
                if held := change.flush():
                    writer.write(held)


async def _send(pair: _Pair, writer: asyncio.StreamWriter, data: bytes) -> None:
    """All of it, as fast as the connection is at each moment."""
    while pair.bps and data:
        piece, data = data[: max(1, pair.bps // 20)], data[max(1, pair.bps // 20) :]
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(min(len(piece) / pair.bps if pair.bps else 0, _DELAY_MAX_S))
    writer.write(data)
    await writer.drain()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # uvloop: ValueError once the descriptor is gone.
        except (OSError, ValueError):
            pass
    writer.transport.abort()
