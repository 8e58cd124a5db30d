"""Pushes to single devices over the internal RPC, as another service of the deployment makes them.

`python -m loadtest.rpc_pusher FD` is the process, `RpcPusher` the parent's handle of it. One connection, as
many calls open as it is told: a plain loop over a socket, so that it takes little of the machine it measures.
"""

import select
import socket
import time
from collections import deque
from typing import Any, Final

from loadtest.control import Child, ChildFailed, inherited_commands
from loadtest.wire import SENT_NS
from protocol.frames import encode, split, varint
from protocol.rpc_frames import ANSWER_HEAD, MAX_BODY, REQUEST, REQUEST_HEAD, RESPONSE, Method
from protocol.schema import device_pb2, rpc_pb2

_STUCK_S: Final = 30.0
_BURST: Final = 64
_PUSH: Final = int(Method.PUSH)
_SENT_NS: Final = b"\x0a" + varint(len(SENT_NS)) + SENT_NS.encode() + b"\x12"
"""Of an entry of Content.data: the key, and the tag of the value."""


class RpcPusher(Child):
    """The parent's handle."""

    def __init__(self, address: str) -> None:
        """`address`: unix:/path of an API process. Raises ChildFailed if nobody answers there."""
        super().__init__("loadtest.rpc_pusher", address=address)

    def push(
        self, app: str, devices: list[int], pushes: int, in_flight: int, per_s: float = 0.0
    ) -> dict[str, Any]:
        """So many pushes to these devices in turn; at most `per_s` a second, 0: as fast as they are answered.

        `accepted` (push id, device), `seconds` from the first request to the last answer, `refused` by error code.
        Raises ChildFailed.
        """
        return self.call(
            "push",
            timeout_s=pushes / per_s + 60 if per_s else 600.0,
            app=app,
            devices=devices,
            pushes=pushes,
            in_flight=in_flight,
            per_s=per_s,
        )


class _Pusher:
    def __init__(self, address: str) -> None:
        kind, _, path = address.partition(":")
        if kind != "unix":
            raise ValueError(f"{address}: only the socket of an API process on this machine")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.setblocking(False)
        self._rest = b""
        self._waiting: deque[bytes] = deque()

    def run(
        self, app: str, devices: list[int], pushes: int, in_flight: int, per_s: float
    ) -> dict[str, Any]:
        began = time.monotonic()
        sent = answered = 0
        accepted: list[tuple[str, int]] = []
        refused: dict[str, int] = {}
        to: dict[int, int] = {}
        moved_at = began
        requests = Requests(app)
        while answered < pushes:
            now = time.monotonic()
            due = pushes if not per_s else min(pushes, int((now - began) * per_s) + 1)
            burst = 0
            while sent < due and sent - answered < in_flight and burst < _BURST:
                device = devices[sent % len(devices)]
                to[sent] = device
                self._waiting.append(requests.frame(sent, device, time.monotonic_ns()))
                sent += 1
                burst += 1
            for call, body in self._exchange(
                0.0 if sent < due and sent - answered < in_flight else 0.001
            ):
                answered += 1
                moved_at = time.monotonic()
                device = to.pop(call)
                if isinstance(body, int):
                    accepted.append((str(body), device))
                else:
                    refused[body] = refused.get(body, 0) + 1
            if time.monotonic() - moved_at > _STUCK_S:
                raise TimeoutError(f"{answered} of {sent} calls were answered")
        return {"seconds": time.monotonic() - began, "accepted": accepted, "refused": refused}

    def _exchange(self, wait_s: float) -> list[tuple[int, int | str]]:
        """Send what waits, read what is there: (call, push id, or the error's code)."""
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            try:
                taken = self._socket.send(data)
            except BlockingIOError:
                taken = 0
            if taken < len(data):
                self._waiting.append(data[taken:])
        writable = [self._socket] if self._waiting else []
        readable, _, _ = select.select([self._socket], writable, [], wait_s)
        if not readable:
            return []
        chunk = self._socket.recv(1 << 18)
        if not chunk:
            raise ConnectionResetError("the API process closed the connection")
        data = self._rest + chunk
        frames, used = split(data, MAX_BODY)
        self._rest = data[used:]
        return [_answer(kind, body) for kind, body in frames]


class Requests:
    """Frames of pushes that differ in device and time of sending only.

    What is alike is encoded once, the rest by hand: with protobuf objects the pusher takes more of the machine
    than is needed to measure it.
    """

    def __init__(self, app: str) -> None:
        notification = device_pb2.Notification(
            title="Columba", body="coo, said the dove, and brought"
        )
        self._content = device_pb2.Content(notification=notification).SerializeToString()
        self._body = rpc_pb2.PushRequest(app=app, ttl_s=3600).SerializeToString()

    def frame(self, call: int, device: int, sent_ns: int) -> bytes:
        value = str(sent_ns).encode()
        entry = _SENT_NS + bytes((len(value),)) + value
        content = self._content + b"\x12" + bytes((len(entry),)) + entry
        target = b"\x1a\x08" + device.to_bytes(8, "little")
        body = self._body + target + b"\x22" + varint(len(content)) + content
        return encode(REQUEST, REQUEST_HEAD.pack(call, _PUSH) + body)


def _answer(kind: int, body: bytes) -> tuple[int, int | str]:
    (call,) = ANSWER_HEAD.unpack_from(body)
    if kind == RESPONSE:
        return call, int(rpc_pb2.PushReply.FromString(body[ANSWER_HEAD.size :]).push_id)
    return call, body[ANSWER_HEAD.size :].decode(errors="replace").partition(":")[0]


def main() -> None:
    commands = inherited_commands()
    pusher: _Pusher | None = None
    try:
        while True:
            for command in commands.read(wait=True):
                try:
                    if command["do"] == "start":
                        pusher = _Pusher(command["address"])
                        commands.answer(command)
                    elif pusher is None:
                        raise ChildFailed("start comes first")
                    else:
                        wanted = ("app", "devices", "pushes", "in_flight", "per_s")
                        commands.answer(command, **pusher.run(*(command[name] for name in wanted)))
                except (OSError, ValueError, ChildFailed) as error:
                    commands.answer(command, error=repr(error))
    except EOFError:
        pass  # the parent closed the socket or is gone


if __name__ == "__main__":
    main()
