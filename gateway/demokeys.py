"""The keys of app `demo`, kept in the data directory so that later starts can print them too."""

import json
from pathlib import Path
from typing import Final, NamedTuple

from gateway import datadir

DEMO: Final = "demo"
FILE: Final = "demo-keys.json"


class DemoKeys(NamedTuple):
    """None: the app was made elsewhere, and its API key was shown there once."""

    app: str
    access_key: str | None
    api_key: str | None

    def __repr__(self) -> str:
        return f"DemoKeys({self.app!r})"


def write(data_dir: Path, keys: DemoKeys) -> None:
    """Mode 0600, synced: an API key is not to be had again from the store."""
    content = json.dumps(keys._asdict()).encode()
    datadir.write_private(data_dir / FILE, content, durable=True)


def read(data_dir: Path) -> DemoKeys | None:
    """What the first start wrote, if it is there."""
    try:
        kept = json.loads((data_dir / FILE).read_text())
        return DemoKeys(str(kept["app"]), str(kept["access_key"]), str(kept["api_key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
