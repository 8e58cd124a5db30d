"""One connection: streams around a session. One task reads, one writes, the first to end ends both."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from client_sdk.inbox import Inbox
from client_sdk.journal import Arrival
from client_sdk.options import Options
from client_sdk.session import (
    NEVER,
    Dead,
    Event,
    GoneAway,
    Opened,
    Recalls,
    ReceiptsAcked,
    Session,
)
from client_sdk.state import Installation
from protocol.codes import MAX_RECEIPTS
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.schema import device_pb2
from protocol.states import State

_log = logging.getLogger("columba.sdk")

_READ_BYTES: Final = 64 * 1024
_CLOSE_S: Final = 1.0
"""For a BYE to leave; a peer that does not take it is cut off."""

_BURST_S: Final = 1.0
"""Changes of the profile that do not pause for `gather_s` are sent after this long all the same."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Connection:
    """Made when the streams are connected; `run` once."""

    def __init__(
        self,
        streams: Streams,
        session: Session,
        inbox: Inbox,
        *,
        installation: Installation,
        on_event: Callable[[Event], Awaitable[None]],
        options: Options,
    ) -> None:
        """`on_event` gets what is not about messages and receipts."""
        self._reader, self._writer = streams
        self._session = session
        self._inbox = inbox
        self._installation = installation
        self._on_event = on_event
        self._options = options
        self._now = options.monotonic
        self._profile_sent = 0
        self._profile_seen = 0
        self._profile_at = NEVER
        self._profile_latest_at = NEVER

    async def run(self, hello: device_pb2.Hello) -> device_pb2.GoAway | None:
        """Says HELLO and stays until the end: the edge's GOAWAY, or None for a lost connection."""
        self._writer.write(self._session.hello(hello, self._now()))
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write())
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            writing.cancel()
            outcomes = await asyncio.gather(reading, writing, return_exceptions=True)
            await self._close()
        for outcome in outcomes:
            if isinstance(outcome, device_pb2.GoAway):
                return outcome
        for outcome in outcomes:
            self._on_failure(outcome)
        return None

    def _on_failure(self, outcome: object) -> None:
        """Logs what the network or the peer did; raises what is a defect here."""
        if isinstance(outcome, OSError) and not isinstance(outcome, TimeoutError):
            self._session.on_reset(self._now())
        if isinstance(outcome, OSError | Dead | RemoteProtocolError):
            _log.info("connection lost: %s", outcome)
        elif isinstance(outcome, Exception):
            raise outcome

    def leave(self) -> None:
        """Says BYE; the caller ends `run`."""
        self._writer.write(self._session.bye(self._now()))

    async def _close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._writer.wait_closed()
        except OSError:  # TimeoutError among them: whatever is left to send stays unsent
            self._writer.transport.abort()

    async def _read(self) -> device_pb2.GoAway | None:
        while True:
            if self._session.state is State.OPEN:
                await self._inbox.wait_room()
            self._session.resume_reading(self._now())
            data = await self._reader.read(_READ_BYTES)
            self._session.stop_reading()
            if not data:
                return None
            events = self._session.receive_data(data, self._now())
            goaway = await self._act(events)
            if goaway is not None:
                return goaway

    async def _act(self, events: list[Event]) -> device_pb2.GoAway | None:
        goaway = None
        arrivals: list[Arrival] = []
        recalled: list[int] = []
        for event in events:
            match event:
                case Arrival():
                    arrivals.append(event)
                case Recalls(push_ids):
                    recalled += push_ids
                case ReceiptsAcked(keys):
                    self._inbox.on_acked(keys)
                case GoneAway():
                    goaway = event.goaway
                case Opened():
                    await self._on_event(event)
                    await self._inbox.on_connected(event.welcome.recalled)
                case _:
                    await self._on_event(event)
        if arrivals or recalled:
            await self._inbox.take(arrivals, recalled)
        self._inbox.changed.notify()  # the session may have something to send
        return goaway

    async def _write(self) -> None:
        """The only writer but for `leave`: what the time asks for, the profile, receipts."""
        while True:
            data = self._outgoing()
            if data:
                self._writer.write(data)
                async with asyncio.timeout(self._options.write_timeout_s):
                    await self._writer.drain()
                continue
            deadline = min(self._session.deadline(), self._profile_at)
            wait_s = None if deadline == NEVER else max(0.0, deadline - self._now())
            try:
                async with asyncio.timeout(wait_s):
                    await self._inbox.changed.wait()
            except TimeoutError:
                continue
            if self._inbox.has_receipts and self._session.state is State.OPEN:
                await asyncio.sleep(self._options.gather_s)

    def _outgoing(self) -> bytes:
        now = self._now()
        data = self._session.on_deadline(now)
        if self._session.state is not State.OPEN:
            return data
        owed = self._inbox.take_receipts(MAX_RECEIPTS)
        return data + self._profile(now) + self._session.receipts(owed, now)

    def _profile(self, now: float) -> bytes:
        profile = self._installation.profile
        if profile.acknowledged or profile.change == self._profile_sent:
            self._profile_at = NEVER
            return b""
        if profile.change != self._profile_seen:
            self._profile_seen = profile.change
            if self._profile_at == NEVER:
                self._profile_latest_at = now + _BURST_S
            self._profile_at = min(now + self._options.gather_s, self._profile_latest_at)
        if now < self._profile_at:
            return b""
        self._profile_at = NEVER
        self._profile_sent = profile.change
        try:
            return self._session.profile(profile, now)
        except LocalProtocolError as error:  # this server's limit is lower than the protocol's
            _log.error("the profile cannot be sent: %s", error)
            return b""
