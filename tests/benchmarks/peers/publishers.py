"""The app server's side of each wire: so many messages handed over at once, answers read afterwards.

A publisher connects when it is made, before anything is measured. What takes commands in a row gets them
in one write on one connection; HTTP, one answer a request, gets as many connections as messages.
"""

import json
import math
import socket
from types import TracebackType
from typing import Final, Protocol, Self

from loadtest import resp
from loadtest.kept_http import KeptConnection
from loadtest.links import Address
from tests.benchmarks.peers.wires import CHANNEL, Nats, mqtt_packet, mqtt_text

_TIMEOUT_S: Final = 60.0


class PublishFailed(Exception):
    """The server refused a message."""


class Publisher(Protocol):
    def send(self, payloads: list[bytes]) -> None:
        """Hand over all of them, without waiting for an answer between them."""

    def collect(self) -> None:
        """Read the answers to all that was sent. Raises PublishFailed, OSError."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class _OneConnection:
    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection(address, _TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = 0

    def send(self, payloads: list[bytes]) -> None:
        self._answers += len(payloads)
        self._socket.sendall(b"".join(map(self._one, payloads)))

    def collect(self) -> None:
        """What answers nothing has nothing to collect."""

    def _one(self, payload: bytes) -> bytes:
        raise NotImplementedError

    def _read_to(self, end: bytes) -> bytes:
        said = b""
        while not said.endswith(end):
            chunk = self._socket.recv(4096)
            if not chunk:
                raise PublishFailed(f"the server hung up after {said!r}")
            said += chunk
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()


class RedisPublisher(_OneConnection):
    def _one(self, payload: bytes) -> bytes:
        return resp.command("PUBLISH", CHANNEL, payload)

    def collect(self) -> None:
        replies = resp.Replies()
        while self._answers:
            for reply in replies.feed(self._socket.recv(4096)):
                if not isinstance(reply, int):
                    raise PublishFailed(f"Redis said {reply!r}")
                self._answers -= 1


class MqttPublisher(_OneConnection):
    """QoS 0, which has no answer."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        connect = mqtt_text("MQTT") + b"\x04\x02\x00\x00" + mqtt_text("publisher")
        self._socket.sendall(mqtt_packet(0x10, connect))
        if (said := self._socket.recv(4)) != b"\x20\x02\x00\x00":
            raise PublishFailed(f"the broker said {said!r}")

    def _one(self, payload: bytes) -> bytes:
        return mqtt_packet(0x30, mqtt_text(CHANNEL) + payload)


class NatsPublisher(_OneConnection):
    """Not verbose, so without an answer to each message."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._socket.sendall(Nats.HELLO + b"PING\r\n")
        self._read_to(b"PONG\r\n")

    def _one(self, payload: bytes) -> bytes:
        return b"PUB %b %d\r\n%b\r\n" % (CHANNEL.encode(), len(payload), payload)


class HttpPublisher:
    """`connections` connections, a message on each."""

    def __init__(self, address: Address, path: str, connections: int) -> None:
        self._path = path
        # However long one rests: a connect would be measured with the message.
        self._connections = [
            KeptConnection(*address, _TIMEOUT_S, idle_s=math.inf) for _ in range(connections)
        ]
        for each in self._connections:
            each.connect()
        self._sent = 0

    def send(self, payloads: list[bytes]) -> None:
        """Raises ValueError for more payloads than connections."""
        requests = list(map(self._body, payloads))
        for connection, body in zip(self._connections[: len(requests)], requests, strict=True):
            connection.send("POST", self._path, body, self._headers())
        self._sent = len(requests)

    def collect(self) -> None:
        for connection in self._connections[: self._sent]:
            answer = connection.answer()
            if answer.status not in (200, 201, 202):
                raise PublishFailed(f"{answer.status} {answer.body[:200]!r}")
        self._sent = 0

    def _body(self, payload: bytes) -> bytes:
        return payload

    def _headers(self) -> dict[str, str]:
        return {"Content-Type": "text/plain"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self._connections:
            each.close()


class ColumbaPublisher(HttpPublisher):
    """A push to everybody, as any app server makes it; the payload is the notification's body."""

    def __init__(self, address: Address, app: str, api_key: str, connections: int) -> None:
        super().__init__(address, f"/v1/apps/{app}/pushes", connections)
        self._api_key = api_key

    def _body(self, payload: bytes) -> bytes:
        push = {"audience": "all", "notification": {"body": payload.decode()}, "ttl": 3600}
        return json.dumps(push).encode()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json"}
