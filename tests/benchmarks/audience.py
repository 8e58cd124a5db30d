"""What audiences cost over a billion devices: `make bench-audience`.

Two processes hold the partitions as two dispatch nodes would and answer through the Selection that
these use; the parent asks over pipes and times from its request to the last reply. Prints one JSON object
as its last line; what it is doing meanwhile goes to stderr.

`bytes` is the memory of all bitmaps in their containers: the universe and the terms. In `kinds`,
`count_ms` is the count of the term alone, `and_ms` that of `a & term`.
"""

import argparse
import importlib
import json
import multiprocessing
import random
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, Final, NamedTuple

from pyroaring import BitMap

from gateway.audience import All, Audience, Leaf, Tag
from gateway.audience_text import parse_text
from gateway.dispatch.partition import Partition
from gateway.dispatch.sampling import bitmap
from gateway.dispatch.selection import Selection
from protocol.schema import log_pb2

numpy: Any
try:
    numpy = importlib.import_module("numpy")
except ImportError:  # not a dependency: Python's long integers count as well, and take longer
    numpy = None

BILLION: Final = 1_000_000_000
PARTITION: Final = 1 << 20
PROCESSES: Final = 2
RUNS: Final = 7
DEADLINE_S: Final = 90.0
"""For the whole command."""
SHARES: Final = {"a": 512, "b": 205, "c": 82}
"""Dense terms: 50 %, 20 %, 8 %, in parts of 1024."""
_DIGITS: Final = 10
SPARSE: Final = 1000
"""One device of so many has `d`."""
RUNS_EACH: Final = 8
"""Ranges of `runs` in a partition, together a fifth of it."""
CHECKED: Final = 60
"""One partition of so many is counted independently too."""

COUNT2: Final = "a & b"
COUNT4: Final = "a & b & !c & d"
SELECT: Final = "a & b & !c"
KINDS: Final = {"dense": "b", "sparse": "d", "runs": "runs"}


class Part(NamedTuple):
    universe: BitMap
    terms: dict[str, BitMap]
    plain: dict[str, bytes] | None
    """The terms as bit strings, where they are to be counted independently."""

    def selection(self) -> Selection:
        return Selection(self.universe, self.leaf)

    def leaf(self, leaf: Leaf) -> BitMap:
        match leaf:
            case All():
                return self.universe
            case Tag(name):
                return self.terms[name]
        raise AssertionError(f"no term: {leaf}")


# Building


def build(partition: int, size: int) -> Part:
    """Devices 0 to size - 1 and who has which term; the same ones each time."""
    rng = random.Random(partition)
    plain = {name: _dense(rng, share, size) for name, share in SHARES.items()}
    plain["d"] = _plain(rng.sample(range(size), round(size / SPARSE)))
    terms = {name: bitmap(bits) for name, bits in plain.items()}
    runs = BitMap()
    for k in range(RUNS_EACH):
        start = k * size // RUNS_EACH
        runs.add_range(start, start + size // RUNS_EACH // 5)
    runs.run_optimize()
    # The form that grows from adding one device after another: bit sets, not one run.
    universe = bitmap(((1 << size) - 1).to_bytes(PARTITION // 8, "little"))
    return Part(universe, {**terms, "runs": runs}, plain if partition % CHECKED < 2 else None)


def _dense(rng: random.Random, share: int, size: int) -> bytes:
    """Each index below `size` with a probability of share / 1024, as sampling.py draws them."""
    below, equal = 0, (1 << size) - 1
    for k in range(_DIGITS):
        rest = share & ((1 << (_DIGITS - k)) - 1)
        if not rest:
            break
        stream = rng.getrandbits(size)
        if rest >> (_DIGITS - 1 - k):
            below |= equal & ~stream
            equal &= stream
        else:
            equal &= ~stream
    return below.to_bytes(PARTITION // 8, "little")


def _plain(indexes: list[int]) -> bytes:
    bits = bytearray(PARTITION // 8)
    for index in indexes:
        bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


# One process


def serve(pipe: Connection, number: int, devices: int) -> None:
    """Build every PROCESSES-th partition, then answer until the parent hangs up."""
    parts = []
    for partition in range(number, -(-devices // PARTITION), PROCESSES):
        parts.append(build(partition, min(PARTITION, devices - partition * PARTITION)))
        if len(parts) % 100 == 0:
            print(f"process {number}: {len(parts)} partitions built", file=sys.stderr, flush=True)
    pipe.send({
        "devices": sum(len(part.universe) for part in parts),
        "bytes": sum(_held(b) for part in parts for b in (part.universe, *part.terms.values())),
        "checked": sum(_check(part) for part in parts if part.plain is not None),
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    })  # fmt: skip
    answers = {"count": _count, "select": _select}
    while True:
        try:
            ask, text = pipe.recv()
        except EOFError:
            return
        answers[ask](pipe, parts, parse_text(text))


def _count(pipe: Connection, parts: list[Part], audience: Audience) -> None:
    pipe.send(sum(part.selection().count(audience) for part in parts))


def _select(pipe: Connection, parts: list[Part], audience: Audience) -> None:
    """All selections stand at the same time at the end; that the first one does is told at once."""
    found = []
    for part in parts:
        found.append(part.selection().select(audience))
        if len(found) == 1:
            pipe.send("first")
    pipe.send(sum(len(devices) for devices in found))


def _held(bits: BitMap) -> int:
    told: Mapping[str, Any] = bits.get_statistics()
    return int(sum(told[f"n_bytes_{kind}_containers"] for kind in ("array", "run", "bitset")))


# Independently of bitmaps


def _check(part: Part) -> int:
    """1. Raises AssertionError if a partition counts or selects other devices than it should."""
    assert part.plain is not None
    expected = _by_numpy(part.plain) if numpy is not None else _by_integers(part.plain)
    for text, devices in expected.items():
        audience = parse_text(text)
        counted = part.selection().count(audience)
        selected = part.selection().select(audience)
        assert counted == devices.bit_count(), (text, counted, devices.bit_count())
        assert _plain(list(selected)) == devices.to_bytes(PARTITION // 8, "little"), text
    return 1


def _by_integers(plain: dict[str, bytes]) -> dict[str, int]:
    a, b, c, d = (int.from_bytes(plain[name], "little") for name in "abcd")
    return {COUNT2: a & b, COUNT4: a & b & ~c & d, SELECT: a & b & ~c}


def _by_numpy(plain: dict[str, bytes]) -> dict[str, int]:
    a, b, c, d = (
        numpy.unpackbits(numpy.frombuffer(plain[name], numpy.uint8), bitorder="little").astype(bool)
        for name in "abcd"
    )
    found = {COUNT2: a & b, COUNT4: a & b & ~c & d, SELECT: a & b & ~c}
    return {
        text: int.from_bytes(numpy.packbits(bits, bitorder="little").tobytes(), "little")
        for text, bits in found.items()
    }


# The parent


class Asked(NamedTuple):
    total: int
    ms: float
    first_ms: float


class Nodes:
    """The processes, seen from the parent."""

    def __init__(self, devices: int) -> None:
        self._deadline = time.monotonic() + DEADLINE_S
        fork = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        for number in range(PROCESSES):
            ours, theirs = fork.Pipe()
            fork.Process(target=serve, args=(theirs, number, devices), daemon=True).start()
            theirs.close()  # so that an end of the process is an end of the pipe
            self._pipes.append(ours)
        self.built = [reply for _, reply in self._replies()]

    def ask(self, ask: str, text: str) -> Asked:
        total, first_ms = 0, 0.0
        began = time.perf_counter()
        for pipe in self._pipes:
            pipe.send((ask, text))
        for at, reply in self._replies():
            if reply == "first":
                first_ms = first_ms or (at - began) * 1000
            else:
                total += reply
        return Asked(total, (time.perf_counter() - began) * 1000, first_ms)

    def median(self, ask: str, text: str) -> Asked:
        """Of RUNS after one to warm up."""
        self.ask(ask, text)
        runs = [self.ask(ask, text) for _ in range(RUNS)]
        assert len({run.total for run in runs}) == 1, "the same question, another answer"
        ms = statistics.median(run.ms for run in runs)
        first_ms = statistics.median(run.first_ms for run in runs)
        return Asked(runs[0].total, round(ms, 2), round(first_ms, 2))

    def _replies(self) -> Iterator[tuple[float, Any]]:
        """(when, what) until each process has sent its last word, which is anything but "first"."""
        pending = set(self._pipes)
        while pending:
            ready = wait(pending, max(0.0, self._deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"not done within {DEADLINE_S:.0f} s")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                reply = pipe.recv()
                yield time.perf_counter(), reply
                if reply != "first":
                    pending.discard(pipe)


_TAGGED = 1 << 16
_CHANGES = 50_000


def _tag_changes_per_s(devices: int) -> int:
    """Profile changes (three of 300 tags each, a hundred in a record) that one process folds a second."""
    rng = random.Random(7)
    partition = Partition(0)
    up = log_pb2.Sessions(edge=1, up=range(devices), app=[1] * devices, epoch=range(1, devices + 1))
    partition.fold("1000-0", log_pb2.Record(sessions=up).SerializeToString())
    tags = [f"city:{n}" for n in range(300)]
    records = []
    for change in range(1, _CHANGES // 100 + 1):
        profiles = [
            log_pb2.Profile(index=rng.randrange(devices), change=change, tags=rng.sample(tags, 3))
            for _ in range(100)
        ]
        records.append(log_pb2.Record(profiles=profiles).SerializeToString())
    began = time.perf_counter()
    for number, record in enumerate(records):
        partition.fold(f"{2000 + number}-0", record)
    return round(_CHANGES / (time.perf_counter() - began))


def run(devices: int) -> dict[str, object]:
    began = time.monotonic()
    nodes = Nodes(devices)
    resident = sum(built["rss"] for built in nodes.built)
    checked = sum(built["checked"] for built in nodes.built)
    print(
        f"built in {time.monotonic() - began:.1f} s, {resident >> 20} MiB resident, "
        f"{checked} partitions checked with {'numpy' if numpy is not None else 'integers'}",
        file=sys.stderr,
    )
    selected = nodes.median("select", SELECT)
    kinds = {}
    for kind, name in KINDS.items():
        alone, both = nodes.median("count", name), nodes.median("count", f"a & {name}")
        kinds[kind] = {"devices": alone.total, "count_ms": alone.ms, "and_ms": both.ms}
    return {
        "devices": sum(built["devices"] for built in nodes.built),
        "count2_ms": nodes.median("count", COUNT2).ms,
        "count4_ms": nodes.median("count", COUNT4).ms,
        "select_ms": selected.ms,
        "first_partition_ms": selected.first_ms,
        "bytes": sum(built["bytes"] for built in nodes.built),
        "kinds": kinds,
        "tag_changes_per_s": _tag_changes_per_s(min(devices, _TAGGED)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=BILLION)
    devices = parser.parse_args().devices
    if devices < 1:
        parser.error("--devices: 1 or more")
    print(json.dumps(run(devices)))


if __name__ == "__main__":
    main()
