"""What a fleet knows of its devices, in columns: one row per device, no object per device. Pure."""

import hashlib
from array import array
from typing import Final

from protocol.codes import INSTALLATION_ID_BYTES
from protocol.states import State

# A row's phase is the session state of its connection (protocol.states) or, without one, what
# comes next for it.
CLOSED: Final = int(State.CLOSED)
CONNECTED: Final = int(State.CONNECTED)
GREETED: Final = int(State.GREETED)
OPEN: Final = int(State.OPEN)
QUEUED: Final = 8
"""Waits for its turn to dial."""
WAITING: Final = 9
"""Waits for its reconnect delay to pass."""
ENDED: Final = 10
"""Told never to come back."""


class DeviceTable:
    """Columns of `rows` devices: some 40 bytes a row, and the token's own length once it has one."""

    __slots__ = (
        "_seed",
        "_stride",
        "_token_size",
        "_tokens",
        "attempt",
        "beat_tick",
        "connection",
        "device_id",
        "fd",
        "heard",
        "phase",
        "registered",
        "rows",
        "seq",
        "since",
    )

    def __init__(self, rows: int, seed: bytes) -> None:
        self.rows = rows
        self._seed = seed
        self.phase = bytearray(rows)
        self.fd = array("i", [-1]) * rows
        self.device_id = array("Q", bytes(8)) * rows
        """Of a registered row; 0 is an id like any other."""
        self.registered = bytearray(rows)
        """1 from the first WELCOME on: the device has its id, and keeps it."""
        self.connection = array("Q", bytes(8)) * rows
        """The device's own count of its connections: an edge refuses one below the stored."""
        self.attempt = bytearray(rows)
        """Delays since the last session that stood, for the backoff; stops at 255."""
        self.seq = array("I", bytes(4)) * rows
        """RECEIPTS frames sent on this connection."""
        self.heard = bytearray(rows)
        """1 if anything arrived since the last PING."""
        self.beat_tick = array("I", bytes(4)) * rows
        """Tick of the row's next heartbeat or, before WELCOME, of the end of its patience: an entry of the schedule
        under another is stale."""
        self.since = array("d", bytes(8)) * rows
        """When the row dialled or, once open, when it opened: seconds of the fleet's clock."""
        self._stride = 0
        self._tokens = bytearray()
        self._token_size = bytearray(rows)

    def installation_id(self, row: int) -> bytes:
        """Not stored: the same for the same seed and row, unlike for any other."""
        return hashlib.blake2b(
            row.to_bytes(8, "big"), key=self._seed[:64], digest_size=INSTALLATION_ID_BYTES
        ).digest()

    def token(self, row: int) -> bytes:
        """The row's token, empty if it has none."""
        at = row * self._stride
        return bytes(self._tokens[at : at + self._token_size[row]])

    def keep_token(self, row: int, token: bytes) -> None:
        """Tokens of one service have one length, so they lie in one block of that stride.

        Raises ValueError for one longer than 255 bytes; empty forgets the token.
        """
        if len(token) > 255:
            raise ValueError(f"a token of {len(token)} bytes does not fit the column")
        if len(token) > self._stride:
            self._widen(len(token))
        at = row * self._stride
        self._tokens[at : at + len(token)] = token
        self._token_size[row] = len(token)

    def _widen(self, stride: int) -> None:
        wider = bytearray(stride * self.rows)
        old = self._stride
        for row, size in enumerate(self._token_size):
            if size:
                wider[row * stride : row * stride + size] = self._tokens[
                    row * old : row * old + size
                ]
        self._tokens, self._stride = wider, stride
