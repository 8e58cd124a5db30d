"""A partition at the size that the service is built for, and the records that go on coming in.

Most of it is folded; bitmaps that would take hundreds of millions of receipts are put in as they stand.
"""

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from gateway.dispatch.audiences import DAY_MS
from gateway.dispatch.campaign import CLICKED, DISPLAYED, RECEIVED, Campaign
from gateway.dispatch.partition import MOST_DAYS, Partition
from gateway.dispatch.sampling import sample
from protocol.ids import device_id
from protocol.schema import log_pb2

APP: Final = 1
EDGES: Final = 60
"""Half of the devices are online, spread over these."""
MARKS: Final = {RECEIVED: 0.95, DISPLAYED: 0.4, CLICKED: 0.05}
"""Parts of the devices that have reported each state of each campaign: none of them is finished."""
_ACTIVE: Final = 0.2
"""Part of the devices that is there on a day."""
_BATCH: Final = 500
_START_DAY: Final = 20_000


class Size(NamedTuple):
    devices: int = 1 << 20
    tags: int = 10_000
    """Different names. A device says two of itself, an app server has set a third one."""
    singles: int = 300_000
    campaigns: int = 200
    """To all devices."""
    accounts: int = 100_000

    def scaled(self, share: float) -> "Size":
        return Size(*(max(1, round(number * share)) for number in self))


def fill(partition: Partition, size: Size) -> None:
    """Fold it into a fresh partition: the same each time."""
    rng = random.Random(11)
    ms = _START_DAY * DAY_MS
    for number, record in enumerate(_records(size, rng)):
        # Days go by while devices register, which are the first records.
        day = min(MOST_DAYS - 1, number * 1024 * MOST_DAYS // size.devices)
        partition.fold(f"{ms + day * DAY_MS}-{number}", record.SerializeToString())
    for day in partition.born:
        partition.seen[day] = sample(_ACTIVE, f"day {day}", 0, size.devices)
    for push in partition.pushes.values():
        if isinstance(push, Campaign):
            for mark, share in MARKS.items():
                push.marks[mark] = sample(share, f"{push.push_id} {mark}", 0, size.devices)


def _records(size: Size, rng: random.Random) -> Iterator[log_pb2.Record]:
    for at in range(0, size.devices, 1024):
        up = range(at, min(at + 1024, size.devices))
        edge = at // 1024 % EDGES + 1
        sessions = log_pb2.Sessions(edge=edge, up=up, app=[APP] * len(up), epoch=up, down=up[::2])
        yield log_pb2.Record(sessions=sessions)
    for at in range(0, size.devices, _BATCH):
        indexes = range(at, min(at + _BATCH, size.devices))
        yield log_pb2.Record(profiles=[profile(i, 1, size, rng) for i in indexes])
    bound: dict[str, list[int]] = {}
    for index in range(size.devices):
        bound.setdefault(tag(size, rng), []).append(index)
    for name, tagged in bound.items():
        yield log_pb2.Record(taggings=[log_pb2.Tagging(app=APP, tag=name, index=tagged)])
    yield from _accounts(size)
    yield from _pushes(size)


def _accounts(size: Size) -> Iterator[log_pb2.Record]:
    for at in range(0, size.accounts, _BATCH):
        here = range(at, min(at + _BATCH, size.accounts))
        names = [f"customer-{n:08}" for n in here]
        of = [n * size.devices // size.accounts for n in here]
        yield log_pb2.Record(
            accounts=[
                log_pb2.AccountChange(app=APP, account=name, device=[device_id(0, index)])
                for name, index in zip(names, of, strict=True)
            ],
            holders=[
                log_pb2.Holder(app=APP, account=name, index=[index])
                for name, index in zip(names, of, strict=True)
            ],
        )


def _pushes(size: Size) -> Iterator[log_pb2.Record]:
    for at in range(0, size.singles, _BATCH):
        here = range(at, min(at + _BATCH, size.singles))
        yield log_pb2.Record(
            pushes=[single(push_id(n), _single_to(n, size)) for n in here],
        )
        yield log_pb2.Record(
            receipts=[
                log_pb2.Receipts(push_id=push_id(n), state=DISPLAYED, index=[_single_to(n, size)])
                for n in here
                if n % 20
            ]
        )
    for n in range(size.campaigns):
        yield log_pb2.Record(pushes=[campaign(push_id(size.singles + n))])


def push_id(n: int) -> int:
    return (n + 1) << 11


def _single_to(n: int, size: Size) -> int:
    return n * 7 % size.devices


def tag(size: Size, rng: random.Random) -> str:
    """Some are on every twentieth device, most on a few hundred."""
    return f"segment:{int(size.tags * rng.random() ** 3)}"


def profile(index: int, change: int, size: Size, rng: random.Random) -> log_pb2.Profile:
    tags = {tag(size, rng), tag(size, rng)}
    return log_pb2.Profile(index=index, change=change, tags=sorted(tags))


def single(number: int, index: int) -> log_pb2.Push:
    return log_pb2.Push(push_id=number, app=APP, ttl_s=86_400, index=[index])


def campaign(number: int) -> log_pb2.Push:
    return log_pb2.Push(
        push_id=number, app=APP, ttl_s=86_400, audience=b'"all"', accepted_ms=_START_DAY * DAY_MS
    )


def end_ms() -> int:
    """The time after all that was folded."""
    return (_START_DAY + MOST_DAYS) * DAY_MS


def coming_in(size: Size, count: int) -> list[bytes]:
    """Records as the log brings them: a piece of every kind changes now and then."""
    rng = random.Random(13)
    return [_one(number, size, rng).SerializeToString() for number in range(count)]


def _one(number: int, size: Size, rng: random.Random) -> log_pb2.Record:
    some = sorted({rng.randrange(size.devices) for _ in range(20)})
    record = log_pb2.Record()
    match number % 6:
        case 0:
            edge = rng.randrange(EDGES) + 1
            epochs = [1_000_000 + number] * len(some)
            record.sessions.MergeFrom(
                log_pb2.Sessions(
                    edge=edge, up=some, app=[APP] * len(some), epoch=epochs, down=some[::2]
                )
            )
        case 1:
            to = push_id(size.singles + rng.randrange(size.campaigns))
            record.receipts.add(push_id=to, state=DISPLAYED, index=some)
        case 2:
            record.profiles.extend([profile(i, 2 + number, size, rng) for i in some])
        case 3:
            for _ in range(20):
                n = rng.randrange(size.singles)
                record.receipts.add(push_id=push_id(n), state=CLICKED, index=[_single_to(n, size)])
        case 4:
            record.taggings.add(app=APP, tag=tag(size, rng), index=some)
            record.holders.add(app=APP, account="customer-00000001", index=some[:1])
        case 5:
            after = push_id(size.singles + size.campaigns + number)
            record.pushes.extend([single(after + n, index) for n, index in enumerate(some)])
    return record
