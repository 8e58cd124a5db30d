"""What waits to be written to one connection whose kernel buffer is full.

Pure. Bytes once offered to a socket are never replaced, so what the kernel has begun to take goes
first. Behind it come answers, then messages by lane: only frames that have not been started are chosen
among, and only those can be recalled.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from gateway.lanes import Lanes

CONTROL: Final = -1
"""Priority of what is no message: answers, WELCOME, RECALL, GOAWAY."""
_QUANTUM: Final = 1024
"""Bytes that the low lane may use in a round."""
_CHUNK: Final = 16 * 1024
"""Bytes gathered for one write. More would be offered, and so be out of reach, without need."""


class Item(NamedTuple):
    """One frame, or several answers in one piece."""

    priority: int
    push_id: int
    """0: no message."""
    data: bytes | bytearray


class Output:
    """Ask for a `chunk`, write it, tell by `advance` how much of it went."""

    __slots__ = ("_control", "_lanes", "_offered", "_started", "size")

    def __init__(self) -> None:
        self._started: bytes | bytearray = b""
        """The rest of a frame of which the kernel has some."""
        self._control: deque[Item] = deque()
        self._lanes: Lanes[Item] | None = None
        """Made with the first message: most that waits anywhere is one broadcast to a slow reader."""
        self._offered: list[Item] = []
        self.size = 0
        """Bytes."""

    def put(self, item: Item) -> None:
        self.size += len(item.data)
        if item.priority == CONTROL:
            self._control.append(item)
            return
        if self._lanes is None:
            self._lanes = Lanes(_QUANTUM)
        self._lanes.put(item.priority, item)

    def put_rest(self, items: Sequence[Item], sent: int) -> None:
        """Items of a turn of which the first `sent` bytes are on their way."""
        assert not self.size
        for item in items:
            length = len(item.data)
            if sent >= length:
                sent -= length
            elif sent:
                self._started = item.data[sent:]
                self.size += length - sent
                sent = 0
            else:
                self.put(item)

    def chunk(self) -> bytes | bytearray:
        """The next bytes for the socket; empty if nothing waits."""
        if self._started:
            return self._started
        self._offered = [*self._gathered()]
        if len(self._offered) == 1:
            return self._offered[0].data
        return b"".join(item.data for item in self._offered)

    def _gathered(self) -> Iterable[Item]:
        room = _CHUNK
        while room > 0:
            if self._control:
                item = self._control.popleft()
            else:
                found = self._lanes.take(_cost) if self._lanes is not None else None
                if found is None:
                    return
                item = found[1]
            room -= len(item.data)
            yield item

    def advance(self, sent: int) -> None:
        """So many bytes of the last chunk went."""
        self.size -= sent
        if self._started:
            self._started = self._started[sent:]
            return
        back = []
        for item in self._offered:
            length = len(item.data)
            if sent >= length:
                sent -= length
            elif sent:
                self._started = item.data[sent:]
                sent = 0
            else:
                back.append(item)
        self._offered = []
        for item in reversed(back):
            self._put_back(item)

    def _put_back(self, item: Item) -> None:
        if item.priority == CONTROL:
            self._control.appendleft(item)
        else:
            assert self._lanes is not None
            self._lanes.put_back(item.priority, item)
            self._lanes.charge(item.priority, -len(item.data))

    def recall(self, push_id: int) -> None:
        """Drop the message, unless the kernel has some of it."""
        self._drop(push_id)

    def drop_messages(self) -> None:
        """Nothing but answers may follow: the device is being sent away."""
        self._drop(None)

    def _drop(self, push_id: int | None) -> None:
        if self._lanes is not None:
            dropped = self._lanes.drop(lambda item: push_id is None or item.push_id == push_id)
            self.size -= sum(map(_cost, dropped))


def _cost(item: Item) -> int:
    return len(item.data)
