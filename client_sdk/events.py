"""What an app is told of messages beside the messages themselves."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recalled:
    """The push was taken back: take it off the screen, and out of what the app has kept of it."""

    push_id: int
    handed_out: bool
    """False: the app was never given it, and will not be."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """A newer message of the same collapse key has come; the app was given this one before."""

    push_id: int
    by: int
    """Push id of the newer message, which comes as any other: unless it is recalled or replaced
    itself before the app takes it."""


Event = Recalled | Replaced
