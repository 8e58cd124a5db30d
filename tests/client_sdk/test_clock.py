"""The device's clock: wrong, set right by the service, set while the device was not running."""

from pathlib import Path
from typing import Any

from client_sdk.clock import DeviceClock
from protocol.codes import Kind
from protocol.schema import device_pb2
from tests.client_sdk.devices import connected, device_of, nothing_more, take
from tests.client_sdk.edge import Edge, Peer

NOON_S = 1_700_000_000.0
"""By the service's clock. The device's own clock and its timer stand still unless a test moves them."""
NOON_MS = int(NOON_S * 1000)
DAY_S = 86_400.0


class Wall:
    """What a `Device` reads the time from."""

    def __init__(self, wall_s: float) -> None:
        self.wall_s = wall_s
        self.monotonic_s = 77.0

    def run_for(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    @property
    def options(self) -> dict[str, Any]:
        return {"clock": lambda: self.wall_s, "monotonic": lambda: self.monotonic_s}


def offline() -> Edge:
    nobody = Edge()
    nobody.address = "127.0.0.1:1"
    return nobody


async def dated(peer: Peer) -> list[tuple[int, int, int, int]]:
    """(push id, state, at_ms, clock_offset_ms) of the next RECEIPTS; not acknowledged."""
    body = device_pb2.Receipts.FromString(await peer.expect(Kind.RECEIPTS))
    return [(r.push_id, r.state, r.at_ms, r.clock_offset_ms) for r in body.receipts]


class TestDeviceClock:
    def test_counts_by_the_timer_whatever_the_wall_clock_does(self) -> None:
        wall = Wall(NOON_S)
        clock = DeviceClock(offset_ms=500, **_sources(wall))
        wall.wall_s += DAY_S
        wall.monotonic_s += 10
        assert clock.now_ms() == NOON_MS + 10_500
        assert clock.own_ms() == NOON_MS + 10_000

    def test_the_server_sets_it_right(self) -> None:
        clock = DeviceClock(offset_ms=0, **_sources(Wall(1000.0)))
        assert not clock.confirmed
        clock.on_server_time(NOON_MS)
        assert (clock.now_ms(), clock.own_ms(), clock.confirmed) == (NOON_MS, 1_000_000, True)
        assert clock.own_ms() + clock.offset_ms == clock.now_ms()
        for nonsense in (0, 1 << 53, (1 << 64) - 1):
            clock.on_server_time(nonsense)
        assert clock.now_ms() == NOON_MS

    def test_a_server_that_does_not_say_confirms_what_there_is(self) -> None:
        clock = DeviceClock(offset_ms=0, **_sources(Wall(NOON_S)))
        clock.on_server_time(0)
        assert (clock.now_ms(), clock.confirmed) == (NOON_MS, True)

    def test_it_is_not_earlier_than_it_was(self) -> None:
        clock = DeviceClock(offset_ms=0, **_sources(Wall(NOON_S)))
        clock.not_before(NOON_MS - 1)
        assert clock.offset_ms == 0
        clock.not_before(NOON_MS + 9)
        assert clock.now_ms() == NOON_MS + 9

    def test_there_is_no_time_before_1970(self) -> None:
        clock = DeviceClock(offset_ms=-5, **_sources(Wall(-10.0)))
        assert (clock.own_ms(), clock.now_ms()) == (0, 0)


def _sources(wall: Wall) -> dict[str, Any]:
    return {"wall_s": lambda: wall.wall_s, "monotonic_s": lambda: wall.monotonic_s}


class TestReceipts:
    async def test_say_what_the_devices_clock_showed_and_how_wrong_it_was(
        self, edge: Edge, state_dir: Path
    ) -> None:
        wall = Wall(1000.0)
        async with device_of(edge, state_dir, **wall.options) as device:
            peer = await edge.welcomed(server_time_ms=NOON_MS)
            peer.messages(1)
            (message,) = await take(device)
            offset_ms = NOON_MS - 1_000_000
            assert message.arrived_ms == NOON_MS
            assert await dated(peer) == [(1, device_pb2.RECEIVED, 1_000_000, offset_ms)]
            wall.run_for(5)
            await message.displayed()
            assert await dated(peer) == [(1, device_pb2.DISPLAYED, 1_005_000, offset_ms)]

    async def test_made_offline_after_the_clock_was_set(self, edge: Edge, state_dir: Path) -> None:
        """Those of this run go by the offset that WELCOME brings; those of an earlier one by the
        offset of then."""
        wall = Wall(1000.0)
        async with device_of(edge, state_dir, **wall.options) as device:
            peer = await edge.welcomed(server_time_ms=NOON_MS)
            peer.messages(1, 2)
            await take(device, 2)
            await dated(peer)
        wall = Wall(NOON_S + 60)  # somebody has set the clock: it is right now
        async with device_of(offline(), state_dir, **wall.options) as device:
            await device.unfinished()[0].clicked()
        async with device_of(edge, state_dir, **wall.options) as device:
            wall.run_for(7)
            peer = await edge.greeted()
            await device.unfinished()[0].dismissed()
            peer.welcome(server_time_ms=NOON_MS + 67_000)
            then_ms = NOON_MS - 1_000_000
            assert await dated(peer) == [
                (1, device_pb2.RECEIVED, 1_000_000, then_ms),
                (2, device_pb2.RECEIVED, 1_000_000, then_ms),
                (1, device_pb2.CLICKED, NOON_MS + 60_000, then_ms),
                (2, device_pb2.DISMISSED, NOON_MS + 67_000, 0),
            ]


class TestExpiry:
    async def test_offline_by_the_devices_clock_and_its_offset(
        self, edge: Edge, state_dir: Path
    ) -> None:
        wall = Wall(1000.0)
        async with device_of(edge, state_dir, **wall.options) as device:
            peer = await edge.welcomed(server_time_ms=NOON_MS)
            peer.messages(1, ttl_s=100)
            peer.messages(2, ttl_s=1000)
            await peer.receipts_for(2)
        wall.run_for(99)
        async with device_of(offline(), state_dir, **wall.options) as device:
            wall.run_for(2)
            assert [m.push_id for m in await take(device)] == [2]
            assert await nothing_more(device)

    async def test_a_clock_that_jumps_in_a_run_expires_nothing(
        self, edge: Edge, state_dir: Path
    ) -> None:
        wall = Wall(NOON_S)
        async with connected(edge, state_dir, **wall.options) as (device, peer):
            peer.messages(1, 2, ttl_s=100)
            await peer.receipts_for(2)
            wall.wall_s += 365 * DAY_S
            assert [m.push_id for m in await take(device)] == [1]
            wall.wall_s -= 1000 * DAY_S
            wall.monotonic_s += 101
            assert await nothing_more(device)
            assert device.stats.expired == 1

    async def test_a_clock_set_forward_while_it_was_off_holds_back_until_welcome(
        self, edge: Edge, state_dir: Path
    ) -> None:
        wall = Wall(NOON_S)
        async with connected(edge, state_dir, **wall.options) as (_, peer):
            peer.messages(1, ttl_s=100)
            peer.messages(2, ttl_s=3600)
            await peer.receipts_for(2)
        wall = Wall(NOON_S + 90 * DAY_S)
        async with device_of(offline(), state_dir, **wall.options) as device:
            assert await nothing_more(device)  # over, for all it knows, but it may be mistaken
        async with device_of(edge, state_dir, **wall.options) as device:
            peer = await edge.welcomed(server_time_ms=NOON_MS + 200_000)
            assert [m.push_id for m in await take(device)] == [2]
            assert device.stats.expired == 1
            peer.messages(1)  # and no id was forgotten
            assert (1, "RECEIVED") in await peer.receipts()
            assert await nothing_more(device)

    async def test_a_clock_set_back_while_it_was_off_revives_nothing(
        self, edge: Edge, state_dir: Path
    ) -> None:
        wall = Wall(NOON_S)
        async with connected(edge, state_dir, **wall.options) as (_, peer):
            peer.messages(1, ttl_s=100)
            await peer.receipts()
            wall.run_for(101)
            peer.messages(2, ttl_s=3600)
            await peer.receipts()
        wall = Wall(NOON_S - 90 * DAY_S)
        async with device_of(offline(), state_dir, **wall.options) as device:
            assert [m.push_id for m in await take(device)] == [2]
            assert await nothing_more(device)
