"""The plan of the house, enforced on the source text: imports go one way, and tails stay small.

Everything is read from syntax trees, so that imports inside functions and under TYPE_CHECKING count
as well. The second half breaks each rule once in a small tree of its own, so that the checker is
known to see it.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
OURS: Final = ("protocol", "gateway", "client_sdk", "loadtest")

# Layer -> layers it may import besides itself. `leaf` are the modules at gateway's top level.
BELOW_STORE: Final = {"protocol", "leaf"}
PARTS: Final = {"edge", "dispatch", "api"}
ALLOWED: Final[dict[str, set[str]]] = {
    "protocol": set(),
    "leaf": {"protocol"},
    "store": BELOW_STORE,
    **{part: BELOW_STORE | {"store"} for part in PARTS},
    "supervisor": BELOW_STORE | {"store"} | PARTS,
    # `columba device` plays a device in the terminal.
    "cli": BELOW_STORE | {"store", "supervisor", "client_sdk"} | PARTS,
    "client_sdk": {"protocol"},
    "loadtest": {"protocol", "client_sdk"},
}
STORE_CLIENTS: Final = {"redis", "hiredis"}

MAX_MODULE_LINES: Final = 450
MAX_FUNCTION_LINES: Final = 60
MAX_PARAMETERS: Final = 8
EMPTY_NAMES: Final = {"utils", "util", "helpers", "helper", "manager", "managers", "common"}
SILENCERS: Final = ("noqa", "type:", "pragma:", "pylint:", "fmt:")
"""Comments that speak to a tool and give no reason."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    path: str
    """Below the root, such as gateway/edge/table.py."""
    name: str
    """Dotted; a package has the name of its folder."""
    text: str
    tree: ast.Module


class Tree(NamedTuple):
    modules: list[Module]
    names: set[str]
    """Dotted names of all modules and packages: tells `from a import module` from a plain name."""


def read_tree(root: Path) -> Tree:
    modules = []
    for top in OURS:
        for path in sorted((root / top).rglob("*.py")):
            if path.stem.endswith("_pb2"):
                continue
            relative = path.relative_to(root)
            parts = relative.with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text()
            modules.append(Module(str(relative), name, text, ast.parse(text, str(relative))))
    return Tree(modules, {module.name for module in modules})


def layer(name: str) -> str:
    """The layer of a dotted name of ours; 'no layer' for a folder that the plan does not have."""
    top, _, rest = name.partition(".")
    if top != "gateway":
        return top
    first, _, inside = rest.partition(".")
    if first in ALLOWED and first not in OURS:
        return first
    return "no layer" if inside else "leaf"


def imports(module: Module, names: set[str]) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of everything imported anywhere in the module."""
    package = module.name.split(".")
    if not module.path.endswith("__init__.py"):
        package = package[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                below = f"{source}.{alias.name}"
                yield node.lineno, below if below in names or source == "gateway" else source
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            named = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            yield from ((node.lineno, str(name)) for name in named)


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


Rule = Callable[[Tree], Iterator[str]]
"""Yields one line for each place that breaks it."""


def one_way(tree: Tree) -> Iterator[str]:
    for module in tree.modules:
        here = layer(module.name)
        if here not in ALLOWED:
            yield f"{module.path}: {here} for this folder: give it one"
            continue
        for line, target in imports(module, tree.names):
            if target.partition(".")[0] not in OURS:
                continue
            there = layer(target)
            if there != here and there not in ALLOWED[here]:
                yield f"{module.path}:{line}: {here} imports {there} ({target})"


def store_alone_speaks_to_the_store(tree: Tree) -> Iterator[str]:
    for module in tree.modules:
        if layer(module.name) == "store":
            continue
        for line, target in imports(module, tree.names):
            if target.partition(".")[0] in STORE_CLIENTS:
                yield f"{module.path}:{line}: imports {target} outside gateway/store"


def sdk_needs_protobuf_only(tree: Tree) -> Iterator[str]:
    for module in tree.modules:
        if layer(module.name) != "client_sdk":
            continue
        for line, target in imports(module, tree.names):
            outside = target.partition(".")[0] not in {*sys.stdlib_module_names, *OURS}
            if outside and not target.startswith("google.protobuf"):
                yield f"{module.path}:{line}: client_sdk imports {target}"


def names_say_something(tree: Tree) -> Iterator[str]:
    for module in tree.modules:
        for part in module.name.split("."):
            if part in EMPTY_NAMES:
                yield f"{module.path}: '{part}' names no stage and no thing"


def modules_are_short(tree: Tree) -> Iterator[str]:
    for module in tree.modules:
        lines = len(module.text.splitlines())
        if lines > MAX_MODULE_LINES:
            yield f"{module.path}: {lines} lines, at most {MAX_MODULE_LINES}"


def _functions(tree: Tree) -> Iterator[tuple[Module, Function]]:
    for module in tree.modules:
        for node in ast.walk(module.tree):
            if isinstance(node, Function):
                yield module, node


def functions_are_short(tree: Tree) -> Iterator[str]:
    for module, node in _functions(tree):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"{module.path}:{node.lineno}: {node.name} has {lines} lines, at most {MAX_FUNCTION_LINES}"


def parameters_are_few(tree: Tree) -> Iterator[str]:
    for module, node in _functions(tree):
        named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len(named) - (bool(named) and named[0].arg in ("self", "cls"))
        if count > MAX_PARAMETERS and not _is_command(node):
            yield f"{module.path}:{node.lineno}: {node.name} takes {count}, at most {MAX_PARAMETERS}"


def _is_command(node: Function) -> bool:
    """A command of the command line: its parameters are the options a user may give."""
    decorators = [d.func for d in node.decorator_list if isinstance(d, ast.Call)]
    return any(
        isinstance(d, ast.Attribute) and d.attr in ("command", "callback") for d in decorators
    )


def broad_excepts_have_a_reason(tree: Tree) -> Iterator[str]:
    for module in tree.modules:
        broad = [
            node.lineno
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ExceptHandler) and _is_broad(node) and not _passes_on(node)
        ]
        if broad:
            beside, alone = _comments(module.text)
            for line in broad:
                if line not in beside and line - 1 not in alone:
                    yield f"{module.path}:{line}: broad except without its reason beside it"


def _is_broad(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or any(
        isinstance(node, ast.Name) and node.id in ("Exception", "BaseException")
        for node in ast.walk(handler.type)
    )


def _passes_on(handler: ast.ExceptHandler) -> bool:
    """Cleans up and raises again what it caught: that hides nothing."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def _comments(text: str) -> tuple[set[int], set[int]]:
    """Lines with a comment that gives a reason: behind code or not, and on a line of its own."""
    beside, alone = set(), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        said = token.string.lstrip("#: ")
        if token.type == tokenize.COMMENT and said and not said.lower().startswith(SILENCERS):
            beside.add(token.start[0])
            if token.line.lstrip().startswith("#"):
                alone.add(token.start[0])
    return beside, alone


RULES: Final[list[Rule]] = [
    one_way,
    store_alone_speaks_to_the_store,
    sdk_needs_protobuf_only,
    names_say_something,
    modules_are_short,
    functions_are_short,
    parameters_are_few,
    broad_excepts_have_a_reason,
]


@pytest.fixture(scope="module")
def source() -> Tree:
    return read_tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_our_source(source: Tree, rule: Rule) -> None:
    assert source.modules
    assert list(rule(source)) == []


# The checker itself, on a tree that is right and then wrong in one place.
SOUND: Final = {
    "protocol/__init__.py": "",
    "protocol/frames.py": "import hashlib\n",
    "gateway/__init__.py": "",
    "gateway/config.py": "from protocol.frames import encode\n",
    "gateway/rpc.py": "from gateway import config\nfrom . import config as again\n",
    "gateway/store/__init__.py": "",
    "gateway/store/log.py": "import redis.asyncio\nfrom gateway.rpc import call\nfrom . import keys\n",
    "gateway/store/keys.py": "from hiredis import Reader\n",
    "gateway/edge/__init__.py": "",
    "gateway/edge/table.py": "from ..store import log\nfrom protocol import frames\n",
    "gateway/dispatch/__init__.py": "",
    "gateway/dispatch/node.py": "def f():\n    from gateway.store.log import read\n",
    "gateway/api/__init__.py": "",
    "gateway/api/app.py": "import fastapi\nimport gateway.store.log\n",
    "gateway/supervisor.py": "from gateway.api import app\nfrom gateway.edge.table import Table\n",
    "gateway/cli.py": "from gateway import supervisor\nfrom client_sdk import device\n",
    "client_sdk/__init__.py": "",
    "client_sdk/device.py": "import asyncio\nfrom google.protobuf import message\nimport protocol\n",
    "loadtest/__init__.py": "",
    "loadtest/fleet.py": "from client_sdk.device import Device\nfrom protocol import frames\n",
}


def write(root: Path, files: dict[str, str]) -> Tree:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return read_tree(root)


def test_a_sound_tree_breaks_nothing(tmp_path: Path) -> None:
    tree = write(tmp_path, SOUND)
    assert [broken for rule in RULES for broken in rule(tree)] == []


def parameters(count: int) -> str:
    return ", ".join(f"p{n}" for n in range(count))


# rule, file, its text, what the message must say
WRONG: Final[dict[str, tuple[Rule, str, str, str]]] = {
    "protocol takes a leaf": (
        one_way,
        "protocol/frames.py",
        "import gateway.config",
        "imports leaf",
    ),
    "protocol takes the sdk": (one_way, "protocol/x.py", "import client_sdk", "imports client_sdk"),
    "leaf takes the store": (
        one_way,
        "gateway/config.py",
        "from .store import log",
        "imports store",
    ),
    "leaf takes the edge": (one_way, "gateway/rpc.py", "import gateway.edge.table", "imports edge"),
    "leaf takes dispatch": (
        one_way,
        "gateway/log.py",
        "from gateway import dispatch",
        "imports disp",
    ),
    "leaf takes the api": (one_way, "gateway/log.py", "from gateway.api import app", "imports api"),
    "leaf takes loadtest": (one_way, "gateway/log.py", "import loadtest.fleet", "imports loadtest"),
    "store takes the edge": (one_way, "gateway/store/x.py", "from .. import edge", "imports edge"),
    "edge takes dispatch": (
        one_way,
        "gateway/edge/x.py",
        "import gateway.dispatch",
        "imports disp",
    ),
    "edge takes the api": (one_way, "gateway/edge/x.py", "from ..api import app", "imports api"),
    "dispatch takes the edge": (
        one_way,
        "gateway/dispatch/node.py",
        "def f():\n    from gateway.edge.table import Table",
        "node.py:2: dispatch imports edge (gateway.edge.table)",
    ),
    "dispatch takes the api": (
        one_way,
        "gateway/dispatch/x.py",
        "import gateway.api",
        "imports api",
    ),
    "api takes the edge": (
        one_way,
        "gateway/api/app.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gateway.edge import table",
        "app.py:3: api imports edge",
    ),
    "api takes dispatch by name": (
        one_way,
        "gateway/api/x.py",
        "import importlib\nimportlib.import_module('gateway.dispatch.node')",
        "x.py:2: api imports dispatch",
    ),
    "edge takes the supervisor": (
        one_way,
        "gateway/edge/x.py",
        "from .. import supervisor",
        "superv",
    ),
    "supervisor takes the cli": (
        one_way,
        "gateway/supervisor.py",
        "import gateway.cli",
        "imports cli",
    ),
    "supervisor takes the sdk": (
        one_way,
        "gateway/supervisor.py",
        "import client_sdk",
        "client_sdk",
    ),
    "cli takes loadtest": (one_way, "gateway/cli.py", "import loadtest", "cli imports loadtest"),
    "sdk takes gateway": (one_way, "client_sdk/x.py", "from gateway import config", "imports leaf"),
    "sdk takes loadtest": (one_way, "client_sdk/x.py", "import loadtest.fleet", "imports loadtest"),
    "loadtest takes gateway": (one_way, "loadtest/x.py", "from gateway.store import log", "store"),
    "a folder of its own": (one_way, "gateway/extra/x.py", "", "no layer"),
    "redis in a leaf": (store_alone_speaks_to_the_store, "gateway/log.py", "import redis", "redis"),
    "redis in the api": (
        store_alone_speaks_to_the_store,
        "gateway/api/x.py",
        "def f():\n    from redis.asyncio import Redis",
        "x.py:2: imports redis.asyncio",
    ),
    "hiredis in loadtest": (
        store_alone_speaks_to_the_store,
        "loadtest/x.py",
        "import hiredis",
        ":1:",
    ),
    "sdk takes a package": (sdk_needs_protobuf_only, "client_sdk/x.py", "import uvloop", "uvloop"),
    "sdk takes another google": (
        sdk_needs_protobuf_only,
        "client_sdk/x.py",
        "from google.cloud import storage",
        "google.cloud",
    ),
    "module called utils": (names_say_something, "gateway/utils.py", "", "'utils'"),
    "folder called common": (names_say_something, "loadtest/common/x.py", "", "'common'"),
    "long module": (modules_are_short, "gateway/edge/x.py", "x = 1\n" * 451, "451 lines"),
    "long function": (
        functions_are_short,
        "loadtest/x.py",
        "async def f():\n" + "    x = 1\n" * 60,
        "x.py:1: f has 61 lines",
    ),
    "many parameters": (
        parameters_are_few,
        "client_sdk/x.py",
        f"class C:\n    def f(self, {parameters(6)}, *, a, b, c): ...",
        "x.py:2: f takes 9",
    ),
    "broad except": (
        broad_excepts_have_a_reason,
        "gateway/rpc.py",
        "try:\n    f()  # not a reason\nexcept Exception:\n    pass",
        "rpc.py:3",
    ),
    "bare except": (
        broad_excepts_have_a_reason,
        "gateway/rpc.py",
        "try:\n    f()\nexcept:\n    pass",
        "rpc.py:3",
    ),
    "broad among others, for a tool": (
        broad_excepts_have_a_reason,
        "gateway/rpc.py",
        "try:\n    f()\nexcept (OSError, BaseException):  # noqa: BLE001\n    pass",
        "rpc.py:3",
    ),
}


@pytest.mark.parametrize(("rule", "path", "text", "says"), WRONG.values(), ids=WRONG)
def test_the_checker_sees(tmp_path: Path, rule: Rule, path: str, text: str, says: str) -> None:
    tree = write(tmp_path, SOUND | {path: text})
    broken = {each.__name__: list(each(tree)) for each in RULES}
    (line,) = broken.pop(rule.__name__)
    assert path in line
    assert says in line
    assert not any(broken.values())


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * 450,
        "def f():\n" + "    x = 1\n" * 59,
        f"class C:\n    def f(self, {parameters(8)}, *more, **most): ...",
        f"@app.command()\ndef f({parameters(9)}): ...",
        "try:\n    f()\nexcept Exception:  # the peer may send anything\n    pass",
        "try:\n    f()\n# the peer may send anything\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept ValueError:\n    pass",
        "try:\n    f()\nexcept BaseException:\n    g()\n    raise",
    ],
    ids=[
        "module",
        "function",
        "parameters",
        "options of a command",
        "reason beside",
        "reason above",
        "narrow",
        "passed on",
    ],
)
def test_the_checker_lets_pass(tmp_path: Path, text: str) -> None:
    tree = write(tmp_path, SOUND | {"gateway/edge/x.py": text})
    assert [broken for rule in RULES for broken in rule(tree)] == []
