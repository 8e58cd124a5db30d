"""Log records as the store functions write them, positions, and what a partition knows, comparable."""

from collections.abc import Iterable, Iterator
from typing import Any

from gateway.dispatch.blocks import Blocks
from gateway.dispatch.campaign import Campaign, Push, Single, Tally
from gateway.dispatch.effects import Effects
from gateway.dispatch.partition import Partition
from gateway.dispatch.pieces import Frozen
from protocol.schema import log_pb2

START_MS = 1_000_000


def app_of(index: int) -> int:
    """The app of a device in these tests: 1 or 2."""
    return index % 2 + 1


def sessions(
    edge: int,
    up: Iterable[int] = (),
    down: Iterable[int] = (),
    epoch: int = 1,
    *,
    app: int | None = None,
) -> bytes:
    ups = list(up)
    return log_pb2.Record(
        sessions=log_pb2.Sessions(
            edge=edge,
            up=ups,
            app=[app or app_of(i) for i in ups],
            epoch=range(epoch, epoch + len(ups)),
            down=down,
        )
    ).SerializeToString()


def push(  # the fields of a push record
    push_id: int,
    indexes: Iterable[int] = (),
    *,
    app: int = 1,
    ttl_s: int = 60,
    everybody: bool = False,
    audience: bytes = b"",
    accepted_ms: int = 0,
    content: bytes = b"",
    holdout: float = 0.0,
    speed: int = 0,
    priority: int = 0,
    collapse_key: str = "",
    inbox_cap: int = 0,
) -> bytes:
    record = log_pb2.Push(
        push_id=push_id,
        app=app,
        ttl_s=ttl_s,
        audience=b'"all"' if everybody else audience,
        accepted_ms=accepted_ms,
        content=content,
        index=indexes,
        holdout=holdout,
        speed=speed,
        priority=priority,  # type: ignore[arg-type]
        collapse_key=collapse_key,
        inbox_cap=inbox_cap,
    )
    return log_pb2.Record(pushes=[record]).SerializeToString()


def receipts(push_id: int, state: int, indexes: Iterable[int]) -> bytes:
    group = log_pb2.Receipts(push_id=push_id, state=state, index=indexes)
    return log_pb2.Record(receipts=[group]).SerializeToString()


def profile(index: int, change: int, tags: Iterable[str]) -> bytes:
    row = log_pb2.Profile(index=index, change=change, tags=tags)
    return log_pb2.Record(profiles=[row]).SerializeToString()


def tagging(tag: str, indexes: Iterable[int], *, app: int = 1, remove: bool = False) -> bytes:
    row = log_pb2.Tagging(app=app, tag=tag, remove=remove, index=indexes)
    return log_pb2.Record(taggings=[row]).SerializeToString()


def control(
    push_id: int, action: "log_pb2.Action", *, app: int = 1, until_ms: int = 9_000_000
) -> bytes:
    row = log_pb2.Control(push_id=push_id, app=app, action=action, until_ms=until_ms)
    return log_pb2.Record(controls=[row]).SerializeToString()


Pairs = Iterable[tuple[int, int]]
"""(device, or its index; binding)"""


def account(name: str, bound: Pairs, *, app: int = 1, remove: bool = False) -> bytes:
    rows = list(bound)
    change = log_pb2.AccountChange(
        app=app,
        account=name,
        remove=remove,
        device=[device for device, _ in rows],
        binding=[binding for _, binding in rows],
    )
    return log_pb2.Record(accounts=[change]).SerializeToString()


def holder(name: str, bound: Pairs, *, app: int = 1, was: str = "") -> bytes:
    rows = list(bound)
    row = log_pb2.Holder(
        app=app,
        account=name,
        was=was,
        index=[index for index, _ in rows],
        binding=[binding for _, binding in rows],
    )
    return log_pb2.Record(holders=[row]).SerializeToString()


def edge_down(edge: int, start: int = 1) -> bytes:
    return log_pb2.Record(edges_down=[log_pb2.EdgeDown(edge=edge, start=start)]).SerializeToString()


def due(
    expired: Iterable[int] = (), shrunk: Iterable[int] = (), forgotten: Iterable[int] = ()
) -> bytes:
    return log_pb2.Record(
        due=log_pb2.Due(expired=expired, shrunk=shrunk, forgotten=forgotten)
    ).SerializeToString()


class Log:
    """Numbers records and folds them, a millisecond each."""

    def __init__(self, partition: Partition | None = None) -> None:
        self.partition = partition or Partition(0)
        self.entries: list[tuple[str, bytes]] = []

    def fold(self, *records: bytes) -> Effects:
        effects = Effects()
        for record in records:
            position = f"{START_MS + len(self.entries)}-0"
            self.entries.append((position, record))
            effects = self.partition.fold(position, record)
        return effects


def written(frozen: Frozen) -> dict[str, bytes]:
    """The pieces that are left to be written, in one go."""
    return {name: blob for name, blob in frozen.pieces() if blob is not None}


def _rows(blocks: Blocks[Any]) -> Iterator[tuple[int, Any]]:
    return (row for block in blocks for row in blocks.rows_of(block).items())


def known(partition: Partition) -> dict[str, Any]:
    """Everything the partition knows, without what is empty."""
    return {
        "position": partition.position,
        "order": partition.order,
        "apps": {app: list(d) for app, d in partition.apps.items() if d},
        "location": {i: edge for i, edge in enumerate(partition.location) if edge},
        "online": {edge: list(d) for edge, d in partition.online.items() if d},
        "tags": {name: list(d) for name, d in partition.tags.own.items() if d},
        "bound": {name: list(d) for name, d in partition.tags.bound.items() if d},
        "bound_of": {i: sorted(names) for i, names in _rows(partition.tags.bound_of)},
        "seen": {day: list(d) for day, d in partition.seen.items() if d},
        "born": {day: list(d) for day, d in partition.born.items() if d},
        "profiles": dict(_rows(partition.tags.profiles)),
        "accounts": {k: d for rows in partition.accounts.lists.values() for k, d in rows.items()},
        "holders": {i: k for rows in partition.accounts.holders.values() for i, k in rows.items()},
        "paused": sorted(partition.controls.paused),
        "early": dict(partition.controls.early),
        "pushes": {i: _push(p) for i, p in partition.pushes.items()},
        "campaigns": list(partition.campaigns),
        "inbox": {i: [p.push_id for p in partition.inbox.of(i)] for i in partition.inbox},
        "bytes": partition.estimated_bytes(),
    }


def _push(push: Push) -> tuple[Any, ...]:
    row = (type(push), push.app, push.ttl_s, push.accepted_ms, push.order)
    match push:
        case Single():
            return (*row, push.index, push.marks, push.priority, push.collapse_key)
        case Campaign():
            marks = {mark: list(d) for mark, d in push.marks.items() if d}
            where = (push.home, push.in_record, push.speed, push.priority, push.collapse_key)
            return (*row, *where, list(push.targeted), list(push.held_out), marks)
        case Tally():
            return (*row, dict(push.counts()))
