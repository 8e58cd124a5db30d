"""`Fence`: a fencing token, and who gave it.

A token refuses older owners. It cannot tell a failover: a replica that takes over knows the token, but
perhaps not the end of the log that the owner has folded. So what an owner writes goes only to the
server that gave it its token, and is Fenced anywhere else; the owner then takes a token again and
loads what that other server has.
"""

from typing import Self

from gateway.store.link import Primary


class Fence(int):
    """Greater than any before it in its partition."""

    given_by: Primary | None

    def __new__(cls, number: int, given_by: Primary | None) -> Self:
        fence = super().__new__(cls, number)
        fence.given_by = given_by
        return fence


def giver(fence: int) -> Primary | None:
    """Who alone may execute what is written under it; None if any may."""
    return fence.given_by if isinstance(fence, Fence) else None
