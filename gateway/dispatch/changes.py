"""What changes in a partition's state, told before it does.

A piece is what a snapshot writes and reads as one (`gateway.dispatch.pieces`). While a snapshot is being
written beside the fold, it still needs the pieces as they stood when it began. So whoever is about to
change one says so first: the snapshot then takes its copy, of the whole piece if it is a bitmap, and
of that row alone if it is a block of a thousand.
"""

from typing import Any, Final, Protocol

from gateway.dispatch.campaign import Push, Single

SINGLES_BLOCK: Final = 10
"""Shift: 1,024 singles (by order) make one piece of a snapshot."""
WHOLE: Final = None
"""In place of a row: all of the piece."""
Row = int | str | None


class Keeper(Protocol):
    """A snapshot that is being written."""

    def keep(self, piece: str, row: Row, old: Any) -> None:
        """What is about to change: `old` is the row as it stands, None if it is about to come."""


class Changes:
    """Of one partition; its parts share it."""

    __slots__ = ("dirty", "keeper")

    def __init__(self) -> None:
        self.dirty: set[str] = set()
        """Pieces that have changed since the last snapshot began."""
        self.keeper: Keeper | None = None
        """Set while a snapshot is written."""

    def touch(self, piece: str, row: Row = WHOLE, old: Any = None) -> None:
        """A piece, or a row of it, is about to change."""
        if self.keeper is not None:
            self.keeper.keep(piece, row, old)
        self.dirty.add(piece)

    def touch_push(self, push: Push, *, comes: bool = False) -> None:
        """A push is about to change or to go, or `comes`."""
        if isinstance(push, Single):
            self.touch(piece_of(push), push.push_id, None if comes else (push, push.marks))
        else:
            self.touch(piece_of(push))

    def foresee_push(self, push: Push) -> str:
        """As `touch_push`, where it may turn out that nothing changes: who finds that it did adds the
        piece, which is returned, to `dirty`."""
        piece = piece_of(push)
        if self.keeper is not None:
            if isinstance(push, Single):
                self.keeper.keep(piece, push.push_id, (push, push.marks))
            else:
                self.keeper.keep(piece, WHOLE, None)
        return piece


def piece_of(push: Push) -> str:
    """Name of the piece that holds a push. Of a single, (object, marks) is the row: all else of it never
    changes."""
    if isinstance(push, Single):
        return f"singles/{push.order >> SINGLES_BLOCK}"
    return f"campaigns/{push.push_id}"
