"""How long it took until devices that a fault concerned got messages again. Pure."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults.told import Told
from tests.faults.verdict import Journals

NEVER_S = 999.0


@dataclass(slots=True)
class Recovery:
    """A mark in time, and the devices to look at: those the fault took the service from."""

    devices: list[int] = field(default_factory=list)
    at: float = 0.0
    """Of the kill; or, where nothing can flow while the fault lasts, of the healing."""

    def mark(self, devices: Iterable[int], at: float) -> None:
        self.devices = list(devices)
        self.at = at

    def measure(self, told: Told, journals: Journals) -> tuple[float, float]:
        """(slowest, median) seconds from the mark to the first showing of what was pushed behind it.

        A device that was not pushed to since does not count; one that never showed it counts 999.
        """
        waits = []
        for device in self.devices:
            fresh = {
                pushed.push_id
                for pushed in told.pushes.values()
                if pushed.must_arrive and device in pushed.devices and pushed.asked_at >= self.at
            }
            if fresh:
                shown = (x.at for x in journals.get(device, ()) if x.push_id in fresh)
                waits.append(min(shown, default=self.at + NEVER_S) - self.at)
        if not waits:
            return NEVER_S, NEVER_S
        return round(max(waits), 2), round(statistics.median(waits), 2)
