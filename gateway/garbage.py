"""The collector of reference cycles, kept from what it has no business with.

Where requests come by the thousand a second, each with a task, some futures and tuples that live for
milliseconds, it walked through those that are open again and again and found nothing: a third of an API
process's time. So there it is asked seldom (`collect_seldom`).

A partition of a million devices is some millions of objects, and none of them stands in a cycle: their
reference counts free them. The collector does not know that and walks through all of them from time to
time, for the better part of a second in which the node does nothing else. So what is left after a
collection that took long is set aside: reference counts still free it, the collector never looks at it
again. What that can lose is a cycle that stood at that moment and came loose later: some hundred bytes
for each ten thousand objects by which the state grows.
"""

import gc
import time
from collections.abc import Mapping
from typing import Any, Final

LONG_S: Final = 0.002
"""Some ten thousand objects that are in no cache."""
_OLDEST: Final = 2
_YOUNG: Final = (700, 2, 4)
"""Thresholds: a collection looks at some ten thousand new objects at most, where Python's own (700, 10, 10)
let a hundred thousand gather."""


def _set_aside() -> None:
    """What is there stays, and is not looked at again."""
    gc.collect()
    gc.freeze()


def collect_seldom(objects: int) -> None:
    """For the whole process, once it is ready: what is there stays, and is not looked at again. A collection
    comes when so many more `objects` have gathered than went; that bounds what cycles may hold until then.
    """
    _set_aside()
    gc.set_threshold(objects, 5, 5)


class AtRest:
    """Collections of a process that has little time: only while it rests, or when too much has gathered.

    An edge in the middle of a campaign has tens of thousands of objects on their way, none for long. Collections
    among them came several times a second and stood in everybody's way for 3 to 33 ms.
    """

    LEAST: Final = 10_000
    """New objects that are worth a look: a megabyte or two, in each of perhaps many edges."""
    MOST: Final = 500_000
    """So many may be there before a collection comes in any case: some fifty megabytes."""
    RESTING: Final = 0.3
    """Share of a core below which a process rests."""

    def __init__(self) -> None:
        """For the whole process, once it is ready: what is there stays, and is not looked at again."""
        _set_aside()
        gc.disable()  # objects are counted all the same
        self._used_s = time.process_time()
        self._at = time.monotonic()

    def look(self, used_s: float, now: float) -> None:
        """Some times a second. `used_s`: CPU time of the process, `now`: of the monotonic clock."""
        share = (used_s - self._used_s) / max(now - self._at, 1e-9)
        self._used_s, self._at = used_s, now
        objects = gc.get_count()[0]
        if objects > self.MOST or (objects > self.LEAST and share < self.RESTING):
            gc.collect()

    def end(self) -> None:
        """As Python has it, for what still comes in this process."""
        gc.enable()


def keep_collections_short() -> None:
    """For the whole process, which has millions of objects in its state.

    What is there already, the modules above all, is set aside at once: the first collection that walked
    through it came at some busy moment, and stopped a node for 60 ms.
    """
    _set_aside()
    gc.set_threshold(*_YOUNG)
    if _on_collection not in gc.callbacks:
        gc.callbacks.append(_on_collection)


_began = 0.0


def _on_collection(phase: str, info: Mapping[str, Any]) -> None:
    global _began  # noqa: PLW0603
    if info["generation"] < _OLDEST:
        return
    if phase == "start":
        _began = time.perf_counter()
    elif time.perf_counter() - _began > LONG_S:
        gc.freeze()
