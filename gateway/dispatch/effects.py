"""What a fold changed that somebody has to act on. Pure."""

from pyroaring import BitMap

from gateway.dispatch.campaign import Push


class Effects:
    """What a fold changed that somebody has to act on."""

    __slots__ = (
        "arrived",
        "contents",
        "ended",
        "final",
        "fresh",
        "late_receipts",
        "recalled",
        "receipted",
        "replaced",
        "resumed",
    )  # fmt: skip

    def __init__(self) -> None:
        self.arrived = BitMap()
        """Devices with a new session."""
        self.replaced: list[tuple[int, int, int]] = []
        """(edge, index, new epoch) of sessions that a later one at another edge fenced"""
        self.fresh: list[Push] = []
        """Pushes seen for the first time."""
        self.recalled: list[tuple[Push, BitMap]] = []
        """Recalled pushes, and devices that have stored them and are to be told."""
        self.resumed: list[Push] = []
        """Pushes that were paused and go on."""
        self.contents: dict[int, bytes] = {}
        """push id -> content, where the record carried it"""
        self.receipted: set[int] = set()
        """Devices from which a receipt came."""
        self.late_receipts = 0
        """Receipts for pushes that are not, or no longer, known here: counted and dropped."""
        self.final: list[int] = []
        """Pushes whose last device became final: their content can go."""
        self.ended: list[tuple[int, int, BitMap]] = []
        """(edge, start, devices that were online there) of edges declared dead"""
