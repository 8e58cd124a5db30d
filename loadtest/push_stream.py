"""Pushes at a steady rate over HTTP: a few keep-alive connections in asyncio, next to no CPU each."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from loadtest.api_client import push_body, stamped
from loadtest.kept_http import IDLE_S
from loadtest.service import Service

_CONNECTIONS: Final = 16
"""At 1,000 pushes a second each may take 16 ms before the next has to wait for a connection."""
_TIMEOUT_S: Final = 30.0

_Due = tuple[int, dict[str, str]]
"""(device, data of the push)"""


class PushStream:
    """Sends one push to one device at a time, on schedule whatever the answers take (open loop)."""

    def __init__(self, service: Service, devices: list[int], priority: str = "normal") -> None:
        url = urlsplit(service.api)
        self._host, self._port = url.hostname, url.port or 80
        self._devices = devices
        self._priority = priority
        self._head = (
            f"POST /v1/apps/{service.app}/pushes HTTP/1.1\r\nHost: {url.netloc}\r\n"
            f"Authorization: Bearer {service.api_key}\r\nContent-Type: application/json\r\n"
        )
        self.accepted: dict[int, int] = {}
        """Push id -> device it is for."""
        self.refused: dict[int, int] = {}
        """HTTP status -> answers; 0: no answer."""
        self.late = 0
        """Pushes that found no room in the queue at their time and were left out."""

    async def run(
        self, per_s: float, seconds: float, on_progress: Callable[[int], None] | None = None
    ) -> None:
        queue: asyncio.Queue[_Due | None] = asyncio.Queue(_CONNECTIONS * 64)
        workers = [asyncio.create_task(self._work(queue)) for _ in range(_CONNECTIONS)]
        began = time.monotonic()
        for number in range(round(per_s * seconds)):
            delay = began + number / per_s - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            if queue.full():
                self.late += 1
            else:
                # Stamped now: waiting for a free connection is part of what a push takes.
                queue.put_nowait((self._devices[number % len(self._devices)], stamped()))
            if on_progress is not None and number % 50 == 0:
                on_progress(number)
        for _ in workers:
            await queue.put(None)
        await asyncio.gather(*workers)

    async def _work(self, queue: "asyncio.Queue[_Due | None]") -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            used_at = time.monotonic()
            while (due := await queue.get()) is not None:
                if time.monotonic() - used_at > IDLE_S:
                    writer.close()
                    reader, writer = await asyncio.open_connection(self._host, self._port)
                used_at = time.monotonic()
                try:
                    async with asyncio.timeout(_TIMEOUT_S):
                        await self._push(reader, writer, *due)
                except (OSError, EOFError, TimeoutError):
                    self._refuse(0)
                    writer.close()
                    reader, writer = await asyncio.open_connection(self._host, self._port)
        finally:
            writer.close()
            await writer.wait_closed()

    async def _push(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        device: int,
        data: dict[str, str],
    ) -> None:
        body = push_body([device], data, priority=self._priority)
        writer.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        status = int(head.split(b" ", 2)[1])
        if status == 202:
            self.accepted[int(json.loads(answer)["push_id"])] = device
        else:
            self._refuse(status)

    def _refuse(self, status: int) -> None:
        self.refused[status] = self.refused.get(status, 0) + 1
