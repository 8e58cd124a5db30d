"""Random lives of journal and inbox, with a crash at any write, against a simple model.

The model knows what the service has sent and heard, what the app was handed and told, and of each
only what is certain: a write during which the machine died may count or not.
"""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from client_sdk import journal_file
from client_sdk.clock import DeviceClock
from client_sdk.entries import record
from client_sdk.errors import StorageError
from client_sdk.events import Event, Recalled
from client_sdk.inbox import Inbox
from client_sdk.journal import GRACE_MS, LIVE_ONLY_MS, Arrival, Journal
from client_sdk.journal_file import JournalFile
from client_sdk.options import Options
from protocol.schema.device_pb2 import CLICKED, DISPLAYED, FAILED, RECEIVED
from tests.client_sdk.crashing_disk import CrashingDisk

START_S = 1_700_000_000
MAX_IDS, MAX_CONTENT, COMPACT = 24, 200, 700
Crash = tuple[int, float] | Literal["full"] | None
"""At which write from now, and how much of that is done; or no write succeeds for a while."""
CRASHES: st.SearchStrategy[Crash] = st.one_of(
    *5 * [st.none()],
    st.just("full"),
    st.tuples(st.integers(0, 2), st.sampled_from([0, 0.3, 0.9, 1])),
)
ASKS = st.integers(0, 3)
KEYS = st.sampled_from(["", "", "a", "a", "b"])
RARELY = st.sampled_from([False, False, True])
T = TypeVar("T")


@dataclass
class Push:
    """What the service knows of one of its pushes."""

    end_ms: int
    key: str
    use_until_ms: int = 0
    """Since it came: of use until then, known until that much later."""
    known_until_ms: int = 0


async def in_turns(function: Callable[..., T], *args: Any) -> T:
    await asyncio.sleep(0)
    result = function(*args)
    await asyncio.sleep(0)
    return result


class Lives(RuleBasedStateMachine):
    """Times are seconds of the true clock; the device's own is `wrong_s` off."""

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.disk = CrashingDisk(Path(self.directory.name))
        self.patches = (
            patch.object(journal_file, "COMPACT_BYTES", COMPACT),
            # In place of threads, so that the same choices always give the same life.
            patch.object(asyncio, "to_thread", in_turns),
        )
        for each in self.patches:
            each.start()
        self.runner = asyncio.Runner()
        self.now_s = START_S
        self.wrong_s = 0
        self.offset_ms = 0
        self.pushes: dict[int, Push] = {}
        self.heard: set[int] = set()  # the service has heard `received`: the device has promised
        self.stored: set[int] = set()  # certainly on disk
        self.perhaps_stored: set[int] = set()
        self.recalled: set[int] = set()
        self.unwritten: set[int] = set()  # recalls that the disk did not take yet
        self.perhaps_recalled: set[int] = set()
        self.nothing: set[int] = set()  # came after its recall: to be passed over in silence
        self.handed: list[int] = []
        self.perhaps_begun: set[int] = set()
        self.finished: set[int] = set()
        self.owed: set[tuple[int, int]] = set()
        self.acked: set[tuple[int, int]] = set()
        self.due: set[tuple[int, bool]] = set()  # events: push id, recalled?
        self.taken: set[tuple[int, bool]] = set()
        self.open()

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        self.disk.crash()
        self.end_of_life()
        self.runner.close()
        for each in self.patches:
            each.stop()
        self.disk.stop()
        self.directory.cleanup()

    # One life of the process.

    def open(self) -> None:
        self.started_s = self.now_s
        self.file = JournalFile(self.disk.directory / "journal")
        found = self.file.load()
        assert found.aside is None
        journal = Journal(max_ids=MAX_IDS, max_content_bytes=MAX_CONTENT)
        journal.load(found.entries)
        wall_s = self.now_s + self.wrong_s
        self.clock = DeviceClock(
            lambda: wall_s, lambda: float(self.now_s - self.started_s), self.offset_ms
        )
        self.clock.not_before(journal.latest_ms)
        self.inbox = Inbox(journal, self.file, self.clock, Options(disk_retry_s=0.0))
        self.held = True
        self.connected = False
        self.last_event: Event | None = None
        self.unwritten.clear()

    def end_of_life(self) -> None:
        async def settle() -> None:
            while self.inbox._writer._task is not None:
                await asyncio.sleep(0)

        self.runner.run(settle())
        self.file.close()

    def lives(
        self, doing: Coroutine[Any, Any, T], crash: Crash, patience: int | None = None
    ) -> T | None:
        """What it returned; None if it crashed, or was cancelled: because it waits and nothing
        goes on, because the disk is full, or after so many turns of the loop."""
        self.disk.full = crash == "full"
        if isinstance(crash, tuple):
            self.disk.arm(*crash)
        if patience is None and self.disk.full:
            patience = 50  # it may try again for ever

        async def settle() -> T | None:
            task = asyncio.ensure_future(doing)
            idle = turns = 0
            while not (task.done() or self.disk.crashed or idle > 3 or turns == patience):
                await asyncio.sleep(0)
                turns += 1
                idle = idle + 1 if self.inbox._writer._task is None else 0
            task.cancel()
            await asyncio.wait({task})
            return None if task.cancelled() else task.result()

        try:
            result = self.runner.run(settle())
        except StorageError:
            result = None
        self.disk.disarm()
        self.disk.full = False
        if not self.disk.crashed:
            return result
        self.end_of_life()
        self.disk.reboot()
        self.open()
        return None

    @property
    def now_ms(self) -> int:
        return self.now_s * 1000

    # What the service and the edge do.

    def sendable(self) -> list[int]:
        return [
            push_id
            for push_id, push in self.pushes.items()
            if self.now_ms < push.end_ms
            or (push_id in self.stored and (push_id, RECEIVED) not in self.acked)
        ]

    def some(self, data: st.DataObject, push_ids: list[int], most: int) -> list[int]:
        """In any order, the latest rather than older ones."""
        if not push_ids:
            return []
        chosen = st.sampled_from(push_ids[-6:])
        return data.draw(st.lists(chosen, max_size=most, unique=True))

    @rule(data=st.data(), fresh=st.integers(1, 3), key=KEYS, crash=CRASHES, asks=ASKS)
    def one_read(self, data: st.DataObject, fresh: int, key: str, crash: Crash, asks: int) -> None:
        """Messages and recalls, old and new; then the app asks so many times."""
        if not self.connected:
            self.connect([], None)
        new = range(1 + len(self.pushes), 1 + len(self.pushes) + fresh)
        for push_id in new:
            self.pushes[push_id] = Push(self.now_ms + 100_000, key)
        recalls = self.some(data, [10**6, *self.pushes], 2) if data.draw(RARELY) else []
        came = [*(new if data.draw(st.booleans()) else new[1:][::-1])]  # the first one comes later
        came += [p for p in self.some(data, self.sendable(), 3) if p not in came]
        arrivals = []
        for push_id in came:
            push = self.pushes[push_id]
            ttl_s = max(0, push.end_ms - self.now_ms) // 1000
            arrivals.append(Arrival(push_id, ttl_s, b"content %d" % push_id, push.key))
            if push_id not in self.recalled | self.unwritten | set(recalls):
                self.perhaps_stored.add(push_id)
            if push_id not in self.stored:
                push.use_until_ms = self.now_ms + max(ttl_s * 1000, LIVE_ONLY_MS)
                push.known_until_ms = self.now_ms + ttl_s * 1000 + GRACE_MS
        self.perhaps_recalled |= set(recalls)
        life = self.inbox
        self.lives(self.inbox.take(arrivals, recalls), crash)
        if self.inbox is life:
            self.certain(arrivals, recalls, on_disk=crash != "full")
        self.app_asks(asks)

    @rule(data=st.data(), crash=CRASHES, asks=ASKS)
    def another_connection(self, data: st.DataObject, crash: Crash, asks: int) -> None:
        self.connect(self.some(data, [10**6, *self.pushes], 2), crash)
        self.app_asks(asks)

    @rule()
    def a_connection_stands(self) -> None:
        """And nothing more is known yet."""
        self.inbox.hold()
        self.held, self.connected = True, False

    def attempt_fails(self) -> None:
        self.inbox.release()
        self.held = self.connected = False

    def connect(self, recalls: list[int], crash: Crash) -> None:
        self.inbox.hold()
        self.clock.on_server_time(self.now_ms)
        self.offset_ms = self.clock.offset_ms
        assert abs(self.clock.now_ms() - self.now_ms) < 2
        self.perhaps_recalled |= set(recalls)
        life = self.inbox
        self.lives(self.inbox.on_connected(recalls), crash)
        if self.inbox is life:
            self.held, self.connected = False, True
            self.certain([], recalls, on_disk=crash != "full")

    def certain(self, arrivals: list[Arrival], recalls: list[int], *, on_disk: bool) -> None:
        """That write is over, and the machine still runs."""
        self.unwritten |= set(recalls) - self.recalled
        if on_disk:
            fresh, self.unwritten = self.unwritten, set()
            self.recalled |= fresh
            self.due |= {(push_id, True) for push_id in fresh & set(self.handed)}
            came = {arrival.push_id for arrival in arrivals}
            self.nothing |= came & self.recalled - self.perhaps_stored
        for push_id, _, _, key in arrivals:
            if push_id not in self.inbox.journal.rows or push_id in self.stored:
                continue
            self.stored.add(push_id)
            self.owed.add((push_id, RECEIVED))
            for older in self.handed:
                known = older in self.inbox.journal.rows and (older, True) not in self.due
                if known and older < push_id and key == self.pushes[older].key != "":
                    self.due.add((older, False))

    @precondition(lambda self: self.connected)
    @rule(count=st.integers(1, 5), acks=st.integers(0, 5))
    def receipts_go_out(self, count: int, acks: int) -> None:
        sent = self.inbox.take_receipts(count)
        self.heard |= {receipt.push_id for receipt in sent if receipt.state == RECEIVED}
        keys = [receipt.key for receipt in sent[:acks]]
        self.inbox.on_acked(keys)
        self.acked |= set(keys)

    # What the app does.

    @rule(
        while_held=RARELY, crash=CRASHES, patience=st.sampled_from([None, None, None, 1, 2, 3, 4])
    )
    def app_asks_once(self, while_held: bool, crash: Crash, patience: int | None) -> None:
        """For the next message; and may lose its patience before it has an answer."""
        if self.held and not while_held:
            self.attempt_fails()
        if crash is not None or patience is not None:
            under_way = self.inbox._begun
            if under_way is not None:
                self.perhaps_begun.add(under_way[0].push_id)
            if under_way is None or under_way[0].push_id not in self.inbox.journal.waiting:
                # What was under way may be void by now: then the next one is begun in the same call.
                likely = self.inbox._next_waiting()
                self.perhaps_begun |= {likely.push_id} if likely else set()
        self.app_gets(crash, patience)

    def app_asks(self, times: int) -> None:
        for _ in range(times):
            self.app_gets(None, None)

    def app_gets(self, crash: Crash, patience: int | None) -> None:
        life, under_way = self.inbox, self.inbox._begun
        message = self.lives(self.inbox.next(), crash, patience)
        if message is None:
            return
        assert self.inbox is life
        push_id, push = message.push_id, self.pushes[message.push_id]
        assert not self.held, "handed out before the recalls were heard"
        assert push_id not in self.handed, "handed out twice"
        assert push_id not in self.recalled | self.unwritten, "handed out after its recall"
        newer = {p for p in self.stored if p > push_id and push.key == self.pushes[p].key != ""}
        assert not [p for p in newer if self.now_ms < self.pushes[p].known_until_ms], "out of date"
        self.certain([], [], on_disk=True)
        assert message.content == b"content %d" % push_id
        if under_way is None:  # else the time may have gone on since it was looked at
            assert self.clock.now_ms() < push.use_until_ms, "expired"
        self.handed.append(push_id)

    @precondition(lambda self: self.handed)
    @rule(data=st.data(), state=st.sampled_from([DISPLAYED, CLICKED, FAILED, None]), crash=CRASHES)
    def app_reports(self, data: st.DataObject, state: int | None, crash: Crash) -> None:
        push_id = data.draw(st.sampled_from(self.handed))
        if (push_id, state) in self.acked:
            return
        self.finished.add(push_id)

        async def say() -> bool:
            if state is None:
                await self.inbox.finish(push_id)
            else:
                await self.inbox.report(push_id, state)
            return True

        if self.lives(say(), crash) and state is not None:
            self.owed.add((push_id, state))

    @rule(goes_on=st.booleans())
    def app_takes_an_event(self, goes_on: bool) -> None:
        event = self.lives(self.inbox.next_event(self.last_event), None)
        if self.last_event is not None:
            self.taken.add((self.last_event.push_id, isinstance(self.last_event, Recalled)))
        self.last_event = event if goes_on else None
        if isinstance(event, Recalled):
            assert event.push_id in self.perhaps_recalled
            assert event.handed_out or event.push_id not in self.handed
            assert not event.handed_out or event.push_id in set(self.handed) | self.perhaps_begun
        elif event is not None:
            assert event.by > event.push_id
            assert self.pushes[event.by].key == self.pushes[event.push_id].key
            assert event.push_id in set(self.handed) | self.perhaps_begun

    # What the world does.

    @rule(seconds=st.sampled_from([1, 1, 5, 5, 20, 100, 30 * 3600]))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds

    @rule(clean=st.booleans(), wrong_s=st.sampled_from([0, 0, 0, 86_400, -86_400]))
    def process_ends(self, clean: bool, wrong_s: int) -> None:
        if clean:
            self.runner.run(self.inbox.close())
            self.disk.crash()
        else:
            self.disk.crash()
            self.end_of_life()
        self.disk.reboot()
        self.wrong_s += wrong_s
        self.open()

    # What has to hold.

    def expected(self, push_id: int) -> bool:
        """Nothing is known that could have ended it: not even perhaps."""
        push = self.pushes[push_id]
        newer = {p for p in self.perhaps_stored if p > push_id and push.key}
        return (
            self.now_ms < push.use_until_ms
            and push_id not in self.perhaps_recalled
            and not any(self.pushes[p].key == push.key for p in newer)
        )

    @invariant()
    def nothing_promised_is_lost(self) -> None:
        if not hasattr(self, "inbox"):
            return
        unfinished = {stored.push_id for stored in self.inbox.journal.unfinished()}
        for push_id in self.heard - set(self.handed):
            if self.expected(push_id) and push_id not in self.inbox.journal.waiting:
                assert push_id in self.perhaps_begun & unfinished
        for push_id in set(self.handed) - self.finished:
            assert push_id in unfinished or not self.expected(push_id)

    @invariant()
    def receipts_are_owed_until_acknowledged(self) -> None:
        if not hasattr(self, "inbox"):
            return
        owed = set(self.inbox.journal.receipts)
        assert self.owed - self.acked <= owed
        assert not {push_id for push_id, _ in owed} & self.nothing, "said something of nothing"

    @invariant()
    def the_app_is_told(self) -> None:
        if not hasattr(self, "inbox"):
            return
        journal = self.inbox.journal
        for push_id, recalled in self.due - self.taken:
            if self.now_ms < self.pushes[push_id].known_until_ms:
                overtaken = not recalled and (push_id, True) in self.taken
                assert push_id in journal.untold or overtaken

    @invariant()
    def all_of_it_is_bounded(self) -> None:
        if not hasattr(self, "inbox"):
            return
        journal = self.inbox.journal
        assert len(journal.rows) <= MAX_IDS and len(journal.untold) <= MAX_IDS
        assert 0 <= journal.content_bytes <= MAX_CONTENT
        assert len(journal.strangers) <= len(self.pushes) + 1
        # What a record adds after the last look at the size.
        spare = 2 * len(record(journal.snapshot()))
        assert self.file._size <= COMPACT + 3 * self.file._fresh_size + spare + 500


Lives.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestLives = Lives.TestCase
