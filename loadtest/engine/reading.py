"""From a TOML file to a Scenario; what is wrong is told with file, key and what was expected. Pure
but for reading the file.
"""

import re
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from loadtest.engine.scenario import MOST_PUSHES, READY, Scenario
from loadtest.engine.vocabulary import FIGURES

_PLACE: Final = re.compile(r"^(?P<what>.*) - at `(?:key in )?\$(?P<path>.*)`$", re.DOTALL)
_UNKNOWN: Final = re.compile(r"unknown field `(?P<key>[^`]*)`")
_MISSING: Final = re.compile(r"missing required field `(?P<key>[^`]*)`")
_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\.\.\.)\]")


class ScenarioError(Exception):
    """The text names the file, the key and what was expected."""


def ready_names() -> list[str]:
    return sorted(path.stem for path in READY.glob("*.toml"))


def find(wanted: str) -> Path:
    """A ready scenario by its name, or a file by its path. Raises ScenarioError."""
    if wanted in ready_names():
        return READY / f"{wanted}.toml"
    path = Path(wanted)
    if path.is_file():
        return path
    raise ScenarioError(
        f"{wanted}: no such file, and no ready scenario: {', '.join(ready_names())}"
    )


def read(path: Path, settings: Sequence[str] = ()) -> Scenario:
    """`settings`: `key=value` each, over what the file says. Raises ScenarioError."""
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: expected TOML: {error}") from error
    for setting in settings:
        _apply(raw, setting)
    return parsed(raw, path.name)


def parsed(raw: dict[str, Any], name: str) -> Scenario:
    """`name`: of the file, for messages. Raises ScenarioError."""
    try:
        scenario = msgspec.convert(raw, Scenario)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{name}: {_told(str(error))}") from error
    for key, expected in _contradictions(scenario):
        raise ScenarioError(f"{name}: {key}: expected {expected}")
    return scenario


def _told(message: str) -> str:
    """msgspec's sentence, turned round: the key first, then what was expected there."""
    found = _PLACE.match(message)
    what, path = (found["what"], found["path"]) if found else (message, "")
    key = path.lstrip(".")
    for pattern, said in ((_UNKNOWN, "expected one of"), (_MISSING, "is missing; expected among")):
        named = pattern.search(what)
        if named:
            whole = f"{key}.{named['key']}" if key else named["key"]
            return f"{whole}: {said} {_keys_at(path)}"
    return f"{key or 'the file'}: {what[:1].lower()}{what[1:]}"


def _keys_at(path: str) -> str:
    """The keys of the table that a path of msgspec's leads to, of each kind if there are several."""
    kinds: list[type[msgspec.Struct]] = [Scenario]
    for name, _index in _STEP.findall(path):
        if name:
            [kind] = kinds
            kinds = _structs(get_type_hints(kind)[name])
    said = [", ".join(each.encode_name for each in msgspec.structs.fields(kind)) for kind in kinds]
    if len(kinds) == 1:
        return said[0]
    tagged = zip(kinds, said, strict=True)
    return "; ".join(f"{keys} (kind {kind.__struct_config__.tag})" for kind, keys in tagged)


def _structs(hint: Any) -> list[type[msgspec.Struct]]:
    """Those in a type: Group in tuple[Group, ...], Doze in Doze | None, each of a union."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    if get_origin(hint) is not None or isinstance(hint, types.UnionType):
        return [struct for each in get_args(hint) for struct in _structs(each)]
    return []


def _contradictions(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """(key, what was expected) of what each value allows and all together do not."""
    total = sum(group.share for group in scenario.groups)
    if abs(total - 1) > 1e-6:
        yield "groups[].share", f"shares that sum up to 1, got {total:g}"
    if scenario.pushes_at_most > MOST_PUSHES:
        yield "pushes", f"at most {MOST_PUSHES:,} in one run, got up to {scenario.pushes_at_most:,}"
    names = [group.name for group in scenario.groups]
    if len(set(names)) < len(names):
        yield "groups[].name", "a name for each group of its own"
    moments = [(f"pushes[{at}]", step.at_s) for at, step in enumerate(scenario.pushes)]
    moments += [(f"events[{at}]", event.at_s) for at, event in enumerate(scenario.events)]
    for key, at_s in moments:
        if at_s > scenario.duration_s:
            yield f"{key}.at_s", f"at most duration_s ({scenario.duration_s:g})"
    for number, step in enumerate(scenario.pushes):
        if step.for_s and not step.per_s:
            yield f"pushes[{number}].per_s", "a rate, since for_s says how long it lasts"
    for number, event in enumerate(scenario.events):
        if event.do == "cut" and event.edges is not None:
            yield f"events[{number}].edges", "none for `cut`, which is of devices"
        elif event.edges is not None and event.share is not None:
            yield f"events[{number}].edges", "a number of edges or a share of them, not both"
    for table in ("at_most", "at_least"):
        for figure in getattr(scenario.checks, table):
            if figure not in FIGURES:
                yield f"checks.{table}.{figure}", "one of " + ", ".join(FIGURES)


def _apply(raw: dict[str, Any], setting: str) -> None:
    """`fleet.devices=100`; a list's entry by its number, a group or a push also by its name."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ScenarioError(f"--set {setting}: expected key=value")
    place: Any = raw
    *way, last = key.split(".")
    for step in way:
        if isinstance(place, dict):
            place = place.setdefault(step, {})
        else:
            place = _entry(place, step, setting)
    if not isinstance(place, dict):
        raise ScenarioError(f"--set {setting}: expected {'.'.join(way)} to be a table")
    place[last] = _value(text)


def _entry(entries: Any, step: str, setting: str) -> Any:
    if isinstance(entries, list):
        if step.isdecimal() and int(step) < len(entries):
            return entries[int(step)]
        for each in entries:
            if isinstance(each, Mapping) and each.get("name") == step:
                return each
    raise ScenarioError(f"--set {setting}: expected an entry named or numbered {step!r}")


def _value(text: str) -> Any:
    """As TOML; what is no TOML value is a string, so that quotes may be left out in a shell."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
