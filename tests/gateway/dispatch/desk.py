"""A partition and what decides about it, without store and edges. Time is a number that the tests set."""

from collections.abc import Iterable

from gateway.dispatch.campaign import RECEIVED
from gateway.dispatch.sending import Sending
from gateway.dispatch.sends import Pacing, Send
from tests.gateway.dispatch import records
from tests.gateway.dispatch.records import Log, app_of

WINDOW = 3
PACING = Pacing(resend_s=30.0, resend_max_s=600.0, not_there_s=1.0, window=WINDOW)


class Desk:
    """A partition, what decides about it, and the sends that came of it."""

    def __init__(self, pacing: Pacing = PACING) -> None:
        self.log = Log()
        self.partition = self.log.partition
        self.sending = Sending(self.partition, pacing)
        self.now = 1000.0
        self.rests = False
        """Nobody looks at who waits for it."""
        self.edges_answer = True
        """Else what is sent stays on its way."""

    def fold(self, *logged: bytes) -> list[Send]:
        """Fold, then act on the effects in the order in which the owner does."""
        sends: list[Send] = []
        for record in logged:
            effects = self.log.fold(record)
            self.sending.on_final(effects.final)
            if effects.arrived:
                self.sending.on_arrived(effects.arrived)
            if effects.fresh:
                sends += self.handed_over(self.sending.on_fresh(effects.fresh))
            if effects.resumed:
                sends += self.handed_over(self.sending.on_resumed(effects.resumed))
            if effects.receipted:
                self.sending.on_receipted(effects.receipted)
            sends += self.looked()
        return sends

    def looked(self) -> list[Send]:
        """All turns that there are to be had."""
        sends: list[Send] = []
        while self.sending.waiting and not self.rests:
            sends += self.handed_over(self.sending.look())
        return sends

    def handed_over(self, sends: list[Send]) -> list[Send]:
        """The edges have them at once, if they answer."""
        for send in sends if self.edges_answer else ():
            self.sending.on_handed_over(send, self.now)
        return sends

    def link_up(self, edge: int) -> list[Send]:
        self.sending.on_link_up(edge)
        return self.looked()

    def withdrawn(self, sends: Iterable[Send]) -> list[Send]:
        self.sending.on_withdrawn(sends)
        return self.looked()

    def next_timer(self) -> list[Send] | None:
        """Time passes until something is due; None if nothing will ever be."""
        due = self.sending.next_timer()
        if due is None:
            return None
        self.now = max(self.now, due)
        return self.handed_over(self.sending.on_timer(self.now, self.now)) + self.looked()

    def after(self, seconds: float) -> list[Send]:
        """Time passes; every timer on the way fires when it is due."""
        end = self.now + seconds
        sends: list[Send] = []
        while (due := self.sending.next_timer()) is not None and due <= end:
            sends += self.next_timer() or []
        self.now = end
        return sends


def pairs(sends: Iterable[Send]) -> list[tuple[int, int]]:
    """(device, push id), in the order of sending."""
    return [(device, send.push.push_id) for send in sends for device in send.devices]


def to_one(push_id: int, device: int = 0, ttl_s: int = 60) -> bytes:
    return records.push(push_id, [device], app=app_of(device), ttl_s=ttl_s)


def online(*devices: int, edge: int = 1) -> Desk:
    desk = Desk()
    desk.link_up(edge)
    desk.fold(records.sessions(edge, devices))
    return desk


def received(push_id: int, *devices: int) -> bytes:
    return records.receipts(push_id, RECEIVED, devices)
