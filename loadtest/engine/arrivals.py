"""How many devices have arrived by when: a rate that grows from nothing, then stands. Pure."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Seconds are counted from the first arrival."""

    per_s: float
    """0: all at once."""
    ramp_s: float = 0.0

    def by(self, seconds: float) -> float:
        """Devices that should have arrived, infinite without a rate."""
        if self.per_s == 0:
            return math.inf
        if seconds < self.ramp_s:
            return self.per_s * seconds * seconds / (2 * self.ramp_s)
        return self.per_s * (seconds - self.ramp_s / 2)

    def when(self, count: int) -> float:
        """The second by which so many have arrived: `by` turned round."""
        if self.per_s == 0:
            return 0.0
        in_ramp = self.per_s * self.ramp_s / 2
        if count < in_ramp:
            return math.sqrt(2 * self.ramp_s * count / self.per_s)
        return count / self.per_s + self.ramp_s / 2
