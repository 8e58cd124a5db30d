"""RPC between our processes: multiplexed, with deadlines, authenticated both ways."""

import asyncio
import os
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import rpc
from gateway.rpc import MAX_BODY, Handler, Method, RpcClient, RpcError, RpcServer, RpcUnavailable
from protocol.frames import encode, split
from tests.waiting import until

SECRET = b"s" * 32
REQUEST, RESPONSE, CHALLENGE, PROOF = 0x21, 0x22, 0x24, 0x25


class Desk:
    """Handlers of a server, and when the slow one may answer."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = 0
        self.cancelled = 0

    def echo(self, body: bytes) -> bytes:
        return body

    async def slow(self, body: bytes) -> bytes:
        self.begun += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return body

    async def refuse(self, _body: bytes) -> bytes:
        raise RpcError("fenced", "a newer one: has spoken")

    def defect(self, _body: bytes) -> bytes:
        raise KeyError("a defect")

    @property
    def handlers(self) -> dict[Method, Handler]:
        return {
            Method.COUNTS: self.echo,
            Method.DEVICE: self.slow,
            Method.DELIVER: self.refuse,
            Method.STATS: self.defect,
        }


@asynccontextmanager
async def serving(address: str, desk: Desk, secret: bytes = SECRET) -> AsyncIterator[RpcServer]:
    server = RpcServer(desk.handlers, secret)
    await server.start(address)
    try:
        yield server
    finally:
        await server.stop()
    await until(lambda: not server.connections)


@asynccontextmanager
async def client_of(address: str, secret: bytes = SECRET) -> AsyncIterator[RpcClient]:
    client = RpcClient(address, secret)
    client.start()
    try:
        yield client
    finally:
        await client.close()


Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def impostor(play: Play) -> AsyncIterator[str]:
    """Somebody else at an address where one of ours should be."""
    playing: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        playing.add(writer)
        try:
            await play(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it hung up
        await hang_up(writer)
        playing.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await until(lambda: not playing)


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, short_path: Path) -> str:
    return f"unix:{short_path}/r" if request.param == "unix" else "tcp:127.0.0.1:0"


async def test_many_calls_share_a_connection_and_each_gets_its_own_answer(address: str) -> None:
    desk = Desk()
    async with serving(address, desk) as server, client_of(server.address) as client:
        await client.wait_up()
        slow = asyncio.create_task(client.call(Method.DEVICE, b"slow", 5))
        bodies = [os.urandom(n * 97 % 5000) for n in range(300)]
        answers = await asyncio.gather(*[client.call(Method.COUNTS, b, 5) for b in bodies])
        assert answers == bodies
        assert not slow.done(), "a slow call holds nobody up"
        desk.gate.set()
        assert await slow == b"slow"
        assert len(server.connections) == 1


async def test_a_body_of_any_allowed_size_passes(address: str) -> None:
    async with serving(address, Desk()) as server, client_of(server.address) as client:
        await client.wait_up()
        for size in (0, 1, 127, 128, 65_536, 5_000_000):
            assert await client.call(Method.COUNTS, b"x" * size, 10) == b"x" * size


async def test_errors_keep_their_code_and_a_defect_hurts_only_its_call(address: str) -> None:
    async with serving(address, Desk()) as server, client_of(server.address) as client:
        await client.wait_up()
        with pytest.raises(RpcError) as refused:
            await client.call(Method.DELIVER, b"", 5)
        assert (refused.value.code, refused.value.text) == ("fenced", "a newer one: has spoken")
        with pytest.raises(RpcError, match="internal: KeyError"):
            await client.call(Method.STATS, b"", 5)
        with pytest.raises(RpcError, match="unknown_method"):
            await client.call(Method.PUSH, b"", 5)
        assert await client.call(Method.COUNTS, b"still here", 5) == b"still here"


async def test_a_call_ends_at_its_deadline_and_its_late_answer_disturbs_nobody(
    address: str,
) -> None:
    desk = Desk()
    async with serving(address, desk) as server, client_of(server.address) as client:
        await client.wait_up()
        with pytest.raises(RpcUnavailable, match=r"did not answer in 0\.02 s"):
            await client.call(Method.DEVICE, b"", 0.02)
        desk.gate.set()
        assert await client.call(Method.COUNTS, b"next", 5) == b"next"


async def test_a_lost_connection_fails_open_calls_at_once_and_is_made_again(
    address: str,
) -> None:
    desk = Desk()
    ups, downs = [], []
    async with serving(address, desk) as server:
        client = RpcClient(
            server.address, SECRET, on_up=lambda: ups.append(1), on_down=lambda: downs.append(1)
        )
        client.start()
        await client.wait_up()
        calls = [asyncio.create_task(client.call(Method.DEVICE, b"", 60)) for _ in range(5)]
        await until(lambda: desk.begun == 5)
        for connection in list(server.connections):
            connection.close()
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, RpcUnavailable)
        await until(lambda: len(ups) == 2)
        assert len(downs) == 1 and desk.cancelled == 5
        assert await client.call(Method.COUNTS, b"again", 5) == b"again"
        await client.close()
        assert len(downs) == 2


async def test_without_a_connection_a_call_fails_at_once(short_path: Path) -> None:
    async with client_of(f"unix:{short_path}/nobody") as client:
        with pytest.raises(RpcUnavailable, match="no connection"):
            await client.call(Method.COUNTS, b"", 60)
        assert not client.up


async def test_a_client_finds_a_server_that_starts_later(short_path: Path) -> None:
    address = f"unix:{short_path}/r"
    async with client_of(address) as client:
        await asyncio.sleep(0)
        async with serving(address, Desk()):
            await asyncio.wait_for(client.wait_up(), 5)
            assert await client.call(Method.COUNTS, b"x", 5) == b"x"


async def test_too_much_waiting_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_MAX_OPEN", 10)
    desk = Desk()
    async with serving(address, desk) as server, client_of(server.address) as client:
        await client.wait_up()
        calls = [asyncio.create_task(client.call(Method.DEVICE, b"", 5)) for _ in range(10)]
        await until(lambda: desk.begun == 10)
        with pytest.raises(RpcUnavailable, match="too much"):
            await client.call(Method.COUNTS, b"", 5)
        desk.gate.set()
        await asyncio.gather(*calls)
        assert await client.call(Method.COUNTS, b"", 5) == b""


# Who may come in.


async def test_a_unix_socket_is_its_owners_alone(short_path: Path) -> None:
    before = os.umask(0)
    try:
        async with serving(f"unix:{short_path}/r", Desk()):
            mode = os.stat(short_path / "r").st_mode
            assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
            assert os.umask(0) == 0, "the process's own mask stands as it was"
    finally:
        os.umask(before)
    assert not (short_path / "r").exists()


async def test_a_socket_file_left_over_from_a_crash_is_replaced(short_path: Path) -> None:
    (short_path / "r").touch()
    async with serving(f"unix:{short_path}/r", Desk()), client_of(f"unix:{short_path}/r") as client:
        await asyncio.wait_for(client.wait_up(), 5)


async def test_a_client_with_another_secret_is_refused_and_served_nothing() -> None:
    desk = Desk()
    async with (
        serving("tcp:127.0.0.1:0", desk) as server,
        client_of(server.address, b"x") as client,
    ):
        await until(lambda: server.refused_total >= 2)
        assert not client.up and server.requests_total == 0


async def test_a_request_before_the_proof_is_refused() -> None:
    async with serving("tcp:127.0.0.1:0", Desk()) as server:
        reader, writer = await dial(server)
        await reader.readexactly(18)
        writer.write(encode(REQUEST, struct.pack("<IB", 1, Method.COUNTS)))
        assert await reader.read() == b""
        assert server.requests_total == 0 and server.refused_total == 1
        await hang_up(writer)


async def test_a_stranger_makes_nobody_gather_a_large_frame() -> None:
    async with serving("tcp:127.0.0.1:0", Desk()) as server:
        host, port = server.address.removeprefix("tcp:").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = encode(REQUEST, b"x" * 1000)[:5]
        writer.write(head)  # and the rest never comes
        await reader.readexactly(2 + 16)
        async with asyncio.timeout(2):
            assert await reader.read() == b"", (
                "it is closed before the time to prove oneself is over"
            )
        writer.close()


async def test_who_has_proved_himself_may_say_a_lot() -> None:
    async with serving("tcp:127.0.0.1:0", Desk()) as server, client_of(server.address) as client:
        await client.wait_up()
        large = b"x" * 300_000
        assert await client.call(Method.COUNTS, large, 5) == large


async def test_a_proof_seen_on_the_wire_opens_no_second_connection() -> None:
    seen = bytearray()

    async def listen_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(await theirs.readexactly(18))
        proof = await reader.readexactly(50)
        seen.extend(proof)
        ours.write(proof)
        writer.write(await theirs.readexactly(34))
        await reader.read()
        await hang_up(ours)

    async with serving("tcp:127.0.0.1:0", Desk()) as server:
        async with impostor(listen_in) as between, client_of(between) as client:
            await asyncio.wait_for(client.wait_up(), 5)
        reader, writer = await dial(server)
        await reader.readexactly(18)
        writer.write(bytes(seen))
        assert await reader.read() == b""
        await hang_up(writer)


async def test_a_server_without_the_secret_gets_no_call() -> None:
    """The proof goes both ways: who listens at the address of one of ours is not yet one of ours."""
    got = bytearray()
    dials = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dials
        dials += 1
        writer.write(encode(CHALLENGE, b"c" * 16))
        got.extend(await reader.readexactly(50))
        writer.write(encode(PROOF, b"p" * 32))
        got.extend(await reader.read())

    async with impostor(play) as address, client_of(address) as client:
        await until(lambda: dials >= 2)
        assert not client.up
        with pytest.raises(RpcUnavailable):
            await client.call(Method.COUNTS, b"secret body", 1)
        frames, _ = split(bytes(got), 1000)
        assert {kind for kind, _ in frames} == {PROOF}


@pytest.mark.parametrize("length", [0, 15, 17, 1000])
async def test_a_challenge_of_another_length_is_not_answered(length: int) -> None:
    """What a client signs has one form only."""
    said: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(CHALLENGE, b"c" * length))
        said.append(await reader.read(100))

    async with impostor(play) as address, client_of(address):
        await until(lambda: said)
    assert said[0] == b""


async def test_a_server_that_never_speaks_is_left_and_dialled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rpc, "_AUTH_S", 0.05)
    dials = 0

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal dials
        dials += 1
        await reader.read()

    async with impostor(silent) as address, client_of(address):
        await until(lambda: dials >= 2)


async def test_a_client_that_never_proves_itself_is_sent_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rpc, "_AUTH_S", 0.05)
    async with serving("tcp:127.0.0.1:0", Desk()) as server:
        reader, writer = await dial(server)
        await reader.readexactly(18)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert server.refused_total == 1
        await hang_up(writer)


# Bytes of any kind.


def port_of(server: RpcServer) -> int:
    return int(server.address.rpartition(":")[2])


async def dial(server: RpcServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if server.address.startswith("unix:"):
        return await asyncio.open_unix_connection(server.address[5:])
    return await asyncio.open_connection("127.0.0.1", port_of(server))


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass  # the server was quicker


@pytest.mark.parametrize(
    "data",
    [
        b"\x21\xff\xff\xff\x7f",  # a length over the limit
        b"\x21" + b"\xff" * 5,  # a length that never ends
        encode(0x7F, b"x"),  # no frame of ours
        encode(REQUEST, b"abc"),  # shorter than its head
        encode(RESPONSE, b"abcd"),  # only servers answer
        bytes(range(0xFF, 0xC0, -1)),  # nothing at all
    ],
    ids=["too long", "endless length", "kind", "short head", "answer", "noise"],
)
async def test_what_is_no_request_closes_this_connection_and_no_other(
    short_path: Path, data: bytes
) -> None:
    async with (
        serving(f"unix:{short_path}/r", Desk()) as server,
        client_of(server.address) as client,
    ):
        await client.wait_up()
        reader, writer = await dial(server)
        writer.write(data)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        await hang_up(writer)
        assert await client.call(Method.COUNTS, b"well", 5) == b"well"


async def test_an_answer_too_large_is_not_even_read(short_path: Path) -> None:
    async def huge(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes((RESPONSE,)) + b"\xff\xff\xff\x7f")
        await _reader.read()
        writer.close()

    server = await asyncio.start_unix_server(huge, f"{short_path}/r")
    async with client_of(f"unix:{short_path}/r") as client:
        await client.wait_up()
        with pytest.raises(RpcUnavailable):
            await client.call(Method.COUNTS, b"", 5)
    server.close()
    assert MAX_BODY < 0x0FFF_FFFF


GOOD = b"".join(
    encode(REQUEST, struct.pack("<IB", n, method) + bytes(n))
    for n, method in enumerate((Method.COUNTS, Method.DELIVER, Method.COUNTS, Method.PUSH), 1)
)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_requests_end_their_connection_or_are_answered_and_nothing_else(
    data: st.DataObject,
) -> None:
    """Whatever bytes come: each answer is a frame of ours to a call that was made in those bytes,
    the connection ends with its input at the latest, and the next client is served as ever."""
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["change", "insert", "cut"]))
        if kind == "change":
            damaged[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            del damaged[at : at + data.draw(st.integers(1, 8))]
        if not damaged:
            break
    cut = data.draw(st.integers(0, len(damaged)))

    async def main() -> None:
        folder = Path(f"/tmp/crpc-{os.getpid()}")
        async with serving(f"unix:{folder}", Desk()) as server:
            reader, writer = await dial(server)
            writer.write(damaged[:cut])
            await asyncio.sleep(0)
            try:
                writer.write(damaged[cut:])
                writer.write_eof()
                answers = await asyncio.wait_for(reader.read(), 5)
            except OSError:
                answers = b""  # closed while we were still writing
            frames, used = split(answers, MAX_BODY)
            assert used == len(answers)
            for kind, body in frames:
                assert kind in (RESPONSE, 0x23)
                assert body[:4] in bytes(damaged)
            await hang_up(writer)
            async with client_of(server.address) as client:
                await asyncio.wait_for(client.wait_up(), 5)
                assert await client.call(Method.COUNTS, b"well", 5) == b"well"

    asyncio.run(main())
