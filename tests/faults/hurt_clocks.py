"""Clocks that are minutes off."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import which
from typing import Final

from tests.faults.deployment import EDGES, NODES
from tests.faults.field import Field, scenario
from tests.faults.plan import CannotHere

_OFF_S: Final = 300


async def _restart(field: Field, name: str, before: Sequence[str] = ()) -> None:
    """As an operator would, with something in front of its command line."""
    role = field.deployment.roles[name]
    await asyncio.to_thread(role.stop)
    await role.start(before)


@scenario()
async def wrong_clock(field: Field) -> None:
    """The wall clocks of an edge, a node and the API are five minutes off, either way."""
    names = [field.chance.choice(EDGES), field.chance.choice(NODES), "api"]
    roles = field.deployment.roles
    right = {name: roles[name].command for name in names}
    for name in names:
        off = field.chance.choice((-_OFF_S, _OFF_S))
        # python -m gateway.cli ROLE … -> python -m tests.faults.wrong_clock OFF ROLE …
        assert right[name][1:3] == ["-m", "gateway.cli"]
        start = [sys.executable, "-m", "tests.faults.wrong_clock", str(off)]
        roles[name].command = [*start, *right[name][3:]]
        await _restart(field, name)
    await field.last()
    for name in names:
        roles[name].command = right[name]
        await _restart(field, name)


@scenario()
async def wrong_monotonic_clock(field: Field) -> None:
    """The monotonic clocks of an edge and a node are five minutes ahead of the others': it counts
    from the start of a machine, so those of two machines never agree."""
    names = [field.chance.choice(EDGES), field.chance.choice(NODES)]
    shift = ["unshare", "--time", f"--monotonic={_OFF_S}", f"--boottime={_OFF_S}", "--"]
    if which("unshare") is None:
        raise CannotHere("there is no unshare(1)")
    trial = await asyncio.create_subprocess_exec(*shift, "true")
    if await trial.wait():
        raise CannotHere("time namespaces are not allowed here")
    for name in names:
        await _restart(field, name, shift)
        offsets = Path(f"/proc/{field.deployment.roles[name].pid}/timens_offsets").read_text()
        assert str(_OFF_S) in offsets.split(), offsets
    await field.last()
    for name in names:
        await _restart(field, name)
