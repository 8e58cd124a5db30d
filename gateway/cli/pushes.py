"""`columba push`, and what may be decided about a push afterwards: pause, resume, stop, recall."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import Api, ApiKey, App, AsJson, DataDir

if TYPE_CHECKING:
    from gateway.cli.client import ApiClient

pushes_app = typer.Typer(rich_markup_mode=None)
"""Its commands stand beside those of the whole command line."""

PushId = Annotated[str, typer.Argument(metavar="PUSH_ID", help="As `columba push` told it.")]

Ttl = Annotated[
    int | None, typer.Option(metavar="SECONDS", help="Kept for so long; 0: only who is online.")
]
Speed = Annotated[
    int | None, typer.Option(metavar="COUNT", help="Devices a second; as fast as it goes.")
]
Holdout = Annotated[
    float | None,
    typer.Option(metavar="PART", help="Not sent to this part of the audience, such as 0.1."),
]
Priority = Annotated[str | None, typer.Option(metavar="WORD", help="high, normal or low.")]
CollapseKey = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Of the pushes with this key a device keeps the newest."),
]


@pushes_app.command()
def push(
    *,
    devices: Annotated[
        list[str] | None, typer.Option("--device", metavar="ID", help="A device; repeatable.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Every device of the app.")] = False,
    to: Annotated[
        str | None, typer.Option(metavar="EXPR", help="An audience, such as 'city:gz & !vip'.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the notification.")] = None,
    body: Annotated[str | None, typer.Option(help="Its text.")] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="For the app itself; repeatable.")
    ] = None,
    ttl: Ttl = None,
    speed: Speed = None,
    holdout: Holdout = None,
    priority: Priority = None,
    collapse_key: CollapseKey = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key again is the same push.")
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="Show its counts live, at most so long.")
    ] = 0.0,
    api_url: Api = None,
    app_id: App = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Push to devices, and tell its id; with --wait what became of it."""
    from gateway.cli.client import audience_of, push_body, watch

    request = push_body(
        audience_of(devices=devices or (), everybody=everybody, to=to),
        title=title,
        body=body,
        data=data or (),
        dealt={
            "ttl": ttl,
            "speed": speed,
            "holdout": holdout,
            "priority": priority,
            "collapse_key": collapse_key,
        },
    )
    client = _client(api_url, app_id, api_key, data_dir)
    answer = client.push(request, idempotency_key)
    push_id = str(answer["push_id"])
    if not as_json:
        _print_accepted(answer)
    if wait > 0:
        answer["counts"] = watch(
            client, push_id, wait, (lambda _: None) if as_json else _print_counts
        )
    if as_json:
        typer.echo(json.dumps(answer))
    return 0


@pushes_app.command()
def pause(
    *,
    push_id: PushId,
    api_url: Api = None,
    app_id: App = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Send nothing more of a push for now."""
    client = _client(api_url, app_id, api_key, data_dir)
    return _show_decided(client.decide(push_id, "pause"), as_json=as_json)


@pushes_app.command()
def resume(
    *,
    push_id: PushId,
    api_url: Api = None,
    app_id: App = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Go on with a paused push."""
    client = _client(api_url, app_id, api_key, data_dir)
    return _show_decided(client.decide(push_id, "resume"), as_json=as_json)


@pushes_app.command()
def stop(
    *,
    push_id: PushId,
    api_url: Api = None,
    app_id: App = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """End a push for good: what is pending is not sent any more."""
    client = _client(api_url, app_id, api_key, data_dir)
    return _show_decided(client.decide(push_id, "stop"), as_json=as_json)


@pushes_app.command()
def recall(
    *,
    push_id: PushId,
    api_url: Api = None,
    app_id: App = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Take a push back: what is pending is not sent, devices that have it are told."""
    client = _client(api_url, app_id, api_key, data_dir)
    return _show_decided(client.decide(push_id, "recall"), as_json=as_json)


def _client(api_url: Api, app_id: App, api_key: ApiKey, data_dir: DataDir) -> "ApiClient":
    from gateway.cli import settings
    from gateway.cli.client import client_of

    config = settings.read(None, None, data_dir=data_dir).config
    return client_of(config, api=api_url, app=app_id, api_key=api_key)


def _print_accepted(answer: Mapping[str, Any]) -> None:
    typer.echo(f"push {answer['push_id']} accepted")
    if answer.get("invalid"):
        left_out = (f"{bad['target']} ({bad['code']})" for bad in answer["invalid"])
        typer.echo("left out: " + ", ".join(left_out))
    for note in answer.get("notes") or ():
        typer.echo(f"note: {note}")


def _print_counts(counts: Mapping[str, Any]) -> None:
    told = (f"{name} {count}" for name, count in counts.items() if count)
    typer.echo("  ".join(told) or "no device yet")


def _show_decided(answer: Mapping[str, Any], *, as_json: bool) -> int:
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        typer.echo(f"push {answer['push_id']} is {answer['state']}")
        _print_counts(answer["counts"])
    return 0
