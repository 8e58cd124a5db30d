"""What `columba drain` and `columba rebalance` do.

The edges are called directly, with the deployment's secret: who may do this can read the data directory.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple

import typer

from gateway.cli import settings
from gateway.cli.settings import UsageProblem
from gateway.config import Config
from gateway.metrics import decode_stats
from gateway.rpc import Method, RpcClient, RpcError, RpcUnavailable
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import StoreError
from gateway.store.leases import Roster
from protocol.schema import rpc_pb2

_CALL_S: Final = 5.0
_POLL_S: Final = 0.5
_LATE_S: Final = 15.0
"""Devices that have not left so long after they were told hang up when their heartbeat is due."""
_ROUNDS: Final = 20
_SETTLE_S: Final = 1.0
"""From the last GOAWAY until its device is at the other edge."""


class Edge(NamedTuple):
    """An edge that answers."""

    number: int
    own: str
    """host:port of its own port."""
    draining: bool
    link: RpcClient


def shares(counts: Mapping[int, int], within: float) -> dict[int, dict[int, int]]:
    """Who gives how many sessions to whom, so that all edges have the same, give or take one.

    `counts`: edge -> sessions. Empty if the fullest and the emptiest differ by less than `within` of the mean.
    """
    if not counts or not sum(counts.values()):
        return {}
    mean, rest = divmod(sum(counts.values()), len(counts))
    if max(counts.values()) - min(counts.values()) < max(2, within * (mean + rest / len(counts))):
        return {}
    fullest = sorted(counts, key=lambda edge: (-counts[edge], edge))
    wanted = {edge: mean + (place < rest) for place, edge in enumerate(fullest)}
    lacking = [
        (edge, wanted[edge] - counts[edge]) for edge in fullest if counts[edge] < wanted[edge]
    ]
    moves: dict[int, dict[int, int]] = {}
    for giver in fullest:
        surplus = counts[giver] - wanted[giver]
        while surplus > 0:
            taker, room = lacking.pop()
            moved = min(surplus, room)
            moves.setdefault(giver, {})[taker] = moved
            surplus -= moved
            if room > moved:
                lacking.append((taker, room - moved))
    return moves


async def drain(config: Config, number: int, over_s: float, *, undo: bool, as_json: bool) -> int:
    """Exit code: 1 if devices are still connected some time after all were told. Raises UsageProblem."""
    async with _edges(config) as found:
        edges = {edge.number: edge for edge in found}
        if number not in edges:
            known = ", ".join(map(str, sorted(edges))) or "none"
            raise UsageProblem(f"there is no edge {number} that answers; there are: {known}")
        one = edges[number]
        others = [edge for edge in found if edge.number != number and not edge.draining]
        request = rpc_pb2.DepartRequest(drain=not undo, undo=undo, over_s=over_s)
        for other in others:
            request.targets.add(address=other.own, sessions=1)
        told = await _depart(one, request)
        left, began = 0 if undo else told, time.monotonic()
        while left and time.monotonic() - began < over_s + _LATE_S:
            _progress(f"edge {number}: {left:,} of {told:,} sessions are left", as_json=as_json)
            await asyncio.sleep(_POLL_S)
            left = await _connections(one)
    result = {
        "edge": number,
        "draining": not undo,
        "sessions": told,
        "left": left,
        "others": len(others),
        "seconds": round(time.monotonic() - began, 1),
    }
    text = f"edge {number} takes connections again"
    if not undo:
        text = f"edge {number} is drained: {told:,} sessions sent to {len(others)} others, {left:,} still connected"
    typer.echo(json.dumps(result) if as_json else text)
    return 0 if not left else 1


async def rebalance(config: Config, within: float, rate: float, *, as_json: bool) -> int:
    """`within`: share of the mean; `rate`: sessions a second. Exit code: 1 if edges still differ by more.
    Raises UsageProblem."""
    moved = 0
    began = time.monotonic()
    async with _edges(config) as found:
        edges = {edge.number: edge for edge in found if not edge.draining}
        counts = {number: await _sessions(edge) for number, edge in edges.items()}
        before = dict(counts)
        for _ in range(_ROUNDS):
            moves = shares(counts, within)
            if not moves:
                break
            going = sum(sum(to.values()) for to in moves.values())
            over_s = going / rate
            for giver, takers in moves.items():
                request = rpc_pb2.DepartRequest(over_s=over_s)
                for taker, sessions in takers.items():
                    request.targets.add(address=edges[taker].own, sessions=sessions)
                moved += await _depart(edges[giver], request)
            until = time.monotonic() + over_s + _SETTLE_S
            while (left_s := until - time.monotonic()) > 0:
                _progress(f"{going:,} sessions move, {left_s:.0f} s left", as_json=as_json)
                await asyncio.sleep(min(left_s, _POLL_S))
            counts = {number: await _sessions(edge) for number, edge in edges.items()}
    balanced = not shares(counts, within)
    result = {
        "balanced": balanced,
        "moved": moved,
        "before": before,
        "after": counts,
        "seconds": round(time.monotonic() - began, 1),
    }
    after = ", ".join(f"edge {number}: {count:,}" for number, count in sorted(counts.items()))
    typer.echo(json.dumps(result) if as_json else f"{moved:,} sessions sent on; {after}")
    return 0 if balanced else 1


@asynccontextmanager
async def _edges(config: Config) -> AsyncIterator[list[Edge]]:
    """All that answer. Raises UsageProblem."""
    secret = settings.secrets_of(config).rpc_secret
    async with AsyncExitStack() as stack:
        clock = StoreClock()
        try:
            store = await Store.connect(config.store.url, timeout_s=config.store.timeout_s)
            stack.push_async_callback(store.close)
            roster = Roster(store, clock, config.store.lease_s)
            await roster.poll()
        except StoreError as error:
            raise UsageProblem(str(error)) from None
        found = []
        for holder in roster.live("edge", clock.now_ms()):
            link = RpcClient(str(holder.info["rpc"]), secret)
            link.start()
            stack.push_async_callback(link.close)
            try:
                async with asyncio.timeout(_CALL_S):
                    await link.wait_up()
            except TimeoutError:
                continue  # it has gone, or nobody has noticed yet
            number, own = holder.identity.number, str(holder.info["own"])
            found.append(Edge(number, own, bool(holder.info.get("draining")), link))
        yield found


async def _depart(edge: Edge, request: rpc_pb2.DepartRequest) -> int:
    try:
        body = await edge.link.call(Method.DEPART, request.SerializeToString(), _CALL_S)
    except (RpcError, RpcUnavailable) as error:
        raise UsageProblem(f"edge {edge.number}: {error}") from None
    return int(rpc_pb2.DepartReply.FromString(body).sessions)


async def _sessions(edge: Edge) -> int:
    return await _stat(edge, "columba_sessions")


async def _connections(edge: Edge) -> int:
    return await _stat(edge, "columba_connections")


async def _stat(edge: Edge, name: str) -> int:
    try:
        _, samples = decode_stats(await edge.link.call(Method.STATS, b"", _CALL_S))
    except (RpcError, RpcUnavailable) as error:
        raise UsageProblem(f"edge {edge.number}: {error}") from None
    return next(int(value) for sample, _, value in samples if sample == name)


def _progress(text: str, *, as_json: bool) -> None:
    if not as_json:
        typer.echo(text, err=True)
