"""`python -m tests.faults.wrong_clock SECONDS ROLE ...`: a role whose wall clock is off by so much.

The kernel can shift the monotonic clock of one process (`unshare --time`), not its wall clock. So this
replaces, in the role's own process and before anything of the product is imported, what the product
reads the wall clock with; `test_clocks` knows that there is no other reading.
"""

import sys
import time


def shift(seconds: float) -> None:
    real_time, real_ns = time.time, time.time_ns
    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)


if __name__ == "__main__":
    shift(float(sys.argv[1]))
    sys.argv = ["columba", *sys.argv[2:]]
    from gateway.cli import main

    main()
