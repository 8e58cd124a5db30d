"""`columba audience`: how many devices an expression means."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import Api, ApiKey, App, AsJson, DataDir

if TYPE_CHECKING:
    from gateway.cli.client import ApiClient

audience_app = typer.Typer(
    help="How many devices an audience means now.", no_args_is_help=True, rich_markup_mode=None
)

Expression = Annotated[
    str, typer.Argument(metavar="EXPR", help="Such as 'city:gz & !vip'; docs/audiences.md.")
]


@audience_app.command()
def count(
    *,
    expression: Expression,
    api_url: Api = None,
    app_id: App = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """How many devices it means."""
    client = _client(api_url, app_id, api_key, data_dir)
    return _show(client.audience("count", expression), as_json=as_json)


@audience_app.command()
def explain(
    *,
    expression: Expression,
    api_url: Api = None,
    app_id: App = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """The same, with what each of its terms means and costs."""
    client = _client(api_url, app_id, api_key, data_dir)
    return _show(client.audience("explain", expression), as_json=as_json)


def _client(api_url: Api, app_id: App, api_key: ApiKey, data_dir: DataDir) -> "ApiClient":
    from gateway.cli import settings
    from gateway.cli.client import client_of

    config = settings.read(None, None, data_dir=data_dir).config
    return client_of(config, api=api_url, app=app_id, api_key=api_key)


def _show(answer: Mapping[str, Any], *, as_json: bool) -> int:
    for line in [json.dumps(answer)] if as_json else _lines(answer):
        typer.echo(line)
    return 0


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    yield f"{answer['count']} devices, {answer['ms']} ms"
    for note in answer.get("notes") or ():
        yield f"note: {note}"
    for bad in answer.get("invalid") or ():
        yield f"left out: {bad['target']} ({bad['code']})"
    for term in answer.get("terms") or ():
        yield f"  {term['devices']:>10}  {term['ms']:>8} ms  {term['term']}"
    if answer.get("sample"):
        yield f"such as {', '.join(answer['sample'])}"
