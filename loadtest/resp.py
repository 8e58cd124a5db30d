"""RESP2 by hand: commands out, replies in. Only what a measurement of the store needs. Pure.

(https://valkey.io/topics/protocol/) loadtest stands beside the service and does without its client.
"""

from typing import TypeAlias

Reply: TypeAlias = "bytes | int | StoreError | list[Reply] | None"
"""Simple and bulk strings are bytes; an error is a StoreError, returned, not raised."""


class StoreError(Exception):
    """The store answered with an error."""


class Incomplete(Exception):
    """The bytes end within a reply."""


def command(*parts: str | bytes | int) -> bytes:
    """One command as an array of bulk strings."""
    out = [b"*%d\r\n" % len(parts)]
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        out.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(out)


def parse(buffer: bytes, at: int = 0) -> tuple[Reply, int]:
    """(reply, position behind it). Raises Incomplete, and ValueError for what is no reply."""
    end = buffer.find(b"\r\n", at)
    if end < 0:
        raise Incomplete
    kind, line, after = buffer[at : at + 1], buffer[at + 1 : end], end + 2
    match kind:
        case b"+":
            return line, after
        case b"-":
            return StoreError(line.decode(errors="replace")), after
        case b":":
            return int(line), after
        case b"$" if int(line) < 0:
            return None, after
        case b"$":
            stop = after + int(line)
            if len(buffer) < stop + 2:
                raise Incomplete
            return buffer[after:stop], stop + 2
        case b"*" if int(line) < 0:
            return None, after
        case b"*":
            items: list[Reply] = []
            for _ in range(int(line)):
                item, after = parse(buffer, after)
                items.append(item)
            return items, after
    raise ValueError(f"no RESP reply begins with {kind!r}")


class Replies:
    """Puts a stream of chunks together again: `feed` each, get the replies it completed."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[Reply]:
        buffer, at, replies = self._rest + chunk, 0, []
        while at < len(buffer):
            try:
                reply, at = parse(buffer, at)
            except Incomplete:
                break
            replies.append(reply)
        self._rest = buffer[at:]
        return replies
