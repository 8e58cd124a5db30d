"""A service of one process and no store, for trying the commands: `python -m tests.loadtest.fake_service`.

Speaks the real wire and the real HTTP contract, keeps everything in memory, and does what it may
do wrong on request: `lose` (messages to the first device), `repeat` (every message under a second
id), `busy` (every other push is told to wait), `silent` (ends without a ready line).
"""

import asyncio
import json
import os
import sys
from typing import Any

from protocol.codes import MAX_BODY_UP, Kind
from protocol.frames import PONG, FrameBuffer, encode
from protocol.schema import device_pb2
from tests.loadtest.fake_audiences import FakeAudiences

FIRST_DEVICE = 1 << 32
STATES = ("received", "failed", "recalled", "replaced", "overflowed", "stopped", "expired")


class Push:
    def __init__(self, push_id: int, content: device_pb2.Content, targets: set[int]) -> None:
        self.push_id = push_id
        self.targets = targets
        self.received: set[int] = set()
        self.displayed: set[int] = set()
        message = device_pb2.Message(push_id=push_id, ttl_s=3600, content=content)
        self.frame = encode(Kind.MESSAGE, message.SerializeToString())


class FakeService:
    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._posts = 0
        self._installations: dict[bytes, int] = {}
        self._online: dict[int, asyncio.StreamWriter] = {}
        self._pushes: dict[int, Push] = {}
        self._audiences = FakeAudiences(fault)

    async def on_device(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer, device = FrameBuffer(MAX_BODY_UP), 0
        try:
            while chunk := await reader.read(65536):
                for kind, body in buffer.feed(chunk):
                    if kind == Kind.HELLO:
                        device = self._greet(device_pb2.Hello.FromString(body), writer)
                    elif kind == Kind.PING:
                        writer.write(PONG)
                    elif kind == Kind.RECEIPTS:
                        self._on_receipts(device, device_pb2.Receipts.FromString(body), writer)
                    elif kind == Kind.PROFILE:
                        profile = device_pb2.Profile.FromString(body)
                        self._audiences.on_profile(device, profile)
                        ack = device_pb2.ProfileAck(change=profile.change)
                        writer.write(encode(Kind.PROFILE_ACK, ack.SerializeToString()))
        except ConnectionError:
            pass
        finally:
            if self._online.get(device) is writer:
                del self._online[device]
            writer.close()

    def _greet(self, hello: device_pb2.Hello, writer: asyncio.StreamWriter) -> int:
        if hello.token:
            device = int(hello.token)
        else:
            device = self._installations.setdefault(
                hello.registration.installation_id, FIRST_DEVICE + len(self._installations)
            )
        welcome = device_pb2.Welcome(
            version=1, epoch=1, heartbeat_s=hello.heartbeat_s, device_id=device
        )
        welcome.token = b"%d" % device
        welcome.limits.max_body_up = welcome.limits.max_body_down = MAX_BODY_UP
        welcome.limits.max_receipts = 1000
        welcome.backoff.base_ms, welcome.backoff.factor, welcome.backoff.max_ms = 20, 2.0, 100
        writer.write(encode(Kind.WELCOME, welcome.SerializeToString()))
        self._online[device] = writer
        for push in self._pushes.values():
            if device in push.targets - push.received:
                writer.write(push.frame)
        return device

    def _on_receipts(
        self, device: int, receipts: device_pb2.Receipts, writer: asyncio.StreamWriter
    ) -> None:
        for receipt in receipts.receipts:
            push = self._pushes[receipt.push_id]
            displayed = receipt.state == device_pb2.DISPLAYED
            (push.displayed if displayed else push.received).add(device)
        ack = device_pb2.ReceiptAck(seq=receipts.seq)
        writer.write(encode(Kind.RECEIPT_ACK, ack.SerializeToString()))

    async def on_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                length = head.lower().partition("content-length:")[2].partition("\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                status: int = 401
                answer: dict[str, object] = {}
                if "Bearer api-key" in head:
                    status, answer = self._answer(method, path, body)
                raw = json.dumps(answer).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\nRetry-After: 0\r\nContent-Length: {len(raw)}\r\n\r\n".encode()
                )
                writer.write(raw)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, object]]:
        name = path.rpartition("/")[2]
        if method == "POST" and name == "pushes":
            self._posts += 1
            if self._fault == "busy" and self._posts % 2:
                return 503, {}
            return 202, {"push_id": str(self._accept(json.loads(body)))}
        if method == "POST" and name == "audience:count":
            wrong = self._fault == "miscounting" and bool(self._pushes)
            return 200, {"count": len(self._meant(json.loads(body)["audience"])) + wrong}
        if method == "POST":
            items = json.loads(body)["items"]
            return 200, self._audiences.tag(items, self._devices(), bind=name == "tags:bind")
        if name.startswith("stats?by="):
            push = self._pushes[int(path.split("/")[-2])]
            return 200, {"by": self._cuts(push, name.partition("=")[2].split(","))}
        push = self._pushes[int(name)]
        return 200, {"push_id": str(push.push_id), "counts": self._counts(push)}

    def _counts(self, push: Push) -> dict[str, int]:
        return {
            **dict.fromkeys(STATES, 0),
            "targeted": len(push.targets),
            "received": len(push.received),
            "pending": len(push.targets - push.received),
            "displayed": len(push.displayed),
        }

    def _cuts(self, push: Push, by: list[str]) -> dict[str, dict[str, dict[str, int]]]:
        cuts = self._audiences.cuts(push, self._devices(), by)
        for counts in (each for tags in cuts.values() for each in tags.values()):
            counts["displayed"] = 0 if self._fault == "blind" else counts.get("displayed", 0)
        return cuts

    def _devices(self) -> set[int]:
        return set(self._installations.values())

    def _meant(self, audience: Any) -> set[int]:
        if isinstance(audience, dict) and audience.keys() == {"devices"}:
            return set(map(int, audience["devices"]))  # also those that nobody has
        return self._audiences.meant(audience, self._devices(), self._pushes)

    def _accept(self, request: dict[str, object]) -> int:
        notification = device_pb2.Notification(**request["notification"])  # type: ignore[arg-type]
        content = device_pb2.Content(notification=notification, data=request["data"])  # type: ignore[arg-type]
        wanted = self._meant(request["audience"])
        for _ in range(2 if self._fault == "repeat" else 1):
            push = Push(1000 + len(self._pushes), content, wanted)
            self._pushes[push.push_id] = push
            for device in wanted & self._online.keys():
                if self._fault != "lose" or device != FIRST_DEVICE:
                    self._online[device].write(push.frame)
        return push.push_id


async def serve(fault: str) -> None:
    service = FakeService(fault)
    devices = await asyncio.start_server(service.on_device, "127.0.0.1", 0, backlog=1024)
    api = await asyncio.start_server(service.on_http, "127.0.0.1", 0)
    ready = {
        "event": "ready",
        "devices": "{}:{}".format(*devices.sockets[0].getsockname()),
        "api": "http://{}:{}".format(*api.sockets[0].getsockname()),
        "app": "demo",
        "access_key": "access-key",
        "api_key": "api-key",
        "pids": {"edges": [os.getpid()]},
    }
    print(json.dumps(ready), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    fault = sys.argv[1] if len(sys.argv) > 1 else ""
    if fault == "silent":
        print("no licence to coo", file=sys.stderr)
        sys.exit(3)
    asyncio.run(serve(fault))
