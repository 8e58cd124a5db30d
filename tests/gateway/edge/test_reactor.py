"""The reactor with real sockets, on either loop: reading, writing and closing."""

import asyncio
import os
import socket

import pytest

from gateway.edge.output import Item
from gateway.lanes import NORMAL
from tests.gateway.edge.stage import reset
from tests.gateway.edge.wires import LIMITS, Wires, all_of, received, wires
from tests.waiting import until


async def accepted(stage: Wires, count: int) -> list[int]:
    await until(lambda: len(stage.handler.accepted) >= count)
    return stage.handler.accepted[:count]


async def end_of(peer: socket.socket) -> bytes:
    """Everything until the end; ConnectionResetError if that is a reset."""
    return await all_of(peer, 1 << 30)


async def test_bytes_that_had_no_turn_yet_are_unread_and_the_end_is_not() -> None:
    with wires() as stage:
        peer = stage.connect()
        (fd,) = await accepted(stage, 1)
        assert not stage.reactor.has_unread(fd)
        peer.send(b"x")
        assert stage.reactor.has_unread(fd)
        await until(lambda: stage.handler.bytes[fd] == b"x")
        assert not stage.reactor.has_unread(fd)
        peer.close()
        assert not stage.reactor.has_unread(fd)


# Descriptors are used again.


async def test_an_event_of_a_closed_connection_does_not_hit_the_next_owner_of_its_descriptor() -> (
    None
):
    """In one batch: A speaks, and B is closed for that; C knocks; B's own reset is reported."""
    with wires() as stage:
        a, b = stage.connect(), stage.connect()
        fd_a, fd_b = await accepted(stage, 2)
        stage.handler.react = lambda fd, data: stage.reactor.close(fd_b)
        a.send(b"x")
        c = stage.connect()
        reset(b)
        # In this process both ends have descriptors: the one just freed must not be the next.
        occupied = os.open("/dev/null", os.O_RDONLY)
        turns = stage.reactor.turns
        await until(lambda: len(stage.handler.accepted) == 3)
        os.close(occupied)
        assert stage.reactor.turns == turns + 1, "it was one batch"
        assert stage.handler.accepted[2] == fd_b, "the descriptor is used again at once"
        stage.handler.react = lambda fd, data: stage.reactor.send(fd, data)
        c.send(b"hello")
        assert await all_of(c, 5) == b"hello"
        assert stage.handler.closed == [fd_b] and stage.handler.bytes[fd_a] == b"x"


async def test_what_was_queued_for_a_closed_connection_does_not_reach_the_next_one() -> None:
    with wires() as stage:
        a = stage.connect()
        (fd,) = await accepted(stage, 1)
        stage.reactor.send(fd, b"for a")
        stage.reactor.close(fd)
        b = stage.connect()
        assert await end_of(a) == b"for a", "what is queued is still sent"
        await accepted(stage, 2)
        stage.reactor.send(stage.handler.accepted[1], b"for b")
        assert stage.handler.accepted[1] == fd
        assert await all_of(b, 5) == b"for b"


async def test_thousands_of_connections_leave_no_descriptor_behind() -> None:
    with wires() as stage:
        stage.handler.react = lambda fd, data: stage.reactor.finish(fd, data)
        open_before = len(os.listdir("/proc/self/fd"))
        for count in range(50, 2001, 50):
            peers = [stage.connect() for _ in range(50)]
            for n, peer in enumerate(peers):
                match n % 5:
                    case 0:
                        peer.close()
                    case 1:
                        reset(peer)
                    case 2:  # half closed
                        peer.shutdown(socket.SHUT_WR)
                    case 3:  # sent away, and does not mind
                        peer.send(b"bye")
                    case 4:  # sent away, and gone before it heard
                        peer.send(b"bye")
                        reset(peer)
            await accepted(stage, count)
            while stage.reactor.open_count:
                stage.reactor.sweep_lingering(asyncio.get_running_loop().time() + 10)
                await asyncio.sleep(0)
            for peer in peers:
                peer.close()
        assert len(stage.handler.accepted) == len(stage.handler.closed) == 2000
        assert len(os.listdir("/proc/self/fd")) == open_before
        assert stage.reactor.unsent_bytes == 0


# Ends that epoll reports whatever the mask.


async def test_a_reset_of_a_paused_connection_closes_it_and_does_not_spin() -> None:
    with wires() as stage:
        peer = stage.connect()
        (fd,) = await accepted(stage, 1)
        stage.reactor.pause(fd)
        turns = stage.reactor.turns
        reset(peer)
        await until(lambda: stage.handler.closed == [fd])
        assert stage.reactor.turns - turns <= 2


async def test_a_paused_connection_is_not_read_until_it_is_resumed() -> None:
    with wires() as stage:
        peer, other = stage.connect(), stage.connect()
        fd, fd_other = await accepted(stage, 2)
        stage.reactor.pause(fd)
        turns = stage.reactor.turns
        peer.send(b"one")
        other.send(b"two")
        await until(lambda: stage.handler.bytes[fd_other] == b"two")
        assert stage.handler.bytes[fd] == b"" and stage.reactor.turns - turns <= 2
        stage.reactor.resume(fd)
        await until(lambda: stage.handler.bytes[fd] == b"one")


async def test_a_paused_connection_stays_paused_when_its_output_stops_and_goes_on() -> None:
    with wires() as stage:
        peer = stage.connect(receive_buffer=32_768)
        (fd,) = await accepted(stage, 1)
        stage.reactor.pause(fd)
        size = 4 << 20
        stage.reactor.send(fd, bytes(size))
        await until(lambda: stage.reactor.unsent_bytes)
        peer.send(b"not yet")
        assert len(await all_of(peer, size)) == size
        await until(lambda: not stage.reactor.unsent_bytes)
        await until(lambda: True)
        assert stage.handler.bytes[fd] == b""
        stage.reactor.resume(fd)
        await until(lambda: stage.handler.bytes[fd] == b"not yet")


async def test_resuming_what_is_closed_already_is_nothing() -> None:
    with wires() as stage:
        stage.connect()
        (fd,) = await accepted(stage, 1)
        stage.reactor.pause(fd)
        stage.reactor.close(fd)
        stage.reactor.resume(fd)
        await until(lambda: stage.handler.closed == [fd])
        stage.reactor.resume(fd)


# Output.


async def test_what_a_connection_gets_in_one_turn_is_one_write() -> None:
    with wires() as stage:
        peers = [stage.connect(), stage.connect()]
        fds = await accepted(stage, 2)
        writes = stage.reactor.writes_total
        for part in (b"a", b"b", b"c"):
            for fd in fds:
                stage.reactor.send(fd, part)
        assert [await all_of(peer, 3) for peer in peers] == [b"abc", b"abc"]
        assert stage.reactor.writes_total - writes == 2


async def test_answers_to_a_batch_of_events_are_one_write_each() -> None:
    with wires() as stage:

        def answer(fd: int, data: bytes) -> None:
            for _ in range(5):
                stage.reactor.send(fd, b"x")

        stage.handler.react = answer
        peers = [stage.connect() for _ in range(3)]
        await accepted(stage, 3)
        writes = stage.reactor.writes_total
        for peer in peers:
            peer.send(b"?")
        assert [await all_of(peer, 5) for peer in peers] == [b"xxxxx"] * 3
        assert stage.reactor.writes_total - writes == 3


@pytest.mark.parametrize("way", ["send", "broadcast", "offer"])
async def test_output_that_does_not_fit_goes_on_in_order_when_the_peer_reads(way: str) -> None:
    with wires(output_cap=1 << 26) as stage:
        peer = stage.connect(receive_buffer=32_768)
        (fd,) = await accepted(stage, 1)
        parts = [bytes((n,)) * (100_000 + n) for n in range(60)]
        for n, part in enumerate(parts):
            match way:
                case "send":
                    stage.reactor.send(fd, part)
                case "offer":
                    assert stage.reactor.offer(fd, Item(NORMAL, 1, part))
                case "broadcast":
                    assert stage.reactor.broadcast([fd], [Item(NORMAL, 1, part)]) == {}
            if n % 10 == 0:
                await asyncio.sleep(0)  # several turns
        await until(lambda: stage.reactor.unsent_bytes)
        whole = b"".join(parts)
        assert await all_of(peer, len(whole)) == whole
        await until(lambda: not stage.reactor.unsent_bytes)
        stage.reactor.send(fd, b"more")
        assert await all_of(peer, 4) == b"more"
        assert stage.handler.closed == []


async def test_most_that_a_peer_does_not_read_waits_in_the_edge() -> None:
    """What the kernel has can be neither recalled nor overtaken."""
    with wires(output_cap=1 << 26) as stage:
        stage.connect(receive_buffer=8_192)
        (fd,) = await accepted(stage, 1)
        for _ in range(1000):
            assert stage.reactor.offer(fd, Item(NORMAL, 1, bytes(2000)))
        await until(lambda: stage.reactor.unsent_bytes)
        # Segments of 64 KB, which loopback has, are filled up beyond the limit.
        assert stage.reactor.unsent_bytes > 1000 * 2000 - 250_000


@pytest.mark.parametrize("way", ["offer", "broadcast"])
async def test_a_connection_whose_output_is_full_gets_no_more(way: str) -> None:
    def offered(fd: int, data: bytes) -> bool:
        if way == "offer":
            return stage.reactor.offer(fd, Item(NORMAL, 1, data))
        return not stage.reactor.broadcast([fd], [Item(NORMAL, 1, data)])

    with wires(output_cap=100_000) as stage:
        peer = stage.connect(receive_buffer=32_768)
        (fd,) = await accepted(stage, 1)
        taken = 0
        for _ in range(500):
            if not offered(fd, bytes(50_000)):
                break
            taken += 50_000
            await asyncio.sleep(0)
        assert 0 < stage.reactor.unsent_bytes <= 100_000
        assert not offered(fd, bytes(50_000)), "still full"
        assert len(await all_of(peer, taken)) == taken, "what was taken is sent"
        await until(lambda: offered(fd, b"again"))


async def test_what_waits_goes_on_waiting_while_it_is_silent() -> None:
    """Asked before each write, not by a timer: a process that stood still must not write first."""
    with wires(output_cap=16 << 20) as stage:
        slow, quick = stage.connect(receive_buffer=32_768), stage.connect()
        fd, fd_quick = await accepted(stage, 2)
        size = 8 << 20
        stage.reactor.offer(fd, Item(NORMAL, 1, bytes(size)))
        await until(lambda: stage.reactor.unsent_bytes)
        stage.reactor.may_send = lambda: False
        stage.reactor.send(fd, b"answer")
        waits = stage.reactor.unsent_bytes
        assert len(await all_of(slow, size - waits)) == size - waits, "what the kernel had"
        await until(lambda: stage.reactor.silent)
        stage.reactor.send(fd_quick, b"x")
        assert await all_of(quick, 1) == b"x", "who waits for nothing is served"
        assert stage.reactor.unsent_bytes == waits + len(b"answer")
        assert stage.reactor.stuck(1e9) == [], "it is not the peer that is slow"
        stage.reactor.may_send = lambda: True
        stage.reactor.be_silent(False)
        assert stage.reactor.stuck(asyncio.get_running_loop().time()) == []
        assert (await all_of(slow, waits + len(b"answer")))[-6:] == b"answer"


async def test_messages_that_share_a_write_are_cut_and_refused_one_by_one() -> None:
    with wires(output_cap=100_000) as stage:
        peer = stage.connect(receive_buffer=32_768)
        (fd,) = await accepted(stage, 1)
        messages = [Item(NORMAL, n, bytes((n,)) * 40_000) for n in range(1, 200)]
        assert stage.reactor.broadcast([fd], messages) == {}, "nothing waited"
        await until(lambda: stage.reactor.unsent_bytes)
        whole = b"".join(message.data for message in messages)
        assert await all_of(peer, len(whole)) == whole
        stage.reactor.offer(fd, Item(NORMAL, 0, bytes(4 << 20)))  # more than the kernel takes
        await until(lambda: stage.reactor.unsent_bytes > 100_000)
        assert stage.reactor.broadcast([fd], messages) == {fd: 0}
        await all_of(peer, (4 << 20) - 50_000)
        await until(lambda: stage.reactor.unsent_bytes < 50_000)
        taken = stage.reactor.broadcast([fd], messages).get(fd, 0)
        if stage.reactor.unsent_bytes:
            assert taken in (0, 1, 2), "as many as there is room for"


async def test_one_message_larger_than_the_cap_is_taken_where_nothing_waits() -> None:
    with wires(output_cap=1000) as stage:
        peer = stage.connect()
        (fd,) = await accepted(stage, 1)
        assert stage.reactor.offer(fd, Item(NORMAL, 1, bytes(5000)))
        assert not stage.reactor.offer(fd, Item(NORMAL, 1, b"x"))
        assert len(await all_of(peer, 5000)) == 5000


async def test_output_that_does_not_move_for_long_is_noticed() -> None:
    with wires() as stage:
        peer, _quick = stage.connect(receive_buffer=32_768), stage.connect()
        fd, fd_quick = await accepted(stage, 2)
        before = asyncio.get_running_loop().time()
        stage.reactor.send(fd, bytes(8 << 20))
        stage.reactor.send(fd_quick, b"x")
        await until(lambda: stage.reactor.unsent_bytes)
        after = asyncio.get_running_loop().time()
        assert stage.reactor.stuck(before + LIMITS.slow_close_s) == []
        assert stage.reactor.stuck(after + LIMITS.slow_close_s + 0.001) == [fd]
        # A peer that reads a little, now and then, is not stuck.
        left = stage.reactor.unsent_bytes
        await all_of(peer, 1 << 20)
        await until(lambda: stage.reactor.unsent_bytes < left)
        assert stage.reactor.stuck(after + LIMITS.slow_close_s) == []
        stage.reactor.close(fd)
        await until(lambda: stage.handler.closed == [fd])
        assert stage.reactor.unsent_bytes == 0 and stage.reactor.stuck(after + 1e6) == []


async def test_writing_to_a_peer_that_has_gone_closes_the_connection() -> None:
    with wires() as stage:
        peers = [stage.connect(), stage.connect()]
        fds = await accepted(stage, 2)
        for peer in peers:
            reset(peer)
        stage.reactor.send(fds[0], b"x")
        stage.reactor.broadcast(fds[1:], [Item(NORMAL, 1, b"x")])
        await until(lambda: sorted(stage.handler.closed) == sorted(fds))


# The last word.


async def test_the_last_bytes_reach_a_peer_that_is_still_sending() -> None:
    """Closing with unread input would make the kernel answer with a reset, which can overtake
    the last bytes or take them out of the peer's hands."""
    with wires() as stage:
        loop = asyncio.get_running_loop()
        stage.handler.react = lambda fd, data: stage.reactor.finish(fd, b"GOAWAY")
        peer = stage.connect()
        (fd,) = await accepted(stage, 1)
        async with asyncio.timeout(10):
            await loop.sock_sendall(peer, bytes(1 << 20))
        await until(lambda: stage.handler.bytes[fd])
        stage.reactor.sweep_lingering(loop.time())
        assert await end_of(peer) == b"GOAWAY"
        assert len(stage.handler.bytes[fd]) <= 1 << 14, "read and dropped"
        peer.close()
        await until(lambda: stage.handler.closed == [fd])


async def test_last_bytes_come_after_all_the_others_and_the_end_after_them() -> None:
    with wires() as stage:
        peer = stage.connect(receive_buffer=32_768)
        (fd,) = await accepted(stage, 1)
        stage.reactor.send(fd, bytes(3 << 20))
        stage.reactor.finish(fd, b"GOAWAY")
        got = await end_of(peer)
        assert len(got) == (3 << 20) + 6 and got.endswith(b"\0GOAWAY")


async def test_a_peer_that_never_goes_is_closed_after_a_moment() -> None:
    with wires() as stage:
        loop = asyncio.get_running_loop()
        stage.connect()
        (fd,) = await accepted(stage, 1)
        stage.reactor.finish(fd, b"GOAWAY")
        stage.reactor.finish(fd, b"GOAWAY again")
        stage.reactor.sweep_lingering(loop.time() + 1.0)
        assert stage.handler.closed == []
        stage.reactor.sweep_lingering(loop.time() + 2.5)
        await until(lambda: stage.handler.closed == [fd])
        assert received(stage.peers[0]) == b"GOAWAY"


async def test_stopping_closes_everything() -> None:
    with wires() as stage:
        peers = [stage.connect() for _ in range(3)]
        await accepted(stage, 3)
    assert sorted(stage.handler.closed) == sorted(stage.handler.accepted)
    assert all(peer.fileno() == -1 for peer in peers)
