"""What is to be sent, and what is known of it on its way. Pure."""

from collections import OrderedDict, deque
from typing import NamedTuple

from pyroaring import BitMap

from gateway.dispatch.campaign import Push


class Send(NamedTuple):
    """One push to some devices of one edge; a sequence of them keeps the order of each device."""

    edge: int
    push: Push
    devices: BitMap
    attempt: int = 0
    """How often it has been sent to them before, as far as is known."""


class Pacing(NamedTuple):
    """Times of resending, seconds, and the window of a backlog."""

    resend_s: float
    resend_max_s: float
    not_there_s: float
    window: int


class SendState(NamedTuple):
    """What is known of one push on its way to one device."""

    attempt: int
    """Times it was sent, as far as known: a restart and a longer absence of the device forget it."""
    sent_s_ago: float | None
    why: str
    """Why it is not sent just now: "paused", "paced" (waits for a permit), "no_link" (its edge cannot be
    reached), "refused" (the edge did not have it, or its output was full; looked at again later), "behind"
    (its window is full); "" for none of these, and for a push that is not pending."""


class Overtaken:
    """For which devices a send that is on its way counts no more.

    A refusal makes void what was decided for the device before, and so does a look, which decides
    everything that is pending anew. Otherwise a message from before could go out first, and with it
    overtake the one that was refused, or that the device's last session has lost.
    """

    def __init__(self) -> None:
        self._now = 0
        self._events: deque[tuple[int, BitMap]] = deque()
        """(number, devices): sends of a lesser number are void for these devices"""
        self._under_way: OrderedDict[int, int] = OrderedDict()
        """number -> sends decided under it that are under way; in ascending order"""

    def enter(self, sends: int = 1, number: int | None = None) -> int:
        """Sends are on their way: decided just now, or under a number that is under way already.

        Returns the number, which has to `leave` as many times.
        """
        if number is None:
            number = self._now
        if sends:
            self._under_way[number] = self._under_way.get(number, 0) + sends
        return number

    def leave(self, number: int, sends: int = 1) -> None:
        """Dropped, or answered."""
        left = self._under_way[number] - sends
        if left:
            self._under_way[number] = left
            return
        del self._under_way[number]
        oldest = next(iter(self._under_way), self._now)
        while self._events and self._events[0][0] <= oldest:
            self._events.popleft()

    def overtake(self, devices: BitMap) -> None:
        """What is under way for these devices is void."""
        if devices and self._under_way:
            self._now += 1
            self._events.append((self._now, devices.copy()))

    def of(self, number: int, devices: BitMap) -> BitMap:
        """Those of the devices for which a send of this number is void."""
        void = BitMap()
        for at, overtaken in reversed(self._events):
            if at <= number:
                break
            void |= devices & overtaken
        return void

    def __len__(self) -> int:
        """Events remembered."""
        return len(self._events)
