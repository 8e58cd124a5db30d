"""`Appending`: pushes that one append to one log accepts. The hot way of an API process.

Thousands of them are open at one time, so each is one small object with one future: no task, and no timer of
its own. That took a quarter off what a push costs the process.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from gateway.api.budget import Stay
from gateway.api.order import Accepted, Order, Split, devices_of
from gateway.api.refused import Busy, LogIsFull, Unavailable
from gateway.api.seat import Seat, Tenure
from gateway.store.clock import StoreClock
from gateway.store.errors import Fenced, LogFull, ProducerFull
from gateway.store.log import Producer
from gateway.store.pushes import PushPart, encode_push

T = TypeVar("T")
Outcome = Callable[[Accepted | Exception], T]
"""Makes of what became of a push what its future gives, or raises what it raises."""

APPEND_S: Final = 3.0
"""A push whose append has had no answer for this long is given up. It may arrive."""


class Appending:
    """What is open, and how long it may be."""

    def __init__(self, seat: Seat, clock: StoreClock, most: int) -> None:
        """`most`: parts that may wait for the logs."""
        self.loop = asyncio.get_running_loop()
        self._seat = seat
        self._clock = clock
        self.most = most
        self._open: deque[_Append[Any]] = deque()
        """In the order of their deadlines. Those that are answered leave it as soon as they are the oldest."""
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(
        self, order: Order, sorted_out: Split, home: int, stay: Stay, outcome: Outcome[T]
    ) -> asyncio.Future[T]:
        """Append an order for one partition; one to nobody is appended at `home`. The future is done when it is
        durable, or after APPEND_S; `outcome` hears of Refused, and of StoreError.

        `stay` is left when nothing is open any more, which may be later. Raises Busy, Unavailable at once, and
        leaves `stay` alone then.
        """
        targets, beyond = sorted_out
        p, indexes = next(iter(targets.items()), (home, b""))
        tenure = tenure_of(self._seat)
        push_id = tenure.ids.draw(self._clock.now_ms(), several=False, partition=p)
        app = order.app.number
        part = PushPart(
            push_id,
            app,
            encode_push(push_id, app, order.ttl_s, audience=order.audience, options=order.options),
            indexes,
            order.content if targets else b"",
        )
        append = _Append(self, order, p, beyond, part, stay, outcome)
        append.submit(tenure)
        while self._open and self._open[0].answer.done():
            self._open.popleft()
        self._open.append(append)
        if self._timer is None:
            self._timer = self.loop.call_at(append.deadline, self._give_up)
        return append.answer

    def close(self) -> None:
        """Stop; what is open is not waited for."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _give_up(self) -> None:
        now = self.loop.time()
        self._timer = None
        while self._open and (self._open[0].answer.done() or self._open[0].deadline <= now):
            append = self._open.popleft()
            if not append.answer.done():
                append.tell(Unavailable(append.part.push_id))
        if self._open:
            self._timer = self.loop.call_at(self._open[0].deadline, self._give_up)

    def again(self, append: "_Append[T]", lost: Tenure) -> None:
        """Under the next lease."""
        task = asyncio.create_task(self._again(append, lost))
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                append.end(Unavailable(append.part.push_id))

        task.add_done_callback(done)

    async def _again(self, append: "_Append[T]", lost: Tenure) -> None:
        try:
            async with asyncio.timeout_at(append.deadline):
                tenure = await self._seat.next(lost)
            append.submit(tenure)
        except (TimeoutError, Busy):
            append.end(Unavailable(append.part.push_id))  # the first call may have been executed
        except Exception as error:  # whatever it is, who waits hears of it
            append.end(error)


class _Append(Generic[T]):
    """One push until its append has ended."""

    __slots__ = (
        "_appending", "_beyond", "_order", "_outcome", "_p", "_stay", "_tenure", "answer",
        "deadline", "part",
    )  # fmt: skip

    def __init__(
        self,
        appending: Appending,
        order: Order,
        p: int,
        beyond: list[int],
        part: PushPart,
        stay: Stay,
        outcome: Outcome[T],
    ) -> None:
        loop = appending.loop
        self._appending = appending
        self._order = order
        self._p = p
        self._beyond = beyond
        self._stay = stay
        self._outcome = outcome
        self._tenure: Tenure | None = None
        self.part = part
        self.deadline = loop.time() + APPEND_S
        self.answer: asyncio.Future[T] = loop.create_future()

    def submit(self, tenure: Tenure) -> None:
        """Raises Busy."""
        if tenure.waiting >= self._appending.most:
            raise Busy(self.part.push_id)
        future = submitted(tenure.producer, self._p, self.part)
        # The same id again under the next lease: a log that has it already folds it once.
        first = self._tenure is None
        self._tenure = tenure
        future.add_done_callback(self._on_first if first else self._on_stored)

    def _on_first(self, future: asyncio.Future[bytes]) -> None:
        if not future.cancelled() and isinstance(future.exception(), Fenced):
            assert self._tenure is not None
            self._appending.again(self, self._tenure)
        else:
            self._on_stored(future)

    def _on_stored(self, future: asyncio.Future[bytes]) -> None:
        if future.cancelled():
            self.end(Unavailable(self.part.push_id))
            return
        error = future.exception()
        if error is None:
            unknown = devices_of(self._p, future.result()) + self._beyond
            self.end(accepted_of(self.part.push_id, self._order, unknown))
        elif isinstance(error, LogFull):
            self.end(LogIsFull(self.part.push_id))
        else:
            assert isinstance(error, Exception)
            self.end(error)

    def end(self, ended: Accepted | Exception) -> None:
        """Nothing is open any more."""
        self._stay.leave()
        self.tell(ended)
        # What is answered may stand behind an older one for some seconds: without what its budget was for.
        del self._order, self.part

    def tell(self, ended: Accepted | Exception) -> None:
        """Who still waits hears of it."""
        if self.answer.done():
            return
        try:
            self.answer.set_result(self._outcome(ended))
        except Exception as error:  # what the outcome raises is what the future raises
            self.answer.set_exception(error)


def submitted(producer: Producer[PushPart, bytes], p: int, part: PushPart) -> asyncio.Future[bytes]:
    """The unknown indexes of the part (u32 LE each) once it is stored. Raises Busy at once."""
    size = len(part.push) + len(part.indexes) + len(part.content)
    try:
        return producer.submit(p, part, size)
    except ProducerFull:
        raise Busy(part.push_id) from None


def tenure_of(seat: Seat) -> Tenure:
    """The one to push under. Raises Unavailable."""
    tenure = seat.current
    if tenure is None:
        # Push ids are unique only under a lease that stands.
        raise Unavailable
    return tenure


def accepted_of(push_id: int, order: Order, unknown: list[int]) -> Accepted:
    count = None if order.audience else len(order.devices) - len(unknown)
    return Accepted(push_id, count, unknown, order.unknown_segments, order.unknown_accounts)


def as_it_is(ended: Accepted | Exception) -> Accepted:
    """The outcome for who awaits it."""
    if isinstance(ended, Exception):
        raise ended
    return ended
