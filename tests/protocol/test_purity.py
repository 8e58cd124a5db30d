"""`protocol` is a library: it computes, and imports nothing that could wait, log or do I/O."""

import ast
from pathlib import Path

import pytest

import protocol

HERE = Path(protocol.__file__).parent
MODULES = sorted(path for path in HERE.rglob("*.py") if "_pb2" not in path.name)
GENERATE = HERE / "schema" / "generate.py"

IMPURE = {
    *("asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "random", "secrets"),
    *("select", "selectors", "signal", "socket", "ssl", "subprocess", "sys", "threading", "time"),
    *("datetime", "pathlib", "tempfile", "uuid", "warnings"),
}


def imported(source: str) -> set[str]:
    """Top names of all imports, also of those inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HERE)))
def test_imports_nothing_impure(path: Path) -> None:
    # The generator is a tool beside the schemas: it takes a folder and calls protoc.
    allowed = {"sys", "pathlib"} if path == GENERATE else set()
    assert not imported(path.read_text()) & IMPURE - allowed


def test_only_the_generator_needs_another_package() -> None:
    outside = {path.name: imported(path.read_text()) & {"grpc_tools", "google"} for path in MODULES}
    assert {name: needs for name, needs in outside.items() if needs} == {
        "generate.py": {"grpc_tools"}
    }


def test_the_test_sees_imports_inside_functions() -> None:
    assert imported("def f():\n    import time\n    from os import path") == {"time", "os"}
