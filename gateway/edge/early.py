"""Messages for rows that wait for their WELCOME: a node's deliver can be quicker than the store's
answer to our own registration."""

from collections.abc import Sequence

from gateway.edge.handling import Outlet
from gateway.edge.output import Item
from gateway.edge.table import Table
from protocol.ids import split_device_id
from protocol.states import State


class EarlyMessages:
    """By descriptor, in their order."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes that may wait for one row."""
        self._limit = limit
        self._held: dict[int, list[Item]] = {}

    def hold(self, fd: int, message: Item) -> bool:
        """False if it would be too much."""
        held = self._held.get(fd, [])
        if sum(len(item.data) for item in held) + len(message.data) > self._limit:
            return False
        self._held.setdefault(fd, held).append(message)
        return True

    def take(self, fd: int) -> Sequence[Item]:
        return self._held.pop(fd, ())

    def hand_over(self, fd: int, table: Table, reactor: Outlet) -> None:
        """A refused registration leaves its messages to the session of the device that stands."""
        held, device = self.take(fd), table.device[fd]
        standing = table.fd_of(device)
        if standing is None or standing == fd or table.state[standing] != State.OPEN:
            return
        may_send = not held or reactor.may_send()
        if not may_send or not all(reactor.offer(standing, message) for message in held):
            # Nothing may overtake what is lost here.
            table.begin_anew(*split_device_id(device))

    def recall(self, push_id: int) -> None:
        for fd, held in self._held.items():
            self._held[fd] = [item for item in held if item.push_id != push_id]
