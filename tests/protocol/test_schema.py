"""The generated modules are those that the schemas give."""

from pathlib import Path

import pytest

from protocol.schema import generate

HERE = Path(generate.__file__).parent


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    generate.generate(out)
    return out / "protocol" / "schema"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "_pb2" in path.name)


def test_no_module_is_missing_or_left_over(fresh: Path) -> None:
    assert names(fresh) == names(HERE)
    assert len(names(HERE)) == 2 * len(list(HERE.glob("*.proto")))


@pytest.mark.parametrize("name", names(HERE))
def test_checked_in_as_generated(fresh: Path, name: str) -> None:
    assert (HERE / name).read_bytes() == (fresh / name).read_bytes(), "run `make proto`"
