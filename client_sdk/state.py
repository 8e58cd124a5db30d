"""What an installation is: its identity, token, counters and settings, in one file of JSON."""

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from client_sdk import disk
from client_sdk.heartbeat import Networks, Probing
from client_sdk.reconnect import Backoff
from protocol.codes import (
    INSTALLATION_ID_BYTES,
    MAX_BODY_UP,
    MAX_TAG_BYTES,
    MAX_TAGS,
    MAX_TEXT_BYTES,
)
from protocol.schema import device_pb2

FORMAT: Final = 1
T = TypeVar("T")


def check_tags(tags: Iterable[str]) -> None:
    """Each for itself. Raises ValueError."""
    for tag in tags:
        try:
            size = len(tag.encode())
        except UnicodeEncodeError:  # half of a surrogate pair
            raise ValueError(f"{tag!r}: a tag is text that UTF-8 can hold") from None
        if not 0 < size <= MAX_TAG_BYTES:
            raise ValueError(f"{tag!r}: a tag has 1 to {MAX_TAG_BYTES} bytes")


@dataclass(slots=True)
class Profile:
    """What the device says of itself, always whole. `change` 0: nothing was ever said."""

    change: int = 0
    tags: list[str] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    acknowledged: bool = True

    def check(self) -> None:
        """Raises ValueError for what the service would refuse."""
        if len(self.tags) > MAX_TAGS:
            raise ValueError(f"{len(self.tags)} tags, at most {MAX_TAGS} are allowed")
        check_tags(self.tags)
        for name, text in self.attributes.items():
            if not name or max(len(name.encode()), len(text.encode())) > MAX_TEXT_BYTES:
                raise ValueError(f"{name!r}: an attribute has up to {MAX_TEXT_BYTES} bytes")
        if (size := self.to_wire().ByteSize()) > MAX_BODY_UP:
            raise ValueError(f"a profile of {size} bytes, at most {MAX_BODY_UP} are allowed")

    def to_wire(self) -> device_pb2.Profile:
        return device_pb2.Profile(change=self.change, tags=self.tags, attributes=self.attributes)


@dataclass(slots=True)
class Installation:
    """Everything of an installation but its journal."""

    app: str
    installation_id: bytes
    device_id: int | None = None
    token: bytes = b""
    """Empty: to be registered."""
    connection: int = 0
    """Connections this device has counted; the service refuses a lower one than it has seen."""
    config_version: int = 0
    config: dict[str, str] = field(default_factory=dict)
    profile: Profile = field(default_factory=Profile)
    networks: Networks = field(default_factory=lambda: Networks([]))
    probing: Probing = field(default_factory=Probing)
    backoff: Backoff = field(default_factory=Backoff)
    clock_offset_ms: int = 0
    """Server time less device time, as last seen."""

    def to_json(self) -> bytes:
        value = {
            "format": FORMAT,
            "app": self.app,
            "installation_id": self.installation_id.hex(),
            "device_id": self.device_id,
            "token": b64encode(self.token).decode(),
            "connection": self.connection,
            "config_version": self.config_version,
            "config": self.config,
            "profile": asdict(self.profile),
            "networks": self.networks.to_json(),
            "probing": asdict(self.probing),
            "backoff": asdict(self.backoff),
            "clock_offset_ms": self.clock_offset_ms,
        }
        return json.dumps(value, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises ValueError for anything `to_json` does not write."""
        try:
            return cls._read(json.loads(data))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a state file: {error!r}") from error

    @classmethod
    def _read(cls, value: dict[str, Any]) -> Self:
        if value["format"] != FORMAT:
            raise ValueError(f"a state file of format {value['format']!r}")
        this = cls(
            app=_of(str, value["app"]),
            installation_id=bytes.fromhex(value["installation_id"]),
            device_id=None if value["device_id"] is None else _count(value["device_id"]),
            token=b64decode(value["token"], validate=True),
            connection=_count(value["connection"]),
            config_version=_count(value["config_version"]),
            config=_texts(value["config"]),
            profile=Profile(**value["profile"]),
            networks=Networks.from_json(value["networks"]),
            probing=Probing(**value["probing"]),
            backoff=Backoff(**value["backoff"]),
            clock_offset_ms=_of(int, value["clock_offset_ms"]),
        )
        if len(this.installation_id) != INSTALLATION_ID_BYTES:
            raise ValueError("an installation id of another length")
        _count(this.profile.change)
        _of(bool, this.profile.acknowledged)
        _texts(this.profile.attributes)
        for tag in _of(list, this.profile.tags):
            _of(str, tag)
        for number in (*asdict(this.probing).values(), *asdict(this.backoff).values()):
            if isinstance(number, bool) or not isinstance(number, int | float) or number <= 0:
                raise ValueError(f"{number!r} where a positive number belongs")
        return this


def _of(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise ValueError(f"{value!r} is not of type {kind.__name__}")
    return value


def _count(value: Any) -> int:
    if not 0 <= _of(int, value) < 1 << 64:
        raise ValueError(f"{value} is out of range")
    return int(value)


def _texts(value: Any) -> dict[str, str]:
    for key, text in _of(dict, value).items():
        _of(str, key)
        _of(str, text)
    return dict(value)


class StateFile:
    """The file of an `Installation`. Blocking; raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, app: str) -> tuple[Installation, Path | None]:
        """The installation of this directory, made and stored if there is none yet.

        It is on disk before it is used: when the answer to a first registration is lost, the next
        one must show the same installation id, or the service would keep a ghost of this device.
        A file that cannot be read is moved aside, to the second result.
        """
        aside = None
        try:
            return Installation.from_json(self._path.read_bytes()), None
        except FileNotFoundError:
            pass
        except ValueError:
            aside = disk.set_aside(self._path)
        fresh = Installation(app, os.urandom(INSTALLATION_ID_BYTES))
        self.save(fresh.to_json())
        return fresh, aside

    def save(self, data: bytes) -> None:
        """`data` of `Installation.to_json` replaces the file."""
        disk.replace(self._path, data)
