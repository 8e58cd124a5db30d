"""The report of a run: one HTML file that needs nothing but itself, in light and dark. Pure."""

import json
from html import escape
from typing import Any, Final

from loadtest.engine.plots import Line, plot
from loadtest.engine.recorder import Recorder
from loadtest.engine.result import Ended, to_dict
from loadtest.engine.series import Value
from loadtest.engine.vocabulary import FIGURES

_PLOTS: Final[tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]] = (
    (
        "Connections",
        "",
        (("connected", "connected"), ("registered", "registered"),
         ("without_a_word", "gone without a FIN")),
    ),
    (
        "Sessions",
        "per second",
        (("welcomes_per_s", "welcomed"), ("losses_per_s", "lost"), ("dials_per_s", "dialled")),
    ),
    (
        "Messages and receipts",
        "per second, all devices",
        (("messages_per_s", "messages out"), ("receipts_per_s", "receipts in")),
    ),
    ("Pushes accepted", "per second", (("pushes_per_s", "pushes"),)),
    (
        "Push latency, connected devices",
        "ms",
        (("push_p50_ms", "p50"), ("push_p90_ms", "p90"), ("push_p99_ms", "p99")),
    ),
    ("From connect to WELCOME", "ms", (("welcome_p50_ms", "p50"), ("welcome_p99_ms", "p99"))),
    ("Answers of the API", "ms", (("api_p50_ms", "p50"), ("api_p99_ms", "p99"))),
)  # fmt: skip
"""Title, unit, and (column, label) of each line."""

_ROLES: Final = ("edges", "dispatch", "api", "store", "zygote", "supervisor", "fleet")
_COLOURS: Final = 6
"""Lines of a plot at most; those of one colour would be one line to the eye."""

_STYLE: Final = """
:root { color-scheme: light dark;
  --page: #f7f7f5; --card: #fff; --ink: #1c1c1a; --soft: #5d5d58; --grid: #e6e6e1; --axis: #b4b4ad;
  --good: #0a7a34; --bad: #c22828;
  --c0: #2a78d6; --c1: #e0602b; --c2: #159a6c; --c3: #b07a00; --c4: #8a57c9; --c5: #c8447f; }
@media (prefers-color-scheme: dark) { :root {
  --page: #151514; --card: #1f1f1d; --ink: #ecece8; --soft: #a5a59e; --grid: #32322f; --axis: #5b5b55;
  --good: #4fc47c; --bad: #ff7b72;
  --c0: #5a9df0; --c1: #ee8254; --c2: #35b98a; --c3: #d3a02e; --c4: #ab85e6; --c5: #e57aa9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 1220px; background: var(--page);
  color: var(--ink); font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 16px; margin: 28px 0 10px; }
p { margin: 4px 0; color: var(--soft); }
.verdict { font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(120px, 1fr)); gap: 10px;
  margin-top: 16px; }
.tile, figure, table { background: var(--card); border: 1px solid var(--grid); border-radius: 8px; }
.tile { padding: 10px 12px; } .tile b { display: block; font-size: 20px; font-weight: 600; }
.tile span, small { color: var(--soft); font-size: 12px; font-weight: 400; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr));
  gap: 12px; }
figure { margin: 0; padding: 12px 12px 6px; } figcaption { font-weight: 600; }
.keys { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; color: var(--soft); }
.key i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin: 0 5px 3px 0; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 10.5px system-ui, sans-serif; fill: var(--soft); }
.y { text-anchor: end; } .x { text-anchor: middle; }
.grid, .axis, .mark { fill: none; stroke: var(--grid); } .axis, .mark { stroke: var(--axis); }
.mark { stroke-dasharray: 3 3; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
""" + "".join(
    f".line.s{n} {{ stroke: var(--c{n}); }} .key .s{n} {{ background: var(--c{n}); }}\n"
    for n in range(_COLOURS)
) + """
table { border-collapse: collapse; width: 100%; overflow: hidden; }
td, th { padding: 5px 12px; text-align: left; border-top: 1px solid var(--grid); }
th { color: var(--soft); font-weight: 500; border-top: 0; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:last-child { color: var(--soft); }
pre { background: var(--card); border: 1px solid var(--grid); border-radius: 8px; padding: 12px;
  overflow-x: auto; font-size: 12px; }
"""  # fmt: skip

_TILES: Final = (
    ("devices", "devices"),
    ("open_peak", "connections at once"),
    ("pushes", "pushes accepted"),
    ("shown", "messages shown"),
    ("push_p50_ms", "push p50, ms"),
    ("push_p99_ms", "push p99, ms"),
    ("lost", "lost"),
    ("duplicates", "duplicates"),
)


def said(value: Any) -> str:
    """A figure in a table."""
    if value is None:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:,.0f}"


def html_of(ended: Ended, described: str) -> str:
    """`described`: the scenario as it was run, for the end of the report."""
    result = to_dict(ended)
    name = escape(result["title"] or result["scenario"])
    # "</" would end the script wherever it stands.
    data = json.dumps({**result, "series": ended.recorder.series.to_dict()}).replace("</", "<\\/")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: load test</title><style>{_STYLE}</style></head><body>
<h1>{name}</h1>
<p>Scenario {escape(result["scenario"])}, begun {escape(result["began"])}, {result["seconds"]:g} s.
{_verdict(result)}</p>
<div class="tiles">{"".join(_tile(result["figures"], *tile) for tile in _TILES)}</div>
{_checks(result["checks"])}
<h2>Over time</h2><div class="plots">{_plots(ended.recorder)}</div>
<h2>All figures</h2>{_figures(result["figures"])}
<h2>What devices did</h2>{_counts(result)}
<h2>The scenario</h2><pre>{escape(described)}</pre>
<script type="application/json" id="result">{data}</script>
</body></html>
"""


def _verdict(result: dict[str, Any]) -> str:
    if result["interrupted"]:
        return '<span class="verdict bad">Interrupted: nothing was judged.</span>'
    if not result["checks"]:
        return "It had no checks."
    wrong = sum(not check["ok"] for check in result["checks"])
    if wrong:
        return (
            f'<span class="verdict bad">✗ {wrong} of {len(result["checks"])} checks failed.</span>'
        )
    return f'<span class="verdict good">✓ All {len(result["checks"])} checks passed.</span>'


def _tile(figures: dict[str, Value], figure: str, words: str) -> str:
    return f'<div class="tile"><b>{said(figures[figure])}</b><span>{words}</span></div>'


def _checks(checks: list[dict[str, Any]]) -> str:
    if not checks:
        return ""
    rows = "".join(
        f'<tr><td class="{"good" if c["ok"] else "bad"}">{"✓ passed" if c["ok"] else "✗ failed"}</td>'
        f'<td>{c["figure"]}</td><td class="n">{said(c["value"])}</td>'
        f'<td class="n">{c["rule"]} {said(c["bar"])}</td><td>{escape(FIGURES[c["figure"]])}</td></tr>'
        for c in checks
    )
    head = "<tr><th></th><th>figure</th><th>value</th><th>bar</th><th></th></tr>"
    return f"<h2>Checks</h2><table>{head}{rows}</table>"


def _plots(recorder: Recorder) -> str:
    series = recorder.series
    drawn = [
        plot(
            title,
            series.at_s,
            [Line(label, series.columns.get(column, ())) for column, label in lines],
            recorder.marks,
            unit,
        )
        for title, unit, lines in _PLOTS
    ]
    for title, unit, prefix, suffix in (
        ("CPU", "cores", "cpu", ""),
        ("Memory, resident", "MiB", "rss", "_mb"),
    ):
        lines = [
            Line(role, series.columns[f"{prefix}_{role}{suffix}"])
            for role in _ROLES
            if f"{prefix}_{role}{suffix}" in series.columns
        ]
        # The last ones are the smallest; the fleet, which is no part of the service, always stays.
        chosen = [*lines[: _COLOURS - 1], *lines[-1:]] if len(lines) > _COLOURS else lines
        drawn.append(plot(title, series.at_s, chosen, recorder.marks, unit))
    return "".join(drawn)


def _figures(figures: dict[str, Value]) -> str:
    rows = "".join(
        f'<tr><td>{name}</td><td class="n">{said(figures[name])}</td><td>{escape(meaning)}</td></tr>'
        for name, meaning in FIGURES.items()
    )
    return f"<table>{rows}</table>"


def _counts(result: dict[str, Any]) -> str:
    counts = {**result["behaviour"]}
    counts |= {f"close code {code}": count for code, count in result["close_codes"].items()}
    counts |= {f"push answered {s}": count for s, count in result["refused_by_status"].items()}
    rows = "".join(
        f'<tr><td>{escape(name.replace("_", " "))}</td><td class="n">{said(count)}</td></tr>'
        for name, count in counts.items()
    )
    return f"<table>{rows}</table>"
