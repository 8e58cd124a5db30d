"""A run as it is written down: samples become columns of a series, and totals. Pure."""

from collections.abc import Mapping
from typing import Final

from loadtest.engine.army import Sample
from loadtest.engine.series import Series, Value
from loadtest.histogram import Histogram, milliseconds

_LEAST_S: Final = 0.25
_RATES: Final = {
    "dials_per_s": "dialled",
    "welcomes_per_s": "welcomed",
    "losses_per_s": "lost",
    "messages_per_s": "messages",
    "receipts_per_s": "receipts_acked",
    "pings_per_s": "pings",
}
"""Column -> count of the fleets whose growth it is."""
_SHARES: Final = {
    "push_p50_ms": ("push", 0.5),
    "push_p90_ms": ("push", 0.9),
    "push_p99_ms": ("push", 0.99),
    "late_p99_ms": ("late", 0.99),
    "welcome_p50_ms": ("welcome", 0.5),
    "welcome_p99_ms": ("welcome", 0.99),
    "api_p50_ms": ("api", 0.5),
    "api_p99_ms": ("api", 0.99),
}
"""Column -> histogram and share."""


class Recorder:
    """Times are seconds since the run began."""

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self.series = Series(worst=frozenset(_SHARES))
        self.totals: dict[str, Histogram] = {
            name: Histogram() for name in ("push", "late", "welcome", "api")
        }
        self.marks: list[tuple[float, str]] = []
        """Moments worth a line in a plot."""
        self.counts: dict[str, int] = {}
        """Of the last sample."""
        self.peak_open = 0
        self.arrived: tuple[int, float] | None = None
        """Devices, and seconds from the first dial to the last of them; None: not all of them yet."""
        self.service_mb: list[float] = []
        """The service's memory when the load began, and when it ended."""
        self.back_s: float | None = None
        """From an event until every device was connected again, the longest of them; None: there was no event,
        or somebody is still away."""
        self._hurt_at: float | None = None
        self._lost_before = 0
        self._longest_s = 0.0
        self._at_s = 0.0
        self._before: dict[str, int] = {}
        self._pushes = 0

    def mark(self, at_s: float, text: str) -> None:
        self.marks.append((at_s, text))

    def hurt(self, now: float) -> None:
        """An event takes devices' connections now (time.monotonic()). One that comes before all are back counts
        with the first.
        """
        if self._hurt_at is None:
            self._hurt_at = now
            self._lost_before = self.counts.get("lost", 0)
        self.back_s = None

    def _note_back(self, sample: Sample) -> None:
        counts = sample.counts
        if self._hurt_at is None or counts["open"] < self.devices:
            return
        # Right behind the event nobody has noticed it yet.
        if counts["lost"] > self._lost_before and sample.last_welcome_at > self._hurt_at:
            self._longest_s = max(self._longest_s, sample.last_welcome_at - self._hurt_at)
            self.back_s, self._hurt_at = self._longest_s, None

    def take(
        self,
        at_s: float,
        sample: Sample,
        usage: Mapping[str, Value],
        api: Histogram,
        pushes: int,
    ) -> dict[str, Value]:
        """One sample; its row. `pushes`: accepted so far.

        One right behind another counts for the totals and makes no row: rates over so little time
        would be noise.
        """
        seconds = max(1e-3, at_s - self._at_s)
        latencies = {**sample.latencies, "api": api}
        row: dict[str, Value] = {
            "connected": sample.counts["open"],
            "connecting": sample.counts["connecting"],
            "registered": sample.counts["registered"],
            "without_a_word": sample.counts["in_limbo"],
            "pushes_per_s": (pushes - self._pushes) / seconds,
        }
        for column, count in _RATES.items():
            row[column] = (sample.counts[count] - self._before.get(count, 0)) / seconds
        for column, (name, share) in _SHARES.items():
            row[column] = milliseconds(latencies.get(name, Histogram()).percentile(share))
        row.update(usage)
        for name, histogram in latencies.items():
            self.totals[name].add_pairs(histogram.to_pairs())
        self.counts = dict(sample.counts)
        if self.arrived is None and 0 < self.devices <= sample.counts["registered"]:
            took = sample.last_welcome_at - sample.first_dial_at
            self.arrived = (self.devices, max(1e-3, took))
        self._note_back(sample)
        self.peak_open = max(self.peak_open, sample.counts["open"])
        if seconds >= _LEAST_S or not self.series.at_s:
            self._at_s, self._pushes, self._before = at_s, pushes, self.counts
            self.series.add(at_s, row)
        return row

    def weigh(self) -> None:
        """Remember the service's memory now."""
        self.service_mb.append(_service(self.series, "rss", "_mb"))


def _service(series: Series, prefix: str, suffix: str = "") -> float:
    """The last of all columns of that kind together, the fleet's own left out."""
    return sum(
        series.last(name) or 0.0
        for name in series.columns
        if name.startswith(f"{prefix}_") and name.endswith(suffix) and "fleet" not in name
    )


def service_peak(series: Series, prefix: str, suffix: str = "") -> float | None:
    """The greatest sum over roles, the fleet's own left out; None if nothing is known of it."""
    columns = [
        column
        for name, column in series.columns.items()
        if name.startswith(f"{prefix}_") and name.endswith(suffix) and "fleet" not in name
    ]
    return max((sum(v or 0.0 for v in row) for row in zip(*columns, strict=True)), default=None)
