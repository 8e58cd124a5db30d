"""When and where to dial again: full jitter, the server's numbers, the verdict of each close code.

Pure: the random source is an argument, delays are returned and not slept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from protocol.codes import CloseCode, Verdict
from protocol.schema import device_pb2


class Address(NamedTuple):
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of "host:port" or "[ipv6]:port". Raises ValueError for anything else."""
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not (colon and bare and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{text!r} is not host:port")
        return cls(bare, int(port))


@dataclass(frozen=True, slots=True)
class Backoff:
    """The n-th delay is drawn from 0 to min(max_s, base_s * factor^n). WELCOME brings the server's."""

    base_s: float = 1.0
    factor: float = 2.0
    max_s: float = 120.0

    @classmethod
    def from_wire(cls, told: device_pb2.Backoff) -> Self:
        """Fields that are 0 keep their default."""
        ours = cls()
        base_s = told.base_ms / 1000 or ours.base_s
        max_s = told.max_ms / 1000 or ours.max_s
        factor = max(1.0, told.factor) if told.factor > 0 else ours.factor
        return cls(base_s, factor, max(base_s, max_s))

    def bound_s(self, attempt: int) -> float:
        try:
            return min(self.max_s, self.base_s * self.factor**attempt)
        except OverflowError:  # long after max_s was reached, whatever factor the server has told
            return self.max_s


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended. `goaway` None: the connection was lost, or never came about."""

    goaway: device_pb2.GoAway | None = None
    registering: bool = False
    """Its HELLO asked for a registration."""
    open_s: float | None = None
    """How long it stood after WELCOME; None: there was none."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial again after `delay_s`, without the token if `drop_token`."""

    delay_s: float
    drop_token: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Do not dial again; the app has to be told `code` and `detail`."""

    code: int
    detail: str


def verdict(code: int) -> Verdict:
    """Of any code, by its hundred where this build does not know it; else LATER, the careful one."""
    hundred = code // 100 - 39
    return Verdict(hundred) if hundred in Verdict.__members__.values() else Verdict.LATER


class Reconnect:
    """Counts attempts and keeps the addresses; one for the life of a `Device`."""

    def __init__(
        self, addresses: Sequence[Address], backoff: Backoff, rng: Callable[[], float]
    ) -> None:
        """`addresses`: at least one, tried in turn. `rng`: uniform in [0, 1)."""
        self.backoff = backoff
        self._addresses = addresses
        self._rng = rng
        self._turn = 0
        self._named: Address | None = None
        self._attempt = 0
        self._clock_mended = False

    def next_address(self) -> Address:
        """Where to dial now: an address that a GOAWAY named (once), else the one whose turn it is."""
        named, self._named = self._named, None
        return named or self._addresses[self._turn % len(self._addresses)]

    def after(self, ended: Ended) -> Dial | Stop:
        """What follows the end of an attempt."""
        self._count(ended)
        goaway = ended.goaway
        if goaway is None:
            return Dial(self._later_s())
        if goaway.code in (CloseCode.BAD_TOKEN, CloseCode.TOKEN_EXPIRED) and not ended.registering:
            # Not at once: when a master key is lost, every device of the service is here.
            return Dial(self._later_s() + goaway.retry_after_ms / 1000, drop_token=True)
        ruling = verdict(goaway.code)
        if ruling is Verdict.NEVER:
            return Stop(goaway.code, goaway.detail)
        self._named = _address_or_none(goaway.address)
        if goaway.code == CloseCode.WRONG_CLOCK:
            # With the server's time once more; if that is wrong too, hurry will not help.
            ruling = Verdict.LATER if self._clock_mended else Verdict.NOW
            self._clock_mended = True
        retry_s = goaway.retry_after_ms / 1000
        if ruling is Verdict.NOW:
            return Dial(self._rng() * (retry_s or self.backoff.base_s))
        # Never before the time named; a growing jitter behind it, should it keep happening.
        return Dial(retry_s + self._later_s())

    def _count(self, ended: Ended) -> None:
        """Move to the next address unless this one let us in; start over after a good connection.

        Good is one that stood for longer than the last delay might have been: else an edge that
        falls right after each WELCOME would be dialled at the shortest delays for ever.
        """
        if ended.open_s is None:
            self._turn += 1
            return
        self._clock_mended = False
        if ended.open_s >= self.backoff.bound_s(self._attempt):
            self._attempt = 0

    def _later_s(self) -> float:
        delay_s = self._rng() * self.backoff.bound_s(self._attempt)
        self._attempt += 1
        return delay_s


def _address_or_none(text: str) -> Address | None:
    """A peer's mistake in an address is no reason to stop dialling."""
    try:
        return Address.parse(text)
    except ValueError:
        return None
