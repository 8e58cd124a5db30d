"""One HTTP request on a connection of its own, with the standard library."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Any
    """Parsed JSON."""


async def request(
    base: str,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    wait_s: float = 20.0,
) -> Answer:
    """Raises OSError when there is no whole answer."""
    address = urlsplit(base)
    content = b"" if body is None else json.dumps(body).encode()
    said = {
        "Host": address.netloc,
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **(headers or {}),
    }
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in said.items())
    async with asyncio.timeout(wait_s):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(head.encode() + b"\r\n" + content)
            raw = await reader.read()
        finally:
            writer.close()
    if not raw:
        raise ConnectionResetError("the API closed the connection without an answer")
    return _parsed(raw)


def _parsed(raw: bytes) -> Answer:
    head, _, content = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    assert "transfer-encoding" not in headers, "the API sends whole bodies"
    if len(content) < int(headers.get("content-length", 0)):
        raise ConnectionResetError("the API went away in the middle of its answer")
    return Answer(int(status_line.split()[1]), headers, json.loads(content))
