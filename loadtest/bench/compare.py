"""Two results side by side: better, worse or the same, figure by figure. Pure."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from loadtest.bench.figures import FIGURES, Figure
from loadtest.bench.record import Record, RecordError, Sizes


class Compared(NamedTuple):
    figure: Figure
    old: float | None
    new: float | None
    change: float | None
    """Share of the old figure; None where one of the two is missing, or the old one is 0."""
    tolerance: float
    """Share: a change within it is noise."""

    @property
    def verdict(self) -> str:
        if self.change is None:
            return "unknown"
        if abs(self.change) <= self.tolerance:
            return "same"
        return "better" if (self.change > 0) == self.figure.more_is_better else "worse"

    def to_dict(self) -> dict[str, Any]:
        return {
            "figure": self.figure.name,
            "portable": self.figure.portable,
            "old": self.old,
            "new": self.new,
            "change": None if self.change is None else round(self.change, 4),
            "tolerance": round(self.tolerance, 4),
            "verdict": self.verdict,
        }


def compared(old: Record, new: Record, tolerance: float) -> list[Compared]:
    """What means something on every machine first. `tolerance`: share.

    Raises RecordError for results of different sizes.
    """
    check_sizes(old, new.sizes)
    rows = [
        Compared(figure, was, now, _change(was, now), tolerance * figure.noise)
        for figure in FIGURES
        for was, now in [(old.figures.get(figure.name), new.figures.get(figure.name))]
    ]
    return [row for row in rows if row.figure.portable] + [
        row for row in rows if not row.figure.portable
    ]


def check_sizes(old: Record, sizes: Sizes) -> None:
    """Raises RecordError where the older result is of other sizes."""
    differing = list(_differing(old.sizes, sizes))
    if differing:
        raise RecordError(f"the older result measured something else: {', '.join(differing)}")


def _differing(old: Sizes, new: Sizes) -> Iterator[str]:
    for name in old.__struct_fields__:
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            yield f"{name} {was:,} instead of {now:,}"


def _change(old: float | None, new: float | None) -> float | None:
    return None if new is None or not old else new / old - 1
