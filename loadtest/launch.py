"""`python -m loadtest.launch COMMAND ...`: becomes the command, to be ended with the caller.

A process between the two would be one more to lose; this one only sets the signal and is replaced.
"""

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def end_with_parent(with_signal: signal.Signals) -> None:
    """Get this signal when the thread that started this process ends (prctl(2)); execve keeps it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, with_signal)


if __name__ == "__main__":
    end_with_parent(signal.SIGTERM)
    os.execvp(sys.argv[1], sys.argv[1:])
