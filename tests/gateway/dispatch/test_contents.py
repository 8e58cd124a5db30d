"""What a device is told of a message, and the bounded memory of contents."""

import pytest

from gateway.dispatch.campaign import Single
from gateway.dispatch.contents import Contents, message_frame, remaining_s
from gateway.store import keys
from gateway.store.client import Store
from protocol.codes import Kind
from protocol.frames import split
from protocol.schema import device_pb2


@pytest.mark.parametrize(
    ("now_ms", "left"),
    [(1000, 60), (1001, 60), (2000, 59), (60_999, 1), (61_000, None), (99_000, None)],
)
def test_devices_are_told_the_seconds_that_remain(now_ms: int, left: int | None) -> None:
    assert remaining_s(Single(1, 1, 60, 1000, 1, 0), now_ms) == left


def test_ttl_0_stays_0() -> None:
    assert remaining_s(Single(1, 1, 0, 1000, 1, 0), 10**9) == 0


@pytest.mark.parametrize("size", [0, 1, 200, 60_000])
def test_the_frame_is_a_message(size: int) -> None:
    content = device_pb2.Content(data={"k": "x" * size})
    frame = message_frame(2**64 - 1, 300, content.SerializeToString())
    ((kind, body),), _ = split(frame, 1 << 20)
    message = device_pb2.Message.FromString(body)
    assert (kind, message.push_id, message.ttl_s) == (Kind.MESSAGE, 2**64 - 1, 300)
    assert message.content == content


async def test_the_memory_of_contents_is_bounded_and_the_store_has_the_rest(store: Store) -> None:
    contents = Contents(store, limit_bytes=1000)
    pushes = [Single(n, 1, 60, 0, n, 0) for n in range(1, 31)]
    for push in pushes:
        await store.call("HSET", keys.content(0), push.push_id, b"x" * 100)
    found = await contents.load(0, pushes)
    assert len(found) == 30 and contents.bytes <= 1000
    assert contents.get_nowait(1) is None and contents.get_nowait(30) == b"x" * 100
    contents.drop(30)
    assert contents.bytes == 900
    await store.call("DEL", keys.content(0))
    assert list(await contents.load(0, [pushes[0], pushes[28]])) == [29]
