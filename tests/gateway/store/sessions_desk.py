"""An edge's side of `register`: calls of the store function, counted as an edge counts them."""

import secrets
from typing import Final

from gateway.store.client import Store
from gateway.store.leases import Identity
from gateway.store.log import Pace, Producer
from gateway.store.sessions import Answer, Change, Down, Up, session_producer

APP: Final = 3
INSTALLATION: Final = b"i" * 16


class SessionsDesk:
    """One start of an edge; `call` is one call of sessions.lua for partition 0."""

    def __init__(self, store: Store, number: int = 1, start: int = 10) -> None:
        self._store = store
        self.identity = Identity("edge", number, start)
        self._answers: list[Answer | None] = []
        self._producer = self._new_producer()

    def _new_producer(self) -> Producer[Change, Answer | None]:
        return session_producer(
            self._store,
            self.identity,
            Pace(quiet_s=0),
            wanted=lambda _: True,
            done=lambda _p, _items, answers: self._answers.extend(answers),
        )

    async def call(self, *changes: Change) -> list[Answer | None]:
        self._answers.clear()
        for change in changes:
            self._producer.put(0, change)
        await self._producer.drain()
        if self._producer.fenced is not None:
            raise self._producer.fenced
        return list(self._answers)

    async def first_call(self, *changes: Change) -> list[Answer | None]:
        """Call with seq 1: a repetition, if this start has called before."""
        self._producer = self._new_producer()
        return await self.call(*changes)

    async def up(self, up: Up) -> Answer:
        (answer,) = await self.call(up)
        assert answer is not None
        return answer

    async def down(self, device: int, epoch: int) -> None:
        await self.call(Down(device, epoch))


def registration(
    row: int = 1,
    connection: int = 1,
    *,
    installation: bytes = INSTALLATION,
    nonce: bytes | None = None,
    app: int = APP,
) -> Up:
    """Of a device that has no token yet."""
    fresh = secrets.token_bytes(16)
    return Up(5, row, connection, app, 0, installation, fresh if nonce is None else nonce, 0)


def with_token(
    device: int, row: int = 1, connection: int = 1, *, app: int = APP, prior: int = 0
) -> Up:
    """Of a device that was registered before."""
    return Up(5, row, connection, app, device, b"", b"", prior)
