"""One run of a scenario: raise the fleets, let them arrive, put the load on, settle, judge."""

import os
import signal
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Final

from loadtest.api_client import STATES, ApiClient, ApiFailed
from loadtest.engine.army import Sample, raised
from loadtest.engine.book import Accepted, has_ended, judged
from loadtest.engine.pusher import Pusher
from loadtest.engine.recorder import Recorder
from loadtest.engine.result import Ended
from loadtest.engine.scenario import SINGLE, Event, Scenario
from loadtest.engine.series import Value
from loadtest.engine.timeline import in_order
from loadtest.engine.usage import Usage
from loadtest.service import Service

_SAMPLE_S: Final = 1.0
_LAST_ANSWERS_S: Final = 3.0
"""For requests under way when the run is interrupted."""
_ASK_AT_MOST: Final = 500
"""Counts of pushes that are asked for at each look; the rest has to wait for the next."""

Watcher = Callable[[str, float, dict[str, Value]], None]
"""(phase, its part that is over, the last sample's row)."""


class Conductor:
    """Not for several threads, but `stop` may be set from anywhere."""

    def __init__(
        self,
        scenario: Scenario,
        name: str,
        service: Service,
        watcher: Watcher,
        stop: threading.Event,
        *,
        own: bool,
    ) -> None:
        """`own`: the service was started for this run, so its edges may be killed."""
        self.ended = Ended(scenario, name, Recorder(scenario.fleet.devices))
        self.ended.began = time.strftime("%Y-%m-%d %H:%M:%S")
        self._scenario = scenario
        self._service = service
        self._watcher = watcher
        self._stop = stop
        self._own = own
        self._began = time.monotonic()
        self._next_sample = self._began
        self._targets: list[int] = []
        self._learned = -1
        self._ended_pushes: set[int] = set()
        self._counts: dict[int, dict[str, int]] = {}

    @property
    def _at_s(self) -> float:
        return time.monotonic() - self._began

    def run(self) -> None:
        """`ended` is the result, and is true at any time. Raises ApiFailed, ChildFailed, ValueError."""
        with raised(self._scenario, self._service, self._on_fleet) as army:
            usage = Usage(self._service, [fleet.pid for fleet in army.fleets])
            pusher = Pusher(
                self._service,
                self._scenario.pushes,
                lambda: self._targets,
                lambda: self.ended.recorder.counts.get("registered", 0),
            )
            self._army, self._usage, self._pusher = army, usage, pusher
            try:
                self._go()
            finally:
                pusher.stop()
                pusher.wait(_LAST_ANSWERS_S)
                self._note_pushes()
                self.ended.interrupted = self._stop.is_set()
                self.ended.seconds = self._at_s

    def _go(self) -> None:
        self._army.arrive(self._scenario)
        if self._scenario.connect_first:
            self._connect()
        if not self._stop.is_set():
            self._load()
        if not self._stop.is_set():
            self._settle()
        if not self._stop.is_set():
            self._judge()

    def _on_fleet(self, number: int) -> None:
        self._watcher(f"starting fleet {number + 1}", 0.0, {})

    # Phases

    def _connect(self) -> None:
        devices, deadline = self._army.devices, time.monotonic() + self._scenario.connect_s
        while self._at_work() and time.monotonic() < deadline:
            opened = self._army.open_now()
            if opened >= devices:
                return
            # Short waits: the load is to begin when the last is there, not a second later.
            self._pause_and_sample("connecting", opened / devices, time.monotonic() + 0.1)

    def _load(self) -> None:
        scenario, recorder = self._scenario, self.ended.recorder
        self._sample()
        recorder.mark(self._at_s, "load")
        recorder.weigh()
        began = time.monotonic()
        events = in_order(scenario.events)
        self._army.begin()
        self._pusher.start(scenario.duration_s, Random(scenario.seed))
        while self._at_work():
            passed = time.monotonic() - began
            while events and events[0].at_s <= passed:
                event = events.pop(0)
                self._happen(event)
            if passed >= scenario.duration_s:
                break
            due = events[0].at_s if events else scenario.duration_s
            self._pause_and_sample("load", passed / scenario.duration_s, began + due)
        recorder.weigh()

    def _settle(self) -> None:
        while self._at_work() and self._pusher.running:
            self._pause_and_sample("last pushes", 1.0, time.monotonic() + 0.1)
        if self._stop.is_set():
            return
        self._pusher.join()
        self._note_pushes()
        self._army.calm()
        self.ended.recorder.mark(self._at_s, "settling")
        began = time.monotonic()
        deadline = began + self._scenario.settle_s
        with ApiClient(self._service) as api:
            while self._at_work():
                everybody = self._army.open_now() >= self._army.devices
                if (everybody and not self._missing(api)) or time.monotonic() >= deadline:
                    break
                part = (time.monotonic() - began) / max(0.1, self._scenario.settle_s)
                self._pause_and_sample("settling", part, min(deadline, time.monotonic() + 0.5))
        self._sample()

    def _judge(self) -> None:
        """Who was shown what, by the devices' own records."""
        army, book = self._army, self._pusher.book
        army.learn_ids()
        shown_counts = army.shown_counts()
        still = book.open(shown_counts, self._counts.keys() & self._ended_pushes)
        with ApiClient(self._service) as api:
            for push in still:
                if push.device is None or len(self._counts) < book.audiences + _ASK_AT_MOST:
                    self._counts[push.push_id] = _all_states(api.counts(push.push_id))
        singles = [push.push_id for push in book if push.device is not None]
        shown = army.shown(singles) if singles else {}
        unanswered = self._pusher.refused.get(0, 0)
        self.ended.outcome = judged(
            book, shown_counts, shown, self._counts, unanswered, time.monotonic()
        )

    # Steps

    def _at_work(self) -> bool:
        return not self._stop.is_set()

    def _happen(self, event: Event) -> None:
        recorder = self.ended.recorder
        recorder.hurt(time.monotonic())
        if event.do == "cut":
            cut = self._army.cut(1.0 if event.share is None else event.share)
            recorder.mark(self._at_s, f"cut {cut:,}")
        elif self._own and (edges := self._usage.edge_pids()):
            victims = edges[: event.victims(len(edges))]
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            one = len(victims) == 1
            recorder.mark(self._at_s, "edge killed" if one else f"{len(victims)} edges killed")
        else:
            raise ValueError("kill_edge: expected a service that the run itself started")

    def _pause_and_sample(self, phase: str, part: float, due: float) -> None:
        """Wait for the next sample or for `due`, whichever is first; sample in the first case."""
        until = min(due, self._next_sample)
        self._stop.wait(max(0.0, until - time.monotonic()))
        if time.monotonic() >= self._next_sample:
            self._sample()
            self._watcher(phase, min(1.0, part), self._row)

    def _sample(self) -> None:
        """Ask everybody, write a row."""
        sample = self._army.sample()
        self.ended.sample = sample
        self._row = self.ended.recorder.take(
            self._at_s, sample, self._usage.sample(), self._pusher.take_latency(), self._pushes()
        )
        self._next_sample = time.monotonic() + _SAMPLE_S
        self._learn(sample)

    def _learn(self, sample: Sample) -> None:
        """Ids of those that are new, for single pushes."""
        registered = sample.counts["registered"]
        singles = any(step.audience == SINGLE for step in self._scenario.pushes)
        if singles and registered != self._learned:
            self._army.learn_ids()
            self._targets, self._learned = self._army.device_ids(), registered

    def _pushes(self) -> int:
        return len(self._pusher.book)

    def _note_pushes(self) -> None:
        self.ended.pushes = self._pushes()
        self.ended.refused = dict(self._pusher.refused)
        self.ended.late = self._pusher.late

    def _missing(self, api: ApiClient) -> list[Accepted]:
        """Pushes that somebody has still to get. Asks the service, within reason."""
        shown_counts = self._army.shown_counts()
        for push in self._pusher.book.open(shown_counts, self._ended_pushes)[:_ASK_AT_MOST]:
            try:
                counts = _all_states(api.counts(push.push_id))
            except ApiFailed:
                break  # away for a moment, perhaps: there is another look
            # Twice the same: partitions that have not looked at it yet have nothing pending either.
            if has_ended(counts) and self._counts.get(push.push_id) == counts:
                self._ended_pushes.add(push.push_id)
            self._counts[push.push_id] = counts
        still = self._pusher.book.open(shown_counts, self._ended_pushes)
        return [push for push in still if push.until > time.monotonic()]


def _all_states(counts: dict[str, int]) -> dict[str, int]:
    """A service that does not know a state has nobody in it. What users do (`displayed`) may go on
    changing when everything has arrived, so it is left out.
    """
    return {state: counts.get(state, 0) for state in ("targeted", *STATES)}
