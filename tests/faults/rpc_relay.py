"""A relay that knows RPC frames: replies come twice, late, and in another order."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.rpc import MAX_BODY
from protocol.frames import FrameBuffer, encode
from tests.faults.relay import Change, Relay

REPLIES: Final = (0x22, 0x23)
"""RESPONSE and ERROR of gateway.rpc; CHALLENGE and PROOF pass as they are."""
HELD_MOST: Final = 16


class RpcRelay(Relay):
    """For a way on which the target answers calls."""

    disorder = 0.0
    """Part of the replies that something happens to."""
    replies_hurt = 0

    @contextmanager
    def disordered(self, part: float) -> Iterator[None]:
        """Replies are repeated, at once and later, and held back behind others."""
        self.disorder = part
        try:
            yield
        finally:
            self.disorder = 0.0

    def change(self) -> Change | None:
        return Replies(self)


class Replies:
    """The replies on one connection."""

    def __init__(self, relay: RpcRelay) -> None:
        self._relay = relay
        self._frames = FrameBuffer(MAX_BODY)
        self._held: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        out = bytearray()
        for kind, body in self._frames.feed(data):
            frame = encode(kind, body)
            if kind not in REPLIES or not self._hurts():
                out += frame
                continue
            self._relay.replies_hurt += 1
            self._hurt(frame, out, self._relay.chance)
        if len(self._held) >= HELD_MOST or not self._relay.disorder:
            out += self.flush()
        return bytes(out)

    def _hurts(self) -> bool:
        return bool(self._relay.disorder) and self._relay.chance.random() < self._relay.disorder

    def _hurt(self, frame: bytes, out: bytearray, chance: random.Random) -> None:
        match chance.randrange(4):
            case 0:
                out += frame * 2
            case 1:
                out += frame
                self._held.append(frame)
            case _:
                self._held.append(frame)

    def flush(self) -> bytes:
        """What was held back, in any order but the one it came in."""
        held, self._held = self._held, []
        self._relay.chance.shuffle(held)
        return b"".join(held)
