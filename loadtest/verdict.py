"""Lost, duplicate, stray: what the devices' own records say against what the API accepted. Pure."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    lost: int
    """(push, device) that was accepted and never shown."""
    duplicates: int
    """Shown again on the same device, or under an id the API never gave out: the same request
    delivered as two pushes looks like that."""
    strays: int
    """Shown on a device that was not among those the push was for."""

    @property
    def clean(self) -> bool:
        return self.lost == self.duplicates == self.strays == 0


def judge(accepted: Mapping[int, AbstractSet[int]], shown: Mapping[int, Iterable[int]]) -> Verdict:
    """`accepted`: push id -> devices it is for. `shown`: push id -> devices, each as often as shown."""
    lost = duplicates = strays = 0
    for push_id, devices in shown.items():
        times = list(devices)
        if push_id not in accepted:
            duplicates += len(times)
            continue
        once = set(times)
        duplicates += len(times) - len(once)
        strays += len(once - accepted[push_id])
    for push_id, wanted in accepted.items():
        lost += len(wanted - set(shown.get(push_id, ())))
    return Verdict(lost, duplicates, strays)
