"""Fan-outs that an API process left half done: any partition's owner completes those at home there."""

from collections.abc import Sequence

import structlog

from gateway.store import pushes as store_pushes
from gateway.store.client import Store
from gateway.store.log import Producer
from gateway.store.pushes import PushPart
from protocol.schema import log_pb2

_log = structlog.get_logger("columba.dispatch")


async def complete_overdue(
    store: Store, producer: Producer[PushPart, bytes], home: int, before_ms: int
) -> int:
    """Finish fan-outs accepted before `before_ms`; returns how many. Folding by id makes repeats harmless."""
    done = 0
    for push_id in await store_pushes.overdue_fanouts(store, home, before_ms):
        found = await store_pushes.read_record(store, home, push_id)
        if found is None:
            # Expired before it reached everybody: nobody can get it any more.
            await store_pushes.fanout_done(store, home, push_id, [])
            continue
        record, accepted_ms = found
        partitions = list(record.targets)
        for p, part in parts_of(record, accepted_ms, home):
            await producer.submit(p, part, len(part.push) + len(part.indexes))
        await store_pushes.fanout_done(store, home, push_id, partitions)
        _log.info("fan-out completed", push_id=str(push_id), partitions=len(partitions))
        done += 1
    return done


def parts_of(
    record: store_pushes.PushRecord, accepted_ms: int, home: int
) -> Sequence[tuple[int, PushPart]]:
    """(partition, what its log gets) for each partition of a push record."""
    push = log_pb2.Push(
        push_id=record.push_id,
        app=record.app,
        ttl_s=record.ttl_s,
        everybody=record.everybody,
        accepted_ms=accepted_ms,
        home=home,
    ).SerializeToString()
    return [
        (p, PushPart(record.push_id, record.app, push, indexes, b""))
        for p, indexes in record.targets.items()
    ]
