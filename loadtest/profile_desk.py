"""The profiles of a fleet: what each device says of itself, sent until it is acknowledged. Pure."""

from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from client_sdk.state import Profile
from client_sdk.tags import SYSTEM_NAMES
from loadtest.device_table import OPEN, DeviceTable
from protocol.codes import Kind
from protocol.frames import encode, varint

_SAFE: Final = 0
_DUE: Final = 1
_SENT: Final = 2
_COMPUTED: Final = frozenset({"new", "active"})
"""System tags that are no attribute: the service tells them from what it sees."""
_MOST_CHOICES: Final = 1 << 16


class ProfileDesk:
    """The tags of each row, as the SDK would send them: whole, under a number that grows by changes.

    Each set of tags stands once in a list of choices, so that a row takes seven bytes. What was sent
    and not acknowledged is sent again on the next connection. Rows know nothing of earlier fleets:
    with the seed of an earlier one the service takes their change numbers for old.
    """

    __slots__ = ("_change", "_choice", "_due", "_number", "_state", "_table", "_tails", "choices",
                 "unacknowledged")  # fmt: skip

    def __init__(self, table: DeviceTable) -> None:
        self.choices: list[frozenset[str]] = []
        """Every set of tags that a row has or had. The first is the one of rows that never spoke."""
        self.unacknowledged = 0
        """Rows whose last change is not known to be safe with the service."""
        self._table = table
        self._number: dict[frozenset[str], int] = {}
        self._tails: list[bytes] = []
        """Of each choice: PROFILE's body behind the change number."""
        self._choice = array("H", bytes(2)) * table.rows
        self._change = array("I", bytes(4)) * table.rows
        self._state = bytearray(table.rows)
        self._due = array("I")
        """Rows to send, perhaps twice and perhaps no longer."""
        self.choice_of(())

    def choice_of(self, tags: Iterable[str]) -> int:
        """The number of a set of tags. `platform:android` and its like are sent as attributes.

        Raises ValueError for what the SDK or the service would refuse.
        """
        wanted = frozenset(tags)
        number = self._number.get(wanted)
        if number is None:
            if len(self.choices) >= _MOST_CHOICES:
                raise ValueError(f"a fleet has at most {_MOST_CHOICES} different sets of tags")
            tail = _profile(wanted).to_wire().SerializeToString(deterministic=True)
            number = self._number[wanted] = len(self.choices)
            self.choices.append(wanted)
            self._tails.append(tail)
        return number

    def set_tags(self, row: int, choice: int) -> bool:
        """Connected or not, the row has these tags from now on. False if it had them already."""
        if self._choice[row] == choice:
            return False
        self._choice[row] = choice
        self._change[row] += 1
        self._owe(row)
        return True

    def chosen(self) -> "array[int]":
        """The choice of each row."""
        return self._choice

    def _owe(self, row: int) -> None:
        self.unacknowledged += self._state[row] == _SAFE
        self._state[row] = _DUE
        if self._table.phase[row] == OPEN:
            self._due.append(row)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(row, PROFILE) of all that are due; each counts as sent once it was yielded."""
        if not self._due:
            return
        due, self._due = self._due, array("I")
        made: dict[tuple[int, int], bytes] = {}
        for row in due:
            if self._state[row] != _DUE or self._table.phase[row] != OPEN:
                continue
            key = (self._change[row], self._choice[row])
            frame = made.get(key)
            if frame is None:
                body = b"\x08" + varint(self._change[row]) + self._tails[self._choice[row]]
                frame = made[key] = encode(Kind.PROFILE, body)
            self._state[row] = _SENT
            yield row, frame

    def on_ack(self, row: int, change: int) -> bool:
        """PROFILE_ACK: True if the row's last change became safe by it."""
        if self._state[row] == _SAFE or change < self._change[row]:
            return False
        self._state[row] = _SAFE
        self.unacknowledged -= 1
        return True

    def on_registered(self, row: int) -> None:
        """The device has registered with a proof: the service may never have seen its profile."""
        if self._change[row]:
            self._owe(row)

    def on_open(self, row: int) -> None:
        """A new connection: what was not acknowledged goes out again."""
        if self._state[row] == _DUE:
            self._due.append(row)

    def on_closed(self, row: int) -> None:
        if self._state[row] == _SENT:
            self._state[row] = _DUE


def _profile(tags: frozenset[str]) -> Profile:
    """Raises ValueError."""
    said = []
    attributes: dict[str, str] = {}
    for tag in sorted(tags):
        name, _, value = tag.partition(":")
        if name not in SYSTEM_NAMES:
            said.append(tag)
        elif name in _COMPUTED or name in attributes or not value:
            raise ValueError(f"{tag!r}: no attribute that a device could have beside its others")
        else:
            attributes[name] = value
    profile = Profile(tags=said, attributes=attributes)
    profile.check()
    return profile
