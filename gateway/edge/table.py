"""The connection table: a connection is a row in columns indexed by its descriptor.

Pure: no sockets, no clock. Only what is rare stands in dicts elsewhere (a partial frame, unsent
bytes). A descriptor is not an identity, since the kernel hands it out again at once: each row has a
generation, and whoever comes back later (a store reply, a timer) names both.
"""

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal

from pyroaring import BitMap

from gateway.edge.wheel import MOST_TICKS, Wheel
from protocol.ids import split_device_id
from protocol.states import State

TICK_S: Final = 4
"""Granularity of the heartbeat sweep, seconds: 254 ticks of it cover the longest timeout (910 s)."""
HANDSHAKE_TICK_S: Final = 0.25
"""The same for the time to HELLO and WELCOME: 254 ticks are 63 s."""


def column(code: Literal["B", "H", "I", "Q"], size: int) -> "memoryview[int]":
    """`size` zeros of a `struct` code, of which the kernel gives memory to those that are used: with many
    edges on a machine, what is not here yet costs nothing."""
    width = {"B": 1, "H": 2, "I": 4, "Q": 8}[code]
    return memoryview(mmap.mmap(-1, width * size)).cast(code)


class Table:
    """Rows 0 to `size` - 1, one for each descriptor the process may open."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.state = column("B", size)
        """protocol.states.State"""
        self.generation = column("I", size)
        self.device = column("Q", size)
        """Device id, once the row is open (or arriving with a token)."""
        self.epoch = column("Q", size)
        self.connection = column("Q", size)
        """The device's own connection counter."""
        self.app = column("H", size)
        self._timeout = column("B", size)
        """Ticks without a frame after which the row is dead."""
        self._heartbeats = Wheel(size)
        """A heartbeat is one store into it."""
        self.handshakes = Wheel(size)
        """Rows that have not said HELLO, or wait for their WELCOME."""
        self.rows: dict[int, dict[int, int]] = {}
        """partition -> device index -> descriptor, of open rows"""
        self.here: dict[int, BitMap] = {}
        """partition -> device indexes of open rows"""
        self.arriving: dict[int, dict[int, int]] = {}
        """partition -> device index -> descriptor, of rows whose registration is sent"""
        self.fresh: dict[int, BitMap] = {}
        """partition -> device indexes that got a new row, or lost messages, since deliveries last looked
        (gateway.edge.writing takes them out)"""
        self.connections = 0
        self.open_rows = 0
        self.greeted = 0
        """Rows whose registration is under way."""
        self._last_generation = 0
        self._watchers: list[dict[int, int]] = []

    def add(self, fd: int) -> int:
        """A connection was accepted; returns the row's generation."""
        self._last_generation = self._last_generation % 0xFFFF_FFFF + 1
        self.state[fd] = State.CONNECTED
        self.generation[fd] = self._last_generation
        self.connections += 1
        return self._last_generation

    def greet(self, fd: int) -> None:
        """HELLO has come: the row registers."""
        self.state[fd] = State.GREETED
        self.greeted += 1

    def remove(self, fd: int) -> None:
        """The connection is closed; its device, if this row spoke for it, is no longer here."""
        self._forget_device(fd)
        self._move_on(fd, State.CLOSED)
        self.generation[fd] = 0
        self._heartbeats.clear(fd)
        self.handshakes.clear(fd)
        self.connections -= 1

    def is_row(self, fd: int, generation: int) -> bool:
        return self.generation[fd] == generation

    def arrive(self, fd: int, device: int) -> None:
        """A registration of a known device is on its way: deliveries may find the row from now on."""
        partition, index = split_device_id(device)
        self.device[fd] = device
        self.arriving.setdefault(partition, {})[index] = fd
        self.begin_anew(partition, index)

    def begin_anew(self, partition: int, index: int) -> None:
        """What the device got before does not count here: its messages begin anew."""
        fresh = self.fresh.get(partition)
        if fresh is None:
            fresh = self.fresh[partition] = BitMap()
        fresh.add(index)

    def open(self, fd: int, device: int, epoch: int) -> int | None:
        """The session is registered. Returns the descriptor of an older session of the device, if any."""
        partition, index = split_device_id(device)
        if not self._leave_arriving(fd, partition, index):
            self.begin_anew(partition, index)  # else it has begun, perhaps with early messages
        self.device[fd] = device
        self.epoch[fd] = epoch
        self._move_on(fd, State.OPEN)
        self.handshakes.clear(fd)
        rows = self.rows.get(partition)
        if rows is None:
            rows = self.rows[partition] = {}
            self.here[partition] = BitMap()
        older = rows.get(index)
        if older is None:
            self.open_rows += 1
        else:
            self.epoch[older] = 0  # fenced: its end is no news to the store
            self._has_left(older)
        rows[index] = fd
        self.here[partition].add(index)
        return older

    def leave(self, fd: int) -> None:
        """GOAWAY is sent: no more messages for this row; its session stands until it is closed."""
        self._move_on(fd, State.LEAVING)
        self.handshakes.clear(fd)
        self._leave_rows(fd)

    def fd_of(self, device: int) -> int | None:
        """Descriptor of the device's open row."""
        partition, index = split_device_id(device)
        rows = self.rows.get(partition)
        return rows.get(index) if rows else None

    @contextmanager
    def watched(self) -> Iterator[Mapping[int, int]]:
        """Gathers rows that stop being those of their devices: descriptor -> device, whoever has it then."""
        left: dict[int, int] = {}
        self._watchers.append(left)
        try:
            yield left
        finally:
            self._watchers = [each for each in self._watchers if each is not left]

    def set_timeout(self, fd: int, seconds: float) -> None:
        """Silence after which the row is dead; counted from now."""
        # One tick more: the current one has begun already.
        self._timeout[fd] = min(MOST_TICKS, -int(-seconds // TICK_S) + 1)
        self.seen(fd)

    def seen(self, fd: int) -> None:
        """A frame came: that is life."""
        self._heartbeats.set(fd, self._timeout[fd])

    def set_handshake(self, fd: int, seconds: float) -> None:
        """Time to the next step of the handshake, counted from now."""
        ticks = -int(-seconds // HANDSHAKE_TICK_S) + 1
        self.handshakes.set(fd, min(MOST_TICKS, ticks))

    def sweep(self, seconds: float) -> list[int]:
        """Advance to `seconds` since the start; rows that have been silent for too long."""
        return self._heartbeats.advance(int(seconds / TICK_S))

    def sweep_handshakes(self, seconds: float) -> list[int]:
        """Advance to `seconds` since the start; rows whose handshake takes too long."""
        return self.handshakes.advance(int(seconds / HANDSHAKE_TICK_S))

    def _move_on(self, fd: int, state: State) -> None:
        self.greeted -= self.state[fd] == State.GREETED
        self.state[fd] = state

    def _forget_device(self, fd: int) -> None:
        self._leave_rows(fd)
        self.device[fd] = 0
        self.epoch[fd] = 0

    def _leave_rows(self, fd: int) -> None:
        partition, index = split_device_id(self.device[fd])
        self._leave_arriving(fd, partition, index)
        rows = self.rows.get(partition)
        if rows is not None and rows.get(index) == fd:
            del rows[index]
            self.here[partition].discard(index)
            self.open_rows -= 1
            self._has_left(fd)

    def _has_left(self, fd: int) -> None:
        for left in self._watchers:
            left.setdefault(fd, self.device[fd])

    def _leave_arriving(self, fd: int, partition: int, index: int) -> bool:
        """False if it was not among them."""
        arriving = self.arriving.get(partition)
        if arriving is None or arriving.get(index) != fd:
            return False
        del arriving[index]
        if not arriving:
            del self.arriving[partition]
        return True
