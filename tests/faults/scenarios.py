"""All scenarios: importing the modules puts theirs on the list."""

from tests.faults import hurt_clocks, hurt_devices, hurt_disks, hurt_network, hurt_processes
from tests.faults.field import SCENARIOS, Field, Scenario

__all__ = [
    "SCENARIOS",
    "Field",
    "Scenario",
    "hurt_clocks",
    "hurt_devices",
    "hurt_disks",
    "hurt_network",
    "hurt_processes",
]
