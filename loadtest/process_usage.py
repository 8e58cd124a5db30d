"""CPU and memory of any process of this machine, read from outside it (Linux)."""

import os
import time
from typing import Final, NamedTuple

_CPUCLOCK_SCHED: Final = 2
_QUIET_STEP_S: Final = 0.03
_QUIET_NS: Final = 1_000_000
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def cpu_ns(pid: int) -> int:
    """User and system time of all threads of `pid`, nanoseconds. Raises OSError if it is gone.

    The clock that clock_getcpuclockid(3) names: exact to the moment, where /proc/PID/stat counts
    in steps of 10 ms and /proc/PID/schedstat stops at the last time the process slept.
    """
    return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)


def wait_quiet(pid: int, timeout_s: float = 2.0) -> int:
    """Wait until the process used less than 1 ms of CPU within 30 ms; `cpu_ns` then.

    So work that it finishes behind the last byte (its own answers, bookkeeping) counts too.
    """
    deadline = time.monotonic() + timeout_s
    before = cpu_ns(pid)
    while True:
        time.sleep(_QUIET_STEP_S)
        after = cpu_ns(pid)
        if after - before < _QUIET_NS or time.monotonic() >= deadline:
            return after
        before = after


def resident(pid: int) -> int:
    """Bytes of its pages in memory, shared ones in full. Raises OSError if it is gone.

    As the kernel counts it in passing, which may be some pages off: `memory` walks all pages instead,
    which costs milliseconds for a large process.
    """
    with open(f"/proc/{pid}/statm", encoding="ascii") as line:
        return int(line.read().split()[1]) * _PAGE


class Memory(NamedTuple):
    """Bytes of a process, as /proc/PID/smaps_rollup sums them up."""

    rss: int
    """All its pages in memory, shared ones in full."""
    pss: int
    """Shared pages divided by their sharers."""
    private: int
    """Pages of its own alone."""


def memory(pid: int) -> Memory:
    """Raises OSError if the process is gone or not ours."""
    sizes = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if rest.endswith(" kB\n"):
                sizes[name] = int(rest[:-4]) * 1024
    return Memory(
        rss=sizes["Rss"],
        pss=sizes["Pss"],
        private=sizes["Private_Clean"] + sizes["Private_Dirty"],
    )


def kernel_memory() -> int:
    """Bytes of the kernel's own objects, sockets among them: Slab of /proc/meminfo, of the whole machine."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        sizes = dict(line.split(":") for line in lines)
    return int(sizes["Slab"].split()[0]) * 1024
