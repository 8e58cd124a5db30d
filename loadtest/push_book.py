"""The pushes of a run: what each was for, whom that means, and what the service counts of it."""

import time
from collections.abc import Iterable
from random import Random
from typing import Final

from loadtest.api_client import ApiClient
from loadtest.meaning import Bounds, Tree, World, bounds, to_text

_COUNT_EVERY_S: Final = 0.25


class PushBook:
    """Pushes by their ids, in the order in which the API accepted them."""

    def __init__(self, api: ApiClient, random: Random) -> None:
        self.trees: dict[int, Tree] = {}
        self.expected: dict[int, Bounds] = {}
        """Of those that `expect` was told of."""
        self.counts: dict[int, dict[str, int]] = {}
        """As the service said last."""
        self._api = api
        self._random = random
        self._counted_at = 0.0

    def push(self, tree: Tree) -> int:
        """Said as JSON or as text, which must mean the same. Raises ApiFailed."""
        push_id = self._api.push(self._random.choice((tree, to_text(tree))))
        self.trees[push_id] = tree
        return push_id

    def expect(self, pushes: Iterable[int], worlds: Iterable[World]) -> None:
        """These were looked at while each device was as in one of the worlds."""
        known = list(worlds)
        for push_id in pushes:
            self.expected[push_id] = bounds(self.trees[push_id], known)

    def all_targeted(self, pushes: Iterable[int]) -> bool:
        """Has the service looked at each of these, and meant as many as it must?"""
        for push_id in pushes:
            self.counts[push_id] = self._api.counts(push_id)
            if self.counts[push_id]["targeted"] != len(self.expected[push_id].must):
                return False
        return True

    def refresh(self) -> None:
        """Ask for what may have changed, some times a second."""
        if time.monotonic() - self._counted_at < _COUNT_EVERY_S:
            return
        for push_id in self.unfinished():
            self.counts[push_id] = self._api.counts(push_id)
        self._counted_at = time.monotonic()

    def unfinished(self) -> list[int]:
        """Pushes that some device had not received when they were last asked for."""
        return [push_id for push_id in self.trees if not self._is_finished(push_id)]

    def _is_finished(self, push_id: int) -> bool:
        counts = self.counts.get(push_id)
        if counts is None or counts["pending"]:
            return False
        bounds = self.expected.get(push_id)
        return bounds is None or counts["received"] >= len(bounds.must)

    def sum(self, name: str) -> int:
        return sum(counts[name] for counts in self.counts.values())
