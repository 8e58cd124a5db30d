"""The deployment's secrets: in `secrets.json` of the data directory (0600), or the environment.

    {"master_keys": {"1": "<base64>"}, "current": 1, "rpc_secret": "<base64>"}

Master keys seal device tokens; ids 1..255 stand in the tokens, so old ones stay until the tokens
made with them have aged out. No error here carries a value.
"""

import base64
import json
import os
import secrets as random_source
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway import datadir

FILE: Final = "secrets.json"
MASTER_KEYS_VARIABLE: Final = "COLUMBA_MASTER_KEYS"
RPC_SECRET_VARIABLE: Final = "COLUMBA_RPC_SECRET"
KEY_BYTES: Final = 32


class SecretsError(Exception):
    """The secrets cannot be used; one sentence for the user, without any of their values."""


@dataclass(frozen=True, repr=False)
class Secrets:
    """What every process of a deployment knows and nobody else."""

    master_keys: dict[int, bytes]
    """Key id (1..255) -> 32 bytes."""
    current: int
    """Id of the key that seals new tokens."""
    rpc_secret: bytes
    """32 bytes that prove a process belongs to the deployment."""

    def __repr__(self) -> str:
        return f"Secrets(master key ids {sorted(self.master_keys)}, current {self.current})"


def load_or_create(data_dir: Path, environ: Mapping[str, str]) -> Secrets:
    """The secrets, made and written at the first call for a data directory.

    The environment wins over the file, each of its two variables for itself; with both set, no
    file is read or made. Raises SecretsError.
    """
    keys = _keys_of(environ.get(MASTER_KEYS_VARIABLE))
    rpc_secret = None
    if RPC_SECRET_VARIABLE in environ:
        rpc_secret = _key(environ[RPC_SECRET_VARIABLE], RPC_SECRET_VARIABLE)
    if keys is not None and rpc_secret is not None:
        return Secrets(keys, max(keys), rpc_secret)
    filed = _read_or_create(data_dir / FILE)
    return Secrets(
        filed.master_keys if keys is None else keys,
        filed.current if keys is None else max(keys),
        filed.rpc_secret if rpc_secret is None else rpc_secret,
    )


def to_builtins(secrets: Secrets) -> dict[str, object]:
    """For the file, or for the pipe to a child process. Never for a log."""
    return {
        "master_keys": {str(number): _text(key) for number, key in secrets.master_keys.items()},
        "current": secrets.current,
        "rpc_secret": _text(secrets.rpc_secret),
    }


def from_builtins(value: object, source: str) -> Secrets:
    """The reverse. Raises SecretsError naming `source`."""
    if not isinstance(value, dict) or not isinstance(value.get("master_keys"), dict):
        raise SecretsError(f"{source} needs an object with master_keys, current and rpc_secret")
    keys = {
        _key_id(number, source): _key(key, f"{source}, master key")
        for number, key in value["master_keys"].items()
    }
    current = value.get("current")
    if not isinstance(current, int) or current not in keys:
        raise SecretsError(f"{source}: current is not the id of one of its master keys")
    return Secrets(keys, current, _key(value.get("rpc_secret"), f"{source}, rpc_secret"))


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for child processes: nothing of ours, they get it through their pipe."""
    return {name: text for name, text in environ.items() if not name.startswith("COLUMBA_")}


def _keys_of(text: str | None) -> dict[int, bytes] | None:
    """`1:<base64>,2:<base64>` -> keys by id."""
    if text is None:
        return None
    keys: dict[int, bytes] = {}
    for part in text.split(","):
        number, colon, key = part.strip().partition(":")
        if not colon:
            raise SecretsError(f"{MASTER_KEYS_VARIABLE} must read id:base64,id:base64")
        keys[_key_id(number, MASTER_KEYS_VARIABLE)] = _key(key, MASTER_KEYS_VARIABLE)
    return keys


def _key_id(text: str, source: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 255:
        raise SecretsError(f"{source}: key ids are whole numbers from 1 to 255")
    return int(text)


def _key(text: object, source: str) -> bytes:
    # Raised outside the handler: the chained error and its frames would show the value.
    try:
        key = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:  # not base64, or not even ASCII
        key = b""
    if len(key) != KEY_BYTES:
        raise SecretsError(f"{source} must be {KEY_BYTES} bytes in base64")
    return key


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _read_or_create(path: Path) -> Secrets:
    try:
        if not path.exists():
            _create(path)
        return _read(path)
    except OSError as error:
        raise SecretsError(f"{path}: {error.strerror}") from error


def _read(path: Path) -> Secrets:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise SecretsError(
                f"{path} has mode {mode:04o}: others may read it; run chmod 600 and, if they "
                "could have, replace its keys"
            )
        content = file.read()
    try:
        value = json.loads(content)
    except ValueError:
        raise SecretsError(f"{path} is not JSON") from None
    return from_builtins(value, str(path))


def _create(path: Path) -> None:
    """Write whole and synced under a private name, then link: the final name is never half a file,
    and of two processes that try it at once the second keeps the first one's keys."""
    fresh = Secrets(
        {1: random_source.token_bytes(KEY_BYTES)}, 1, random_source.token_bytes(KEY_BYTES)
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}.{random_source.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(to_builtins(fresh), indent=1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was faster, and its keys are as good
    finally:
        os.unlink(draft)
    datadir.sync_directory(path.parent)
