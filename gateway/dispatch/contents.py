"""Contents of pushes: a bounded cache in front of the store, and the frames made of them."""

import struct
from collections import OrderedDict
from collections.abc import Sequence

from gateway.dispatch.campaign import Push
from gateway.store import pushes as store_pushes
from gateway.store.client import Store
from protocol.codes import Kind
from protocol.frames import encode, varint


class Contents:
    """push id -> encoded columba.device.Content, least recently used out first."""

    def __init__(self, store: Store, limit_bytes: int) -> None:
        self._store = store
        self._limit = limit_bytes
        self._cached: OrderedDict[int, bytes] = OrderedDict()
        self.bytes = 0

    def put(self, push_id: int, content: bytes) -> None:
        if push_id in self._cached:
            return
        self._cached[push_id] = content
        self.bytes += len(content)
        while self.bytes > self._limit and len(self._cached) > 1:
            _, dropped = self._cached.popitem(last=False)
            self.bytes -= len(dropped)

    def drop(self, push_id: int) -> None:
        content = self._cached.pop(push_id, None)
        if content is not None:
            self.bytes -= len(content)

    def get_nowait(self, push_id: int) -> bytes | None:
        return self._cached.get(push_id)

    async def load(self, p: int, pushes: Sequence[Push]) -> dict[int, bytes]:
        """Contents of these pushes of partition `p`; what the store no longer has is left out."""
        found: dict[int, bytes] = {}
        missing: list[Push] = []
        for push in pushes:
            content = self._cached.get(push.push_id)
            if content is None:
                missing.append(push)
            else:
                found[push.push_id] = content
        here = [push.push_id for push in missing if not push.in_record]
        for push_id, content in zip(
            here, await store_pushes.contents(self._store, p, here), strict=True
        ):
            if content is not None:
                found[push_id] = content
                self.put(push_id, content)
        for push in missing:
            if push.in_record and push.push_id not in found:
                content = await store_pushes.record_content(self._store, push.home, push.push_id)
                if content is not None:
                    found[push.push_id] = content
                    self.put(push.push_id, content)
        return found


def remaining_s(push: Push, now_ms: int) -> int | None:
    """Seconds a message has left, rounded up; 0 with ttl 0; None if its time is over."""
    if push.ttl_s == 0:
        return 0
    left_ms = push.accepted_ms + push.ttl_s * 1000 - now_ms
    return -(-left_ms // 1000) if left_ms > 0 else None


def message_frame(push_id: int, ttl_s: int, content: bytes, collapse_key: str = "") -> bytes:
    """A whole MESSAGE frame: columba.device.Message by concatenation."""
    key = collapse_key.encode()
    return encode(
        Kind.MESSAGE,
        b"".join(
            (
                b"\x09", struct.pack("<Q", push_id),
                b"\x10", varint(ttl_s),
                b"\x1a", varint(len(content)), content,
                (b"\x22" + varint(len(key)) + key) if key else b"",
            )
        ),
    )  # fmt: skip


def recall_frame(push_id: int) -> bytes:
    """A whole RECALL frame of one push."""
    return encode(Kind.RECALL, b"\x0a\x08" + struct.pack("<Q", push_id))
