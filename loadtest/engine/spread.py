"""How long something takes, as a distribution: described in a scenario, drawn here. Pure."""

import math
from random import Random
from typing import Annotated, Final

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(ge=0, le=86_400)]

LONGEST_S: Final = 86_400.0
"""What a heavy tail draws beyond a day is a day: a wheel must not fill with what never comes."""


class Fixed(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fixed"):
    """Always the same."""

    s: Seconds = 0.0

    def draw(self, random: Random) -> float:
        return self.s


class Uniform(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="uniform"):
    """Anything between the two alike."""

    from_s: Seconds
    to_s: Seconds

    def __post_init__(self) -> None:
        if self.to_s < self.from_s:
            raise ValueError("Expected `to_s` at or above `from_s`")

    def draw(self, random: Random) -> float:
        return random.uniform(self.from_s, self.to_s)


class Exponential(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="exponential"
):
    """Memoryless: as likely to end in the next second whatever has passed."""

    mean_s: Annotated[float, Meta(gt=0, le=86_400)]

    def draw(self, random: Random) -> float:
        return min(LONGEST_S, random.expovariate(1 / self.mean_s))


class LogNormal(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="lognormal"):
    """What people take to look at something: half of them less than the median, a few very long."""

    median_s: Annotated[float, Meta(gt=0, le=86_400)]
    sigma: Annotated[float, Meta(ge=0, le=5)] = 1.0
    """Of the logarithm: 1 puts 95 % below 5.2 medians."""

    def draw(self, random: Random) -> float:
        # The bound stands inside the exponent, so that no draw overflows.
        exponent = min(math.log(LONGEST_S), math.log(self.median_s) + self.sigma * random.gauss())
        return math.exp(exponent)


Spread = Fixed | Uniform | Exponential | LogNormal
