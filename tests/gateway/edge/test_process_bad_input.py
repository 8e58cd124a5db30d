"""Bad input to a whole edge, over real sockets and with the real store.

Each case: the device is told the right code (or gets the end, where it gave us none to answer),
the end is counted under its reason, nothing is logged as an error, and a healthy device beside it
still gets its messages.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.store.apps import NewApp
from gateway.store.client import Store
from gateway.tokens import Sealer, Token
from protocol.codes import MAX_BODY_UP, MAX_RECEIPTS, MAX_TAGS, CloseCode, Kind
from protocol.frames import PING, varint
from protocol.schema import device_pb2
from tests.gateway.edge.stage import (
    SECRETS,
    Device,
    RunningEdge,
    message,
    receipts,
    registration,
    running_edge,
    up,
    with_token,
)

PROTOCOL_ERROR = CloseCode.PROTOCOL_ERROR
FRAME_TOO_LARGE = CloseCode.FRAME_TOO_LARGE
BAD_TOKEN = CloseCode.BAD_TOKEN
DAY_S = 86_400


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def hello(app: NewApp, **fields: Any) -> bytes:
    return up(Kind.HELLO, registration(app, time_ms=fields.pop("time_ms", now_ms()), **fields))


def sealed(app: int, device: int, age_s: int = 0, keys: dict[int, bytes] | None = None) -> bytes:
    sealer = Sealer(keys or SECRETS.master_keys, SECRETS.current)
    return sealer.seal(Token(app, device, 0, now_ms() // 1000 - age_s))


def tokened(token: bytes, **fields: Any) -> bytes:
    return up(Kind.HELLO, with_token(token, **fields))


def header(kind: int, length: int) -> bytes:
    """Of a frame whose body never comes."""
    return bytes((kind,)) + varint(length)


FIRST_BYTES: dict[str, tuple[Callable[[NewApp], bytes], CloseCode]] = {
    "garbage": (lambda app: b"\xde\xad\xbe\xef" * 100, PROTOCOL_ERROR),
    "a zero": (lambda app: b"\0", PROTOCOL_ERROR),
    "HTTP": (lambda app: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PROTOCOL_ERROR),
    "TLS": (lambda app: bytes.fromhex("16030100f5010000f10303") + bytes(200), PROTOCOL_ERROR),
    "PING before HELLO": (lambda app: PING, PROTOCOL_ERROR),
    "receipts before HELLO": (lambda app: receipts(1, 5), PROTOCOL_ERROR),
    "an optional frame before HELLO": (lambda app: up(0x90), PROTOCOL_ERROR),
    "HELLO over the limit": (lambda app: header(Kind.HELLO, MAX_BODY_UP + 1), FRAME_TOO_LARGE),
    "a length without end": (lambda app: b"\x01\xff\xff\xff\xff", FRAME_TOO_LARGE),
    "HELLO that does not parse": (lambda app: b"\x01\x03\xff\xff\xff", PROTOCOL_ERROR),
    "an empty HELLO": (lambda app: b"\x01\x00", CloseCode.UNKNOWN_APP),
    "no credential": (
        lambda app: up(Kind.HELLO, device_pb2.Hello(
            version_min=1, version_max=1, app="demo", connection=1)),
        PROTOCOL_ERROR,
    ),
    "no connection counter": (lambda app: hello(app, connection=0), PROTOCOL_ERROR),
    "a counter no double can hold": (lambda app: hello(app, connection=1 << 53), PROTOCOL_ERROR),
    "a long name of the SDK": (lambda app: hello(app, sdk="x" * 257), PROTOCOL_ERROR),
    "a short installation id": (lambda app: hello(app, installation=b"short"), PROTOCOL_ERROR),
    "a short nonce": (lambda app: hello(app, nonce=b"short"), PROTOCOL_ERROR),
    "an unknown app": (lambda app: hello(app._replace(app_id="other")), CloseCode.UNKNOWN_APP),
    "another access key": (lambda app: hello(app, key="guessed"), CloseCode.BAD_ACCESS_KEY),
    "two HELLOs": (lambda app: hello(app) * 2, PROTOCOL_ERROR),
    "no token at all": (lambda app: tokened(b""), BAD_TOKEN),
    "a forged token": (lambda app: tokened(os.urandom(48)), BAD_TOKEN),
    "a damaged token": (
        lambda app: tokened(bytes(byte ^ 1 for byte in sealed(app.number, 0))),
        BAD_TOKEN,
    ),
    "a token of another deployment": (
        lambda app: tokened(sealed(app.number, 0, keys={1: b"k" * 32})),
        BAD_TOKEN,
    ),
    "a token of another app": (lambda app: tokened(sealed(app.number + 1, 0)), BAD_TOKEN),
    "a token of a device nobody knows": (lambda app: tokened(sealed(app.number, 99)), BAD_TOKEN),
    "a token of a partition nobody has": (
        lambda app: tokened(sealed(app.number, 77 << 32)),
        BAD_TOKEN,
    ),
    "an old token": (
        lambda app: tokened(sealed(app.number, 0, 401 * DAY_S)),
        CloseCode.TOKEN_EXPIRED,
    ),
}  # fmt: skip

many = device_pb2.Receipts(seq=1)
for _ in range(MAX_RECEIPTS + 1):
    many.receipts.add(push_id=5, state="RECEIVED")
REASON = device_pb2.Receipt(push_id=5, state="FAILED", reason="x" * 257)

IN_SESSION: dict[str, tuple[bytes, CloseCode]] = {
    "a second HELLO": (tokened(sealed(1, 0)), PROTOCOL_ERROR),
    "a kind that travels down": (up(Kind.PONG), PROTOCOL_ERROR),
    "an unknown kind": (up(0x33), PROTOCOL_ERROR),
    "receipts that do not parse": (b"\x06\x02\xff\xff", PROTOCOL_ERROR),
    "receipts without a number": (receipts(0, 5), PROTOCOL_ERROR),
    "no receipts": (receipts(1), PROTOCOL_ERROR),
    "a receipt of no push": (receipts(1, 0), PROTOCOL_ERROR),
    "a receipt without a state": (
        receipts(1, 5, state="RECEIPT_STATE_UNSPECIFIED"),
        PROTOCOL_ERROR,
    ),
    "a receipt of a state that is not": (b"\x06\x0f\x08\x01\x12\x0b\x09" + bytes(7) + b"\x01\x10\x4d", PROTOCOL_ERROR),
    "too many receipts": (up(Kind.RECEIPTS, many), PROTOCOL_ERROR),
    "a long reason": (
        up(Kind.RECEIPTS, device_pb2.Receipts(seq=1, receipts=[REASON])),
        PROTOCOL_ERROR,
    ),
    "a profile without a number": (up(Kind.PROFILE, device_pb2.Profile()), PROTOCOL_ERROR),
    "an empty tag": (up(Kind.PROFILE, device_pb2.Profile(change=1, tags=[""])), PROTOCOL_ERROR),
    "a long tag": (up(Kind.PROFILE, device_pb2.Profile(change=1, tags=["ü" * 65])), PROTOCOL_ERROR),
    "too many tags": (
        up(Kind.PROFILE, device_pb2.Profile(change=1, tags=map(str, range(MAX_TAGS + 1)))),
        PROTOCOL_ERROR,
    ),
    "a long attribute": (
        up(Kind.PROFILE, device_pb2.Profile(change=1, attributes={"lang": "x" * 257})),
        PROTOCOL_ERROR,
    ),
    "a tag that is no text": (b"\x08\x05\x08\x01\x12\x01\xff", PROTOCOL_ERROR),
    "a heartbeat that does not parse": (b"\x0a\x02\x08\xff", PROTOCOL_ERROR),
    "a frame over the limit": (header(Kind.PROFILE, MAX_BODY_UP + 1), FRAME_TOO_LARGE),
    "an optional frame over the limit": (header(0xC0, MAX_BODY_UP + 1), FRAME_TOO_LARGE),
}  # fmt: skip

Scene = Callable[[RunningEdge, NewApp], Awaitable[None]]


@pytest.fixture
async def beside(
    store_url: str, data_dir: Path, app: NewApp, complaints: list[Any]
) -> Callable[[Scene], Awaitable[None]]:
    """Plays a scene on an edge with a healthy device, which has to stay so."""

    async def play(scene: Scene) -> None:
        async with running_edge(
            store_url, data_dir, hello_timeout_s=0.5, register_timeout_s=5
        ) as edge:
            healthy = await edge.device(app)
            await scene(edge, app)
            await healthy.ping()
            assert await edge.deliver(message(77), healthy.id) == []
            assert await healthy.message() == 77
            assert edge.process.table.open_rows == 1
            assert await edge.stat("columba_sessions") == 1

    return play


async def refused(edge: RunningEdge, device: Device, code: CloseCode) -> device_pb2.GoAway:
    goaway = await device.goaway()
    assert CloseCode(goaway.code) is code, goaway
    await device.close()
    return goaway


async def test_a_connection_that_begins_badly(beside: Any) -> None:
    async def scene(edge: RunningEdge, app: NewApp) -> None:
        async def one(what: str, first: bytes, code: CloseCode) -> None:
            device = await edge.connect()
            device.send(first)
            try:
                await refused(edge, device, code)
            except AssertionError as error:
                raise AssertionError(what) from error

        cases = [(what, first(app), code) for what, (first, code) in FIRST_BYTES.items()]
        await asyncio.gather(*(one(*case) for case in cases))
        for reason, count in Counter(code.name.lower() for _, _, code in cases).items():
            assert await edge.stat("columba_closes_total", reason=reason) == count, reason

    await beside(scene)


async def test_a_session_that_goes_wrong(beside: Any) -> None:
    async def scene(edge: RunningEdge, app: NewApp) -> None:
        async def one(n: int, what: str, frame: bytes, code: CloseCode) -> None:
            device = await edge.device(app, installation=n.to_bytes(16, "big"))
            device.send(PING + frame)
            try:
                if code is not FRAME_TOO_LARGE:  # else what is before it is lost with it
                    await device.expect(Kind.PONG)
                await refused(edge, device, code)
            except AssertionError as error:
                raise AssertionError(what) from error

        cases = [(n, what, *case) for n, (what, case) in enumerate(IN_SESSION.items())]
        await asyncio.gather(*(one(*case) for case in cases))
        for reason, count in Counter(case[-1].name.lower() for case in cases).items():
            assert await edge.stat("columba_closes_total", reason=reason) == count, reason

    await beside(scene)


async def test_a_version_nobody_speaks_is_told_which_are_spoken(beside: Any) -> None:
    async def scene(edge: RunningEdge, app: NewApp) -> None:
        for low, high in ((2, 9), (0, 0)):
            device = await edge.connect()
            device.send(hello(app, version_min=low, version_max=high))
            goaway = await refused(edge, device, CloseCode.UNSUPPORTED_VERSION)
            assert (goaway.version_min, goaway.version_max) == (1, 1)
        device = await edge.connect()
        device.send(hello(app, version_min=1, version_max=9))
        assert (await device.welcome()).version == 1
        device.send(up(Kind.BYE))
        await device.end()

    await beside(scene)


@pytest.mark.parametrize("off_ms", [-301_000, 310_000])
async def test_a_wrong_clock_is_told_the_time_and_may_try_once_more(
    beside: Any, off_ms: int
) -> None:
    async def scene(edge: RunningEdge, app: NewApp) -> None:
        device = await edge.connect()
        device.send(hello(app, time_ms=now_ms() + off_ms))
        goaway = await refused(edge, device, CloseCode.WRONG_CLOCK)
        assert abs(goaway.server_time_ms - now_ms()) < 5000
        again = await edge.connect()
        again.send(hello(app, time_ms=goaway.server_time_ms, connection=2))
        await again.welcome()
        again.send(up(Kind.BYE))
        await again.end()

    await beside(scene)


async def test_a_registration_that_was_listened_to_cannot_be_replayed(beside: Any) -> None:
    async def scene(edge: RunningEdge, app: NewApp) -> None:
        said = hello(app, nonce=b"n" * 16)
        first = await edge.connect()
        first.send(said)
        await first.welcome()
        second = await edge.connect()
        second.send(said)
        goaway = await refused(edge, second, CloseCode.WRONG_CLOCK)
        assert abs(goaway.server_time_ms - now_ms()) < 5000
        await first.ping()
        first.send(up(Kind.BYE))
        await first.end()

    await beside(scene)


async def test_a_late_attempt_is_told_the_counter_that_stands(beside: Any) -> None:
    async def scene(edge: RunningEdge, app: NewApp) -> None:
        first = await edge.device(app, installation=b"x" * 16, connection=5)
        late = await edge.connect()
        late.send(tokened(first.token, connection=4))
        goaway = await refused(edge, late, CloseCode.STALE_CONNECTION)
        assert goaway.connection == 5
        later = await edge.connect()
        later.send(tokened(first.token, connection=6))
        await later.welcome()
        assert (await first.goaway()).code == CloseCode.REPLACED
        later.send(up(Kind.BYE))
        await later.end()

    await beside(scene)


async def test_those_who_say_nothing_or_never_finish_are_sent_away(beside: Any) -> None:
    async def scene(edge: RunningEdge, app: NewApp) -> None:
        silent, slow = await edge.connect(), await edge.connect()
        slow.send(hello(app)[:-1])
        await refused(edge, silent, CloseCode.HELLO_TIMEOUT)
        goaway = await refused(edge, slow, CloseCode.HELLO_TIMEOUT)
        assert goaway.retry_after_ms > 0
        assert await edge.stat("columba_closes_total", reason="hello_timeout") == 2

    await beside(scene)


async def test_those_who_leave_in_the_middle_of_a_frame_just_leave(beside: Any) -> None:
    async def scene(edge: RunningEdge, app: NewApp) -> None:
        for said in (b"", b"\x01", hello(app)[:50], hello(app)):
            device = await edge.connect()
            device.send(said)
            device.stop_sending()
            if said != hello(app):
                await device.close()
        session = await edge.device(app, installation=b"x" * 16)
        session.send(receipts(1, 5)[:-1])
        await session.close()
        for device in edge.devices[1:]:
            await device.close()

        async def alone() -> bool:
            return await edge.stat("columba_connections") == 1

        deadline = time.monotonic() + 5
        while not await alone():
            assert time.monotonic() < deadline

    await beside(scene)


async def test_a_flood_of_garbage_still_hears_why(beside: Any) -> None:
    async def scene(edge: RunningEdge, app: NewApp) -> None:
        device = await edge.connect()
        device.send(b"\xff" * (1 << 20))
        await refused(edge, device, PROTOCOL_ERROR)

    await beside(scene)


async def test_receipts_of_pushes_nobody_knows_are_acknowledged(beside: Any, store: Store) -> None:
    async def scene(edge: RunningEdge, app: NewApp) -> None:
        device = await edge.device(app, installation=b"x" * 16)
        device.send(receipts(1, 1, 2**64 - 1))
        assert await device.ack() == 1
        await device.ping()
        device.send(up(Kind.BYE))
        await device.end()

    await beside(scene)
