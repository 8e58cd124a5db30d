"""`columba explain`: why a device has a push, or not."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from gateway.cli.options import Api, ApiKey, App, AsJson, DataDir

_UNDATED = "no longer known when"


def explain(
    *,
    push_id: Annotated[str, typer.Argument(metavar="PUSH_ID", help="As `columba push` told it.")],
    device_id: Annotated[str, typer.Argument(metavar="DEVICE_ID", help="One of the app's.")],
    api_url: Api = None,
    app_id: App = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Why does a device have a push, or why not? With all that happened, in order."""
    from gateway.cli import settings
    from gateway.cli.client import client_of

    config = settings.read(None, None, data_dir=data_dir).config
    client = client_of(config, api=api_url, app=app_id, api_key=api_key)
    answer = client.ledger(push_id, device_id)
    for line in [json.dumps(answer)] if as_json else _lines(answer):
        typer.echo(line)
    return 0


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    yield f"{answer['state']}: {answer['why']}"
    where = f"online at edge {answer['edge']}" if answer["online"] else "offline"
    yield f"device {answer['device_id']} is {where}"
    width = max((len(step["at"] or _UNDATED) for step in answer["steps"]), default=0)
    for step in answer["steps"]:
        yield f"  {step['at'] or _UNDATED:<{width}}  {_event(step)}"
    if answer["terms"]:
        yield "the audience, as it stands now:"
    for term in answer["terms"]:
        yield f"  {'yes' if term['matches'] else 'no':<4} {term['term']}"
    for note in answer.get("notes") or ():
        yield f"note: {note}"


def _event(step: Mapping[str, Any]) -> str:
    event = step["event"].replace("_", " ")
    told = [f"edge {step['edge']}"] if "edge" in step else []
    told += [f"attempt {step['attempt']}"] if "attempt" in step else []
    return f"{event} ({', '.join(told)})" if told else event
