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


def collect_seldom(objects: int) -> None:
    """For the whole process, once it is ready: what is there stays, and is not looked at again. A collection
    comes when so many more `objects` have gathered than went; that bounds what cycles may hold until then.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(objects, 5, 5)


def keep_collections_short() -> None:
    """For the whole process, which has millions of objects in its state."""
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
