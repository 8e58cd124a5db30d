"""The reactor with real sockets, on either loop: accepting, and refusing to."""

import asyncio
import os
import socket
from functools import partial

import pytest

from tests.gateway.edge.wires import Wires, received, wires
from tests.waiting import until

FULL = b"EDGE_FULL"


def nearly_full(more: int) -> dict[str, int]:
    """Limits that leave room for so many connections, of whom half may stay for it to open again."""
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    # A peer and a connection each, and the reactor's own two.
    return {"descriptors_high": used + 2 + 2 * more, "descriptors_low": more // 2}


async def filled(stage: Wires) -> None:
    while not stage.reactor.full:
        stage.connect()
        await asyncio.sleep(0)


async def test_accepts_have_a_budget_and_those_beyond_it_wait() -> None:
    with wires(accepts_per_s=500) as stage:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(650):
            stage.connect()
        await until(lambda: stage.reactor.accepts_total >= 400)
        turns = stage.reactor.turns
        allowed = 500 * (1 + loop.time() - began)
        assert stage.reactor.accepts_total <= allowed
        await until(lambda: stage.reactor.accepts_total == 650)
        assert stage.reactor.turns - turns < 60, "waiting for budget is no spinning"


async def test_who_comes_while_too_many_register_waits_in_the_kernel_s_queue() -> None:
    with wires() as stage:
        stage.handler.may_accept = 0
        for _ in range(30):
            stage.connect()
        turns = stage.reactor.turns
        await asyncio.sleep(0.1)
        assert not stage.handler.accepted
        assert stage.reactor.turns - turns < 40, "waiting for room is no spinning"
        stage.handler.may_accept = 7
        await until(lambda: len(stage.handler.accepted) >= 7)
        stage.handler.may_accept = 1_000
        await until(lambda: len(stage.handler.accepted) == 30)


async def test_a_small_budget_is_not_smaller_than_it_says() -> None:
    with wires(accepts_per_s=20) as stage:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(24):
            stage.connect()
        await until(lambda: stage.reactor.accepts_total == 24)
        assert loop.time() - began < 3.0


async def test_a_full_reactor_accepts_no_more_and_does_not_spin() -> None:
    """Until its owner, who looks now and then, closes the listener."""
    with wires(**nearly_full(5)) as stage:
        await filled(stage)
        taken, turns = stage.reactor.accepts_total, stage.reactor.turns
        for _ in range(20):
            stage.connect()
        for _ in range(50):
            await asyncio.sleep(0)
        assert stage.reactor.accepts_total == taken
        assert stage.reactor.turns - turns <= 2


async def test_those_in_the_queue_of_a_full_edge_are_told_before_the_listener_closes() -> None:
    with wires(**nearly_full(5)) as stage:
        await filled(stage)
        taken = stage.reactor.accepts_total
        waiting = [stage.connect() for _ in range(10)]
        for peer in waiting:
            peer.send(b"a HELLO that nobody will read")
        stage.reactor.stop_listening(FULL)
        told = []
        for peer in waiting:
            peer.setblocking(True)
            peer.settimeout(5)
            told.append(peer.recv(100) + peer.recv(100))
        queued = stage.reactor.refused_full_total
        assert queued >= 10 and told == [FULL] * 10, "said, and ended without a reset"
        assert stage.reactor.accepts_total == taken
        with pytest.raises(ConnectionRefusedError):
            stage.connect()
        assert not stage.reactor.full


async def test_a_full_edge_listens_again_on_the_same_port_when_there_is_room() -> None:
    with wires(**nearly_full(6)) as stage:
        await filled(stage)
        stage.reactor.stop_listening(FULL)
        assert not stage.reactor.room_again()
        while stage.reactor.open_count > stage.reactor.limits.descriptors_low:
            assert not stage.reactor.room_again()
            stage.peers.pop(0).close()
            closed = len(stage.handler.closed)
            await until(partial(lambda closed: len(stage.handler.closed) > closed, closed))
        assert stage.reactor.room_again()
        assert not stage.reactor.room_again(), "said once"
        stage.reactor.resume_listening()
        count = len(stage.handler.accepted)
        peer = stage.connect()
        await until(lambda: len(stage.handler.accepted) > count)
        stage.handler.react = stage.reactor.send
        peer.send(b"ping")
        await until(lambda: received(peer) == b"ping")


async def test_two_reactors_share_a_port() -> None:
    with wires() as one, wires() as two:
        two.reactor.listen("127.0.0.1", one.port)
        for _ in range(64):
            one.connect()
        both = (one.reactor, two.reactor)
        await until(lambda: sum(r.accepts_total for r in both) == 64)
        assert all(r.accepts_total for r in both), "the kernel deals connections out"
        one.reactor.stop_listening(FULL)
        before = two.reactor.accepts_total
        for _ in range(20):
            one.connect()
        await until(lambda: two.reactor.accepts_total == before + 20)


async def test_a_taken_port_is_an_error() -> None:
    with wires() as stage, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            stage.reactor.listen("127.0.0.1", other.getsockname()[1])
