"""The registrar: sessions go up to the store in batches, on a path of their own.

It needs the store and nothing else; dispatch may be down. A registration carries (descriptor, row
generation): it leaves its batch when the socket closes, and an answer that finds no row is
unregistered at once.
"""

from collections.abc import Callable, Sequence

from gateway.config import Edge
from gateway.store.client import Store
from gateway.store.errors import ProducerFull
from gateway.store.leases import Identity
from gateway.store.log import Pace, Producer
from gateway.store.sessions import Answer, Change, Down, Status, Up, session_producer

Answered = Callable[[int, Up, Answer], None]
"""(partition, registration, answer), for registrations whose row still stands"""


class Registrar:
    """Registers and unregisters sessions of this edge."""

    def __init__(
        self,
        config: Edge,
        store: Store,
        *,
        is_row: Callable[[int, int], bool],
        answered: Answered,
    ) -> None:
        self._config = config
        self._store = store
        self._is_row = is_row
        self._answered = answered
        self._producer: Producer[Change, Answer | None] | None = None
        self.unregistered_late_total = 0

    def begin(self, identity: Identity) -> None:
        """Start as a new incarnation; ends of sessions that the last one still held go along."""
        last, self._producer = self._producer, None
        self._producer = session_producer(
            self._store,
            identity,
            Pace(
                quiet_s=min(0.002, self._config.gather_ms / 1000),
                busy_s=max(0.1, self._config.gather_ms / 1000),
                items=self._config.gather_count,
                waiting=self._config.registrations_max,
            ),
            wanted=self._is_wanted,
            done=self._done,
        )
        if last is not None:
            for p, change in last.leftovers():
                if isinstance(change, Down) or self._is_wanted(change):
                    self._producer.put(p, change)
            last.close()

    def register(self, p: int, up: Up) -> None:
        """Queue a registration; `answered` hears of it. Raises ProducerFull."""
        producer = self._require()
        if producer.waiting >= self._config.registrations_max:
            raise ProducerFull(f"{producer.waiting} registrations wait for the store")
        producer.put(p, up)

    def continue_session(self, p: int, up: Up) -> None:
        """Register a standing session under a new edge number; as many as there are rows."""
        self._require().put(p, up)

    def unregister(self, p: int, device: int, epoch: int) -> None:
        """Queue the end of a session. Never refused: there are at most as many as there were rows."""
        self._require().put(p, Down(device, epoch))

    async def drain(self) -> None:
        await self._require().drain()

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close()

    @property
    def fenced(self) -> bool:
        return self._producer is not None and self._producer.fenced is not None

    @property
    def waiting(self) -> int:
        return self._producer.waiting if self._producer else 0

    @property
    def calls_total(self) -> int:
        return self._producer.calls_total if self._producer else 0

    @property
    def full_total(self) -> int:
        """Calls that a full log refused."""
        return self._producer.full_total if self._producer else 0

    def _require(self) -> Producer[Change, Answer | None]:
        assert self._producer is not None, "begin() comes first"
        return self._producer

    def _is_wanted(self, change: Change) -> bool:
        return isinstance(change, Down) or self._is_row(change.fd, change.row)

    def _done(self, p: int, items: Sequence[Change], results: Sequence[Answer | None]) -> None:
        for change, answer in zip(items, results, strict=True):
            if answer is None or not isinstance(change, Up):
                continue
            if self._is_row(change.fd, change.row):
                self._answered(p, change, answer)
            elif answer.status is Status.REGISTERED:
                self.unregistered_late_total += 1
                self.unregister(p, answer.device, answer.value)
