"""A real RpcClient and a server that says anything. Whatever comes:

* every call ends: with an answer, with RpcError, or with RpcUnavailable, and with nothing else;
* while the bytes are whole, an answer is the one to that very call, however late, often or in which
  order answers come; a call that was not answered hears of it when the connection ends;
* no call is kept when it is over, and no more than one incomplete frame of the connection;
* the client comes back by itself and is as good as new.
"""

import asyncio
import struct
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rpc import Method, RpcClient, RpcError, RpcUnavailable
from protocol.frames import FrameBuffer
from tests.fuzz.rpc_bytes import SMALL_BODY, cuts, damaged, pieces, refusal, response
from tests.fuzz.rpc_ends import SOON_S, client_of, run, scripted
from tests.waiting import until

Outcome = bytes | BaseException


class Script:
    """Takes so many calls on the first connection, says what it was told to, and closes; later
    connections are served as they should be."""

    def __init__(self, calls: int, said: bytes, at: Sequence[int]) -> None:
        self._calls = calls
        self._said = said
        self._at = at
        self.connections = 0

    async def play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        frames = FrameBuffer(SMALL_BODY)
        heard = 0
        while data := await reader.read(65536):
            for _, body in frames.feed(data):
                heard += 1
                if self.connections > 1:
                    (call,) = struct.unpack_from("<I", body)
                    writer.write(response(call, body[5:]))
            if self.connections == 1 and heard == self._calls:
                for piece in pieces(self._said, self._at):
                    writer.write(piece)
                    await asyncio.sleep(0)
                return


async def outcomes(client: RpcClient, count: int) -> list[Outcome]:
    """Of so many calls at once, ids 1 to `count`, each with its id as body."""
    calls = [
        asyncio.create_task(client.call(Method.COUNTS, bytes((n,)), SOON_S))
        for n in range(1, count + 1)
    ]
    return await asyncio.gather(*calls, return_exceptions=True)


async def talk(calls: int, said: bytes, at: Sequence[int]) -> list[Outcome]:
    script = Script(calls, said, at)
    async with scripted(script.play) as address, client_of(address) as client:
        await client.wait_up()
        found = await outcomes(client, calls)
        assert not client._open, "nothing is kept of calls that are over"
        # And back again.
        await until(lambda: script.connections == 2 and client.up)
        assert await client.call(Method.COUNTS, b"well", SOON_S) == b"well"
        assert client._connection is not None
        assert not client._connection._frames._rest
    return found


answers = st.lists(
    st.tuples(st.integers(1, 10), st.sampled_from(("answer", "fenced", "busy"))), max_size=25
)


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 8), answers, cuts)
def test_answers_in_any_order_and_number(
    calls: int, said: list[tuple[int, str]], at: list[int]
) -> None:
    """Also to calls that were never made, or are over."""
    frames = [
        response(call, bytes((call,))) if what == "answer" else refusal(call, what)
        for call, what in said
    ]
    first = dict(reversed(said))
    found: list[Outcome] = []

    async def main() -> None:
        found.extend(await talk(calls, b"".join(frames), at))

    run(main)
    for call, outcome in enumerate(found, 1):
        what = first.get(call)
        if what is None:
            assert isinstance(outcome, RpcUnavailable)
        elif what == "answer":
            assert outcome == bytes((call,))
        else:
            assert isinstance(outcome, RpcError) and outcome.code == what


@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 8),
    answers.map(lambda said: [response(call, b"x" * 50) for call, _ in said]).flatmap(damaged),
    cuts,
)
def test_a_server_that_says_anything(calls: int, said: bytes, at: list[int]) -> None:
    found: list[Outcome] = []

    async def main() -> None:
        found.extend(await talk(calls, said, at))

    run(main)
    for outcome in found:
        assert isinstance(outcome, bytes | RpcError | RpcUnavailable)
