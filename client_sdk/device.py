"""The device: dials, keeps one connection, hands out messages."""

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from client_sdk import greeting
from client_sdk.clock import DeviceClock
from client_sdk.connection import Connection, Streams
from client_sdk.disk import DirectoryLock
from client_sdk.errors import DeviceClosed, DeviceError, Refused, StateDirectoryError
from client_sdk.heartbeat import Prober, Probing
from client_sdk.inbox import Inbox, Stats
from client_sdk.iterators import Events, Messages
from client_sdk.journal import Journal
from client_sdk.journal_file import JournalFile, Loaded
from client_sdk.message import Message
from client_sdk.options import Options
from client_sdk.profile_writer import ProfileWriter
from client_sdk.reconnect import Address, Backoff, Ended, Reconnect, Stop
from client_sdk.session import Event, Opened, ProfileAcked, Session
from client_sdk.state import Installation, Profile, StateFile
from client_sdk.tags import Tags
from protocol.codes import MAX_TEXT_BYTES, CloseCode
from protocol.schema import device_pb2

_log = logging.getLogger("columba.sdk")

_MAX_CONNECTION: Final = 1 << 52
"""The protocol keeps counters below 2^53: a peer that names a higher one is mistaken."""


class Device:
    """One installation of an app. `async with`, or `open` and `close`."""

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        app: str,
        access_key: str,
        state_dir: str | os.PathLike[str],
        options: Options | None = None,
    ) -> None:
        """`address`: "host:port", or several that are tried in turn. `state_dir`: a directory of
        this installation's own, made if it is not there. Raises ValueError."""
        addresses = [address] if isinstance(address, str) else list(address)
        if not addresses:
            raise ValueError("at least one address is needed")
        if not 0 < len(app.encode()) <= MAX_TEXT_BYTES:
            raise ValueError(f"an app id has 1 to {MAX_TEXT_BYTES} bytes")
        self._addresses = [Address.parse(text) for text in addresses]
        self._app = app
        self._access_key = access_key
        self._directory = Path(state_dir)
        self._options = options or Options()
        self._state_file = StateFile(self._directory / "state.json")
        self._journal_file = JournalFile(self._directory / "journal")
        self._saving = asyncio.Lock()
        self._profile_writer = ProfileWriter(self._profile, self._store_profile)
        self._tags = Tags(self._profile_writer)
        self._save_failed = False
        self._lock: DirectoryLock | None = None
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._opened_at: float | None = None
        self.error: Exception | None = None
        """Why the device stopped by itself: Refused, or a defect."""
        # Made by `open`.
        self._installation: Installation
        self._clock: DeviceClock
        self._inbox: Inbox
        self._reconnect: Reconnect
        self._begun_before: frozenset[int]

    # Life.

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Reads the state and begins to dial; does not wait for a connection.

        Raises StateDirectoryError (in use, or of another app) and OSError.
        """
        if self._lock is not None:
            raise DeviceError("this Device was opened before; make a new one")
        loaded = await asyncio.to_thread(self._load)
        self._clock = DeviceClock(
            self._options.clock, self._options.monotonic, self._installation.clock_offset_ms
        )
        journal = Journal(
            max_ids=self._options.max_ids, max_content_bytes=self._options.max_content_bytes
        )
        journal.load(loaded.entries)
        self._clock.not_before(journal.latest_ms)
        self._begun_before = frozenset(stored.push_id for stored in journal.unfinished())
        self._inbox = Inbox(journal, self._journal_file, self._clock, self._options)
        self._reconnect = Reconnect(self._addresses, self._installation.backoff, self._options.rng)
        self._task = asyncio.create_task(self._run())

    def _load(self) -> Loaded:
        """Blocking: the lock, the identity, the journal's entries."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = DirectoryLock(self._directory)
        try:
            self._installation, aside = self._state_file.load(self._app)
            if aside:
                _log.error("the state file was damaged: moved to %s, registering anew", aside)
            if self._installation.app != self._app:
                raise StateDirectoryError(
                    f"{self._directory} belongs to app {self._installation.app!r}, "
                    f"not to {self._app!r}"
                )
            loaded = self._journal_file.load()
            if loaded.aside:
                _log.error(
                    "the journal was damaged: moved to %s, what was readable is kept",
                    loaded.aside,
                )
        except BaseException:  # raised again: whatever it is, the directory is free for others
            self._lock.release()
            self._lock = None
            raise
        return loaded

    async def close(self) -> None:
        """Waits a little for receipts to be acknowledged, says BYE, closes; again is harmless."""
        if self._task is None or self._inbox.closed:
            return
        self._inbox.closed = True
        self._inbox.changed.notify()
        await self._profile_writer.close()
        if self._connection is not None and self.connected:
            try:
                await self._flush(self._options.close_flush_s)
            except (TimeoutError, DeviceError):
                pass  # they are on disk, and are sent after the next start
            if self._connection is not None:
                self._connection.leave()
        self._task.cancel()
        await asyncio.wait({self._task})
        await self._inbox.close()
        await self._save(self._installation)
        if self._lock is not None:
            self._lock.release()

    # What the app uses.

    @property
    def device_id(self) -> int | None:
        """None until the first WELCOME."""
        return self._installation.device_id

    @property
    def connected(self) -> bool:
        """Is there a registered session now?"""
        return self._opened_at is not None

    @property
    def config(self) -> Mapping[str, str]:
        """The app's settings for its devices, as last told by the service."""
        return dict(self._installation.config)

    @property
    def tags(self) -> Tags:
        """To read and to change; what stands in the profile, whoever put it there."""
        return self._tags

    @property
    def stats(self) -> Stats:
        """A copy of the counters as they are now."""
        journal = self._inbox.journal
        return replace(
            self._inbox.stats,
            receipts_pending=len(journal.receipts),
            expired=journal.expired,
            recalled=self._inbox.stats.recalled + journal.recalled,
            replaced=journal.replaced,
        )

    async def wait_connected(self) -> None:
        """Raises Refused when that will never be, DeviceClosed after `close`."""
        while not self.connected:
            self._raise_end()
            await self._inbox.changed.wait()

    def messages(self) -> Messages:
        """Iterate to take messages, for ever: until `close`, or with Refused if the service will
        not have this device (what was stored before that is handed out first)."""
        return Messages(self._inbox, lambda: self.error)

    def events(self) -> Events:
        """Iterate, in one task, to hear that messages were recalled or replaced which the app has
        or had on the screen; ends as `messages` does. Each comes at least once: the next question
        says that the app is through with the last one, and until then it comes again after a
        restart. It is given up a day after the message's ttl."""
        return Events(self._inbox, lambda: self.error)

    def unfinished(self) -> list[Message]:
        """Handed out in an earlier run, and the app never said what became of them: it may have
        died over them, before or after their effect. Oldest first; not handed out by themselves."""
        return [
            Message(stored, self._inbox)
            for stored in self._inbox.journal.unfinished()
            if stored.push_id in self._begun_before
        ]

    async def set_profile(
        self, *, tags: Iterable[str] = (), attributes: Mapping[str, str] | None = None
    ) -> None:
        """Replaces all tags and attributes. On disk when this returns, and sent until the service
        has acknowledged it, across restarts. Raises ValueError, StorageError and DeviceClosed."""
        wanted = Profile(tags=sorted(set(tags)), attributes=dict(attributes or {}))
        await self._profile_writer.change(lambda _: wanted)

    async def flush(self, timeout: float) -> None:
        """Returns when all receipts are acknowledged, which may take a second at a busy edge. Raises TimeoutError
        after `timeout` seconds, Refused when they never will be."""
        if self._inbox.closed:
            raise DeviceClosed("the Device is closed")
        await self._flush(timeout)

    async def _flush(self, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            while self._inbox.journal.receipts:
                if self.error is not None:
                    raise self.error
                await self._inbox.changed.wait()

    def _raise_end(self) -> None:
        if self.error is not None:
            raise self.error
        if self._inbox.closed:
            raise DeviceClosed("the Device is closed")

    # Dialling.

    async def _run(self) -> None:
        try:
            while True:
                try:
                    ended = await self._attempt(self._reconnect.next_address())
                finally:
                    self._inbox.release()
                self._learn(ended)
                step = self._reconnect.after(ended)
                if isinstance(step, Stop):
                    raise Refused(step.code, step.detail)
                if step.drop_token:
                    self._installation.token = b""
                await asyncio.sleep(step.delay_s)
        except Exception as error:  # whatever ends this task: the app waits, and has to be told
            self.error = error
            self._inbox.ended = True
            self._inbox.changed.notify()
            if not isinstance(error, Refused):
                _log.exception("the device stopped on a defect of the SDK")

    async def _attempt(self, address: Address) -> Ended:
        """One connection from dial to end."""
        try:
            async with asyncio.timeout(self._options.dial_timeout_s):
                streams = await asyncio.open_connection(*address, ssl=self._options.ssl)
        except OSError as error:  # TimeoutError and TLS errors among them
            _log.info("no connection to %s:%d: %s", *address, error)
            return Ended()
        self._inbox.hold()
        hello = await self._hello(streams)
        prober = Prober(
            self._installation.networks.use(self._options.network()),
            self._installation.probing,
            self._options.heartbeat_s,
        )
        session = Session(
            prober,
            now=self._options.monotonic(),
            wall_ms=self._clock.now_ms(),
            welcome_timeout_s=self._options.welcome_timeout_s,
        )
        self._connection = Connection(
            streams,
            session,
            self._inbox,
            installation=self._installation,
            on_event=self._on_event,
            options=self._options,
        )
        try:
            goaway = await self._connection.run(hello)
        finally:
            opened_at, self._opened_at = self._opened_at, None
            self._connection = None
        open_s = None if opened_at is None else self._options.monotonic() - opened_at
        return Ended(goaway, hello.HasField("registration"), open_s)

    async def _hello(self, streams: Streams) -> device_pb2.Hello:
        """HELLO with the next connection number, which is on disk when this returns: a number that
        came back after a crash could lose against an earlier connection of this same device."""
        this = self._installation
        this.connection += 1
        try:
            await self._save(this)
        except BaseException:  # cancelled: nobody else would close them
            streams[1].transport.abort()
            raise
        return greeting.hello(
            this, self._access_key, now_ms=self._clock.now_ms(), granted=self._options.permission
        )

    async def _on_event(self, event: Event) -> None:
        match event:
            case Opened(welcome):
                await self._on_opened(welcome)
            case ProfileAcked(change):
                profile = self._installation.profile
                profile.acknowledged = profile.acknowledged or change >= profile.change
                await self._save(self._installation)

    async def _on_opened(self, welcome: device_pb2.Welcome) -> None:
        this = self._installation
        if not this.token and this.profile.change:
            # Registered anew: the service may never have seen this device.
            this.profile.acknowledged = False
        this.device_id = welcome.device_id
        this.token = welcome.token or this.token
        if welcome.config_version != this.config_version and welcome.config_version:
            this.config_version, this.config = welcome.config_version, dict(welcome.config)
        this.probing = Probing.from_wire(welcome.probing)
        if welcome.HasField("backoff"):  # else what was last in force
            this.backoff = self._reconnect.backoff = Backoff.from_wire(welcome.backoff)
        self._clock.on_server_time(welcome.server_time_ms)
        this.clock_offset_ms = self._clock.offset_ms
        await self._save(this)
        self._opened_at = self._options.monotonic()
        self._inbox.stats.connects += 1

    def _learn(self, ended: Ended) -> None:
        goaway = ended.goaway
        if goaway is None:
            return
        _log.info("the edge closed: %d %s", goaway.code, goaway.detail)
        if goaway.code == CloseCode.WRONG_CLOCK:
            self._clock.on_server_time(goaway.server_time_ms)
        elif goaway.code == CloseCode.STALE_CONNECTION:
            # The next HELLO counts on from there: it is above everything that is registered.
            this = self._installation
            this.connection = max(this.connection, min(goaway.connection, _MAX_CONNECTION))

    # The state file.

    async def _save(self, installation: Installation) -> bool:
        """Cancelling does not stop the thread that writes, so it must not free the lock either: the
        next write would meet this one in the same file."""
        return await asyncio.shield(asyncio.ensure_future(self._save_whole(installation)))

    async def _save_whole(self, installation: Installation) -> bool:
        async with self._saving:
            return await self._save_locked(installation)

    def _profile(self) -> Profile:
        if self._task is None:
            raise DeviceClosed("the Device is not open yet")
        return self._installation.profile

    async def _store_profile(self, profile: Profile) -> bool:
        async with self._saving:
            stored = await self._save_locked(replace(self._installation, profile=profile))
            if stored:
                self._installation.profile = profile
        self._inbox.changed.notify()
        return stored

    async def _save_locked(self, installation: Installation) -> bool:
        """Is it on disk? A device whose disk is full still connects: what it cannot note (token,
        counters) the service mends at the next connect."""
        try:
            await asyncio.to_thread(self._state_file.save, installation.to_json())
        except OSError as error:
            if not self._save_failed:
                _log.error("the state file cannot be written: %s", error)
            self._save_failed = True
            return False
        self._save_failed = False
        return True
