"""Collapse keys: of the messages with one key only the newest is of use."""

from pathlib import Path

from client_sdk import Recalled, Replaced
from tests.client_sdk.devices import connected, events_of, no_event, nothing_more, take
from tests.client_sdk.edge import Edge


async def test_the_newer_drops_the_older(edge: Edge, state_dir: Path) -> None:
    async with connected(edge, state_dir) as (device, peer):
        peer.messages(1, 2, key="score")
        peer.messages(3, key="mail")
        peer.messages(4)
        assert len(await peer.receipts_for(4)) == 4
        messages = await take(device, 3)
        assert [(m.push_id, m.collapse_key) for m in messages] == [
            (2, "score"),
            (3, "mail"),
            (4, ""),
        ]
        assert await nothing_more(device)
        assert await no_event(device)
        assert device.stats.replaced == 1


async def test_the_newer_replaces_what_was_handed_out(edge: Edge, state_dir: Path) -> None:
    async with connected(edge, state_dir) as (device, peer):
        peer.messages(1, key="score")
        (message,) = await take(device)
        await message.displayed()
        peer.messages(5, key="score")
        assert await events_of(device) == [Replaced(1, by=5)]
        assert [m.push_id for m in await take(device)] == [5]
        assert device.stats.replaced == 0


async def test_the_older_comes_too_late(edge: Edge, state_dir: Path) -> None:
    async with connected(edge, state_dir) as (device, peer):
        peer.messages(5, key="score")
        await take(device)
        await peer.receipts()
        peer.messages(3, key="score")
        assert await peer.receipts() == [(3, "RECEIVED")]
        assert await nothing_more(device)
        assert await no_event(device)
    async with connected(edge, state_dir) as (device, peer):
        peer.messages(4, key="score")  # the key is known over the restart
        await peer.receipts()
        assert await nothing_more(device)


async def test_across_a_restart_the_older_is_not_handed_out(edge: Edge, state_dir: Path) -> None:
    async with connected(edge, state_dir) as (_, peer):
        peer.messages(1, key="score")
        peer.messages(2, key="score")
        await peer.receipts_for(2)
    async with connected(edge, state_dir) as (device, _):
        assert [m.push_id for m in await take(device)] == [2]
        assert await nothing_more(device)


async def test_what_a_recalled_message_replaced_stays_away(edge: Edge, state_dir: Path) -> None:
    async with connected(edge, state_dir) as (device, peer):
        peer.messages(1, 3, key="score")
        await peer.receipts_for(2)
        peer.recall(3)
        assert await events_of(device) == [Recalled(3, handed_out=False)]
        assert await nothing_more(device)


async def test_a_key_over_the_limit_replaces_nothing(edge: Edge, state_dir: Path) -> None:
    async with connected(edge, state_dir) as (device, peer):
        peer.messages(1, 2, key="ä" * 32)
        peer.messages(3, 4, key="ä" * 32 + "b")
        assert [m.push_id for m in await take(device, 3)] == [2, 3, 4]
