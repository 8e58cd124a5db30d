"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help="TOML file; columba.toml here if it is there."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as edge.count=2; repeatable."),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", metavar="PATH", help="Everything durable lies here.")
]
StoreUrl = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="redis://host:port/db or unix:///path.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Api = Annotated[
    str | None, typer.Option("--api", metavar="URL", help="Address of the API (COLUMBA_API).")
]
App = Annotated[str | None, typer.Option("--app", help="The app's id (COLUMBA_APP).")]
ApiKey = Annotated[
    str | None,
    typer.Option(help="The app's API key; better in the environment: COLUMBA_API_KEY."),
]
