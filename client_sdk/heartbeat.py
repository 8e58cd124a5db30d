"""How long a network may stay silent: probing for the longest heartbeat interval, per network.

After Tencent mars (mars/stn/src/smart_heartbeat.cc), with these simplifications: whether the app
is in the foreground is not known here, so the shortest interval is not forced for it; the check
that two intervals in a row were alike is replaced by the session's own measure of silence; and
the treatment of alarms that a phone's system shifts is left out. Times are arguments.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from protocol.codes import HEARTBEAT_MAX_S, HEARTBEAT_MIN_S
from protocol.schema import device_pb2

PONG_TIMEOUT_S: Final = 8.0
"""Nothing heard for this long after a PING: the connection is dead (mars waits 8 s too)."""
PROVEN_AFTER: Final = 3
"""PONGs that a connection needs before it uses more than the shortest interval: a network that
cannot even keep that one says nothing about longer ones (mars: NetStableTestCount)."""
STABLE_FOR_MS: Final = 7 * 86_400_000
"""An interval that held for this long is stretched a little again: networks get better too."""
MAX_NETWORKS: Final = 20
"""Networks remembered; the one not used for longest goes (the bound of mars' Heartbeat.ini)."""


@dataclass(frozen=True, slots=True)
class Probing:
    """Constants of the probing: seconds, and counts in a row. WELCOME brings the server's."""

    start_s: int = 210
    step_s: int = 60
    max_s: int = 580
    successes: int = 5
    failures: int = 2
    back_s: int = 20

    @classmethod
    def from_wire(cls, told: device_pb2.Probing) -> Self:
        """Fields that are 0 keep their default; intervals are kept within the protocol's bounds."""
        ours = cls()
        start_s = min(max(told.start_s or ours.start_s, HEARTBEAT_MIN_S), HEARTBEAT_MAX_S)
        return cls(
            start_s=start_s,
            step_s=told.step_s or ours.step_s,
            max_s=min(max(told.max_s or ours.max_s, start_s), HEARTBEAT_MAX_S),
            successes=told.successes or ours.successes,
            failures=told.failures or ours.failures,
            back_s=told.back_s or ours.back_s,
        )


@dataclass(slots=True)
class Network:
    """What is known of one network. `interval_s` 0 = nothing yet."""

    label: str
    interval_s: int = 0
    successes: int = 0
    failures: int = 0
    stable: bool = False
    changed_ms: int = 0
    """When interval or stability last changed."""

    def fit(self, probing: Probing) -> None:
        """The constants may be new: keep the interval within them."""
        self.interval_s = min(max(self.interval_s, probing.start_s), probing.max_s)

    def succeeded(self, probing: Probing, now_ms: int) -> None:
        """A PING after `interval_s` of silence was answered."""
        self.failures = 0
        if self.stable:
            if now_ms - self.changed_ms >= STABLE_FOR_MS and self.interval_s < probing.max_s:
                longer = min(probing.max_s, self.interval_s + probing.back_s)
                self._set(longer, now_ms, stable=False)
            return
        self.successes += 1
        if self.successes >= probing.successes:
            longer = min(probing.max_s, self.interval_s + probing.step_s)
            self._set(longer, now_ms, stable=longer == probing.max_s)

    def failed(self, probing: Probing, now_ms: int) -> None:
        """A PING after `interval_s` of silence found the connection dead."""
        self.successes = 0
        self.failures += 1
        if self.failures < probing.failures:
            return
        if self.stable or self.interval_s == probing.start_s:
            # What held no longer does, or nothing shorter is left: begin again.
            self._set(probing.start_s, now_ms, stable=False)
        else:
            shorter = self.interval_s - probing.step_s - probing.back_s
            self._set(max(probing.start_s, shorter), now_ms, stable=True)

    def _set(self, interval_s: int, now_ms: int, *, stable: bool) -> None:
        self.interval_s = interval_s
        self.stable = stable
        self.successes = self.failures = 0
        self.changed_ms = now_ms


class Networks:
    """The networks this device has been on, the latest last."""

    def __init__(self, known: list[Network]) -> None:
        self._by_label = {network.label: network for network in known[-MAX_NETWORKS:]}

    def use(self, label: str) -> Network:
        """The network of that label, now the latest; the oldest makes room for a new one."""
        network = self._by_label.pop(label, None) or Network(label)
        self._by_label[label] = network
        while len(self._by_label) > MAX_NETWORKS:
            del self._by_label[next(iter(self._by_label))]
        return network

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(network) for network in self._by_label.values()]

    @classmethod
    def from_json(cls, value: list[dict[str, Any]]) -> Self:
        """Raises TypeError for anything `to_json` does not write."""
        known = [Network(**item) for item in value]
        for network in known:
            wanted = (str, int, int, int, bool, int)
            actual = tuple(type(getattr(network, field.name)) for field in fields(network))
            if actual != wanted:
                raise TypeError(f"a network with {actual}")
        return cls(known)


class Prober:
    """The heartbeat of one connection on one network: which interval, and what a result means."""

    def __init__(self, network: Network, probing: Probing, fixed_s: int | None = None) -> None:
        """`fixed_s`: keep this interval and probe nothing."""
        self._network = network
        self._fixed_s = fixed_s
        self._pongs = 0
        self.probing = probing
        self.retune(probing)

    def retune(self, probing: Probing) -> None:
        """WELCOME brought the server's constants."""
        self.probing = probing
        self._network.fit(probing)

    @property
    def interval_s(self) -> int:
        """The interval to keep now."""
        if self._fixed_s is not None:
            return self._fixed_s
        if self._pongs < PROVEN_AFTER:
            return self.probing.start_s
        return self._network.interval_s

    def on_pong(self, silent_s: int | None, now_ms: int) -> None:
        """A PING was answered. `silent_s`: the silence before it, None if it was disturbed."""
        self._pongs += 1
        if silent_s is not None and silent_s == self._network.interval_s:
            self._network.succeeded(self.probing, now_ms)

    def on_dead(self, silent_s: int | None, now_ms: int) -> None:
        """The connection died under a PING. A result at another interval says nothing of this."""
        if silent_s is not None and silent_s == self._network.interval_s:
            self._network.failed(self.probing, now_ms)
