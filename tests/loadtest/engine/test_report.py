"""The result, the report and the live view, out of a made-up run."""

import json
import re
from collections import Counter
from html.parser import HTMLParser
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from loadtest.engine.army import Sample, summed
from loadtest.engine.book import Accepted, Outcome, Suspect
from loadtest.engine.dashboard import Dashboard, sparkline, spoken
from loadtest.engine.plots import Line, nice_ticks, plot, said_number, said_time, time_ticks
from loadtest.engine.reading import parsed
from loadtest.engine.recorder import Recorder
from loadtest.engine.report import html_of, said
from loadtest.engine.result import Ended, checks_of, figures_of, to_dict
from loadtest.engine.scenario import Checks
from loadtest.engine.vocabulary import FIGURES
from loadtest.histogram import Histogram
from loadtest.view import View

USAGE = {"cpu_edges": 0.5, "rss_edges_mb": 100.0, "rss_api_mb": 50.0, "cpu_fleet": 1.0,
         "rss_fleet_mb": 30.0}  # fmt: skip


def histogram(*milliseconds: int) -> Histogram:
    made = Histogram()
    for each in milliseconds:
        made.record(each * 1_000_000)
    return made


def sample(**counts: int) -> Sample:
    return Sample(
        Counter({"open": 10, "registered": 10, **counts}),
        {"push": histogram(2, 4), "welcome": histogram(9), "late": histogram()},
        first_dial_at=5.0,
        last_welcome_at=7.0,
    )


def ended(**changes: object) -> Ended:
    raw = {
        "title": "A <day> & a night",
        "duration_s": 5,
        "fleet": {"devices": 10},
        "pushes": [{"at_s": 0, "name": "</script>"}],
        "checks": {"at_most": {"lost": 0, "push_p99_ms": 1}, "at_least": {"api_p50_ms": 1}},
    }
    recorder = Recorder(10)
    for at in (1.0, 2.0, 3.0):
        recorder.take(at, sample(messages=int(at) * 100), USAGE, Histogram(), int(at))
        recorder.weigh()
    recorder.mark(2.0, "cut 3")
    made = Ended(parsed(raw, "x.toml"), "x", recorder, sample(goaway_4001=2, flaps=3), Outcome())
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_figures_are_all_there_and_right() -> None:
    figures = figures_of(ended())
    assert list(figures) == list(FIGURES)
    assert figures["push_p50_ms"] == pytest.approx(2, rel=0.01)
    assert figures["push_max_ms"] == pytest.approx(4, rel=0.01)
    assert figures["connect_s"] == 2.0 and figures["connect_per_s"] == 5.0
    assert figures["service_rss_peak_mb"] == 150 and figures["edge_rss_peak_mb"] == 100
    assert figures["rss_growth_mb"] == 0 and figures["fleet_rss_peak_mb"] == 30
    assert figures["api_p50_ms"] is None and figures["lost"] == 0


def test_checks() -> None:
    checks = checks_of(
        Checks(at_most={"lost": 0, "shown": 5}, at_least={"pushes": 3, "open_peak": 3}),
        {"lost": 0, "shown": 6, "pushes": None, "open_peak": 3},
    )
    assert [check.ok for check in checks] == [True, False, False, True]


def test_the_result_is_one_plain_object() -> None:
    outcome = Outcome(lost=1)
    outcome.suspects.append(
        Suspect(Accepted(1 << 60, 0, 7, 0, 0.0), 0, {"pending": 1, "failed": 0})
    )
    result = json.loads(json.dumps(to_dict(ended(outcome=outcome, refused={503: 2}))))
    assert result["passed"] is False and result["figures"]["lost"] == 1
    assert [check["ok"] for check in result["checks"]] == [False, False, False]
    assert result["suspects"] == [
        {"push_id": str(1 << 60), "step": "</script>", "device": "7", "shown": 0,
         "counts": {"pending": 1}}
    ]  # fmt: skip
    assert result["close_codes"] == {"4001": 2} and result["behaviour"]["flaps"] == 3
    assert result["refused_by_status"] == {"503": 2}


def test_an_interrupted_run_has_a_result_with_nothing_judged() -> None:
    for made in (ended(interrupted=True, outcome=None), ended(sample=None, outcome=None)):
        result = to_dict(made)
        assert result["figures"]["lost"] is None and result["passed"] is False
        assert html_of(made, "")
    empty = Ended(ended().scenario, "x", Recorder(10), interrupted=True)
    assert "Interrupted" in html_of(empty, "") and "<svg" not in html_of(empty, "")


def test_a_sample_right_behind_another_makes_no_row() -> None:
    recorder = ended().recorder
    row = recorder.take(3.1, sample(messages=310), USAGE, histogram(8), 3)
    assert row["messages_per_s"] == pytest.approx(100) and recorder.series.at_s == [1.0, 2.0, 3.0]
    assert recorder.counts["messages"] == 310 and recorder.totals["api"].count == 1
    recorder.take(4.0, sample(messages=400), USAGE, Histogram(), 3)
    assert recorder.series.columns["messages_per_s"] == [100, 100, 100, 100]


def test_back_is_when_everybody_is_and_the_longest_counts() -> None:
    recorder = Recorder(10)

    def take(at_s: float, welcome_at: float, **counts: int) -> None:
        moment = sample(**counts)
        moment.last_welcome_at = welcome_at
        recorder.take(at_s, moment, USAGE, Histogram(), 0)

    take(1, 7.0)
    recorder.hurt(8.0)
    take(2, 7.0)
    assert recorder.back_s is None, "nobody has noticed it yet"
    take(3, 9.0, lost=4, open=8)
    recorder.hurt(10.0)
    take(4, 12.5, lost=6)
    assert recorder.back_s == 4.5, "the second came before all were back from the first"
    recorder.hurt(20.0)
    assert recorder.back_s is None
    take(5, 21.0, lost=7)
    assert recorder.back_s == 4.5, "the longest"
    recorder.hurt(30.0)
    take(6, 21.0, lost=9, open=9)
    assert recorder.back_s is None, "one is still away"


class _Strict(HTMLParser):
    """Every tag that is opened is closed in order."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_whole_and_needs_nothing_else() -> None:
    text = html_of(ended(), "{}")
    parser = _Strict()
    parser.feed(text)
    parser.close()
    assert parser.open == [] and parser.addresses == []
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert parser.seen.count("svg") == 8, "one of nine plots had nothing to show"
    assert "A &lt;day&gt; &amp; a night" in text and "prefers-color-scheme: dark" in text
    assert "2 of 3 checks failed" in text and text.count("✗ failed") == 2
    data = re.search(r'<script type="application/json" id="result">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    embedded = json.loads(data[1])
    assert embedded["series"]["connected"] == [10, 10, 10] and embedded["scenario"] == "x"


def test_a_report_without_checks_says_so() -> None:
    bare = parsed({"duration_s": 1, "fleet": {"devices": 1}}, "x")
    assert "It had no checks." in html_of(ended(scenario=bare), "")


def test_plots_have_gaps_marks_and_short_labels() -> None:
    drawn = plot("T", [0.0, 1.0, 2.0, 3.0], [Line("a", [1.0, None, 3.0, 4.0])], [(1.0, "x<y")])
    path = re.search(r'class="line s0" d="([^"]*)"', drawn)
    assert path is not None and path[1].count("M") == 2 and "h2" in path[1]
    assert drawn.count("x&lt;y") == 2 and "keys" not in drawn, "one line needs no legend"
    assert plot("T", [], [Line("a", [])]) == "" and plot("T", [1.0], [Line("a", [None])]) == ""
    # Words that find no room are told when pointed at.
    crowded = plot("T", [0.0, 9.0], [Line("a", [1.0, 1.0])], [(1.0, "first"), (1.01, "second")])
    assert crowded.count('class="mark"') == 2 and crowded.count("second") == 1


@settings(max_examples=80, deadline=None)
@given(st.floats(0, 1e12))
def test_ticks_are_few_round_and_reach_the_top(top: float) -> None:
    ticks = nice_ticks(top)
    assert ticks[0] == 0 and ticks[-1] >= top * (1 - 1e-9) and 2 <= len(ticks) <= 6
    assert all(len(f"{tick:.3g}") <= 9 for tick in ticks)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 2.7e6))
def test_time_ticks_lie_within(end: float) -> None:
    ticks = time_ticks(end)
    assert ticks[0] == 0 and ticks[-1] <= end * (1 + 1e-9) and len(ticks) <= 8


def test_what_figures_look_like() -> None:
    assert [said(v) for v in (None, 0, 1234, 1.5, 1234.56, 3.0)] == [
        "–", "0", "1,234", "1.500", "1,234.6", "3"
    ]  # fmt: skip
    assert [said_time(s) for s in (0, 0.5, 90, 150, 600, 7200)] == [
        "0 s", "0.5 s", "90 s", "2:30 min", "10 min", "2 h"
    ]  # fmt: skip
    assert [said_number(v) for v in (0.25, 1500, 2.5e6)] == ["0.25", "1,500", "2.5M"]
    assert [spoken(v) for v in (None, 0.0, 0.123, 12.34, 1234.5)] == [
        "–", "0", "0.12", "12.3", "1,234"
    ]  # fmt: skip
    assert sparkline([]) == "" and sparkline([0.0, None]) == "▁ " and sparkline([1, 2]) == "▅█"


def test_answers_of_all_fleets_are_one_sample() -> None:
    answer = {"id": 4, "open": 3, "goaways": {"4001": 1}, "first_dial_at": 0.0,
              "last_welcome_at": 0.0, "latencies": {"push": [[1000, 2]]}}  # fmt: skip
    other = {**answer, "open": 4, "first_dial_at": 9.0, "last_welcome_at": 11.0}
    both = summed([answer, other, {**other, "first_dial_at": 8.0}])
    assert both.counts == {"open": 11, "goaway_4001": 3}
    assert both.latencies["push"].count == 6
    assert (both.first_dial_at, both.last_welcome_at) == (8.0, 11.0)
    assert summed([]).first_dial_at == 0


def test_the_dashboard_draws_and_says_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with View("run x", as_json=True) as view:
        board = Dashboard(view, "x")
        board.watch("starting", 0.0, {})
        board.watch("load", 0.5, {"connected": 1234.0, "push_p99_ms": 5.25})
        console = Console(width=120, record=True, file=StringIO())
        console.print(board._drawn("load", 0.5))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["run x: starting 0%", "run x: load 50% connected=1,234 push_p99_ms=5.25"]
    drawn = console.export_text()
    assert "50%" in drawn and "connected 1,234" in drawn and "p99 5.25 ms" in drawn
    assert "edges" not in drawn, "nothing is known of them"
