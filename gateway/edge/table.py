"""The connection table: a connection is a row in columns indexed by its descriptor.

Pure: no sockets, no clock. Only what is rare stands in dicts elsewhere (a partial frame, unsent
bytes). A descriptor is not an identity, since the kernel hands it out again at once: each row has a
generation, and whoever comes back later (a store reply, a timer) names both.
"""

from array import array
from typing import Final

from pyroaring import BitMap

from protocol.ids import split_device_id
from protocol.states import State

TICK_S: Final = 4
"""Granularity of the heartbeat sweep, seconds: 254 ticks of it cover the longest timeout (910 s)."""
_SLOTS: Final = 255
_NEVER: Final = 255


class Table:
    """Rows 0 to `size` - 1, one for each descriptor the process may open."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.state = bytearray(size)
        """protocol.states.State"""
        self.generation = array("I", bytes(4 * size))
        self.device = array("Q", bytes(8 * size))
        """Device id, once the row is open (or arriving with a token)."""
        self.epoch = array("Q", bytes(8 * size))
        self.connection = array("Q", bytes(8 * size))
        """The device's own connection counter."""
        self.app = array("H", bytes(2 * size))
        self._timeout = bytearray(size)
        """Ticks without a frame after which the row is dead."""
        self._deadline = bytearray(b"\xff" * size)
        """Tick (mod 255) at which it is dead; 255 = no deadline. One store a heartbeat."""
        self.rows: dict[int, dict[int, int]] = {}
        """partition -> device index -> descriptor, of open rows"""
        self.here: dict[int, BitMap] = {}
        """partition -> device indexes of open rows"""
        self.arriving: dict[int, dict[int, int]] = {}
        """partition -> device index -> descriptor, of rows whose registration is sent"""
        self.tick = 0
        self.connections = 0
        self.open_rows = 0
        self._last_generation = 0

    def add(self, fd: int) -> int:
        """A connection was accepted; returns the row's generation."""
        self._last_generation = self._last_generation % 0xFFFF_FFFF + 1
        self.state[fd] = State.CONNECTED
        self.generation[fd] = self._last_generation
        self._deadline[fd] = _NEVER
        self.connections += 1
        return self._last_generation

    def remove(self, fd: int) -> None:
        """The connection is closed; its device, if this row spoke for it, is no longer here."""
        self._forget_device(fd)
        self.state[fd] = State.CLOSED
        self.generation[fd] = 0
        self._deadline[fd] = _NEVER
        self.connections -= 1

    def is_row(self, fd: int, generation: int) -> bool:
        return self.generation[fd] == generation

    def arrive(self, fd: int, device: int) -> None:
        """A registration of a known device is on its way: deliveries may find the row from now on."""
        partition, index = split_device_id(device)
        self.device[fd] = device
        self.arriving.setdefault(partition, {})[index] = fd

    def open(self, fd: int, device: int, epoch: int) -> int | None:
        """The session is registered. Returns the descriptor of an older session of the device, if any."""
        partition, index = split_device_id(device)
        self._leave_arriving(fd, partition, index)
        self.device[fd] = device
        self.epoch[fd] = epoch
        self.state[fd] = State.OPEN
        rows = self.rows.get(partition)
        if rows is None:
            rows = self.rows[partition] = {}
            self.here[partition] = BitMap()
        older = rows.get(index)
        if older is None:
            self.open_rows += 1
        else:
            self.epoch[older] = 0  # fenced: its end is no news to the store
        rows[index] = fd
        self.here[partition].add(index)
        return older

    def leave(self, fd: int) -> None:
        """GOAWAY is sent: no more messages for this row, its session stands until it is closed."""
        self.state[fd] = State.LEAVING

    def fd_of(self, device: int) -> int | None:
        """Descriptor of the device's open row."""
        partition, index = split_device_id(device)
        rows = self.rows.get(partition)
        return rows.get(index) if rows else None

    def set_timeout(self, fd: int, seconds: float) -> None:
        """Silence after which the row is dead; counted from now."""
        self._timeout[fd] = min(254, max(1, -int(-seconds // TICK_S)))
        self.seen(fd)

    def seen(self, fd: int) -> None:
        """A frame came: that is life."""
        self._deadline[fd] = (self.tick + self._timeout[fd]) % _SLOTS

    def sweep(self, tick: int) -> list[int]:
        """Advance to `tick`; descriptors that have been silent for too long.

        Finding them is a memchr over one byte a row: no Python-level loop over the living.
        """
        dead: list[int] = []
        while self.tick < tick:
            self.tick += 1
            wanted = self.tick % _SLOTS
            fd = self._deadline.find(wanted)
            while fd >= 0:
                dead.append(fd)
                self._deadline[fd] = _NEVER
                fd = self._deadline.find(wanted, fd + 1)
        return dead

    def _forget_device(self, fd: int) -> None:
        device = self.device[fd]
        partition, index = split_device_id(device)
        self._leave_arriving(fd, partition, index)
        rows = self.rows.get(partition)
        if rows is not None and rows.get(index) == fd:
            del rows[index]
            self.here[partition].discard(index)
            self.open_rows -= 1
        self.device[fd] = 0
        self.epoch[fd] = 0

    def _leave_arriving(self, fd: int, partition: int, index: int) -> None:
        arriving = self.arriving.get(partition)
        if arriving is not None and arriving.get(index) == fd:
            del arriving[index]
            if not arriving:
                del self.arriving[partition]
