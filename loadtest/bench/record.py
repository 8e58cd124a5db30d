"""A result as it is kept in a file."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from loadtest.bench.machine import Machine

Positive = Annotated[int, Meta(ge=1)]


class RecordError(ValueError):
    """The text names the file and what was expected."""


class Sizes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is measured. Results of different sizes are not compared."""

    connect: Positive = 5_000
    """Devices; so are those below, where nothing else is said."""
    fanout: Positive = 10_000
    rounds: Positive = 5
    """Of the fan-out and its floor."""
    idle_s: Annotated[float, Meta(gt=0)] = 5.0
    singles: Positive = 1_000
    single_s: Annotated[float, Meta(gt=0)] = 8.0
    pushes: Positive = 30_000
    """To single devices, for the throughput."""
    broadcast: Positive = 18_000
    """Of one edge; fewer if it has fewer descriptors."""
    broadcasts: Positive = 3
    priority: Positive = 5_000
    priority_s: Annotated[float, Meta(gt=0)] = 8.0
    """Without campaigns, and as long beside them."""
    storm: Positive = 6_000
    storm_edges: Annotated[int, Meta(ge=2)] = 4


class Record(Struct, frozen=True, kw_only=True):
    kind: Literal["columba-bench"] = "columba-bench"
    version: Literal[1] = 1
    machine: Machine
    sizes: Sizes
    seconds: float
    """That all of it took."""
    figures: dict[str, float | None]
    """By the names of loadtest.bench.figures."""
    measured: dict[str, dict[str, Any]]
    """What each measurement told by itself."""
    wrong: list[str]
    """What failed or was lost."""

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def read(path: Path) -> Record:
    """Raises RecordError."""
    try:
        raw = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise RecordError(f"{path}: expected the JSON that bench wrote: {error}") from error
    if not isinstance(raw, dict) or raw.get("kind") != "columba-bench":
        raise RecordError(
            f'{path}: expected a result of bench ("kind": "columba-bench"), as --output writes it'
        )
    if raw.get("version") != 1:
        raise RecordError(
            f"{path}: its shape is version {raw.get('version')}, this one reads version 1: "
            "measure again on that revision with this bench"
        )
    try:
        return msgspec.convert(raw, Record)
    except msgspec.ValidationError as error:
        raise RecordError(f"{path}: not the shape of a result of bench: {error}") from error


def write(path: Path, record: Record) -> None:
    """Raises OSError."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
