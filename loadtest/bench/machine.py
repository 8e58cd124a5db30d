"""What a result was measured on: absolute figures mean little on another machine."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from msgspec import Struct

_ROOT: Final = Path(__file__).parents[2]
_GIT_S: Final = 5.0


class Machine(Struct, frozen=True, kw_only=True):
    cores: int
    """That this process may use."""
    model: str
    """Of the processor; empty where the kernel does not tell."""
    memory_gib: float
    kernel: str
    python: str
    uvloop: str
    """Empty where it is not installed."""
    load: float
    """Average of the last minute, before the first measurement: much of it spoils the rest."""
    date: str
    """UTC."""
    revision: str | None
    """Of the checkout this runs from, with `+` behind it if files differ from it; None without one."""

    @property
    def busy(self) -> bool:
        """With other work, when the measuring began."""
        return self.load > self.cores / 2

    def alike(self, other: "Machine") -> bool:
        """As far as absolute figures are concerned."""
        return (self.cores, self.model) == (other.cores, other.model)


def this_machine() -> Machine:
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        model=_model(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        uvloop=_version("uvloop"),
        load=round(os.getloadavg()[0], 2),
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        revision=_revision(),
    )


def _model() -> str:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model"):
                return value.strip()
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _revision() -> str | None:
    # Installed as a package, the folder above may lie in somebody else's checkout.
    if not (_ROOT / ".git").exists():
        return None
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None  # no git here, or no commit yet


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_S)
    return done.stdout.strip()
