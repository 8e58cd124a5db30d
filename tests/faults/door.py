"""The relay between the devices and the edges, which knows what left the edges and when.

When a copy of a push comes here says little: a full buffer may have held it up. So its place in the
stream is noted, and the kernel is asked how far the edges have written whenever somebody wants to know
what had left them by then.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from protocol.codes import MAX_BODY_DOWN, Kind
from protocol.frames import FrameBuffer, varint
from protocol.schema import device_pb2
from tests.faults.relay import Relay
from tests.faults.written import written_by_peer


class Copy(NamedTuple):
    """A MESSAGE frame on its way to a device."""

    connection: int
    """The how manieth of the door, from 1."""
    start: int
    """Bytes of the connection before it."""


class Mark(NamedTuple):
    """How far the edges had written at one moment."""

    begun: int
    """Connections by then."""
    written: Mapping[int, int]
    """Connection -> bytes. Missing are those that the edge had closed and that were empty."""

    def holds(self, copy: Copy) -> bool:
        """Had it left its edge? A frame is sent to its end, so it has once its first byte has."""
        if copy.connection > self.begun:
            return False
        written = self.written.get(copy.connection)
        return written is None or copy.start < written


Copies = Mapping[tuple[int, int], Sequence[Copy]]
"""(push id, device id) -> what was sent of it to the device."""


class Door(Relay):
    """Devices that are told another edge's own address pass it by, for that one connection."""

    def __init__(self, target: tuple[str, int], chance: random.Random) -> None:
        super().__init__(target, chance)
        self._edge_port: Final = target[1]
        self._begun = 0
        self._of_port: dict[int, int] = {}
        """The last connection from each port of ours."""
        self.copies: defaultdict[tuple[int, int], list[Copy]] = defaultdict(list)

    def mark(self) -> Mark:
        """Of this moment. Raises CannotHere."""
        written = written_by_peer(self._edge_port)
        numbers = ((self._of_port.get(port), count) for port, count in written.items())
        return Mark(self._begun, {number: count for number, count in numbers if number is not None})

    def watch(self, far: asyncio.StreamWriter) -> Callable[[bytes], None]:
        self._begun += 1
        self._of_port[far.get_extra_info("sockname")[1]] = self._begun
        return Watch(self._begun, self.copies).feed


class Watch:
    """What one connection brings from its edge."""

    def __init__(self, connection: int, copies: defaultdict[tuple[int, int], list[Copy]]) -> None:
        self._connection = connection
        self._copies = copies
        self._frames = FrameBuffer(MAX_BODY_DOWN)
        self._device = 0
        self._at = 0
        """Where the next frame begins."""

    def feed(self, data: bytes) -> None:
        for kind, body in self._frames.feed(data):
            if kind == Kind.WELCOME:
                self._device = device_pb2.Welcome.FromString(body).device_id
            elif kind == Kind.MESSAGE:
                push_id = device_pb2.Message.FromString(body).push_id
                copy = Copy(self._connection, self._at)
                self._copies[push_id, self._device].append(copy)
            self._at += 1 + len(varint(len(body))) + len(body)
