"""What a fleet is to be."""

from dataclasses import dataclass

from loadtest.links import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a fleet is to be."""

    address: Address
    devices: int
    app: str = "demo"
    access_key: str = ""
    seed: str = "columba"
    """Makes the installation ids: the same seed is the same devices."""
    heartbeat_s: int = 60
    source: str | None = None
    """Address the devices dial from. One has 28,000 ports for each destination; 127.0.0.0/8 has
    16 million addresses."""
    in_flight: int = 256
    """Connections without WELCOME at any time."""
    receipt_delay_s: float = 0.0
    think_s: float | None = 0.0
    """From `received` to `displayed`; None: never displayed."""
    remember: int = 65_536
    """Pushes whose receivers are remembered, see loadtest.ledger."""
    bare: bool = False
    """No sessions: a connection counts as open once it stands and only reads (for the floor)."""
    journal: bool = False
    """Keep when each device was shown what, for tests of order; about 100 B a showing."""
