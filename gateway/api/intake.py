"""`Intake`: a push is accepted when the store has it, and then it is spread.

One append is the accept where one partition is concerned and no idempotency key is given. Otherwise
a push record is claim and accept in one step, and the partitions' logs get their parts after it; what
is left undone there, a dispatch node completes.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, TypeVar

from gateway.api.appending import (
    APPEND_S,
    Appending,
    Outcome,
    accepted_of,
    as_it_is,
    submitted,
    tenure_of,
)
from gateway.api.budget import Budget, Stay
from gateway.api.order import (
    Accepted,
    Order,
    Split,
    Targets,
    decode_answer,
    devices_of,
    encode_answer,
    home_of,
    known_targets,
    reached,
    size_of,
    split,
)
from gateway.api.quota import Quotas
from gateway.api.refused import (
    Busy,
    Exceeded,
    IdempotencyConflict,
    LogIsFull,
    Refused,
    Unavailable,
)
from gateway.api.seat import Seat, Tenure
from gateway.config import Api
from gateway.metrics import Counter, Histogram
from gateway.store import keys
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import LogFull, StoreError, StoreUnavailable
from gateway.store.pushes import (
    Claim,
    Parts,
    PushPart,
    PushRecord,
    Winner,
    accept,
    claim_digest,
    fanout_done,
    parts_of,
    unknown_devices,
)

T = TypeVar("T")

ACCEPT_S: Final = 5.0
"""A push record is tried again and again under one push id for this long, then answered with 503."""
FANOUT_S: Final = 2.0
"""The answer waits at most this long for the logs after the accept."""
NOTED_S: Final = 30.0
"""A finished fan-out that cannot be noted for this long is done again by a dispatch node."""
WAITING_BYTES: Final = 64 * 1024 * 1024
"""Orders that have come in and wait for the store: each counts until it is answered and all that was
begun for it has ended. A count of pushes alone would not bound memory."""
_RETRY_MIN_S: Final = 0.02
_RETRY_MAX_S: Final = 0.5


class Intake:
    """Accepts pushes. Raises Refused, or StoreError for what only a mended service can do."""

    def __init__(
        self,
        store: Store,
        seat: Seat,
        clock: StoreClock,
        limits: Api,
        partitions: int,
        *,
        quotas: Quotas | None = None,
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        self._store = store
        self._seat = seat
        self._clock = clock
        self._limits = limits
        self._partitions = partitions
        self._quotas = quotas
        self._appending = Appending(seat, clock, limits.queue_max)
        self._homes = (n % partitions for n in itertools.count(time.time_ns() // 1000))
        self._fanouts: set[asyncio.Task[None]] = set()
        self.waiting = Budget(waiting_bytes)
        self.fanouts_left_total = 0
        self.results = Counter("columba_pushes_total", "result")
        self.seconds = Histogram("columba_accept_seconds")

    async def push(self, order: Order, beside: int = 0) -> Accepted:
        """Returns when the push is durable. `beside`: bytes that the caller keeps until then."""
        begun = time.monotonic()
        try:
            stay = self._enter(order, beside)
            try:
                accepted, repeated = await self._accept_within(order, stay)
            finally:
                stay.leave()
        except Refused:
            self.results.add("refused")
            raise
        self.results.add("repeated" if repeated else "accepted")
        self.seconds.observe(time.monotonic() - begun)
        return accepted

    def push_at_once(self, order: Order, outcome: Outcome[T]) -> asyncio.Future[T] | None:
        """As `push` where one append is all there is to do, which most pushes are, at a fraction of its cost;
        None for others. The future is what `outcome` makes of it. Raises Refused at once."""
        begun = time.monotonic()
        quotas = self._quotas
        if order.audience or order.idempotency_key or (quotas is not None and quotas.limited):
            return None
        sorted_out = split(order.devices, self._partitions)
        if len(sorted_out.targets) > 1:
            return None

        def ended(what: Accepted | Exception) -> T:
            if isinstance(what, Accepted):
                self.results.add("accepted")
                self.seconds.observe(time.monotonic() - begun)
            elif isinstance(what, Refused):
                self.results.add("refused")
            return outcome(what)

        try:
            stay = self._enter(order, 0)
            try:
                return self._appending.begin(order, sorted_out, next(self._homes), stay, ended)
            except BaseException:
                stay.leave()
                raise
        except Refused:
            self.results.add("refused")
            raise

    async def check(self, order: Order, beside: int = 0) -> Accepted:
        """What `push` would answer, without pushing: push id 0."""
        if order.audience:
            return accepted_of(0, order, [])
        stay = self._enter(order, beside)
        try:
            targets, beyond = split(order.devices, self._partitions)
            unknown = await self._unknown(order, targets)
        finally:
            stay.leave()
        return accepted_of(0, order, _unknown_ids(unknown, beyond))

    async def drain(self, wait_s: float) -> None:
        """Wait for fan-outs under way, at most so long; dispatch nodes complete the others."""
        self._appending.close()
        if self._fanouts:
            _, late = await asyncio.wait(self._fanouts, timeout=wait_s)
            for task in late:
                task.cancel()

    async def _accept_within(self, order: Order, stay: Stay) -> tuple[Accepted, bool]:
        """As `_accept`, within what the app may push; what makes no push does not count."""
        quotas, app = self._quotas, order.app.number
        if quotas is None or not quotas.limited:
            return await self._accept(order, stay)
        try:
            async with asyncio.timeout(APPEND_S):
                excess = await quotas.excess(app, time.monotonic())
        except (StoreUnavailable, TimeoutError):
            raise Unavailable from None
        if excess is not None:
            earlier = await self._answered_before(order)
            if earlier is None:
                raise Exceeded(excess)
            return earlier, True
        try:
            accepted, repeated = await self._accept(order, stay)
        except (Busy, IdempotencyConflict):
            quotas.give_back(app)
            raise
        if repeated:
            quotas.give_back(app)
        return accepted, repeated

    async def _answered_before(self, order: Order) -> Accepted | None:
        """What the idempotency key was answered, if it was: who may push no more may still ask that.
        Raises IdempotencyConflict, Unavailable."""
        if not order.idempotency_key:
            return None
        digest = claim_digest(order.app.number, order.idempotency_key)
        key = keys.idempotency(home_of(digest, self._partitions), digest)

        async def ask() -> bytes | None:
            found: bytes | None = await self._store.call("GET", key)
            return found

        raw = await self._insist(ask, APPEND_S, 0)
        if raw is None:
            return None
        push_id, body_digest, answer = raw.split(b" ", 2)  # as scripts/accept.lua leaves it
        return _checked(Winner(int(push_id), body_digest.decode(), answer), order)

    def _enter(self, order: Order, beside: int) -> Stay:
        """Before anything is waited for. Raises Busy."""
        size = size_of(order, self._partitions) + beside
        if not self.waiting.take(size):
            raise Busy
        return Stay(self.waiting, size)

    async def _accept(self, order: Order, stay: Stay) -> tuple[Accepted, bool]:
        """(answer, whether an earlier call's idempotency key gave it)"""
        if order.audience:
            sorted_out = Split(dict.fromkeys(reached(order, self._partitions), b""), [])
        else:
            sorted_out = split(order.devices, self._partitions)
        if order.idempotency_key or len(sorted_out.targets) > 1:
            return await self._accept_record(order, sorted_out, stay)
        stay.join()
        try:
            home = next(self._homes)
            future = self._appending.begin(order, sorted_out, home, stay, as_it_is)
        except BaseException:
            stay.leave()
            raise
        return await future, False

    def _submit(self, tenure: Tenure, p: int, part: PushPart, stay: Stay) -> asyncio.Future[bytes]:
        """The part stays until its call has ended, whoever still waits for it."""
        future = submitted(tenure.parts, p, part)
        stay.join()
        future.add_done_callback(partial(_settled, stay))
        return future

    # Several partitions, or an idempotency key: a push record, then the logs.

    async def _accept_record(
        self, order: Order, sorted_out: Split, stay: Stay
    ) -> tuple[Accepted, bool]:
        key = order.idempotency_key
        key_digest = claim_digest(order.app.number, key) if key else ""
        home = home_of(key_digest, self._partitions) if key else next(self._homes)
        targets, unknown_ids = sorted_out.targets, list(sorted_out.beyond)
        if order.audience:
            targets = targets or {home: b""}  # nobody is still one record: at its home
        else:
            unknown = await self._unknown(order, targets)
            unknown_ids = _unknown_ids(unknown, sorted_out.beyond)
            targets = known_targets(targets, unknown, home)
        tenure = tenure_of(self._seat)
        if tenure.waiting + len(targets) > self._limits.queue_max:
            raise Busy
        push_id = tenure.ids.draw(self._clock.now_ms(), several=True, partition=home)
        answer = accepted_of(push_id, order, unknown_ids)
        record = PushRecord(
            push_id,
            order.app.number,
            order.ttl_s,
            order.audience,
            order.content,
            targets,
            order.options,
        )
        claim = None
        if key:
            kept_s = self._limits.idempotency_s
            claim = Claim(key_digest, order.body_digest, encode_answer(answer), kept_s)
        accepted_ms, winner = await self._insist(
            lambda: accept(self._store, home, record, claim), ACCEPT_S, push_id
        )
        if winner is not None:
            return _checked(winner, order), True
        assert accepted_ms is not None
        await self._fan_out(tenure, push_id, home, parts_of(record, accepted_ms, home), stay)
        return answer, False

    async def _unknown(self, order: Order, targets: Targets) -> dict[int, bytes]:
        """partition -> those of its indexes that the app does not have. Raises Unavailable."""

        async def ask() -> list[bytes]:
            return await asyncio.gather(
                *(
                    unknown_devices(self._store, p, order.app.number, indexes)
                    for p, indexes in targets.items()
                )
            )

        return dict(zip(targets, await self._insist(ask, APPEND_S, 0), strict=True))

    async def _fan_out(
        self, tenure: Tenure, push_id: int, home: int, parts: Parts, stay: Stay
    ) -> None:
        """Spread an accepted push. Nothing that goes wrong here is the caller's error."""
        task = asyncio.create_task(self._spread(tenure, push_id, home, parts, stay))
        self._fanouts.add(task)
        task.add_done_callback(self._fanouts.discard)
        stay.join()
        task.add_done_callback(lambda _: stay.leave())
        await asyncio.wait((task,), timeout=FANOUT_S)

    async def _spread(
        self, tenure: Tenure, push_id: int, home: int, parts: Parts, stay: Stay
    ) -> None:
        open_parts: dict[asyncio.Future[bytes], int] = {}
        for p, part in parts:
            try:
                open_parts[self._submit(tenure, p, part, stay)] = p
            except Busy:
                break
        if open_parts:
            await asyncio.wait(open_parts)
        reached = [p for future, p in open_parts.items() if _succeeded(future)]
        if len(reached) < len(parts):
            self.fanouts_left_total += 1
            if tenure.parts.fenced is not None:
                tenure.fenced.set()
        if reached:
            try:
                await self._insist(
                    lambda: fanout_done(self._store, home, push_id, reached), NOTED_S, 0
                )
            except (Unavailable, StoreError):
                pass  # a dispatch node spreads it once more, which changes nothing

    async def _insist(self, call: Callable[[], Awaitable[T]], limit_s: float, push_id: int) -> T:
        """Repeat until the outcome is known. Raises LogIsFull, Unavailable after `limit_s`."""
        delay = _RETRY_MIN_S
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    try:
                        return await call()
                    except LogFull:
                        raise LogIsFull(push_id) from None
                    except StoreUnavailable:
                        await asyncio.sleep(delay)
                        delay = min(delay * 2, _RETRY_MAX_S)
                        await self._store.wait_up()
        except TimeoutError:
            raise Unavailable(push_id) from None


def _settled(stay: Stay, future: asyncio.Future[bytes]) -> None:
    stay.leave()
    if not future.cancelled():
        future.exception()  # its caller may have left; an unread exception is no news to anybody


def _checked(winner: Winner, order: Order) -> Accepted:
    """The answer of the push that has the order's idempotency key. Raises IdempotencyConflict."""
    if winner.body_digest != order.body_digest:
        raise IdempotencyConflict(winner.push_id)
    return decode_answer(winner.answer)


def _succeeded(future: asyncio.Future[bytes]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _unknown_ids(unknown: Mapping[int, bytes], beyond: list[int]) -> list[int]:
    return [device for p, indexes in unknown.items() for device in devices_of(p, indexes)] + beyond
