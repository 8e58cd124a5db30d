"""The app server of a run: pushes at their moments, whatever the answers take (open loop).

It has a thread of its own, so that a fleet that is slow to answer a question delays no push.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

import uvloop

from loadtest.api_client import stamped
from loadtest.engine.book import Accepted, Book
from loadtest.engine.scenario import SINGLE, PushStep
from loadtest.engine.timeline import moments
from loadtest.histogram import Histogram
from loadtest.kept_http import IDLE_S
from loadtest.service import Service

_TIMEOUT_S: Final = 30.0
_WAITING: Final = 64
"""Pushes of a step that may wait for each of its connections."""
_NAP_S: Final = 0.2
"""How long it sleeps at most without looking whether it is to stop."""
_TEXT: Final = "coo, said the dove, and brought the olive leaf; "

Targets = Callable[[], Sequence[int]]
"""Devices that single pushes may go to, as known now."""


def body_of(step: PushStep, device: int | None) -> bytes:
    """The request. The time in it is now."""
    audience = step.audience if device is None else {"devices": [str(device)]}
    text = (_TEXT * (step.payload_bytes // len(_TEXT) + 1))[: step.payload_bytes]
    body = {
        "audience": audience,
        "notification": {"title": step.name, "body": text},
        "data": stamped(),
        "ttl": step.ttl_s,
        "priority": step.priority,
    }
    return json.dumps(body).encode()


class Pusher:
    """`start`, look at the counts, `stop` and `join`."""

    def __init__(
        self,
        service: Service,
        steps: Sequence[PushStep],
        targets: Targets,
        known: Callable[[], int],
    ) -> None:
        """`known`: how many devices have registered by now, at least."""
        self.book = Book()
        self.refused: dict[int, int] = {}
        """HTTP status -> answers; 0: no answer."""
        self.late = 0
        """Pushes that found no room among those that wait, or nobody registered to go to."""
        self.latency = Histogram()
        """Nanoseconds from the request to its answer. Take it away for a new one to begin."""
        self._service = service
        self._steps = steps
        self._targets = targets
        self._known = known
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self, duration_s: float, random: Random) -> None:
        self._thread = threading.Thread(target=self._run, args=(duration_s, random), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No push goes out any more; those under way are waited for."""
        self._stopping.set()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        """For the thread to end, at most so long."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def join(self) -> None:
        """Raises what ended the thread, if anything did."""
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def take_latency(self) -> Histogram:
        """Of answers since the last call."""
        taken, self.latency = self.latency, Histogram()
        return taken

    def _run(self, duration_s: float, random: Random) -> None:
        try:
            uvloop.run(self._push_all(duration_s, random))
        except BaseException as error:  # told by `join`, in the thread that can do something
            self._failure = error

    async def _push_all(self, duration_s: float, random: Random) -> None:
        began = time.monotonic()
        lanes = [_Lane(step) for step in self._steps]
        workers = [
            asyncio.create_task(self._work(at, lane))
            for at, lane in enumerate(lanes)
            for _ in range(lane.step.concurrency)
        ]
        for moment in moments(self._steps, duration_s):
            if not await self._wait_until(began + moment.at_s):
                break
            self._put(lanes[moment.step], random)
        for lane in lanes:
            for _ in range(lane.step.concurrency):
                await lane.queue.put(None)
        await asyncio.gather(*workers)

    async def _wait_until(self, at: float) -> bool:
        """False: it is to stop."""
        while not self._stopping.is_set():
            left = at - time.monotonic()
            if left <= 0:
                return True
            await asyncio.sleep(min(left, _NAP_S))
        return False

    def _put(self, lane: "_Lane", random: Random) -> None:
        device = None
        if lane.step.audience == SINGLE:
            targets = self._targets()
            if targets:
                device = targets[random.randrange(len(targets))]
        if lane.queue.full() or (lane.step.audience == SINGLE and device is None):
            self.late += 1
            return
        # Stamped now: waiting for a connection is part of what a push takes.
        known = self._known() if lane.step.audience == "all" else 0
        lane.queue.put_nowait(_Due(body_of(lane.step, device), device, known))

    async def _work(self, step: int, lane: "_Lane") -> None:
        connection: _Connection | None = None
        while (due := await lane.queue.get()) is not None:
            if self._stopping.is_set():
                continue  # what still waits then is as if it had never been due
            if connection is not None and time.monotonic() - connection.used_at > IDLE_S:
                connection.close()
                connection = None
            began = time.monotonic_ns()
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    connection = connection or await _Connection.open(self._service)
                    status, answer = await connection.post(due.body)
            except (OSError, EOFError, TimeoutError, ValueError):
                status, answer = 0, b""
                if connection is not None:
                    connection.close()
                    connection = None
            self.latency.record(time.monotonic_ns() - began)
            if status == 202:
                push_id = int(json.loads(answer)["push_id"])
                until = time.monotonic() + lane.step.ttl_s
                self.book.note(Accepted(push_id, step, due.device, due.known, until))
            else:
                self.refused[status] = self.refused.get(status, 0) + 1
        if connection is not None:
            connection.close()


class _Due(NamedTuple):
    body: bytes
    device: int | None
    known: int


class _Lane:
    """A step and its pushes that wait for a connection."""

    def __init__(self, step: PushStep) -> None:
        self.step = step
        self.queue: asyncio.Queue[_Due | None] = asyncio.Queue(step.concurrency * _WAITING)


class _Connection:
    """One keep-alive connection to the API."""

    def __init__(
        self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.used_at = time.monotonic()
        self._reader = reader
        self._writer = writer
        self._head = (
            f"POST /v1/apps/{service.app}/pushes HTTP/1.1\r\nHost: {urlsplit(service.api).netloc}\r\n"
            f"Authorization: Bearer {service.api_key}\r\nContent-Type: application/json\r\n"
        )

    @classmethod
    async def open(cls, service: Service) -> Self:
        """Raises OSError."""
        url = urlsplit(service.api)
        return cls(service, *await asyncio.open_connection(url.hostname, url.port or 80))

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """(status, body of the answer). Raises OSError, EOFError, ValueError for what is no HTTP."""
        self.used_at = time.monotonic()
        self._writer.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(head.split(b" ", 2)[1]), await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()
