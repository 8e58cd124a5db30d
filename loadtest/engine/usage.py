"""CPU and memory of the service's and the fleets' processes, by role, once a sample."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from loadtest.process_usage import cpu_ns, resident
from loadtest.service import Service

MIB: Final = 1 << 20


def by_role(pids: Mapping[str, Any]) -> dict[str, list[int]]:
    """Of a ready line or of pids.json: lists of numbers, without what does not run."""
    roles = {}
    for role, said in pids.items():
        numbers = said if isinstance(said, list) else [said]
        running = [number for number in numbers if isinstance(number, int)]
        if running:
            roles[role] = running
    return roles


class Usage:
    """Differences of CPU are kept by process, so that one that is new or gone bends no curve."""

    def __init__(self, service: Service, fleets: Iterable[int]) -> None:
        self._service = service
        self._fleets = list(fleets)
        self._cpu: dict[int, int] = {}
        self._at = time.monotonic()
        self._roles = by_role(service.pids)

    def sample(self) -> dict[str, float | None]:
        """`cpu_ROLE` in cores since the last call, `rss_ROLE_mb` now, and both for `fleet`."""
        now = time.monotonic()
        seconds, self._at = max(1e-3, now - self._at), now
        if self._service.pids_file is not None:
            self._roles = self._kept_up_to_date()
        values: dict[str, float | None] = {}
        cpu: dict[int, int] = {}
        for role, pids in {**self._roles, "fleet": self._fleets}.items():
            used, size = 0, 0
            for pid in pids:
                try:
                    cpu[pid] = cpu_ns(pid)
                    size += resident(pid)
                except OSError:
                    continue  # gone between two samples
                used += cpu[pid] - self._cpu.get(pid, cpu[pid])
            values[f"cpu_{role}"] = used / 1e9 / seconds
            values[f"rss_{role}_mb"] = size / MIB
        self._cpu = cpu
        return values

    def edge_pids(self) -> list[int]:
        return self._roles.get("edges", [])

    def _kept_up_to_date(self) -> dict[str, list[int]]:
        assert self._service.pids_file is not None
        try:
            return by_role(json.loads(self._service.pids_file.read_bytes()))
        except (OSError, ValueError):
            return self._roles  # not written yet, or just being replaced
