"""Tags: one by one for the app, whole on the wire, on disk before a call returns."""

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client_sdk import Device, DeviceClosed, StorageError, disk
from client_sdk.state import Profile
from client_sdk.tags import SYSTEM_NAMES
from protocol.codes import MAX_TAG_BYTES, MAX_TAGS, Kind
from protocol.schema import device_pb2
from tests.client_sdk.devices import connected, device_of
from tests.client_sdk.edge import Edge, Peer
from tests.waiting import PATIENCE_S

VICTIM = """
import asyncio, os, signal, sys
from client_sdk import Device

async def main():
    address, state_dir = sys.argv[1:]
    async with Device(address, app="demo", access_key="k", state_dir=state_dir) as device:
        await device.tags.add("a", "b")
        await device.tags.remove("a")
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def sent(peer: Peer) -> tuple[int, list[str], dict[str, str]]:
    """The next frame, which has to be a PROFILE."""
    profile = device_pb2.Profile.FromString(await peer.expect(Kind.PROFILE))
    return profile.change, list(profile.tags), dict(profile.attributes)


def acknowledge(peer: Peer, change: int) -> None:
    peer.send(Kind.PROFILE_ACK, device_pb2.ProfileAck(change=change))


async def no_profile(peer: Peer, push_id: int) -> bool:
    """Is the next frame the answer to a message? PROFILE goes out in front of receipts."""
    peer.messages(push_id)
    return await peer.receipts() == [(push_id, "RECEIVED")]


def on_disk(state_dir: Path) -> Profile:
    return Profile(**json.loads((state_dir / "state.json").read_bytes())["profile"])


class TestChanges:
    async def test_add_remove_set_and_read(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            assert (tuple(device.tags), len(device.tags)) == ((), 0)
            await device.tags.add("news", "city:gz")
            assert await sent(peer) == (1, ["city:gz", "news"], {})
            assert tuple(device.tags) == ("city:gz", "news")
            assert "news" in device.tags and "city" not in device.tags
            await device.tags.remove("news")
            assert await sent(peer) == (2, ["city:gz"], {})
            await device.tags.set(tag for tag in ("z", "y", "z"))
            assert await sent(peer) == (3, ["y", "z"], {})
            await device.tags.set([])
            assert await sent(peer) == (4, [], {})
            assert not device.tags

    async def test_each_is_on_disk_when_the_call_returns(self, edge: Edge, state_dir: Path) -> None:
        async with device_of(edge, state_dir) as device:
            await device.tags.add("a", "b")
            assert on_disk(state_dir) == Profile(1, ["a", "b"], {}, acknowledged=False)
            await device.tags.remove("a")
            assert on_disk(state_dir) == Profile(2, ["b"], {}, acknowledged=False)
            await device.tags.set(["c"])
            assert on_disk(state_dir) == Profile(3, ["c"], {}, acknowledged=False)

    async def test_attributes_stay(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            await device.set_profile(tags=["a"], attributes={"lang": "fi"})
            assert await sent(peer) == (1, ["a"], {"lang": "fi"})
            await device.tags.add("b")
            assert await sent(peer) == (2, ["a", "b"], {"lang": "fi"})
            await device.tags.set([])
            assert await sent(peer) == (3, [], {"lang": "fi"})
            await device.set_profile(tags=["c"])
            assert await sent(peer) == (4, ["c"], {})
            assert tuple(device.tags) == ("c",)

    async def test_what_changes_nothing_is_not_a_change(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            await device.tags.add("a")
            assert (await sent(peer))[0] == 1
            acknowledge(peer, 1)
            await device.tags.add("a")
            await device.tags.add()
            await device.tags.remove("b")
            await device.tags.set(["a", "a"])
            assert await no_profile(peer, 1)
            assert on_disk(state_dir).change == 1


class TestReplay:
    async def test_until_acknowledged(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            await device.tags.add("a")
            assert await sent(peer) == (1, ["a"], {})
            peer.reset()
            peer = await edge.welcomed()
            assert await sent(peer) == (1, ["a"], {})
            await device.tags.add("b")
            assert await sent(peer) == (2, ["a", "b"], {})
            acknowledge(peer, 1)  # of the older one
            peer.close()
            peer = await edge.welcomed()
            assert await sent(peer) == (2, ["a", "b"], {})
            acknowledge(peer, 2)
            assert await no_profile(peer, 1)  # so the acknowledgement was read
            peer.close()
            assert await no_profile(await edge.welcomed(), 2)

    async def test_a_process_killed_after_the_call_returned(
        self, edge: Edge, state_dir: Path
    ) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", VICTIM, edge.address, str(state_dir)),
            cwd=Path(__file__).parents[2],
        )
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == -signal.SIGKILL
        while not edge._accepted.empty():
            await edge.greeted()  # the victim's
        async with connected(edge, state_dir) as (device, peer):
            assert tuple(device.tags) == ("b",)
            assert await sent(peer) == (2, ["b"], {})


class TestBursts:
    async def test_calls_made_together_are_one_change(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            await asyncio.gather(
                *(device.tags.add(f"t{n:02}") for n in range(50)),
                *(device.tags.remove(f"t{n:02}") for n in range(48)),
            )
            assert await sent(peer) == (1, ["t48", "t49"], {})
            assert await no_profile(peer, 1)

    async def test_calls_during_a_write_share_the_next(
        self, edge: Edge, state_dir: Path, slow_disk: "SlowDisk"
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            slow_disk.hold()
            first = asyncio.create_task(device.tags.add("first"))
            await slow_disk.writing()
            more = [asyncio.create_task(device.tags.add(f"t{n}")) for n in range(5)]
            await asyncio.sleep(0)
            assert tuple(device.tags) == ()  # nothing is, before it is on disk
            slow_disk.release()
            await asyncio.gather(first, *more)
            assert on_disk(state_dir).change == 2
            assert (await sent(peer))[:2] == (1, ["first"])
            assert (await sent(peer))[:2] == (2, ["first", "t0", "t1", "t2", "t3", "t4"])

    async def test_one_after_the_other_sends_the_latest(self, edge: Edge, state_dir: Path) -> None:
        now = 0.0
        async with connected(edge, state_dir, gather_s=0.01, monotonic=lambda: now) as (
            device,
            peer,
        ):
            for n in range(20):
                await device.tags.add(f"t{n:02}")
                now += 0.009  # never a pause of `gather_s`
            await asyncio.sleep(0)  # the connection looks
            now += 0.01
            assert (await sent(peer))[:2] == (20, [f"t{n:02}" for n in range(20)])
            assert await no_profile(peer, 1)

    async def test_a_burst_without_end_is_sent_all_the_same(
        self, edge: Edge, state_dir: Path
    ) -> None:
        now = 0.0
        async with connected(edge, state_dir, gather_s=0.1, monotonic=lambda: now) as (
            device,
            peer,
        ):
            for n in range(20):
                await device.tags.set([f"t{n}"])
                await asyncio.sleep(0)  # the connection looks
                now += 0.09
            change, _, _ = await sent(peer)
            assert 10 <= change < 20

    async def test_without_a_connection(self, edge: Edge, state_dir: Path) -> None:
        async with device_of(edge, state_dir) as device:
            for n in range(20):
                await device.tags.set([f"t{n}"])
            peer = await edge.welcomed()
            assert await sent(peer) == (20, ["t19"], {})
            assert await no_profile(peer, 1)


def too_many(device: Device) -> Any:
    return device.tags.set([f"t{n}" for n in range(MAX_TAGS + 1)])


class TestRefused:
    @pytest.mark.parametrize(
        ("call", "error", "text"),
        [
            (too_many, ValueError, "101 tags, at most 100"),
            (lambda d: d.tags.add("a", ""), ValueError, "1 to 128 bytes"),
            (lambda d: d.tags.add("x" * (MAX_TAG_BYTES + 1)), ValueError, "1 to 128 bytes"),
            (lambda d: d.tags.add("ä" * 65), ValueError, "1 to 128 bytes"),
            (lambda d: d.tags.add("\ud800"), ValueError, "UTF-8"),
            (lambda d: d.tags.remove(""), ValueError, "1 to 128 bytes"),
            (lambda d: d.tags.remove("lang:fi"), ValueError, "the service's to set"),
            (lambda d: d.tags.set(["b", "new"]), ValueError, "the service's to set"),
            (lambda d: d.tags.set("news"), TypeError, "a list of tags"),
            (lambda d: d.tags.add(1), TypeError, "a tag is a string"),
            (lambda d: d.tags.add(["b"]), TypeError, "a tag is a string"),
        ],
    )
    async def test_nothing_of_the_call_is_taken(
        self,
        edge: Edge,
        state_dir: Path,
        call: Callable[[Device], Any],
        error: type[Exception],
        text: str,
    ) -> None:
        async with device_of(edge, state_dir) as device:
            await device.tags.add("kept")
            with pytest.raises(error, match=text):
                await call(device)
            assert on_disk(state_dir) == Profile(1, ["kept"], {}, acknowledged=False)

    @pytest.mark.parametrize("name", sorted(SYSTEM_NAMES))
    async def test_names_of_system_tags(self, edge: Edge, state_dir: Path, name: str) -> None:
        async with device_of(edge, state_dir) as device:
            for tag in (name, f"{name}:x"):
                with pytest.raises(ValueError, match=f"'{name}' are the service's to set"):
                    await device.tags.add(tag)
            await device.tags.add(f"{name}s", f"my:{name}")

    async def test_what_is_there_may_always_go(self, edge: Edge, state_dir: Path) -> None:
        async with device_of(edge, state_dir) as device:
            await device.set_profile(tags=["lang:fi", "a"])
            await device.tags.add("b")
            await device.tags.remove("lang:fi")
            assert tuple(device.tags) == ("a", "b")

    async def test_the_limits_themselves(self, edge: Edge, state_dir: Path) -> None:
        full = ["x" * MAX_TAG_BYTES, *(f"t{n:02}" for n in range(MAX_TAGS - 1))]
        async with device_of(edge, state_dir) as device:
            await device.tags.set(full)
            with pytest.raises(ValueError, match="101 tags"):
                await device.tags.add("one more")
            assert tuple(device.tags) == tuple(sorted(full))

    async def test_one_of_many_does_not_spoil_the_others(self, edge: Edge, state_dir: Path) -> None:
        async with connected(edge, state_dir) as (device, peer):
            calls = [device.tags.add("a"), too_many(device), device.tags.add("b")]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, type(None)]
            assert await sent(peer) == (1, ["a", "b"], {})

    async def test_full_disk(
        self, edge: Edge, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with connected(edge, state_dir) as (device, peer):
            with monkeypatch.context() as patch:
                patch.setattr(disk, "write_all", _full)
                with pytest.raises(StorageError):
                    await device.tags.add("a")
            assert tuple(device.tags) == ()
            assert await no_profile(peer, 1)
            await device.tags.add("b")
            assert await sent(peer) == (1, ["b"], {})

    async def test_not_open(self, edge: Edge, state_dir: Path) -> None:
        device = device_of(edge, state_dir)
        with pytest.raises(DeviceClosed, match="not open yet"):
            await device.tags.add("a")
        with pytest.raises(DeviceClosed, match="not open yet"):
            tuple(device.tags)
        async with device:
            await device.tags.add("a")
        with pytest.raises(DeviceClosed, match="is closed"):
            await device.tags.add("b")
        with pytest.raises(DeviceClosed, match="is closed"):
            await device.set_profile()
        assert tuple(device.tags) == ("a",)


class TestCancelled:
    async def test_a_call_that_is_given_up_counts(
        self, edge: Edge, state_dir: Path, slow_disk: "SlowDisk"
    ) -> None:
        async with connected(edge, state_dir) as (device, _):
            slow_disk.hold()
            adding = asyncio.create_task(device.tags.add("a"))
            await slow_disk.writing()
            adding.cancel()
            await asyncio.wait({adding})
            slow_disk.release()
            await device.tags.add("b")
            assert adding.cancelled()
            assert on_disk(state_dir).tags == ["a", "b"]

    async def test_close_waits_for_the_disk(
        self, edge: Edge, state_dir: Path, slow_disk: "SlowDisk"
    ) -> None:
        async with connected(edge, state_dir) as (device, _):
            slow_disk.hold()
            adding = asyncio.create_task(device.tags.add("a"))
            await slow_disk.writing()
            closing = asyncio.create_task(device.close())
            await asyncio.sleep(0)
            slow_disk.release()
            await asyncio.gather(adding, closing)
        assert on_disk(state_dir).tags == ["a"]

    async def test_a_write_that_was_given_up_does_not_come_after_a_later_one(
        self, edge: Edge, state_dir: Path, slow_disk: "SlowDisk"
    ) -> None:
        async with connected(edge, state_dir) as (device, _):
            slow_disk.hold()
            saving = asyncio.create_task(device._save(device._installation))
            await slow_disk.writing()
            saving.cancel()  # as at the end of a connection that was just acknowledging something
            await asyncio.wait({saving})
            adding = asyncio.create_task(device.tags.add("a"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert slow_disk.writes == 1
            slow_disk.release()
            await adding
            assert on_disk(state_dir).tags == ["a"]


def _full(descriptor: int, data: bytes, offset: int) -> None:
    raise OSError(28, "No space left on device")


class SlowDisk:
    """Writes wait, from `hold` until `release`."""

    def __init__(self, write_all: Callable[[int, bytes, int], None]) -> None:
        self._write_all = write_all
        self._go = threading.Event()
        self._go.set()
        self.writes = 0

    def hold(self) -> None:
        self._go.clear()
        self.writes = 0

    def release(self) -> None:
        self._go.set()

    async def writing(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.writes:
                await asyncio.sleep(0.001)

    def __call__(self, descriptor: int, data: bytes, offset: int) -> None:
        self.writes += 1
        assert self._go.wait(PATIENCE_S)
        self._write_all(descriptor, data, offset)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    slow = SlowDisk(disk.write_all)
    monkeypatch.setattr(disk, "write_all", slow)
    return slow
