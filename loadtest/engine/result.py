"""The result of a run: figures, checks, and the object that --json prints. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.engine.army import Sample
from loadtest.engine.book import Outcome
from loadtest.engine.recorder import Recorder, service_peak
from loadtest.engine.scenario import Checks, Scenario
from loadtest.engine.vocabulary import FIGURES
from loadtest.histogram import milliseconds

Figures = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Check:
    figure: str
    rule: str
    """`at most` or `at least`."""
    bar: float
    value: float | int | None

    @property
    def ok(self) -> bool:
        """What was not measured is not known to be right."""
        if self.value is None:
            return False
        return self.value <= self.bar if self.rule == "at most" else self.value >= self.bar


@dataclass(slots=True)
class Ended:
    """What a run leaves behind."""

    scenario: Scenario
    name: str
    recorder: Recorder
    sample: Sample | None = None
    """The last; None if no fleet ever stood."""
    outcome: Outcome | None = None
    """None: interrupted before it could be judged."""
    pushes: int = 0
    refused: dict[int, int] = field(default_factory=dict)
    late: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    began: str = ""
    """Local time."""


def figures_of(ended: Ended) -> Figures:
    """Every name of FIGURES; None where a run could not measure it."""
    figures: Figures = dict.fromkeys(FIGURES)
    figures["devices"] = ended.scenario.fleet.devices
    figures |= {
        "pushes": ended.pushes,
        "refused": sum(ended.refused.values()),
        "late": ended.late,
    }
    if ended.outcome is not None:
        outcome = ended.outcome
        figures |= {
            name: getattr(outcome, name) for name in Outcome.__dataclass_fields__ if name in FIGURES
        }
    if ended.sample is not None:
        figures |= _of_fleets(ended.sample, ended.recorder)
    return figures | _latencies(ended.recorder) | _usage(ended.recorder)


def _of_fleets(sample: Sample, recorder: Recorder) -> Figures:
    counts = sample.counts
    arrived = recorder.arrived
    return {
        "registered": counts["registered"],
        "open_peak": recorder.peak_open,
        "open_at_end": counts["open"],
        "absent_at_end": recorder.devices - counts["open"],
        "back_s": _rounded(recorder.back_s),
        "connect_s": round(arrived[1], 3) if arrived else None,
        "connect_per_s": round(arrived[0] / arrived[1], 1) if arrived else None,
        "protocol_errors": counts["protocol_errors"],
        "identity_changes": counts["identity_changes"],
        "shown": counts["shown"],
        "displayed": counts["displayed"],
        "clicked": counts["clicked"],
        "redelivered": counts["redelivered"],
        "reconnects": counts["reconnected"],
    }


def _latencies(recorder: Recorder) -> Figures:
    push, welcome, api = (recorder.totals[name] for name in ("push", "welcome", "api"))
    return {
        "welcome_p50_ms": milliseconds(welcome.percentile(0.5)),
        "welcome_p99_ms": milliseconds(welcome.percentile(0.99)),
        "push_p50_ms": milliseconds(push.percentile(0.5)),
        "push_p90_ms": milliseconds(push.percentile(0.9)),
        "push_p99_ms": milliseconds(push.percentile(0.99)),
        "push_p999_ms": milliseconds(push.percentile(0.999)),
        "push_max_ms": milliseconds(push.percentile(1.0)),
        "api_p50_ms": milliseconds(api.percentile(0.5)),
        "api_p99_ms": milliseconds(api.percentile(0.99)),
    }


def _usage(recorder: Recorder) -> Figures:
    series, weighed = recorder.series, recorder.service_mb
    return {
        "edge_rss_peak_mb": _rounded(series.peak("rss_edges_mb")),
        "edge_cpu_peak": _rounded(series.peak("cpu_edges")),
        "service_rss_peak_mb": _rounded(service_peak(series, "rss", "_mb")),
        "rss_growth_mb": _rounded(weighed[-1] - weighed[0]) if len(weighed) > 1 else None,
        "fleet_rss_peak_mb": _rounded(series.peak("rss_fleet_mb")),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def checks_of(wanted: Checks, figures: Mapping[str, float | int | None]) -> list[Check]:
    """In the order of the scenario, upper bars first."""
    most = [Check(name, "at most", bar, figures[name]) for name, bar in wanted.at_most.items()]
    least = [Check(name, "at least", bar, figures[name]) for name, bar in wanted.at_least.items()]
    return most + least


def to_dict(ended: Ended) -> dict[str, Any]:
    """One object of plain values; the series stands in the report only."""
    figures = figures_of(ended)
    checks = checks_of(ended.scenario.checks, figures)
    counts = ended.sample.counts if ended.sample is not None else {}
    behaviour = ("flaps", "switches", "vanished", "dozes", "nat_drops", "slow_waits", "silent",
                 "limbo_overflowed", "reactions_dropped")  # fmt: skip
    return {
        "scenario": ended.name,
        "title": ended.scenario.title,
        "began": ended.began,
        "seconds": round(ended.seconds, 1),
        "interrupted": ended.interrupted,
        "passed": not ended.interrupted and all(check.ok for check in checks),
        "figures": figures,
        "checks": [
            {"figure": c.figure, "rule": c.rule, "bar": c.bar, "value": c.value, "ok": c.ok}
            for c in checks
        ],
        "suspects": _suspects(ended),
        "behaviour": {name: counts.get(name, 0) for name in behaviour},
        "close_codes": {
            name.removeprefix("goaway_"): count
            for name, count in counts.items()
            if name.startswith("goaway_")
        },
        "refused_by_status": {str(status): count for status, count in ended.refused.items()},
    }


def _suspects(ended: Ended) -> list[dict[str, Any]]:
    """What to look for in the service: ids as text, since they are too large for some readers."""
    if ended.outcome is None:
        return []
    return [
        {
            "push_id": str(push.push_id),
            "step": ended.scenario.pushes[push.step].name,
            "device": None if push.device is None else str(push.device),
            "shown": shown,
            "counts": {state: count for state, count in counts.items() if count},
        }
        for push, shown, counts in ended.outcome.suspects
    ]
