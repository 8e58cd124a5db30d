"""`python -m tests.faults`: hurt a real deployment and check that nothing was lost or shown twice.

One JSON line a scenario; exit code 1 if one was not ok. The seed is part of the line: with the same seed
the same is done in the same order, though never at the same microsecond.
"""

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import uvloop

from tests.faults.plan import FEATURES, Size
from tests.faults.run import Result, Tell, run_scenario
from tests.faults.scenarios import SCENARIOS

_KEEP = Path(tempfile.gettempdir()) / "columba-faults-kept"


def main() -> int:
    arguments = _arguments()
    size = Size(
        devices=arguments.devices,
        during_s=arguments.during,
        freeze_s=arguments.freeze,
        pushes_per_s=arguments.rate,
        settle_s=arguments.settle,
        features=frozenset(filter(None, arguments.features.split(","))),
        product_times=arguments.product_times,
    )
    if unknown := size.features - set(FEATURES):
        _fail(f"unknown features: {', '.join(sorted(unknown))}")
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    ok = True
    for name, nth in _turns(arguments.scenario or list(SCENARIOS), arguments.minutes):
        result = _run(name, seed + nth, size, arguments.keep)
        ok = ok and result.get("ok", True)
        print(json.dumps(result), flush=True)
    return 0 if ok else 1


def _run(name: str, seed: int, size: Size, keep: Path) -> Result:
    try:
        return uvloop.run(run_scenario(name, seed, size, _teller(name), keep))
    # A check within the harness, or a defect of it: told as a result, and the next one goes on.
    except Exception:
        return {"scenario": name, "seed": seed, "ok": False, "error": traceback.format_exc()}


def _turns(names: list[str], minutes: float) -> Iterator[tuple[str, int]]:
    """(scenario, round): all of them once, and again until the time is up."""
    deadline = time.monotonic() + minutes * 60
    nth = 0
    while nth == 0 or time.monotonic() < deadline:
        for name in names:
            if nth == 0 or time.monotonic() < deadline:
                yield name, nth
        nth += 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="repeatable")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float, default=0.0, help="begin again for so long")
    parser.add_argument("--devices", type=int, default=Size().devices)
    parser.add_argument("--rate", type=float, default=Size().pushes_per_s, help="pushes a second")
    parser.add_argument(
        "--during", type=float, default=Size().during_s, help="s that a fault lasts"
    )
    parser.add_argument("--freeze", type=float, default=Size().freeze_s, help="s of a standstill")
    parser.add_argument("--settle", type=float, default=Size().settle_s, help="s to arrive in")
    parser.add_argument(
        "--features",
        default=",".join(FEATURES),
        help="what the traffic uses (default: %(default)s)",
    )
    parser.add_argument(
        "--product-times", action="store_true", help="leases and delays as they are by default"
    )
    parser.add_argument("--keep", type=Path, default=_KEEP, help="logs of what was not ok")
    return parser.parse_args()


def _teller(name: str) -> Tell:
    began = time.monotonic()

    def tell(stage: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s {name}: {stage}", file=sys.stderr, flush=True)

    return tell


def _fail(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
