"""What a fleet counts. Plain integers: a hot path keeps no diary."""

from typing import Any


class Counters:
    """All counts since the fleet began, except `open`, which is now."""

    __slots__ = (
        "dial_failures",
        "dialled",
        "ended",
        "first_dial_at",
        "frame_bytes",
        "given_up",
        "goaways",
        "identity_changes",
        "last_welcome_at",
        "lost",
        "messages",
        "open",
        "pings",
        "pongs",
        "profiles_acked",
        "profiles_sent",
        "protocol_errors",
        "receipts_acked",
        "receipts_sent",
        "reconnected",
        "redelivered",
        "registered",
        "shown",
        "silent",
        "tokens_refused",
        "welcomed",
    )

    def __init__(self) -> None:
        self.open = 0
        """Sessions that stand now."""
        self.dialled = 0
        self.dial_failures = 0
        """Local: no descriptor or no port left."""
        self.welcomed = 0
        """Sessions that came to stand, registrations and returns."""
        self.registered = 0
        """Of them: with a proof, so a token was given."""
        self.reconnected = 0
        """Of them: of a device that had one before."""
        self.lost = 0
        """Connections that ended without our doing, before or after WELCOME."""
        self.silent = 0
        """Of them: nothing was heard for a whole heartbeat interval after a PING."""
        self.given_up = 0
        """Of them: no connection in time, or no WELCOME."""
        self.ended = 0
        """Devices told never to come back."""
        self.goaways: dict[int, int] = {}
        """By close code."""
        self.tokens_refused = 0
        self.identity_changes = 0
        """WELCOMEs that gave a device another id than it had: must stay 0."""
        self.protocol_errors = 0
        """Frames the edge should not have sent: must stay 0."""
        self.messages = 0
        self.shown = 0
        """Of them: ids the device saw for the first time."""
        self.redelivered = 0
        """Of them: ids it had seen: acknowledged again, not shown."""
        self.frame_bytes = 0
        """Size of the last MESSAGE that was not one seen before."""
        self.receipts_sent = 0
        """RECEIPTS frames."""
        self.receipts_acked = 0
        """Single receipts that RECEIPT_ACK made durable."""
        self.profiles_sent = 0
        """PROFILE frames."""
        self.profiles_acked = 0
        """Changes of tags that PROFILE_ACK made safe; those a later one overtook are not counted."""
        self.pings = 0
        self.pongs = 0
        self.first_dial_at = 0.0
        self.last_welcome_at = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}
