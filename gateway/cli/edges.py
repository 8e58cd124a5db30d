"""`columba drain` and `columba rebalance`: sessions move between edges while the service runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.options import AsJson, ConfigFile, DataDir, Sets, StoreUrl

if TYPE_CHECKING:
    from gateway.config import Config

edges_app: Final = typer.Typer()


@edges_app.command()
def drain(
    *,
    edge: Annotated[int, typer.Argument(metavar="EDGE", help="As `columba status` numbers them.")],
    over: Annotated[float, typer.Option(min=0, help="Spread over so many seconds.")] = 10.0,
    undo: Annotated[bool, typer.Option("--undo", help="Let it take connections again.")] = False,
    config: ConfigFile = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> int:
    """Send an edge's devices to the others and keep new ones away, until it is stopped or --undo."""
    import asyncio

    from gateway.cli import moving

    settings = _settings(config, sets, data_dir, store)
    return asyncio.run(moving.drain(settings, edge, over, undo=undo, as_json=as_json))


@edges_app.command()
def rebalance(
    *,
    within: Annotated[
        float, typer.Option(min=1, max=100, help="Percent that edges may differ by.")
    ] = 5.0,
    rate: Annotated[float, typer.Option(min=1, help="Sessions a second that move.")] = 500.0,
    config: ConfigFile = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> int:
    """Move sessions from fuller edges to emptier ones until all have about the same."""
    import asyncio

    from gateway.cli import moving

    settings = _settings(config, sets, data_dir, store)
    return asyncio.run(moving.rebalance(settings, within / 100, rate, as_json=as_json))


def _settings(
    file: Path | None, sets: Sequence[str] | None, data_dir: Path | None, store: str | None
) -> "Config":
    from gateway.cli import settings

    return settings.with_store(settings.read(file, sets, data_dir=data_dir, store=store).config)
