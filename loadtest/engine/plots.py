"""Lines over time as inline SVG: no script, no font and no address from elsewhere. Pure."""

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

from loadtest.engine.series import Value

WIDTH: Final = 560
HEIGHT: Final = 200
_LEFT: Final = 56
_RIGHT: Final = 12
_TOP: Final = 18
_BOTTOM: Final = 24
_MARK_WORDS_PX: Final = 6.2
"""Of a character of a mark's label, about: tells which labels would lie upon each other."""


class Line(NamedTuple):
    label: str
    values: Sequence[Value]


def nice_ticks(top: float, wanted: int = 4) -> list[float]:
    """Round numbers from 0 to at least `top`, about `wanted` steps. Below 1e-9 it is nothing."""
    if top < 1e-9:
        return [0.0, 1.0]
    rough = top / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if power * factor >= rough)
    count = math.ceil(top / step - 1e-9)
    return [step * number for number in range(max(1, count) + 1)]


def time_ticks(end: float, wanted: int = 6) -> list[float]:
    """Seconds, minutes or hours that one counts in, from 0 up to `end`."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
    step = next((step for step in steps if end / step <= wanted), 86400 * math.ceil(end / 604800))
    return [step * number for number in range(int(end / step + 1e-9) + 1)]


def said_time(seconds: float) -> str:
    """5 s, 2:30 min, 3 h."""
    if seconds < 120:
        return f"{seconds:g} s"
    if seconds < 7200:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}:{rest:02} min" if rest else f"{minutes} min"
    return f"{seconds / 3600:g} h"


def said_number(value: float) -> str:
    """For an axis: 1,500 or 0.25 or 2.5M."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


class _Frame:
    """From values to pixels."""

    def __init__(self, end_s: float, top: float) -> None:
        self.ticks = nice_ticks(top)
        self.end_s = max(end_s, 1e-3)
        self._top = self.ticks[-1]

    def x(self, at_s: float) -> float:
        return _LEFT + min(1.0, at_s / self.end_s) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + (1 - value / self._top) * (HEIGHT - _TOP - _BOTTOM)


def path_of(frame: _Frame, at_s: Sequence[float], values: Sequence[Value]) -> str:
    """One path; where nothing was measured it has a gap. A value between two gaps is a short dash."""
    parts: list[str] = []
    drawing = False
    for number, (at, value) in enumerate(zip(at_s, values, strict=True)):
        if value is None:
            drawing = False
            continue
        x, y = frame.x(at), frame.y(value)
        parts.append(f"{'L' if drawing else 'M'}{x:.1f} {y:.1f}")
        alone = not drawing and (number + 1 == len(values) or values[number + 1] is None)
        if alone:
            parts.append("h2")
        drawing = True
    return "".join(parts)


def plot(
    title: str,
    at_s: Sequence[float],
    lines: Sequence[Line],
    marks: Sequence[tuple[float, str]] = (),
    unit: str = "",
) -> str:
    """A figure with its legend; empty text if none of the lines has a value."""
    known = [line for line in lines if any(value is not None for value in line.values)]
    if not known or not at_s:
        return ""
    top = max(value for line in known for value in line.values if value is not None)
    frame = _Frame(at_s[-1], top)
    keys = "".join(
        f'<span class="key"><i class="s{number}"></i>{escape(line.label)}</span>'
        for number, line in enumerate(known)
    )
    paths = "".join(
        f'<path class="line s{number}" d="{path_of(frame, at_s, line.values)}"/>'
        for number, line in enumerate(known)
    )
    shown_unit = f" <small>{escape(unit)}</small>" if unit else ""
    legend = f'<div class="keys">{keys}</div>' if len(known) > 1 else ""
    return (
        f"<figure><figcaption>{escape(title)}{shown_unit}</figcaption>{legend}"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{_axes(frame)}{_marked(frame, marks)}{paths}</svg></figure>"
    )


def _axes(frame: _Frame) -> str:
    parts = []
    for tick in frame.ticks:
        y = frame.y(tick)
        kind = "axis" if tick == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" class="y">{said_number(tick)}</text>'
        )
    for tick in time_ticks(frame.end_s):
        parts.append(
            f'<text x="{frame.x(tick):.1f}" y="{HEIGHT - 7}" class="x">{said_time(tick)}</text>'
        )
    return "".join(parts)


def _marked(frame: _Frame, marks: Sequence[tuple[float, str]]) -> str:
    """A line for each mark; its words only where there is room for them."""
    parts, free_from = [], 0.0
    for at, words in sorted(marks):
        x = frame.x(at)
        line = f"M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}"
        parts.append(f'<path class="mark" d="{line}"><title>{escape(words)}</title></path>')
        width = len(words) * _MARK_WORDS_PX
        begin = min(x, WIDTH - _RIGHT - width)
        if begin >= free_from:
            parts.append(f'<text x="{begin:.1f}" y="{_TOP - 6}" class="m">{escape(words)}</text>')
            free_from = begin + width + 6
    return "".join(parts)
