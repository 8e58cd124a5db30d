"""The collector of cycles and a large state, in a process of its own: it is a matter of the whole process."""

import subprocess
import sys

_PROCESS = """
import gc, weakref
from gateway.garbage import keep_collections_short

keep_collections_short()
keep_collections_short()
state = [[number] for number in range(600_000)]
assert gc.get_freeze_count() > 400_000, gc.get_freeze_count()

looked_at = []
gc.callbacks.append(lambda phase, info: phase == "start" and looked_at.append(
    sum(len(gc.get_objects(n)) for n in range(info["generation"] + 1))))
more = [[number] for number in range(100_000)]
assert len(looked_at) > 20 and max(looked_at) < 300_000, max(looked_at)

class Node: pass
loose = Node()
loose.itself = loose
gone = weakref.ref(loose)
del loose
gc.collect()
assert gone() is None, "cycles that come loose later are still found"

row = Node()
still = weakref.ref(row)
state[0].append(row)
gc.freeze()
del row, state[0][1]
assert still() is None, "what is set aside is freed by its count"
"""


def test_the_collector_does_not_look_at_a_state_again_and_again() -> None:
    subprocess.run([sys.executable, "-c", _PROCESS], check=True, timeout=60)


_AT_REST = """
import gc, weakref
from gateway.garbage import AtRest

def cycles(count):
    class Node: pass
    for _ in range(count):
        loose = Node()
        loose.itself = loose
    return weakref.ref(loose)

garbage = AtRest()
busy, resting = 0.9, 0.1
used, now = 0.0, 0.0
garbage.look(used, now)

def look(share):
    global used, now
    used, now = used + share / 4, now + 0.25
    garbage.look(used, now)

few = cycles(AtRest.LEAST // 4)
look(resting)
assert few() is not None, "not worth it"
some = cycles(2 * AtRest.LEAST)
look(busy)
assert some() is not None, "it waits for a rest"
look(resting)
assert some() is None and few() is None
many = cycles(AtRest.MOST)
look(busy)
assert many() is None, "that is too much"
garbage.end()
assert gc.isenabled()
"""


def test_an_edge_collects_when_it_rests_or_when_too_much_has_gathered() -> None:
    subprocess.run([sys.executable, "-c", _AT_REST], check=True, timeout=60)
