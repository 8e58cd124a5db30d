"""The floor: what one write per connection costs with nothing around it.

`python -m loadtest.floor FD` is the server process; `Floor` is the parent's handle of it. It
accepts connections and writes the same bytes to every one in a plain loop; a reader on the same
machine makes the kernel do all of what it does for the edge.
"""

import base64
import os
import socket
import time
from typing import Any, Final

from loadtest.control import Child, inherited_commands
from loadtest.links import Address
from loadtest.wire import message_frame

_BACKLOG: Final = 4096


class Floor(Child):
    """The parent's handle. `address` is where its readers connect."""

    def __init__(self) -> None:
        super().__init__("loadtest.floor")
        self.address: Address = ("127.0.0.1", self.started["port"])

    def accept(self, count: int, timeout_s: float) -> None:
        """Take `count` connections. Raises ChildFailed if they do not come in time."""
        self.call("accept", timeout_s=timeout_s + 5, count=count, patience_s=timeout_s)

    def write(self, frame: bytes) -> float:
        """One round: `frame` to all. CPU per message, microseconds (user and system)."""
        answer = self.call("write", frame=base64.b64encode(frame).decode())
        return float(answer["cpu_ns"]) / 1e3 / int(answer["written"])


def frame_of_size(size: int, push_id: int, data: dict[str, str]) -> bytes:
    """A MESSAGE of exactly `size` bytes, so that its readers have the same work as an edge's.

    Raises ValueError if the data alone is longer.
    """
    missing = size - len(message_frame(push_id, data))
    if missing < 0:
        raise ValueError(f"a message with this data takes more than {size} bytes")
    # The text brings its own tags and lengths with it, 8 bytes at most.
    for text in range(max(0, missing - 8), missing + 1):
        frame = message_frame(push_id, data, body="x" * text)
        # Where a length needs one byte more, the size between cannot be had; the next is as good.
        if len(frame) >= size:
            break
    return frame


def _accept(listener: socket.socket, count: int, patience_s: float) -> list[int]:
    """Raises TimeoutError."""
    deadline = time.monotonic() + patience_s
    accepted: list[int] = []
    while len(accepted) < count:
        listener.settimeout(max(0.001, deadline - time.monotonic()))
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        accepted.append(connection.detach())
    return accepted


def _write_all(fds: list[int], frame: bytes) -> dict[str, int]:
    """The loop that is measured. Raises BlockingIOError if a reader is so far behind."""
    write = os.write
    before = time.process_time_ns()
    for fd in fds:
        write(fd, frame)
    return {"cpu_ns": time.process_time_ns() - before, "written": len(fds)}


def main() -> None:
    commands = inherited_commands()
    fds: list[int] = []
    with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener:
        while True:
            try:
                received = commands.read(wait=True)
            except EOFError:
                return  # the parent closed the socket or is gone
            for command in received:
                commands.answer(command, **_obey(command, listener, fds))


def _obey(command: dict[str, Any], listener: socket.socket, fds: list[int]) -> dict[str, Any]:
    try:
        match command["do"]:
            case "start":
                return {"port": listener.getsockname()[1]}
            case "accept":
                fds += _accept(listener, command["count"], command["patience_s"])
                return {"connections": len(fds)}
            case "write":
                return _write_all(fds, base64.b64decode(command["frame"]))
            case other:
                return {"error": f"unknown command {other!r}"}
    except OSError as error:
        return {"error": repr(error)}


if __name__ == "__main__":
    main()
