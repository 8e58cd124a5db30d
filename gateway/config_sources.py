"""Where the configuration comes from: file < environment < flags, and which of them said what.

file         TOML, a table per section:  [edge]  listen = "0.0.0.0:7070"
environment  COLUMBA_EDGE_LISTEN=0.0.0.0:7070
flags        --set edge.listen=0.0.0.0:7070, or a command's own such as --device-listen
"""

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, get_args, get_origin

import msgspec

from gateway.config import Config
from gateway.network import ListenError, check_plaintext, split_address

LEVELS: Final = ("debug", "info", "warning", "error")
DEFAULT_FILE: Final = "columba.toml"
PREFIX: Final = "COLUMBA_"

_OTHER_VARIABLES: Final = frozenset(
    {
        "COLUMBA_MASTER_KEYS",
        "COLUMBA_RPC_SECRET",
        "COLUMBA_API",
        "COLUMBA_APP",
        "COLUMBA_API_KEY",
        "COLUMBA_ACCESS_KEY",
    }
)
"""Variables with our prefix that are read elsewhere: secrets, and the command-line client's."""

_SERVICE_LINK: Final = re.compile(
    r"COLUMBA_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
"""Kubernetes puts these into every pod beside a Service named `columba...`; they mean nothing."""


class ConfigError(Exception):
    """A key or value that cannot be; one sentence that names it, its source and what may stand."""


class Flag(NamedTuple):
    """A setting from the command line: `edge.listen`, its text, and how the user wrote it."""

    key: str
    text: str
    spelled: str


class Loaded(NamedTuple):
    """The configuration and, for each key, the words for its source."""

    config: Config
    sources: dict[str, str]


class _Given(NamedTuple):
    value: object
    source: str
    is_text: bool


def load(
    file: Path | None,
    environ: Mapping[str, str],
    flags: Iterable[Flag] = (),
    *,
    directory: Path = Path(),
) -> Loaded:
    """Read every source. Without `file`, `columba.toml` in `directory` if there. ConfigError."""
    if file is None and (directory / DEFAULT_FILE).is_file():
        file = directory / DEFAULT_FILE
    given: dict[str, _Given] = {}
    if file is not None:
        given.update(_from_file(file))
    given.update(_from_environment(environ))
    given.update(_from_flags(flags))
    values: dict[str, dict[str, object]] = {}
    sources: dict[str, str] = {}
    for key, field in _fields().items():
        sources[key] = "default"
        if key in given:
            section, _, name = key.partition(".")
            values.setdefault(section, {})[name] = _converted(key, given[key], field.type)
            sources[key] = given[key].source
    config = msgspec.convert(values, Config)
    _check(config, sources)
    return Loaded(config, sources)


def set_flag(text: str) -> Flag:
    """The argument of `--set`: section.field=value. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: write section.field=value, such as edge.count=2")
    return Flag(key.strip(), value, f"--set {key.strip()}")


def check_exposure(loaded: Loaded, *sections: str) -> None:
    """Refuse plain text of `edge` or `api` beyond loopback, unless asked for. Raises ConfigError."""
    for name in sections:
        section = getattr(loaded.config, name)
        try:
            check_plaintext(
                section.listen, allowed=section.allow_plaintext, setting=f"{name}.allow_plaintext"
            )
        except ListenError as error:
            source = loaded.sources[f"{name}.listen"]
            raise ConfigError(f"{name}.listen ({source}): {error}") from error


def rows(loaded: Loaded) -> Iterator[tuple[str, object, str, str]]:
    """(key, value, source, what it means) of every field, in the order of the sections."""
    reasons = _reasons()
    for key in _fields():
        section, _, name = key.partition(".")
        value = getattr(getattr(loaded.config, section), name)
        yield key, value, loaded.sources[key], reasons.get(key, "")


def _fields() -> dict[str, msgspec.structs.FieldInfo]:
    """`edge.listen` -> its field, in order."""
    return {
        f"{section.name}.{field.name}": field
        for section in msgspec.structs.fields(Config)
        for field in msgspec.structs.fields(section.type)
    }


def _from_file(file: Path) -> Iterator[tuple[str, _Given]]:
    source = f"file {file}"
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} is not TOML: {error}") from error
    for section, table in content.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"{source}: {section} stands outside a section; write [section] above it"
            )
        for name, value in table.items():
            yield _known(f"{section}.{name}", source), _Given(value, source, is_text=False)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, _Given]]:
    keys = {PREFIX + key.replace(".", "_").upper(): key for key in _fields()}
    for variable, text in environ.items():
        if variable in keys:
            yield keys[variable], _Given(text, f"environment {variable}", is_text=True)
        elif (
            variable.startswith(PREFIX)
            and variable not in _OTHER_VARIABLES
            and not _SERVICE_LINK.fullmatch(variable)
        ):
            near = difflib.get_close_matches(variable, keys, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"environment {variable} names no setting{hint}")


def _from_flags(flags: Iterable[Flag]) -> Iterator[tuple[str, _Given]]:
    for flag in flags:
        source = f"flag {flag.spelled}"
        yield _known(flag.key, source), _Given(flag.text, source, is_text=True)


def _known(key: str, source: str) -> str:
    fields = _fields()
    if key not in fields:
        near = difflib.get_close_matches(key, fields, 1)
        hint = f"; did you mean {near[0]}?" if near else "; `columba config` lists them all"
        raise ConfigError(f"{key} ({source}) is no setting{hint}")
    return key


def _converted(key: str, given: _Given, kind: Any) -> object:
    value = given.value.strip() if isinstance(given.value, str) and given.is_text else given.value
    try:
        # Text is converted leniently ("8" is a number), TOML has types of its own.
        result: object = msgspec.convert(value, kind, strict=not given.is_text)
    except msgspec.ValidationError:
        result = None
    if result is None or (isinstance(result, float) and not math.isfinite(result)):
        raise ConfigError(f"{key} ({given.source}) is {value!r}; it must be {_allowed(kind)}")
    return result


def _allowed(kind: Any) -> str:
    """What may stand in a field, in words."""
    base, metas = kind, []
    if get_origin(kind) is Annotated:
        base, *metas = get_args(kind)
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
    }[base]
    bounds = []
    for meta in metas:
        for bound, word in (
            ("ge", "at least"),
            ("gt", "above"),
            ("le", "at most"),
            ("lt", "below"),
        ):
            limit = getattr(meta, bound)
            if limit is not None:
                bounds.append(f"{word} {limit}")
    return " ".join((words, " and ".join(bounds))).strip()


def _check(config: Config, sources: Mapping[str, str]) -> None:
    """Rules that a type cannot say."""

    def refuse(key: str, value: object, allowed: str) -> None:
        raise ConfigError(f"{key} ({sources[key]}) is {value!r}; it must be {allowed}")

    if config.service.log_level not in LEVELS:
        refuse("service.log_level", config.service.log_level, "one of " + ", ".join(LEVELS))
    if not config.service.data_dir:
        refuse("service.data_dir", "", "a directory")
    url = config.store.url
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        refuse("store.url", _without_password(url), "redis://host:port/db, unix:///path or empty")
    listens = {
        "edge.listen": config.edge.listen,
        "edge.rpc_listen": config.edge.rpc_listen,
        "dispatch.rpc_listen": config.dispatch.rpc_listen,
        "api.listen": config.api.listen,
        "api.rpc_listen": config.api.rpc_listen,
    }
    for key, text in listens.items():
        if not text and key.endswith("rpc_listen"):
            continue
        try:
            split_address(text)
        except ListenError:
            refuse(key, text, "host:port, or [address]:port for IPv6")
    for low, high in (
        ("edge.heartbeat_min_s", "edge.heartbeat_max_s"),
        ("edge.probe_start_s", "edge.probe_max_s"),
        ("edge.backoff_base_ms", "edge.backoff_max_ms"),
        ("edge.descriptors_low", "edge.descriptors_high"),
        ("dispatch.resend_s", "dispatch.resend_max_s"),
        ("api.default_ttl_s", "api.max_ttl_s"),
    ):
        least, most = _value(config, low), _value(config, high)
        if least > most:
            refuse(low, least, f"at most {high}, which is {most} ({sources[high]})")


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def shown(key: str, value: object) -> object:
    """A value as it may be printed: a store URL loses its password."""
    return _without_password(value) if key == "store.url" and isinstance(value, str) else value


def _without_password(url: str) -> str:
    return re.sub(r"(?<=://)([^@/]*):[^@]*@", r"\1:…@", url)


def _reasons() -> dict[str, str]:
    """The text under each field of gateway/config.py; one text may stand for the fields above it."""
    import ast
    import inspect

    import gateway.config

    found: dict[str, str] = {}
    sections = {kind.type.__name__: kind.name for kind in msgspec.structs.fields(Config)}
    for node in ast.parse(inspect.getsource(gateway.config)).body:
        if not isinstance(node, ast.ClassDef) or node.name not in sections:
            continue
        waiting: list[str] = []
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                waiting.append(f"{sections[node.name]}.{part.target.id}")
            elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
                found.update(dict.fromkeys(waiting, " ".join(str(part.value.value).split())))
                waiting.clear()
    return found
