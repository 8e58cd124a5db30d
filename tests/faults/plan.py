"""What a run of faults is made of: sizes, and words that all its parts share."""

from dataclasses import dataclass
from typing import Final

Address = tuple[str, int] | str
"""(host, port), or the path of a unix socket."""

FEATURES: Final = ("priority", "recall", "collapse")
"""Parts of the HTTP interface that the traffic can do without."""


class CannotHere(Exception):
    """This machine does not let us do what a scenario needs; the text says what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large the deployment is, and how hard it is worked."""

    devices: int = 1000
    """Simulated ones."""
    sdk_children: int = 2
    """Processes with devices of the SDK in them."""
    sdk_devices: int = 6
    """... so many in each."""
    pushes_per_s: float = 25.0
    """Requests of app servers; a campaign counts as one."""
    probes_per_s: float = 12.0
    """Single pushes to devices that the fault concerns, on top: they measure the recovery."""
    before_s: float = 2.0
    during_s: float = 6.0
    """For how long a fault lasts, unless it says so itself."""
    freeze_s: float = 20.0
    """For how long a process stands still: ten leases."""
    after_s: float = 3.0
    """Pushes go on for so long after everything has been healed."""
    settle_s: float = 60.0
    """Everything must have arrived, and have been reported, after so long."""
    features: frozenset[str] = frozenset(FEATURES)
    product_times: bool = False
    """Leases and delays of the defaults, in place of short ones: for figures of recovery."""
