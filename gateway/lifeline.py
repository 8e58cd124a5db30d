"""A process that ends when its parent does, even when the parent is killed.

Linux sends PR_SET_PDEATHSIG's signal when the *thread* that forked ends, so children are started
from main threads. The setting outlives exec (not for setuid programs). Run as a script, this file
is a trampoline: `python lifeline.py PARENT_PID program args...` ties itself to the parent and
becomes the program. That spares `preexec_fn`, which may deadlock in a process with threads and
warns there from Python 3.12 on; hence no import from the service in here.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
# Loaded at import: between fork and exec nothing may take the loader's locks.
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(parent_pid: int) -> None:
    """Get SIGTERM when the parent ends; leave at once if it already has.

    Raises OSError where the kernel refuses (never seen; a seccomp filter could).
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # The parent may have ended before the call, and then no signal would ever come.
    if os.getppid() != parent_pid:
        os._exit(0)


def tied(command: list[str]) -> list[str]:
    """The command that runs `command` as a child ending with the calling process. Same pid."""
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), *command]


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    try:
        os.execv(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.stderr.write(f"cannot run {sys.argv[2]}: {error.strerror}\n")
        sys.exit(127)
