"""What the HTTP routes and the RPC methods stand on."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, Final, NamedTuple

import msgspec
from google.protobuf.message import DecodeError

from gateway.api.audiences import encoded, settle
from gateway.api.budget import Budget
from gateway.api.census import Census, Entry
from gateway.api.connections import HttpConnections
from gateway.api.errors import ApiError, Errno
from gateway.api.intake import Intake
from gateway.api.nodes import Nodes
from gateway.api.order import Accepted, Order, digest_of
from gateway.api.peers import Peers
from gateway.api.push_body import MAX_KEY
from gateway.api.quota import Quotas
from gateway.api.recalls import Recalling
from gateway.api.refused import Busy, Exceeded, IdempotencyConflict, Refused
from gateway.api.seat import Seat
from gateway.api.shape import Shape
from gateway.audience import Audience, AudienceError, Devices
from gateway.audience_json import from_json
from gateway.config import Config
from gateway.metrics import Counter, Sample, encode_stats, process_samples, queue_samples
from gateway.rpc import RpcError, RpcServer
from gateway.store.apps import App, Apps
from gateway.store.client import Store
from gateway.store.clock import StoreClock
from gateway.store.errors import StoreUnavailable
from gateway.store.leases import Holder, Identity, Roster
from gateway.store.segments import Segments
from protocol.codes import MAX_CONTENT
from protocol.schema import device_pb2, rpc_pb2

BODY_BYTES: Final = 32 * 1024 * 1024
"""Request bodies that are being read, or whose audience is being looked up, over all connections."""


class Backend(NamedTuple):
    """What there is once the store has answered for the first time."""

    store: Store
    clock: StoreClock
    apps: Apps
    seat: Seat
    roster: Roster
    peers: Peers
    intake: Intake
    nodes: Nodes
    census: Census
    segments: Segments
    recalling: Recalling
    quotas: Quotas


class Service:
    """One API process as its routes see it."""

    def __init__(self, config: Config, *, body_bytes: int = BODY_BYTES) -> None:
        self.config = config
        self.backend: Backend | None = None
        self.rpc: RpcServer | None = None
        self.draining = False
        self.bodies = Budget(max(body_bytes, config.api.max_body))
        self.requests = Counter("columba_http_requests_total", "route", "status")
        self.connections = HttpConnections(config.api.connections_max, self.requests.add)
        self.law_broken_total = 0

    def parts(self) -> dict[str, bool]:
        """What readiness is made of, and `dispatch`, which it is not: accepts work without."""
        backend = self.backend
        return {
            "not_draining": not self.draining,
            "store": backend is not None and backend.store.up,
            "lease": backend is not None and backend.seat.current is not None,
            "dispatch": backend is not None and bool(backend.nodes.live()),
        }

    @property
    def ready(self) -> bool:
        return all(good for part, good in self.parts().items() if part != "dispatch")

    async def entries(self) -> list[Entry]:
        """Everybody's numbers; only our own while there is no lease to see others by."""
        entries = await self.backend.census.take() if self.backend is not None else []
        if any(self._is_own(entry.holder) for entry in entries):
            return entries
        nobody = Holder(Identity("api", 0, 0), 0, False, {})
        return [*entries, Entry(nobody, list(self.samples()))]

    def own_samples(self, holder: Holder) -> list[Sample] | None:
        """For the census: ours if the lease is ours."""
        return list(self.samples()) if self._is_own(holder) else None

    def _is_own(self, holder: Holder) -> bool:
        tenure = self.backend.seat.current if self.backend is not None else None
        return tenure is not None and tenure.lease.identity == holder.identity

    def samples(self) -> Iterator[Sample]:
        yield from process_samples()
        yield from self.requests.samples()
        yield "columba_law_broken_total", {}, self.law_broken_total
        yield from queue_samples("http_connections", len(self.connections), self.connections.limit)
        yield from queue_samples("body_bytes", self.bodies.used, self.bodies.limit)
        if self.rpc is not None:
            yield "columba_rpc_requests_total", {}, self.rpc.requests_total
            yield "columba_rpc_refused_total", {}, self.rpc.refused_total
        if self.backend is not None:
            yield from _backend_samples(self.backend)

    # RPC methods.

    def stats(self, _body: bytes) -> bytes:
        """Method.STATS."""
        return encode_stats("api", self.samples())

    def push(self, body: bytes) -> asyncio.Future[bytes] | Coroutine[Any, Any, bytes]:
        """Method.PUSH: columba.rpc.PushRequest -> PushReply.

        RpcError unknown_app, invalid (as it stands, never), conflict (the idempotency key belongs
        to another push), busy (nothing was taken), exceeded (the app may not push that much; nothing
        was taken), unavailable (the push may arrive or not).
        """
        backend = self.backend
        if backend is None:
            raise RpcError("unavailable", "the service is starting")
        try:
            request = rpc_pb2.PushRequest.FromString(body)
            device_pb2.Content.FromString(request.content)
        except DecodeError:
            raise RpcError("invalid", "not a PushRequest with a Content") from None
        app = backend.apps.get(request.app)
        if app is not None and not request.audience:
            order, _ = self._ordered(request, app)
            try:
                future = backend.intake.push_at_once(order, _told)
            except Refused as refused:
                raise _as_rpc_error(refused) from None
            return future or self._push_order(backend, order)
        return self._push(backend, request, len(body))

    async def _push(self, backend: Backend, request: rpc_pb2.PushRequest, size: int) -> bytes:
        """As `push`, where something has to be looked up first."""
        try:
            if not self.bodies.take(size):
                raise Busy
            try:
                app = backend.apps.get(request.app) or await backend.apps.find(request.app)
                if app is None:
                    raise RpcError("unknown_app", "there is no such app")
                order, tree = self._ordered(request, app)
                if tree is not None:
                    order = await self._settled(backend, order, tree)
            finally:
                self.bodies.give(size)
        except (Refused, StoreUnavailable) as error:
            raise _as_rpc_error(error) from None
        del request  # the order has what it needs; the push may wait for long
        return await self._push_order(backend, order)

    async def _push_order(self, backend: Backend, order: Order) -> bytes:
        try:
            return _reply(await backend.intake.push(order))
        except (Refused, StoreUnavailable) as error:
            raise _as_rpc_error(error) from None

    def _ordered(self, request: rpc_pb2.PushRequest, app: App) -> tuple[Order, Audience | None]:
        """(order, tree to be settled). Raises RpcError."""
        tree, devices = _whom(request)
        shape = Shape(request.speed, request.holdout, request.priority, request.collapse_key)
        self._check(request, tree, len(devices), shape)
        digest = ""
        if request.idempotency_key:
            digest = digest_of(
                audience=tree,
                devices=devices,
                malformed=(),
                content=request.content,
                ttl_s=request.ttl_s,
                shape=shape,
            )
        order = Order(
            app,
            b"",
            devices,
            request.content,
            request.ttl_s,
            request.idempotency_key,
            digest,
            options=shape.options(self.config.api.inbox_cap),
        )
        return order, tree

    async def _settled(self, backend: Backend, order: Order, tree: Audience) -> Order:
        limit = self.config.api.max_devices
        try:
            settled = await settle(backend.segments, backend.nodes, order.app, tree, limit)
        except ApiError as error:
            away = error.errno == Errno.DISPATCH_AWAY
            raise RpcError("unavailable" if away else "invalid", error.message) from None
        if settled.unknown_segments:
            named = ", ".join(settled.unknown_segments)
            raise RpcError("invalid", f"no segment of this name is saved: {named}")
        return order._replace(
            audience=encoded(settled.tree),
            unknown_accounts=settled.unknown_accounts,
            partitions=settled.partitions,
        )

    def _check(
        self, request: rpc_pb2.PushRequest, tree: Audience | None, devices: int, shape: Shape
    ) -> None:
        limits = self.config.api
        if not 0 < len(request.content) <= MAX_CONTENT:
            raise RpcError("invalid", f"content has 1 to {MAX_CONTENT} bytes")
        if (tree is not None) == bool(devices) or devices > limits.max_devices:
            raise RpcError("invalid", f"an audience, or 1 to {limits.max_devices} devices")
        if request.ttl_s > limits.max_ttl_s:
            raise RpcError("invalid", f"ttl_s is 0 to {limits.max_ttl_s}")
        if len(request.idempotency_key) > MAX_KEY:
            raise RpcError("invalid", f"idempotency_key has at most {MAX_KEY} characters")
        flaw = shape.flaw(request.ttl_s)
        if flaw is not None:
            raise RpcError("invalid", flaw.text)


def _whom(request: rpc_pb2.PushRequest) -> tuple[Audience | None, list[int]]:
    """(tree, devices listed); a tree that only lists devices is a list. Raises RpcError."""
    devices = list(request.devices)
    if len(devices) > 1:
        devices = list(dict.fromkeys(devices))
    if not request.audience:
        return None, devices
    try:
        tree = from_json(msgspec.json.decode(request.audience))
    except (ValueError, RecursionError, AudienceError) as error:
        raise RpcError("invalid", f"not an audience: {error}") from None
    if isinstance(tree, Devices) and not devices:
        return None, list(tree.ids)
    return tree, devices


def _told(ended: Accepted | Exception) -> bytes:
    if isinstance(ended, Accepted):
        return _reply(ended)
    if isinstance(ended, Refused | StoreUnavailable):
        raise _as_rpc_error(ended)
    raise ended


def _as_rpc_error(error: Refused | StoreUnavailable) -> RpcError:
    match error:
        case Exceeded(excess=excess):
            said = f"beyond {excess.limit}, again after {excess.retry_ms} ms"
            return RpcError("exceeded", f"the app's {excess.quota} quota: {said}")
        case Busy():
            return RpcError("busy", "too many pushes wait for the store")
        case IdempotencyConflict():
            return RpcError("conflict", "another push was made with this idempotency key")
    return RpcError("unavailable", "the store does not answer")


def _reply(accepted: Accepted) -> bytes:
    return rpc_pb2.PushReply(
        push_id=accepted.push_id,
        accepted=accepted.accepted or 0,
        unknown=accepted.unknown,
        unknown_accounts=accepted.unknown_accounts,
    ).SerializeToString()


def _backend_samples(backend: Backend) -> Iterator[Sample]:
    intake, seat = backend.intake, backend.seat
    yield from intake.results.samples()
    yield from intake.seconds.samples()
    yield "columba_fanouts_left_total", {}, intake.fanouts_left_total
    yield "columba_leases_taken_total", {}, seat.taken_total
    yield "columba_store_losses_total", {}, backend.store.losses
    tenure = seat.current
    waiting = 0
    if tenure is not None:
        waiting = tenure.waiting
        # Of the current producers: a new lease begins at zero, which rate() understands.
        both = (tenure.producer, tenure.parts)
        yield "columba_store_calls_total", {}, sum(each.calls_total for each in both)
        yield "columba_store_retries_total", {}, sum(each.retries_total for each in both)
        yield "columba_log_full_total", {"of": "pushes"}, tenure.producer.full_total
        yield "columba_log_full_total", {"of": "parts"}, tenure.parts.full_total
    for quota, count in backend.quotas.refused_total.items():
        yield "columba_app_refused_total", {"quota": quota}, count
    yield from queue_samples("pushes", waiting, seat.pace.waiting)
    yield from queue_samples("push_bytes", intake.waiting.used, intake.waiting.limit)
