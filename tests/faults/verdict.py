"""What the devices' journals say against what was accepted. Pure.

"Shown" is what the journals call begun: handed to the app for the first time.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tests.faults.door import Copies, Copy
from tests.faults.told import Pushed, Told

_EXAMPLES: Final = 12
UNDER_WAY_S: Final = 1.0
"""For so long what had left the edge when a recall was acknowledged may still be in the network or in a
device; longer only where a scenario slows that down."""


class Showing(NamedTuple):
    """One line of a device's journal."""

    push_id: int
    at: float
    """Monotonic seconds of the machine."""


Journals = Mapping[int, Sequence[Showing]]
"""Device id -> what it showed, in its order."""


@dataclass(slots=True)
class Verdict:
    """Counts of (push, device)."""

    targeted: int = 0
    shown: int = 0
    lost: int = 0
    """Accepted, and never shown."""
    duplicates: int = 0
    """Shown once more; or a push that was made twice of one request."""
    strays: int = 0
    """Shown to a device that it was not for."""
    out_of_order: int = 0
    """Shown behind a push of the same priority that was accepted later."""
    recalled: int = 0
    """Of the shown ones: for the first time after the recall was acknowledged, however soon."""
    recalled_and_shown: int = 0
    """Such a one of which a copy left its edge after that; or well after it, and no copy was seen."""
    recalled_on_their_way: int = 0
    """Such a one, well after that, of which all copies had left their edge before."""
    recalled_and_sent: int = 0
    """Copies that left their edge after the recall was acknowledged, shown or not."""
    replaced_and_shown: int = 0
    """Shown behind a later one of the same collapse key."""
    examples: list[str] = field(default_factory=list)
    losers: set[int] = field(default_factory=set)
    """Devices that something was lost for."""

    @property
    def wrong(self) -> dict[str, int]:
        """What must be 0, and is not."""
        counts = {
            "lost": self.lost,
            "duplicates": self.duplicates,
            "strays": self.strays,
            "out_of_order": self.out_of_order,
            "recalled_and_shown": self.recalled_and_shown,
            "recalled_on_their_way": self.recalled_on_their_way,
            "recalled_and_sent": self.recalled_and_sent,
            "replaced_and_shown": self.replaced_and_shown,
        }
        return {name: count for name, count in counts.items() if count}

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "losers": sorted(self.losers)}

    def note(self, what: str, push_id: int, device: int, more: str = "") -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{what}: push {push_id} device {device} {more}".strip())


def judge(
    told: Told,
    journals: Journals,
    collapsing: Container[int] = (),
    copies: Copies = MappingProxyType({}),
) -> Verdict:
    """Everything there is to say of these journals.

    `copies`: what the door has seen of each push on its way to each device.
    `collapsing`: devices that keep what was replaced from the app. The service drops only what it has
    not sent yet, so others may be shown an older one behind a newer one.
    """
    verdict = Verdict(targeted=sum(len(pushed.devices) for pushed in told.pushes.values()))
    for device, lines in journals.items():
        verdict.shown += len(lines)
        first = _judge_device(verdict, told, device, lines)
        _judge_recalled(verdict, told.pushes, device, first, copies)
        _judge_order(verdict, told.pushes, device, first)
        if device in collapsing:
            _judge_collapse(verdict, told.pushes, device, first)
    for (push_id, _), sent in copies.items():
        if push_id in told.pushes:
            verdict.recalled_and_sent += _left_late(told.pushes[push_id], sent)
    _judge_untold(verdict, told, journals)
    _judge_lost(verdict, told, journals)
    return verdict


def _judge_device(
    verdict: Verdict, told: Told, device: int, lines: Sequence[Showing]
) -> list[Showing]:
    """Each showing for itself; returns the first ones of each push."""
    had: set[int] = set()
    first: list[Showing] = []
    for line in lines:
        push_id = line.push_id
        if push_id in had:
            verdict.duplicates += 1
            verdict.note("shown twice", push_id, device)
            continue
        had.add(push_id)
        first.append(line)
        pushed = told.pushes.get(push_id)
        devices = pushed.devices if pushed is not None else told.doubtful.get(push_id)
        if devices is not None and device not in devices:
            verdict.strays += 1
            verdict.note("not for this device", push_id, device)
    return first


def _judge_recalled(
    verdict: Verdict,
    pushes: Mapping[int, Pushed],
    device: int,
    first: Iterable[Showing],
    copies: Copies,
) -> None:
    """What was shown for the first time after the recall of it was acknowledged."""
    for line in first:
        pushed = pushes.get(line.push_id)
        if pushed is None or pushed.recalled_at is None or line.at <= pushed.recalled_at:
            continue
        verdict.recalled += 1
        late_s = line.at - pushed.recalled_at
        sent = copies.get((line.push_id, device), ())
        if _left_late(pushed, sent) or (not sent and late_s > UNDER_WAY_S):
            verdict.recalled_and_shown += 1
            what = "recalled and shown" if sent else "recalled and shown, no copy seen"
            verdict.note(what, line.push_id, device, f"{late_s:.3f} s later")
        elif late_s > UNDER_WAY_S:
            verdict.recalled_on_their_way += 1
            # A few: they may be many, and mostly excused.
            if verdict.recalled_on_their_way <= _EXAMPLES // 4:
                verdict.note("recalled on its way", line.push_id, device, f"{late_s:.3f} s later")


def _left_late(pushed: Pushed, sent: Iterable[Copy]) -> int:
    """Copies that left their edge after the recall was acknowledged."""
    return sum(pushed.mark is not None and not pushed.mark.holds(copy) for copy in sent)


def _judge_order(
    verdict: Verdict, pushes: Mapping[int, Pushed], device: int, lines: Iterable[Showing]
) -> None:
    """Showings behind one whose request began after this one's was answered."""
    latest: dict[str, tuple[Pushed, Showing]] = {}
    for line in lines:
        pushed = pushes.get(line.push_id)
        if pushed is None or not pushed.ordered:
            continue
        before, shown = latest.get(pushed.priority, (None, None))
        if before is not None and shown is not None and pushed.answered_at < before.asked_at:
            verdict.out_of_order += 1
            times = f"{_times(pushed, line)}, behind {before.push_id}: {_times(before, shown)}"
            verdict.note("out of order", line.push_id, device, times)
        if before is None or pushed.asked_at > before.asked_at:
            latest[pushed.priority] = pushed, line


def _times(pushed: Pushed, line: Showing) -> str:
    return f"asked {pushed.asked_at:.3f}, answered {pushed.answered_at:.3f}, shown {line.at:.3f}"


def _judge_collapse(
    verdict: Verdict, pushes: Mapping[int, Pushed], device: int, lines: Iterable[Showing]
) -> None:
    greatest: dict[str, int] = {}
    for line in lines:
        pushed = pushes.get(line.push_id)
        if pushed is None or not pushed.collapse_key:
            continue
        key = pushed.collapse_key
        if line.push_id < greatest.get(key, 0):
            verdict.replaced_and_shown += 1
            verdict.note("replaced and shown", line.push_id, device, f"behind {greatest[key]}")
        greatest[key] = max(greatest.get(key, 0), line.push_id)


def _judge_untold(verdict: Verdict, told: Told, journals: Journals) -> None:
    """Pushes of which nobody was told: as many as requests in doubt explain, and for their devices."""
    where: dict[int, set[int]] = defaultdict(set)
    for device, lines in journals.items():
        for line in lines:
            if line.push_id not in told.pushes and line.push_id not in told.doubtful:
                where[line.push_id].add(device)
    made_of: dict[int, int] = {}
    for push_id, devices in where.items():
        if not _match(push_id, where, told.in_doubt, made_of, set()):
            verdict.duplicates += 1
            verdict.note(
                "made of no request", push_id, min(devices), f"and {len(devices) - 1} more"
            )


def _match(
    push_id: int,
    where: Mapping[int, set[int]],
    in_doubt: Sequence[frozenset[int]],
    made_of: dict[int, int],
    tried: set[int],
) -> bool:
    """Give the push a request of its own, moving others if need be (bipartite matching, Kuhn 1955)."""
    for request, devices in enumerate(in_doubt):
        if request in tried or not where[push_id] <= devices:
            continue
        tried.add(request)
        other = made_of.get(request)
        if other is None or _match(other, where, in_doubt, made_of, tried):
            made_of[request] = push_id
            return True
    return False


def _judge_lost(verdict: Verdict, told: Told, journals: Journals) -> None:
    seen = {device: {line.push_id for line in lines} for device, lines in journals.items()}
    last = _last_of_key(told.pushes.values())
    for pushed in told.pushes.values():
        if not pushed.must_arrive or _maybe_replaced_in_doubt(pushed, told):
            continue
        for device in pushed.devices:
            if pushed.push_id in seen.get(device, ()):
                continue
            if pushed.collapse_key and last[pushed.collapse_key, device] > pushed.push_id:
                continue
            verdict.lost += 1
            verdict.losers.add(device)
            verdict.note("lost", pushed.push_id, device, f"asked at {pushed.asked_at:.3f}")


def _last_of_key(pushes: Iterable[Pushed]) -> dict[tuple[str, int], int]:
    """(collapse key, device) -> greatest push id: the one that replaces the others."""
    last: dict[tuple[str, int], int] = {}
    for pushed in pushes:
        if pushed.collapse_key:
            for device in pushed.devices:
                key = (pushed.collapse_key, device)
                last[key] = max(last.get(key, 0), pushed.push_id)
    return last


def _maybe_replaced_in_doubt(pushed: Pushed, told: Told) -> bool:
    """A request in doubt may have been one of the same collapse key: which is not kept."""
    return bool(pushed.collapse_key and (told.in_doubt or told.doubtful))
