"""The end of an audience run: what the service counts, held against what the devices say."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import sqrt
from typing import Any, Final, TypeVar

from loadtest.api_client import ApiClient, law_holds
from loadtest.audience_verdict import (
    counts_of,
    cuts_of,
    differences,
    judge_bounds,
    states_of,
    told_cuts,
    without_zeros,
)
from loadtest.crowd import Crowd
from loadtest.expressions import CUTS
from loadtest.meaning import Bounds, Devices, Tree, World, meant, to_text
from loadtest.push_book import PushBook

_AGREE_S: Final = 5.0
"""What is acknowledged is in the log; the service has this long to count all of it, too."""
_LOOK_S: Final = 0.05
_MOST_WRONG: Final = 20
"""Findings that are told one by one."""
_SIGMAS: Final = 6
"""A sample farther from its size than this is none: one in a billion would be by chance."""

T = TypeVar("T")


class Checks:
    """Each question is asked again until the answer is right or the time for all of them is up."""

    def __init__(self, api: ApiClient, book: PushBook, crowd: Crowd, world: World) -> None:
        self._api = api
        self._book = book
        self._world = world
        self._looking = crowd.looking()
        self._shown = crowd.shown()
        self._deadline = time.monotonic() + _AGREE_S
        self.wrong: list[str] = []
        """Each finding, in words."""

    def result(self, trees: Sequence[Tree]) -> dict[str, Any]:
        """`trees`: expressions to be counted. Raises ApiFailed."""
        anybody = Bounds(frozenset(), self._world.devices)
        expected = {push: self._book.expected.get(push, anybody) for push in self._book.trees}
        verdict = judge_bounds(expected, self._shown)
        pushes_equal = self._pushes_equal()
        cells, stats_equal = self._stats_equal()
        counts_equal = self._counts_equal(trees)
        samples_sound = self._samples_sound()
        return {
            "pushes": len(self._book.trees),
            "targeted": self._book.sum("targeted"),
            "received": self._book.sum("received"),
            "displayed": self._book.sum("displayed"),
            "pending": self._book.sum("pending"),
            "lost": verdict.lost,
            "duplicates": verdict.duplicates,
            "strays": verdict.strays,
            "undecided": sum(len(each.may) - len(each.must) for each in expected.values()),
            "conserved": all(map(law_holds, self._book.counts.values())),
            "pushes_equal": pushes_equal,
            "stats_equal": stats_equal,
            "stats_compared": cells,
            "counts_equal": counts_equal,
            "counts_compared": len(trees),
            "samples_sound": samples_sound,
            "wrong": self.wrong[:_MOST_WRONG],
        }

    def _pushes_equal(self) -> bool:
        """The counts of every push are those of its devices: all it was for have it, and no other."""
        equal = True
        for push_id, tree in self._book.trees.items():
            wanted = counts_of(self._states(push_id))
            found = self._agreed(partial(self._counts, push_id), wanted)
            equal &= self._same(f"push {push_id} to {to_text(tree)}", found, wanted)
        return equal

    def _stats_equal(self) -> tuple[int, bool]:
        """(counts compared that are not zero, whether the cuts of every push are right)"""
        cells, equal = 0, True
        for push_id in self._book.trees:
            wanted = cuts_of(self._states(push_id), self._world.tags, CUTS)
            found = self._agreed(partial(self._cuts, push_id), wanted)
            cells += sum(map(len, wanted.values()))
            equal &= self._same(f"stats of push {push_id}", found, wanted)
        return cells, equal

    def _counts_equal(self, trees: Sequence[Tree]) -> bool:
        equal = True
        for number, tree in enumerate(trees):
            wanted = len(meant(tree, self._world))
            said = to_text(tree) if number % 2 else tree
            found = self._agreed(partial(self._api.count, said), wanted)
            equal &= self._same(f"count of {to_text(tree)}", found, wanted)
        return equal

    def _samples_sound(self) -> bool:
        """About as large as they should be, and each within the larger ones of the same salt."""
        sound = True
        everybody = len(self._world.devices)
        for (fraction, salt), devices in self._world.samples.items():
            off = abs(len(devices) - fraction * everybody)
            if off > _SIGMAS * sqrt(everybody * fraction * (1 - fraction)):
                self.wrong.append(f"sample {fraction}: {len(devices)} of {everybody} devices")
                sound = False
            for (larger, same), others in self._world.samples.items():
                if same == salt and larger > fraction and not devices <= others:
                    self.wrong.append(f"sample {fraction} is not within sample {larger}")
                    sound = False
        return sound

    def _counts(self, push_id: int) -> dict[str, int]:
        self._book.counts[push_id] = self._api.counts(push_id)
        return without_zeros(self._book.counts[push_id])

    def _cuts(self, push_id: int) -> dict[str, dict[str, int]]:
        return told_cuts(self._api.cuts(push_id, CUTS))

    def _states(self, push_id: int) -> Mapping[str, Devices]:
        shown = frozenset(self._shown.get(push_id, ()))
        return states_of(shown, shown, self._looking)

    def _agreed(self, ask: Callable[[], T], wanted: T) -> T:
        """The answer, the wanted one if it comes in time."""
        while (found := ask()) != wanted and time.monotonic() < self._deadline:
            time.sleep(_LOOK_S)
        return found

    def _same(self, what: str, found: object, wanted: object) -> bool:
        if found != wanted:
            self.wrong.append(f"{what}: {differences(found, wanted)}")
        return found == wanted
