"""The store's functions, one Lua file each; the keys they touch are named on top of each."""

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

_HERE: Final = Path(__file__).parent
_INCLUDE: Final = re.compile(r"^--!include (\w+)$", re.MULTILINE)


class Script(NamedTuple):
    """A Lua function and the SHA-1 by which EVALSHA knows it."""

    name: str
    source: bytes
    sha: bytes


@cache
def script(name: str) -> Script:
    """The script `name`.lua with its includes put in."""
    text = _INCLUDE.sub(lambda m: _read(m[1]), _read(name))
    source = text.encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


def _read(name: str) -> str:
    return (_HERE / f"{name}.lua").read_text()
